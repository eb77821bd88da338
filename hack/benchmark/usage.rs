//! Resources that an agent uses: memory, and CPU, wake-ups and disk writes over a time in which nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::many::up_with_agent;
use crate::node::{Node, Programs, rest};
use crate::pods::{Competitor, Kind};
use crate::results::{Rows, Unit, Who};

/// Seconds after which the mirror Pods show what the Pods have come to.
const MIRRORED: u64 = 30;
/// Figures of a process's memory.
const MEMORY: [(&str, &str); 2] = [
    ("VmRSS", "resident memory"),
    ("RssAnon", "own (anonymous) memory"),
];

/// Seconds after which each probe has run.
const FIRST_PROBES: u64 = 15;

/// Adds the rows of the agent's memory.
pub(crate) fn memory(node: &Node, with: &str, rows: &mut Rows) -> Result<()> {
    for (figure, what) in MEMORY {
        let name = format!("{what}, {with}");
        rows.add(&name, Unit::Mebibytes, node.who, node.memory(figure)?);
    }
    Ok(())
}

/// Adds the rows of an idle agent.
pub(crate) async fn idle(node: &Node, with: &str, seconds: u64, rows: &mut Rows) -> Result<()> {
    let (switches, written) = (node.switches()?, node.written()?);
    let busy = busy(node, seconds).await?;
    let wakeups = node.switches()?.into_iter().map(|(thread, count)| {
        // A thread that is new began at zero.
        count - switches.get(&thread).copied().unwrap_or_default()
    });
    let wakeups = wakeups.sum::<f64>() * per_minute(seconds);
    let written = (node.written()? - written) / 1024.0 * per_minute(seconds);
    let containerd = busy[1] + busy[2];
    for (what, unit, value) in [
        ("CPU of the idle agent", Unit::Percent, busy[0]),
        (
            "CPU of the idle containerd and its shims",
            Unit::Percent,
            containerd,
        ),
        (
            "wake-ups of the idle agent in a minute",
            Unit::Count,
            wakeups,
        ),
        (
            "written to disk by the idle agent in a minute",
            Unit::Kibibytes,
            written,
        ),
    ] {
        rows.add(&format!("{with}: {what}"), unit, node.who, value);
    }
    Ok(())
}

/// Measures the rows of agents that show their Pods at an API server.
pub(crate) async fn api(
    programs: &Programs,
    who: &[Who],
    pods: usize,
    seconds: u64,
    rows: &mut Rows,
) -> Result<()> {
    let programs = Programs {
        api_server: true,
        ..programs.clone()
    };
    for who in who.iter().copied().filter(|w| *w != Who::Bare) {
        let mut competitor = Competitor::start(&programs, who).await?;
        let before = competitor.node.cpu()?;
        up_with_agent(&mut competitor, pods, Kind::Plain).await?;
        let node = &competitor.node;
        let name = format!("{pods} Pods up, with an API server: CPU time of the agent");
        rows.add(&name, Unit::Seconds, who, node.cpu()?[0] - before[0]);
        rest(MIRRORED).await;
        let requests = node.requests()?;
        let busy = busy(node, seconds).await?;
        let requests = u32::try_from(node.requests()? - requests)?;
        let requests = f64::from(requests) * per_minute(seconds);
        let mut add = |what: &str, unit, value| {
            let name = format!("{pods} Pods, with an API server: {what}");
            rows.add(&name, unit, who, value);
        };
        add("API requests in a minute", Unit::Count, requests);
        add("CPU of the agent at rest", Unit::Percent, busy[0]);
        for (figure, what) in MEMORY {
            add(what, Unit::Mebibytes, node.memory(figure)?);
        }
    }
    Ok(())
}

/// Measures the rows of Pods with a probe each.
pub(crate) async fn probes(
    programs: &Programs,
    who: &[Who],
    pods: usize,
    seconds: u64,
    rows: &mut Rows,
) -> Result<()> {
    for (kind, what) in [(Kind::ExecProbe, "exec"), (Kind::HttpProbe, "HTTP")] {
        for who in who.iter().copied().filter(|w| *w != Who::Bare) {
            let mut competitor = Competitor::start(programs, who).await?;
            up_with_agent(&mut competitor, pods, kind).await?;
            rest(FIRST_PROBES).await;
            let busy = busy(&competitor.node, seconds).await?;
            let name = format!("{pods} Pods, {what} probe each: CPU of");
            rows.add(&format!("{name} the agent"), Unit::Percent, who, busy[0]);
            let rest = busy[1] + busy[2];
            rows.add(
                &format!("{name} containerd and its shims"),
                Unit::Percent,
                who,
                rest,
            );
        }
    }
    Ok(())
}

/// Factor that makes a count over so many seconds one of a minute.
fn per_minute(seconds: u64) -> f64 {
    60.0 / Duration::from_secs(seconds).as_secs_f64()
}

/// Shares of a core, in percent, that the agent, containerd and its shims use over so many seconds.
async fn busy(node: &Node, seconds: u64) -> Result<[f64; 3]> {
    let began = Instant::now();
    let before = node.cpu()?;
    rest(seconds).await;
    let after = node.cpu()?;
    let passed = began.elapsed().as_secs_f64();
    Ok([0, 1, 2].map(|i| (after[i] - before[i]) / passed * 100.0))
}
