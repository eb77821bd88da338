//! Durations as Kubernetes writes them: `20s`, `1m30s`.

use std::time::Duration;

/// Longest duration that the kubelet reads, in seconds rounded up: Go counts nanoseconds in 64 bits.
const LONGEST: Duration = Duration::from_secs(9_223_372_037);

const UNITS: [(&str, f64); 7] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads `5s`, `1m30s`, `1.5h`, `300ms` or `0`.
///
/// # Errors
/// The text is no such duration, or longer than the kubelet reads.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("found {text:?}, expected a duration such as 20s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(number.ok_or_else(wrong)?);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(unit.unwrap_or(after.len()));
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, factor) = known.ok_or_else(wrong)?;
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = after;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(format!(
            "found {text:?}, expected a duration of at most {}",
            format_duration(LONGEST)
        )),
    }
}

/// Writes a duration as the kubelet does: `20s`, `1m30s`, `1h0m0s`, `300ms`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 && !duration.is_zero() {
        return format!("{duration:?}");
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = Duration::new(seconds % 60, duration.subsec_nanos()).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_kubelet_writes_them() {
        for (millis, text) in [
            (0, "0s"),
            (20_000, "20s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
            (300, "300ms"),
            (1_500, "1.5s"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn durations_are_read_as_the_kubelet_writes_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("1h0m0s", 3_600_000),
            ("300ms", 300),
            ("1.5s", 1_500),
            ("2us", 0),
        ] {
            let found = parse_duration(text).unwrap();
            assert_eq!(found.as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5x",
            "1..5s",
            "1m-5s",
            "99999999999999999999h",
            "3000000000000000h",
            "2562048h",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }
}
