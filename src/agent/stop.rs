//! The agent's stop: at once where it alone is stopped, and after all Pods where the machine shuts down.
//!
//! systemd stops the agent's unit in both cases, and says which one it is when it is asked for its jobs. As the
//! unit is ordered after the runtime's, the runtime is there for as long as the agent stops Pods; nothing has to
//! inhibit the shutdown.

use std::env;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::process::StopSignals;
use super::systemd::Systemd;
use crate::mirror::REPORT_LIMIT;
use crate::pod::shutdown::{NodeShutdown, ShutdownPeriods};
use crate::units::time::Later;

/// Time limit for systemd's jobs. Where they are not known by then, Pods keep running.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Time of a shutdown beyond the periods of the Pods, before the agent ends whatever is left.
const OVERTIME: Duration = Duration::from_secs(5);
/// Interval at which systemd is asked for more time.
const EXTEND: Duration = Duration::from_secs(5);
/// Targets whose start is a shutdown of the machine; all of them pull in the first (`systemd.special(7)`).
const TARGETS: [&str; 7] = [
    "shutdown.target",
    "poweroff.target",
    "reboot.target",
    "halt.target",
    "kexec.target",
    "soft-reboot.target",
    "exit.target",
];

/// Waits until the agent is to end: after a signal, unless the machine shuts down. Then all Pods are requested to be
/// stopped in their `periods`, and this returns at the next signal, or once they should have been stopped long ago.
///
/// # Errors
/// Signals cannot be received.
pub(super) async fn stopped(
    systemd: Systemd,
    shutdown: NodeShutdown,
    periods: Option<ShutdownPeriods>,
) -> io::Result<()> {
    let mut signals = StopSignals::listen()?;
    let signal = signals.next().await;
    let shuts_down = periods.is_some()
        && tokio::select! {
            shuts_down = machine_shuts_down() => shuts_down,
            _ = signals.next() => false,
        };
    let Some(periods) = periods.filter(|_| shuts_down) else {
        systemd.notify_stopping();
        info!(signal, "Stopping podkeeper, Pods keep running");
        return Ok(());
    };
    let total = periods.total();
    info!(
        signal,
        "Machine shuts down, stopping all Pods within {total:?}"
    );
    shutdown.request(periods);
    let limit = total.saturating_add(REPORT_LIMIT).saturating_add(OVERTIME);
    tokio::select! {
        () = keep_stopping(&systemd, limit) => {
            warn!("Pods did not stop in time, the shutdown of the machine goes on");
        }
        signal = signals.next() => {
            warn!(signal, "Stopping podkeeper at once, containers that still run are left to systemd");
        }
    }
    Ok(())
}

/// Has systemd wait for the agent for this long, as it shows in the unit's status.
async fn keep_stopping(systemd: &Systemd, limit: Duration) {
    let ends_at = Instant::now().later(limit);
    let mut ticks = interval(EXTEND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    systemd.notify_stopping();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let left = ends_at.saturating_duration_since(Instant::now());
                systemd.extend_stop(left.saturating_add(EXTEND));
                let seconds = left.as_secs();
                systemd.notify_status(format!("Stopping Pods, the machine shuts down (at most {seconds} s)"));
            }
            () = tokio::time::sleep_until(ends_at) => return,
        }
    }
}

/// Returns true if the machine shuts down, as systemd reports it; false where it does not run the agent.
async fn machine_shuts_down() -> bool {
    let is_booted = Path::new("/run/systemd/system").exists();
    if !is_booted && env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl
        .args(["list-jobs", "--full", "--no-legend", "--no-pager"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match timeout(ASK_LIMIT, systemctl.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            has_shutdown_job(&String::from_utf8_lossy(&output.stdout))
        }
        Ok(Ok(output)) => {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.trim();
            warn!(error, "Failed to list the jobs of systemd");
            false
        }
        Ok(Err(error)) => {
            warn!(%error, "Failed to list the jobs of systemd");
            false
        }
        Err(_) => {
            warn!("Timed out after {ASK_LIMIT:?} waiting for the jobs of systemd");
            false
        }
    }
}

/// Returns true if the jobs of systemd, as `systemctl list-jobs` prints them, shut the machine down. It is so while the
/// machine boots too, where `systemctl is-system-running` would say `starting`.
fn has_shutdown_job(jobs: &str) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace();
        let is_target = words.any(|word| TARGETS.contains(&word));
        is_target && words.next() == Some("start")
    })
}

#[cfg(test)]
mod tests {
    use super::has_shutdown_job;

    #[test]
    fn a_machine_that_stops_has_a_job_for_it() {
        for (jobs, expected) in [
            ("", false),
            ("No jobs running.\n", false),
            ("1402 podkeeper.service stop running\n", false),
            (
                "1402 podkeeper.service         stop  running\n1377 poweroff.target start waiting\n",
                true,
            ),
            ("  88 shutdown.target start waiting", true),
            (
                "JOB UNIT TYPE STATE\n  88 reboot.target start waiting\n\n1 jobs listed.",
                true,
            ),
            // A shutdown that is being cancelled, and a unit of somebody's own.
            ("88 shutdown.target stop waiting", false),
            ("88 my-shutdown.target start waiting", false),
            ("88 after-shutdown.target.service start waiting", false),
            ("shutdown.target", false),
        ] {
            assert_eq!(has_shutdown_job(jobs), expected, "{jobs}");
        }
    }
}
