//! One Pod at a time: start, restart and stop, by turns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::{JoinHandle, JoinSet};

use crate::node::Programs;
use crate::pods::{Competitor, Kind};
use crate::results::{Row, Statistic, Unit, Who};

/// Longest wait for a Pod's removal before it is the next one's turn.
const TURN: Duration = Duration::from_millis(500);

type Samples = BTreeMap<Who, Vec<f64>>;
type Removals = JoinSet<(Who, Result<f64>)>;

/// Samples of each of the steps.
#[derive(Default)]
struct Times {
    start: Samples,
    restart: Samples,
    ended: Samples,
}

/// Measures the rows of one Pod.
pub(crate) async fn rows(programs: &Programs, who: &[Who], repeats: usize) -> Result<Vec<Row>> {
    let mut competitors = vec![];
    for who in who {
        competitors.push(Competitor::start(programs, *who).await?);
    }
    let mut gone = Samples::new();
    let mut removals = Removals::new();
    let plain = rounds(&mut competitors, Kind::Plain, repeats, &mut removals).await?;
    let few = repeats.div_ceil(4).max(3);
    let stubborn = rounds(&mut competitors, Kind::Stubborn, few, &mut Removals::new()).await?;
    while let Some(removal) = removals.join_next().await {
        let (who, time) = removal?;
        gone.entry(who).or_default().push(time?);
    }
    let row = |name: &str, statistic, samples: &Samples| Row {
        name: name.to_owned(),
        unit: Unit::Seconds,
        statistic,
        samples: samples.clone(),
        note: String::new(),
    };
    let median = Statistic::Median;
    let restart = "restart: container killed → first log line of the next";
    let late = "stop, SIGTERM ignored for 2 s of grace → no process left";
    Ok(vec![
        row(
            "start: manifest appears → first log line",
            median,
            &plain.start,
        ),
        row(restart, median, &plain.restart),
        row("restart, 99th percentile", Statistic::P99, &plain.restart),
        row(
            "stop: manifest removed → no process left",
            median,
            &plain.ended,
        ),
        row("stop: manifest removed → nothing left", median, &gone),
        row(late, median, &stubborn.ended),
    ])
}

async fn rounds(
    competitors: &mut [Competitor],
    kind: Kind,
    repeats: usize,
    removals: &mut Removals,
) -> Result<Times> {
    let mut times = Times::default();
    // The first round warms all up.
    for round in 0..=repeats {
        let name = format!("{kind:?}{round}").to_lowercase();
        let add = |samples: &mut Samples, who: Who, time: f64| {
            if round > 0 {
                samples.entry(who).or_default().push(time);
            }
        };
        for competitor in &mut *competitors {
            let began = Instant::now();
            competitor.start_pod(&name, kind).await?;
            let time = began.elapsed().as_secs_f64();
            add(&mut times.start, competitor.node.who, time);
        }
        pause(2 * round).await;
        for competitor in &mut *competitors {
            if kind == Kind::Plain {
                let time = restart(competitor, &name).await?;
                add(&mut times.restart, competitor.node.who, time);
            }
        }
        pause(2 * round + 1).await;
        for competitor in &*competitors {
            let who = competitor.node.who;
            let footprint = competitor.logs.footprint(&competitor.node, &name)?;
            let began = Instant::now();
            competitor.stop_pod(&name)?;
            add(&mut times.ended, who, footprint.ended(began).await?);
            let removal = tokio::spawn(footprint.gone(began));
            let removal = wait_a_turn(removal).await;
            if round > 0 {
                removals
                    .spawn(async move { (who, removal.await.unwrap_or_else(|e| Err(e.into()))) });
            }
        }
    }
    Ok(times)
}

/// Kills a Pod's container; gives the seconds until the next one has written its first line.
async fn restart(competitor: &mut Competitor, name: &str) -> Result<f64> {
    let process = competitor.logs.footprint(&competitor.node, name)?.main;
    let ends = competitor.ends();
    // They are followed by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    if let Some(process) = rustix::process::Pid::from_raw(process) {
        rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    }
    competitor.restarted(name, ends).await?;
    Ok(began.elapsed().as_secs_f64())
}

/// Waits for a removal, but not for long: some agents remove what is left of Pods once a minute.
async fn wait_a_turn(removal: JoinHandle<Result<f64>>) -> JoinHandle<Result<f64>> {
    let end = Instant::now() + TURN;
    while !removal.is_finished() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    removal
}

/// Pauses for 0.3 s to 1.3 s, another time in each step: an agent that looks every second is to be met at every
/// point of its second.
async fn pause(step: usize) {
    // The multiples of the golden ratio, here in thousandths, are spread evenly.
    let milliseconds = u64::try_from(step * 618 % 1000).unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(300 + milliseconds)).await;
}
