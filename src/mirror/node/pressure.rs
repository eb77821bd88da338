//! Pressure on the node: resources that the machine is short of, by thresholds of what is left (Kubernetes, Node-pressure
//! Eviction). The Node's conditions show it; this agent evicts no Pod.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::host::machine;
use crate::units::quantity;

/// The kubelet's default thresholds of a hard eviction, and one for process ids, for which it has none: a common choice.
pub(crate) const DEFAULT_THRESHOLDS: &str = "imagefs.available<15%,imagefs.inodesFree<5%,memory.available<100Mi,\
                                             nodefs.available<10%,nodefs.inodesFree<5%,pid.available<10%";
/// Signals that the kubelet knows beside those of [`Thresholds`], and that no condition follows from.
const OTHER_SIGNALS: [&str; 3] = [
    "allocatableMemory.available",
    "containerfs.available",
    "containerfs.inodesFree",
];

/// Amounts below which the node is under pressure; `None` for what it never is short of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thresholds {
    memory: Option<Threshold>,
    node_disk: Option<Threshold>,
    node_inodes: Option<Threshold>,
    image_disk: Option<Threshold>,
    image_inodes: Option<Threshold>,
    process_ids: Option<Threshold>,
    /// Time for which a node that was short of something is still under pressure.
    pub(super) lasts: Duration,
}

/// A threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threshold {
    /// Bytes, inodes or process ids.
    Amount(u64),
    /// Millionths of all there is.
    Share(u64),
}

impl Thresholds {
    /// Parses thresholds `SIGNAL<VALUE`, of which later ones win.
    ///
    /// # Errors
    /// A signal is unknown, or a value is no amount: what was found and what was expected.
    pub(crate) fn parse<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        lasts: Duration,
    ) -> Result<Self, String> {
        let mut thresholds = Self {
            lasts,
            ..Self::default()
        };
        for text in texts {
            let Some((signal, value)) = text.split_once('<') else {
                return Err(format!(
                    "found {text:?}, expected a threshold such as memory.available<100Mi"
                ));
            };
            let place = match signal {
                "memory.available" => &mut thresholds.memory,
                "nodefs.available" => &mut thresholds.node_disk,
                "nodefs.inodesFree" => &mut thresholds.node_inodes,
                "imagefs.available" => &mut thresholds.image_disk,
                "imagefs.inodesFree" => &mut thresholds.image_inodes,
                "pid.available" => &mut thresholds.process_ids,
                other if OTHER_SIGNALS.contains(&other) => &mut None,
                _ => {
                    return Err(format!(
                        "found the signal {signal:?}, expected one such as nodefs.available"
                    ));
                }
            };
            *place = threshold(value)
                .map_err(|expected| format!("found {value:?} for {signal}, expected {expected}"))?;
        }
        Ok(thresholds)
    }

    /// Returns the resources that the machine is short of now. `root` is the agent's root directory, `images` the mount
    /// point of the image file system, if it is known.
    pub(super) fn is_short_of(&self, root: &Path, images: Option<&Path>) -> Pressure {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = available_memory(&meminfo).zip(machine::meminfo_bytes(&meminfo, "MemTotal"));
        let ids = machine::process_ids();
        let ids = ids.map(|ids| (ids.max.saturating_sub(ids.taken), ids.max));
        Pressure {
            memory: is_below(self.memory, memory),
            disk: is_full(root, self.node_disk, self.node_inodes)
                || images.is_some_and(|path| is_full(path, self.image_disk, self.image_inodes)),
            process_ids: is_below(self.process_ids, ids),
        }
    }
}

/// Parses an amount or a share; `None` for a share of nothing or of all, which the kubelet ignores.
///
/// # Errors
/// It is neither; the error is the expected form.
fn threshold(value: &str) -> Result<Option<Threshold>, &'static str> {
    let expected = "an amount such as 1Gi or 10%";
    let (number, is_share) = match value.strip_suffix('%') {
        Some(percent) => (percent, true),
        None => (value, false),
    };
    let number = quantity::parse(number).filter(|number| !number.is_negative());
    let number = number.ok_or(expected)?;
    if !is_share {
        return Ok(Some(Threshold::Amount(number.value().unsigned_abs())));
    }
    match number.milli_value().unsigned_abs() {
        0 | 100_000 => Ok(None),
        milli @ 1..100_000 => Ok(Some(Threshold::Share(milli.saturating_mul(10)))),
        _ => Err(expected),
    }
}

/// True if less is `left` of `all` than the threshold has. A total of zero is ignored: some file systems do not count.
fn is_below(threshold: Option<Threshold>, left_of_all: Option<(u64, u64)>) -> bool {
    let Some((left, all)) = left_of_all.filter(|(_, all)| *all > 0) else {
        return false;
    };
    match threshold {
        None => false,
        Some(Threshold::Amount(least)) => left < least,
        Some(Threshold::Share(millionths)) => {
            let part = u128::from(all).saturating_mul(millionths.into());
            u128::from(left).saturating_mul(1_000_000) < part
        }
    }
}

fn is_full(path: &Path, disk: Option<Threshold>, inodes: Option<Threshold>) -> bool {
    let Ok(found) = rustix::fs::statvfs(path) else {
        return false;
    };
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    is_below(disk, Some((bytes(found.f_bavail), bytes(found.f_blocks))))
        || is_below(inodes, Some((found.f_favail, found.f_files)))
}

/// Memory that is not in use: without the file cache that was not read for long, which the kernel drops first
/// (Kubernetes, Node-pressure Eviction, `memory.available`).
fn available_memory(meminfo: &str) -> Option<u64> {
    let of = |name| machine::meminfo_bytes(meminfo, name);
    Some(of("MemFree")?.saturating_add(of("Inactive(file)")?))
}

/// Resources that the machine is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) process_ids: bool,
}

/// Last time that the machine was short of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Short {
    memory: Option<Instant>,
    disk: Option<Instant>,
    process_ids: Option<Instant>,
}

impl Short {
    /// Returns the pressures that follow from the current shortage and the one before.
    pub(super) fn pressure(
        &mut self,
        now: Instant,
        is_short: Pressure,
        lasts: Duration,
    ) -> Pressure {
        let under = |last: &mut Option<Instant>, is_short: bool| {
            if is_short {
                *last = Some(now);
            }
            last.is_some_and(|last| is_short || now.duration_since(last) < lasts)
        };
        Pressure {
            memory: under(&mut self.memory, is_short.memory),
            disk: under(&mut self.disk, is_short.disk),
            process_ids: under(&mut self.process_ids, is_short.process_ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Thresholds, String> {
        Thresholds::parse(text.split(','), Duration::from_secs(300))
    }

    #[test]
    fn thresholds_are_amounts_and_shares_of_what_is_left() {
        let thresholds = parse("memory.available<2Ki,nodefs.available<7.5%,nodefs.available<10%");
        let thresholds = thresholds.unwrap();
        assert!(is_below(thresholds.memory, Some((2047, 9999))));
        assert!(!is_below(thresholds.memory, Some((2048, 9999))));
        assert!(is_below(thresholds.node_disk, Some((9, 100))));
        assert!(!is_below(thresholds.node_disk, Some((10, 100))));
        assert!(is_below(thresholds.node_disk, Some((0, u64::MAX))));
        let uncounted = is_below(thresholds.node_disk, Some((0, 0)));
        assert!(!uncounted, "a file system that does not count");
        assert!(!is_below(thresholds.node_disk, None));
        assert_eq!(thresholds.image_disk, None);
        assert_eq!(
            parse("pid.available<7.5%").unwrap().process_ids,
            Some(Threshold::Share(75_000))
        );
        // As kind and others turn one off.
        for off in ["nodefs.available<0%", "nodefs.available<100%"] {
            assert_eq!(parse(off).unwrap().node_disk, None, "{off}");
        }
        assert!(parse(DEFAULT_THRESHOLDS).is_ok());
        assert!(parse("containerfs.available<5%").is_ok());
    }

    #[test]
    fn what_is_no_threshold_is_told() {
        for (text, expected) in [
            (
                "memory.available=1Gi",
                "found \"memory.available=1Gi\", expected a threshold",
            ),
            ("disk.free<1Gi", "found the signal \"disk.free\", expected"),
            (
                "memory.available<-1Gi",
                "found \"-1Gi\" for memory.available, expected",
            ),
            (
                "memory.available<101%",
                "found \"101%\" for memory.available",
            ),
            (
                "memory.available<much",
                "found \"much\" for memory.available",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn memory_that_the_kernel_would_drop_is_available() {
        let meminfo = "MemFree: 9 kB\nInactive(file):   2039 kB\nSwapTotal: 4 kB\n";
        assert_eq!(available_memory(meminfo), Some(2 << 20));
    }

    #[test]
    fn pressure_stays_for_a_while_after_the_machine_was_short() {
        let thresholds = parse(DEFAULT_THRESHOLDS).unwrap();
        let begin = Instant::now();
        let (mut short, mut seen) = (Short::default(), vec![]);
        for (seconds, disk) in [
            (0, false),
            (10, true),
            (20, false),
            (309, false),
            (310, false),
        ] {
            let is_short = Pressure {
                disk,
                ..Pressure::default()
            };
            let at = begin + Duration::from_secs(seconds);
            let pressure = short.pressure(at, is_short, thresholds.lasts);
            assert!(!pressure.memory);
            seen.push(pressure.disk);
        }
        assert_eq!(seen, [false, true, true, true, false]);
    }
}
