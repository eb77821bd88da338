//! Figures that the kernel gives of a process; for the programs that measure one.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Unit in which the kernel gives CPU time: `USER_HZ`.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// CPU time of all threads of a process so far.
pub(crate) fn cpu(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<u32> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(TICK * ticks.iter().sum())
}

/// A number of a process's status, in the unit that it has there.
pub(crate) fn status(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    Ok(number.with_context(|| format!("no {field}"))?.parse()?)
}
