//! Periods in which Pods are stopped before the machine shuts down (`KubeletConfiguration`,
//! `shutdownGracePeriod` and its like), checked as the kubelet does (`ValidateKubeletConfiguration`).

use std::time::Duration;

use anyhow::{anyhow, bail};

use super::value_type::parse_priority_period;
use super::values::{Resolved, Values};
use crate::pod::shutdown::{PriorityPeriod, ShutdownPeriods};
use crate::units::time::seconds;

/// Fields of the settings, which are their names too.
pub(super) const TOTAL: &str = "shutdownGracePeriod";
pub(super) const CRITICAL: &str = "shutdownGracePeriodCriticalPods";
pub(super) const BY_PRIORITY: &str = "shutdownGracePeriodByPodPriority";

/// Shortest period of [`TOTAL`] and [`CRITICAL`] other than none.
const SHORTEST: Duration = Duration::from_secs(1);

/// Loads the periods; `None` where no Pod is to be stopped.
///
/// # Errors
/// A period is shorter than a second, that of critical Pods is longer than all of the time, or the periods
/// are given in both ways.
pub(super) fn load(values: &Values) -> anyhow::Result<Option<ShutdownPeriods>> {
    let [total, critical, by_priority] =
        [TOTAL, CRITICAL, BY_PRIORITY].map(|field| values.get(field));
    let (all, of_critical) = (period(total)?, period(critical)?);
    let is_on = values.get("stop-pods-at-shutdown").is_on();
    let periods = by_priority.texts();
    if periods.is_empty() {
        if of_critical > all {
            bail!(
                "{}: found {of_critical:?}, expected at most {TOTAL}, {all:?}",
                critical.place()
            );
        }
        let parts = ShutdownPeriods::Parts {
            ordinary: all.saturating_sub(of_critical),
            critical: of_critical,
        };
        return Ok(is_on.then_some(parts));
    }
    for other in [total, critical] {
        if other.is_given() && !other.duration()?.is_zero() {
            bail!(
                "{}: found {:?} beside {BY_PRIORITY}, expected only one of the two",
                other.place(),
                other.duration()?
            );
        }
    }
    let periods = periods.iter().map(|text| {
        let (priority, period) = parse_priority_period(text)
            .ok_or_else(|| anyhow!("{}: found {text:?}", by_priority.place()))?;
        let period = seconds(period);
        Ok(PriorityPeriod { priority, period })
    });
    let mut periods = periods.collect::<anyhow::Result<Vec<_>>>()?;
    periods.sort_by_key(|period| period.priority);
    Ok(is_on.then_some(ShutdownPeriods::ByPriority(periods)))
}

fn period(setting: &Resolved) -> anyhow::Result<Duration> {
    let period = setting.duration()?;
    if !period.is_zero() && period < SHORTEST {
        bail!(
            "{}: found {period:?}, expected 0s, or 1s or more",
            setting.place()
        );
    }
    Ok(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::with_fields;

    fn parts(ordinary: u64, critical: u64) -> ShutdownPeriods {
        ShutdownPeriods::Parts {
            ordinary: Duration::from_secs(ordinary),
            critical: Duration::from_secs(critical),
        }
    }

    #[test]
    fn the_time_of_critical_pods_is_a_part_of_all_time() {
        for (fields, expected) in [
            ("", parts(30, 10)),
            ("shutdownGracePeriod: 60s", parts(60, 0)),
            ("shutdownGracePeriodCriticalPods: 15s", parts(25, 15)),
            (
                "shutdownGracePeriod: 1m\nshutdownGracePeriodCriticalPods: 20s",
                parts(40, 20),
            ),
            ("shutdownGracePeriodByPodPriority: []", parts(30, 10)),
            // kubeadm writes what nobody has set.
            (
                "shutdownGracePeriod: 0s\nshutdownGracePeriodCriticalPods: 0s",
                parts(30, 10),
            ),
        ] {
            let loaded = with_fields("", fields).unwrap().shutdown;
            assert_eq!(loaded, Some(expected), "{fields}");
        }
    }

    #[test]
    fn no_pod_is_stopped_where_that_is_turned_off() {
        for fields in [
            "",
            "shutdownGracePeriod: 60s",
            "shutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 1}]",
        ] {
            let config = with_fields("--stop-pods-at-shutdown=false", fields);
            assert_eq!(config.unwrap().shutdown, None, "{fields}");
        }
    }

    #[test]
    fn periods_by_priority_are_in_its_order() {
        let fields = "shutdownGracePeriod: 0s\nshutdownGracePeriodByPodPriority: \
                      [{priority: 100000, shutdownGracePeriodSeconds: 10}, {shutdownGracePeriodSeconds: 60}]";
        let config = with_fields("", fields).unwrap();
        let period = |priority, seconds| PriorityPeriod {
            priority,
            period: Duration::from_secs(seconds),
        };
        let expected = ShutdownPeriods::ByPriority(vec![period(0, 60), period(100_000, 10)]);
        assert_eq!(config.shutdown, Some(expected));
        let shown = crate::config::kubelet_configuration(&config.settings);
        let shown = shown[BY_PRIORITY].to_string();
        let expected = "[{\"priority\":100000,\"shutdownGracePeriodSeconds\":10},\
                        {\"priority\":0,\"shutdownGracePeriodSeconds\":60}]";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_the_kubelet_refuses_is_refused_with_its_place() {
        for (fields, expected) in [
            (
                "shutdownGracePeriod: 10s\nshutdownGracePeriodCriticalPods: 20s",
                "@/c:4:34: shutdownGracePeriodCriticalPods: found 20s, expected at most shutdownGracePeriod, 10s",
            ),
            (
                "shutdownGracePeriodCriticalPods: 50s",
                "@/c:3:34: shutdownGracePeriodCriticalPods: found 50s, expected at most shutdownGracePeriod, 40s",
            ),
            (
                "shutdownGracePeriod: 500ms",
                "@/c:3:22: shutdownGracePeriod: found 500ms, expected 0s, or 1s or more",
            ),
            (
                "shutdownGracePeriod: 30s\nshutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 1}]",
                "@/c:3:22: shutdownGracePeriod: found 30s beside shutdownGracePeriodByPodPriority, expected only one",
            ),
            (
                "shutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: -1}]",
                "@/c:3:35: shutdownGracePeriodByPodPriority: found [{",
            ),
            (
                "shutdownGracePeriodByPodPriority: [{priority: 3000000000, shutdownGracePeriodSeconds: 1}]",
                "@/c:3:35: shutdownGracePeriodByPodPriority: found [{",
            ),
            (
                "shutdownGracePeriodByPodPriority: 30s",
                "@/c:3:35: shutdownGracePeriodByPodPriority: found \"30s\", expected a list such as",
            ),
        ] {
            let error = with_fields("", fields).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
