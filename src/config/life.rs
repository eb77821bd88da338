//! How Pods are kept alive: how long to wait before a container is started again, and before an update
//! is taken back.

use std::time::Duration;

use anyhow::bail;

use super::{Flags, From, Resolver, text};
use crate::units::duration::parse_duration;

/// The shortest time that may be the longest wait, as in the reference.
const LEAST: Duration = Duration::from_secs(1);
/// The longest wait, unless set otherwise.
const LONGEST: Duration = Duration::from_secs(300);

/// Settings of Pods' lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeSettings {
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
    /// How long an update has to become Ready before it is taken back; `None` for ever.
    pub rollback_after: Option<Duration>,
}

impl LifeSettings {
    pub(super) fn load(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Self> {
        let flag = "max-container-restart-period";
        let field = Some("crashLoopBackOff.maxContainerRestartPeriod");
        let read = |given: &super::Given| parse_duration(&text(given));
        let given = flags.max_container_restart_period;
        let (longest, at) = from.pick(flag, given, field, read)?;
        let longest_backoff = longest.unwrap_or(LONGEST);
        if !(LEAST..=LONGEST).contains(&longest_backoff) {
            bail!("{at}: found {longest_backoff:?}, expected 1s to 5m");
        }
        from.note(flag, format_args!("{longest_backoff:?}"), &at);
        let rollback_after = flags.rollback_after.filter(|limit| !limit.is_zero());
        let at = rollback_after.map_or(From::Default, |_| From::Flag("rollback-after"));
        let shown = rollback_after.map_or(String::new(), |limit| format!("{limit:?}"));
        from.note("rollback-after", shown, &at);
        Ok(Self {
            longest_backoff,
            rollback_after,
        })
    }
}
