//! Many Pods at once: up and down, what that costs, and what the agent uses while they run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::bare::BareCalls;
use crate::node::{Programs, rest};
use crate::observer::{Footprint, all_gone};
use crate::pods::{Competitor, Kind};
use crate::results::{Rows, Unit, Who};
use crate::usage;

/// Seconds after which an agent is at rest.
const REST: u64 = 5;

/// Settings of a measurement of many Pods.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) pods: usize,
    /// Concurrencies that the bare calls are tried with.
    pub(crate) concurrencies: Vec<usize>,
    /// Seconds for which the agents are watched while nothing happens, if at all.
    pub(crate) idle: Option<u64>,
}

/// Time and CPU that many Pods took to come up or go down.
#[derive(Debug, Clone)]
struct Cost {
    /// Seconds until each of the goals was reached.
    seconds: Vec<f64>,
    /// CPU seconds of the agent, of containerd, and of its shims, runc and network plugins.
    cpu: [f64; 3],
    /// Number of bare calls under way at a time; 0 where there were none.
    at_a_time: usize,
}

/// Measures the rows of a number of Pods; each of those compared gets a new node.
pub(crate) async fn measure(
    programs: &Programs,
    who: &[Who],
    settings: &Settings,
    rows: &mut Rows,
) -> Result<()> {
    for who in who {
        let mut competitor = Competitor::start(programs, *who).await?;
        match who {
            Who::Bare => bare(&mut competitor, settings, rows).await?,
            _ => agent(&mut competitor, settings, rows).await?,
        }
    }
    Ok(())
}

async fn agent(competitor: &mut Competitor, settings: &Settings, rows: &mut Rows) -> Result<()> {
    let who = competitor.node.who;
    rest(REST).await;
    if settings.idle.is_some() {
        usage::memory(&competitor.node, "no Pod", rows)?;
    }
    let pods = settings.pods;
    let names = names(pods, "many");
    let up = up(competitor, &names, Kind::Plain).await?;
    add(rows, "up", pods, who, &up);
    rest(REST).await;
    if let Some(seconds) = settings.idle {
        let with = format!("{pods} Pods");
        usage::memory(&competitor.node, &with, rows)?;
        usage::idle(&competitor.node, &with, seconds, rows).await?;
    }
    let footprints = footprints(competitor, &names)?;
    let before = competitor.node.cpu()?;
    let began = Instant::now();
    for name in &names {
        competitor.node.remove(name)?;
    }
    let seconds = all_gone(&footprints, began).await?.to_vec();
    let cpu = difference(before, competitor.node.cpu()?);
    let down = Cost {
        seconds,
        cpu,
        at_a_time: 0,
    };
    add(rows, "down", pods, who, &down);
    Ok(())
}

/// Has an agent start Pods, until each has the first line of its log.
pub(crate) async fn up_with_agent(
    competitor: &mut Competitor,
    pods: usize,
    kind: Kind,
) -> Result<()> {
    up(competitor, &names(pods, "probed"), kind).await?;
    Ok(())
}

async fn up(competitor: &mut Competitor, names: &[String], kind: Kind) -> Result<Cost> {
    let before = competitor.node.cpu()?;
    let began = Instant::now();
    for name in names {
        competitor.node.put(name, &kind.manifest(name))?;
    }
    competitor.logs.lines(names).await?;
    let seconds = vec![began.elapsed().as_secs_f64()];
    Ok(Cost {
        seconds,
        cpu: difference(before, competitor.node.cpu()?),
        at_a_time: 0,
    })
}

/// Tries the bare calls with each concurrency and takes the best for up and for down.
async fn bare(competitor: &mut Competitor, settings: &Settings, rows: &mut Rows) -> Result<()> {
    let Some(calls) = competitor.bare().cloned() else {
        return Ok(());
    };
    let (mut ups, mut downs) = (vec![], vec![]);
    for at_a_time in settings.concurrencies.iter().copied() {
        let names = names(settings.pods, &format!("bare{at_a_time}x"));
        let before = competitor.node.cpu()?;
        let began = Instant::now();
        let calls_made = each(&calls, &names, at_a_time, |calls, name| async move {
            calls.start(&name, &Kind::Plain.manifest(&name)).await
        });
        tokio::try_join!(calls_made, competitor.logs.lines(&names))?;
        ups.push(Cost {
            seconds: vec![began.elapsed().as_secs_f64()],
            cpu: difference(before, competitor.node.cpu()?),
            at_a_time,
        });
        rest(REST).await;

        let footprints = footprints(competitor, &names)?;
        let before = competitor.node.cpu()?;
        let began = Instant::now();
        let calls_made = each(&calls, &names, at_a_time, |calls, name| async move {
            calls.stop(&name).await
        });
        let ((), seconds) = tokio::try_join!(calls_made, all_gone(&footprints, began))?;
        downs.push(Cost {
            seconds: seconds.to_vec(),
            cpu: difference(before, competitor.node.cpu()?),
            at_a_time,
        });
        rest(REST).await;
    }
    let last = |cost: &&Cost| cost.seconds.last().copied().unwrap_or(f64::INFINITY);
    let best = |costs: &[Cost]| {
        costs
            .iter()
            .min_by(|a, b| last(a).total_cmp(&last(b)))
            .cloned()
    };
    for (what, cost) in [("up", best(&ups)), ("down", best(&downs))] {
        if let Some(cost) = cost {
            add(rows, what, settings.pods, Who::Bare, &cost);
        }
    }
    Ok(())
}

/// Makes a call for each name, so many at a time.
async fn each<F>(
    calls: &BareCalls,
    names: &[String],
    at_a_time: usize,
    call: impl Fn(BareCalls, String) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let limiter = Arc::new(Semaphore::new(at_a_time));
    let mut tasks = JoinSet::new();
    for name in names {
        let (limiter, call) = (Arc::clone(&limiter), call(calls.clone(), name.clone()));
        tasks.spawn(async move {
            let _permit = limiter.acquire().await?;
            call.await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn names(pods: usize, prefix: &str) -> Vec<String> {
    (0..pods).map(|i| format!("{prefix}{i}")).collect()
}

fn footprints(competitor: &Competitor, names: &[String]) -> Result<Vec<Footprint>> {
    let of = |name: &String| competitor.logs.footprint(&competitor.node, name);
    names.iter().map(of).collect()
}

fn difference(before: [f64; 3], after: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| after[i] - before[i])
}

fn add(rows: &mut Rows, what: &str, pods: usize, who: Who, cost: &Cost) {
    let goals: &[&str] = match what {
        "up" => &["all have their first log line"],
        _ => &["no process left", "nothing left"],
    };
    for (goal, seconds) in goals.iter().zip(&cost.seconds) {
        let name = format!("{pods} Pods {what} → {goal}");
        rows.add(&name, Unit::Seconds, who, *seconds);
        if cost.at_a_time > 0 {
            rows.note(
                &name,
                format!("bare CRI: {} calls at a time", cost.at_a_time),
            );
        }
    }
    let parts = ["the agent", "containerd", "its shims, runc and CNI plugins"];
    for (part, seconds) in parts.into_iter().zip(cost.cpu) {
        // The bare calls have no agent.
        if who != Who::Bare || part != "the agent" {
            let name = format!("{pods} Pods {what}: CPU time of {part}");
            rows.add(&name, Unit::Seconds, who, seconds);
        }
    }
}
