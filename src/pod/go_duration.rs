//! Durations as Go writes them, and so the kubelet's messages.

use std::time::Duration;

/// A duration in whole milliseconds, as Go and so the reference agent writes it: `350ms`, `1.2s`, `2m0.05s`.
pub(super) fn in_go(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return if millis == 0 {
            "0s".to_owned()
        } else {
            format!("{millis}ms")
        };
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_reference_agent_does() {
        for (millis, text) in [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1200, "1.2s"),
            (1050, "1.05s"),
            (60_000, "1m0s"),
            (125_005, "2m5.005s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(in_go(Duration::from_millis(millis)), text);
        }
    }
}
