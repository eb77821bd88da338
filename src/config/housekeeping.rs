//! Housekeeping: the rotation of containers' logs, and when images are removed.

use std::time::Duration;

use anyhow::bail;

use super::{Flags, From, Given, Resolver, text};
use crate::node::image_gc::Policy;
use crate::node::log_rotation::Rotation;
use crate::units::quantity;

const MAX_SIZE: &str = "10Mi";
const MAX_FILES: u16 = 5;
const MONITOR_INTERVAL: Duration = Duration::from_secs(10);
const HIGH_PERCENT: u8 = 85;
const LOW_PERCENT: u8 = 80;
const MIN_AGE: Duration = Duration::from_secs(120);

pub(super) fn log_rotation(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Rotation> {
    let given = flags.container_log_max_size.clone();
    let field = Some("containerLogMaxSize");
    let flag = "container-log-max-size";
    let (size, at) = from.pick(flag, given, field, |given| Ok(text(given)))?;
    let size = size.unwrap_or_else(|| MAX_SIZE.to_owned());
    let max_size = log_size(&size, &at)?;
    from.note(flag, size, &at);
    let max_files = number(
        from,
        "container-log-max-files",
        flags.container_log_max_files,
        "containerLogMaxFiles",
        MAX_FILES,
    )?;
    let interval = from.period(
        "container-log-monitor-interval",
        flags.container_log_monitor_interval,
        "containerLogMonitorInterval",
        MONITOR_INTERVAL,
    )?;
    Ok(Rotation {
        max_size,
        max_files: max_files.0.into(),
        interval,
    })
}

/// A size in bytes; `None` for a negative one, with which no log is rotated.
fn log_size(text: &str, at: &From) -> anyhow::Result<Option<u64>> {
    match quantity::parse(text).map(quantity::Quantity::value) {
        Some(size) if size > 0 => Ok(Some(size.unsigned_abs())),
        Some(size) if size < 0 => Ok(None),
        _ => bail!("{at}: found {text:?}, expected a size such as 10Mi, or -1 to rotate no logs"),
    }
}

pub(super) fn image_gc(from: &mut Resolver, flags: &Flags) -> anyhow::Result<Policy> {
    let (high_percent, _) = number(
        from,
        "image-gc-high-threshold",
        flags.image_gc_high_threshold,
        "imageGCHighThresholdPercent",
        HIGH_PERCENT,
    )?;
    let (low_percent, at) = number(
        from,
        "image-gc-low-threshold",
        flags.image_gc_low_threshold,
        "imageGCLowThresholdPercent",
        LOW_PERCENT,
    )?;
    if low_percent >= high_percent {
        let at = at.or_flag("image-gc-low-threshold");
        bail!("{at}: found {low_percent}, expected less than the high threshold, {high_percent}");
    }
    let (min_age, _) = from.duration(
        "minimum-image-ttl-duration",
        flags.minimum_image_ttl_duration,
        "imageMinimumGCAge",
        MIN_AGE,
    )?;
    let (max_age, at) = from.duration(
        "image-maximum-gc-age",
        flags.image_maximum_gc_age,
        "imageMaximumGCAge",
        Duration::ZERO,
    )?;
    if !max_age.is_zero() && max_age <= min_age {
        bail!("{at}: found {max_age:?}, expected more than the minimum age, {min_age:?}");
    }
    Ok(Policy {
        high_percent,
        low_percent,
        min_age,
        max_age: (!max_age.is_zero()).then_some(max_age),
    })
}

/// A number that has a default. The flags' and the file's own checks see to it that it is in range.
fn number<T: Copy + TryFrom<u64> + std::fmt::Display>(
    from: &mut Resolver,
    flag: &'static str,
    given: Option<T>,
    field: &'static str,
    default: T,
) -> anyhow::Result<(T, From)> {
    let read = |given: &Given| {
        let number = given.value.as_u64().and_then(|n| T::try_from(n).ok());
        number.ok_or_else(|| format!("found {}, expected a smaller number", given.value))
    };
    let (number, at) = from.pick(flag, given, Some(field), read)?;
    let number = number.unwrap_or(default);
    from.note(flag, number, &at);
    Ok((number, at))
}
