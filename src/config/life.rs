//! Restart back-off of containers, pulls of images, and rollback of updates.

use std::time::Duration;

use anyhow::bail;

use super::values::Values;

/// Limits of the longest back-off (`KubeletConfiguration`, `crashLoopBackOff.maxContainerRestartPeriod`).
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Settings of restarts, pulls and rollbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeSettings {
    /// Maximum back-off before a crashing container is restarted.
    pub longest_backoff: Duration,
    /// Time within which a pull of an image must end.
    pub image_pull_timeout: Duration,
    /// Time within which an update must become Ready before it is rolled back; `None` for no limit.
    pub rollback_after: Option<Duration>,
}

impl LifeSettings {
    pub(super) fn load(values: &Values) -> anyhow::Result<Self> {
        let longest = values.get("max-container-restart-period");
        let longest_backoff = longest.duration()?;
        if !(SHORTEST..=LONGEST).contains(&longest_backoff) {
            bail!(
                "{}: found {longest_backoff:?}, expected 1s to 5m",
                longest.place()
            );
        }
        Ok(Self {
            longest_backoff,
            image_pull_timeout: values.get("image-pull-timeout").duration()?,
            rollback_after: values.get("rollback-after").time_limit()?,
        })
    }
}
