//! Housekeeping: rotation of containers' logs, and garbage collection of images.

use anyhow::bail;

use super::values::Values;
use crate::node::image_gc::Policy;
use crate::node::log_rotation::Rotation;
use crate::units::quantity;

/// # Errors
/// A setting is invalid.
pub(super) fn log_rotation(values: &Values) -> anyhow::Result<Rotation> {
    let max_files: u16 = values.get("container-log-max-files").number()?;
    Ok(Rotation {
        max_size: values.get("container-log-max-size").parse(log_size)?,
        max_files: max_files.into(),
        interval: values.get("container-log-monitor-interval").duration()?,
    })
}

/// A size in bytes; `None` for a negative one, with which no log is rotated.
fn log_size(text: &str) -> Result<Option<u64>, String> {
    match quantity::parse(text).map(quantity::Quantity::value) {
        Some(size) if size > 0 => Ok(Some(size.unsigned_abs())),
        Some(size) if size < 0 => Ok(None),
        _ => Err(format!(
            "found {text:?}, expected a size such as 10Mi, or -1 to rotate no logs"
        )),
    }
}

/// # Errors
/// A setting is invalid, or two of them contradict each other.
pub(super) fn image_gc(values: &Values) -> anyhow::Result<Policy> {
    let high_percent = values.get("image-gc-high-threshold").number()?;
    let low = values.get("image-gc-low-threshold");
    let low_percent = low.number()?;
    if low_percent >= high_percent {
        bail!(
            "{}: found {low_percent}, expected less than the high threshold, {high_percent}",
            low.place()
        );
    }
    let min_age = values.get("minimum-image-ttl-duration").duration()?;
    let max = values.get("image-maximum-gc-age");
    let max_age = max.duration()?;
    if !max_age.is_zero() && max_age <= min_age {
        bail!(
            "{}: found {max_age:?}, expected more than the minimum age, {min_age:?}",
            max.place()
        );
    }
    Ok(Policy {
        high_percent,
        low_percent,
        min_age,
        max_age: (!max_age.is_zero()).then_some(max_age),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::tests::{config, kubelet, setting, with_files};

    // Long since it lists its cases.
    #[test]
    fn housekeeping_is_set_as_the_kubelets_is() {
        let defaults = config("--pod-manifest-path=/m").unwrap();
        let rotation = Rotation {
            max_size: Some(10 << 20),
            max_files: 5,
            interval: Duration::from_secs(10),
        };
        let policy = Policy {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: None,
        };
        assert_eq!(defaults.log_rotation, rotation);
        assert_eq!(defaults.image_gc, policy);
        let links = &defaults.paths.container_logs;
        assert_eq!(links, Path::new("/var/log/containers"));
        let file = "containerLogMaxSize: 1M\ncontainerLogMaxFiles: 3\ncontainerLogMonitorInterval: 3s\n\
                    imageGCHighThresholdPercent: 9\nimageGCLowThresholdPercent: 0\n\
                    imageMinimumGCAge: 1m\nimageMaximumGCAge: 24h\n";
        let given = with_files(
            &[("config.yaml", &kubelet(file))],
            "--config=@/config.yaml --pod-manifest-path=/m --container-logs-dir=/links",
        );
        let given = given.unwrap();
        let rotation = Rotation {
            max_size: Some(1_000_000),
            max_files: 3,
            interval: Duration::from_secs(3),
        };
        let policy = Policy {
            high_percent: 9,
            low_percent: 0,
            min_age: Duration::from_secs(60),
            max_age: Some(Duration::from_secs(24 * 3600)),
        };
        assert_eq!(given.log_rotation, rotation);
        assert_eq!(given.image_gc, policy);
        assert_eq!(given.paths.container_logs, Path::new("/links"));
        assert_eq!(given.warnings, [""; 0]);
        for (line, name, expected) in [
            (
                "--container-log-max-size=1Gi",
                "container-log-max-size",
                "1Gi",
            ),
            (
                "--container-log-max-size=-1",
                "container-log-max-size",
                "-1",
            ),
            (
                "--container-log-max-size -1",
                "container-log-max-size",
                "-1",
            ),
            (
                "--container-log-max-files=9",
                "container-log-max-files",
                "9",
            ),
            (
                "--image-gc-high-threshold=100",
                "image-gc-high-threshold",
                "100",
            ),
            ("--image-gc-low-threshold=0", "image-gc-low-threshold", "0"),
            (
                "--minimum-image-ttl-duration=0s",
                "minimum-image-ttl-duration",
                "0s",
            ),
            (
                "--image-maximum-gc-age=48h",
                "image-maximum-gc-age",
                "172800s",
            ),
        ] {
            let given = config(&format!("--pod-manifest-path=/m {line}")).unwrap();
            assert_eq!(setting(&given, name), format!("{expected} flag"), "{line}");
        }
        let never = config("--pod-manifest-path=/m --container-log-max-size=-1").unwrap();
        assert_eq!(never.log_rotation.max_size, None);
    }
}
