//! Quantities of resources, as Kubernetes writes them: `250m`, `64Mi`, `1.5`, `1e3` (API reference,
//! Quantity).

/// An exact amount, counted in billionths; what is finer is rounded up, as the API does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Quantity {
    nanos: i128,
}

const NANOS: i128 = 1_000_000_000;
const NANOS_IN_MILLI: i128 = 1_000_000;
/// Suffixes in the order of their factors: each divides the number before it by a thousand.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// More digits than this say nothing that a node could have.
const MAX_DIGITS: usize = 24;

impl Quantity {
    /// Creates an amount of whole units.
    pub(crate) fn of(value: i64) -> Self {
        Self {
            nanos: i128::from(value).saturating_mul(NANOS),
        }
    }

    /// Returns the sum, at most the largest amount.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
        }
    }

    /// Returns whole units, rounded up.
    pub(crate) fn value(self) -> i64 {
        saturate(div_up(self.nanos, NANOS))
    }

    /// Returns thousandths, rounded up.
    pub(crate) fn milli_value(self) -> i64 {
        saturate(div_up(self.nanos, NANOS_IN_MILLI))
    }

    /// Rounds up to thousandths.
    pub(crate) fn rounded_to_milli(self) -> Self {
        Self {
            nanos: div_up(self.nanos, NANOS_IN_MILLI).saturating_mul(NANOS_IN_MILLI),
        }
    }

    /// Writes the canonical form, with suffixes of the kind that the sample has: no fraction, and the largest suffix that
    /// leaves none.
    pub(crate) fn written_like(self, sample: &str) -> String {
        let units = self.nanos / NANOS;
        let whole = self.nanos % NANOS == 0;
        if sample.ends_with('i') && whole && units.abs() >= 1024 {
            return suffixed(units, 1024, &BINARY);
        }
        let exponent = sample
            .rfind(['e', 'E'])
            .filter(|at| at.saturating_add(1) < sample.len());
        match exponent {
            Some(_) => with_exponent(self.nanos),
            None => suffixed(self.nanos, 1000, &DECIMAL),
        }
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Returns `true` if it is a multiple of the other.
    pub(crate) fn is_multiple_of(self, unit: Self) -> bool {
        self.nanos.checked_rem(unit.nanos) == Some(0)
    }

    pub(crate) fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Divides by `divisor`, rounded up; `None` for a divisor of nothing or less.
    pub(crate) fn divided_by(self, divisor: Self) -> Option<i64> {
        (divisor.nanos > 0).then(|| saturate(div_up(self.nanos, divisor.nanos)))
    }
}

fn suffixed(mut number: i128, step: i128, suffixes: &[&str]) -> String {
    if number == 0 {
        return "0".to_owned();
    }
    let mut suffixes = suffixes.iter();
    let mut suffix = suffixes.next();
    while number.checked_rem(step) == Some(0)
        && let Some(next) = suffixes.next()
    {
        number = number.checked_div(step).unwrap_or(0);
        suffix = Some(next);
    }
    format!("{number}{}", suffix.unwrap_or(&""))
}

/// Writes thousands as powers of ten: `12e3`.
fn with_exponent(mut nanos: i128) -> String {
    let mut exponent = -9_i32;
    while nanos != 0 && nanos % 1000 == 0 {
        nanos /= 1000;
        exponent = exponent.saturating_add(3);
    }
    match (nanos, exponent) {
        (0, _) => "0".to_owned(),
        (_, 0) => nanos.to_string(),
        _ => format!("{nanos}e{exponent}"),
    }
}

/// Parses a quantity; `None` if the text is none.
pub(crate) fn parse(text: &str) -> Option<Quantity> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    let end = unsigned.find(|c| !plain(c)).unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.bytes().all(|b| b == b'.') || fraction.contains('.') {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    if whole.len().saturating_add(fraction.len()) > MAX_DIGITS {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (base, exponent) = scale(suffix)?;
    let places = i32::try_from(fraction.len()).ok()?;
    let nanos = digits.checked_mul(base)?;
    let nanos = shift(nanos, exponent.saturating_add(9).saturating_sub(places))?;
    Some(Quantity {
        nanos: if negative {
            nanos.saturating_neg()
        } else {
            nanos
        },
    })
}

/// Returns a suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |power: u32| Some((1024_i128.saturating_pow(power), 0));
    match suffix {
        "" => Some((1, 0)),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-24..=24).contains(&exponent).then_some((1, exponent))
        }
    }
}

/// Multiplies by this power of ten, rounded up; `None` if the result is too large.
fn shift(number: i128, power: i32) -> Option<i128> {
    let factor = 10i128.checked_pow(power.unsigned_abs())?;
    if power < 0 {
        return Some(div_up(number, factor));
    }
    number.checked_mul(factor)
}

fn div_up(number: i128, by: i128) -> i128 {
    let whole = number.checked_div_euclid(by).unwrap_or(i128::MAX);
    let more = number.checked_rem_euclid(by).unwrap_or(0) != 0;
    whole.saturating_add(i128::from(more))
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_amount_is_understood() {
        for (text, milli) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("0.5", 500),
            (".5", 500),
            ("1.", 1000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Mi", 1_572_864_000),
            ("1e3", 1_000_000),
            ("2E2", 200_000),
            ("-1", -1000),
            ("1n", 1),
            ("0.0001", 1),
        ] {
            assert_eq!(
                parse(text).map(Quantity::milli_value),
                Some(milli),
                "{text}"
            );
        }
    }

    /// API reference, Quantity, on the canonical form.
    #[test]
    fn amounts_are_written_in_their_canonical_form() {
        for (text, canonical) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1E", "1E"),
            ("-2000m", "-2"),
            ("0Mi", "0"),
            ("1n", "1n"),
        ] {
            assert_eq!(parse(text).unwrap().written_like(text), canonical, "{text}");
        }
        assert_eq!(
            parse("1n").unwrap().rounded_to_milli(),
            parse("1m").unwrap()
        );
    }

    #[test]
    fn amounts_are_written_as_the_api_writes_them() {
        for (amount, like, expected) in [
            ("1280Mi", "256Mi", "1280Mi"),
            ("1024Mi", "1Mi", "1Gi"),
            ("0.5", "1", "500m"),
            ("1000m", "100m", "1"),
            ("1000", "1", "1k"),
            ("1500m", "1Mi", "1500m"),
            ("1000", "1Ki", "1k"),
            ("0", "1Ki", "0"),
            ("1Gi", "1000000", "1073741824"),
        ] {
            let found = parse(amount).unwrap().written_like(like);
            assert_eq!(found, expected, "{amount} like {like}");
        }
    }

    #[test]
    fn what_is_no_amount_is_told() {
        for text in [
            "", "m", "1x", "1.2.3", "1 Gi", "0x10", "1KiB", "--1", "1e99", ".",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_division_is_rounded_up() {
        let of = |text: &str| parse(text).unwrap();
        assert_eq!(of("500m").divided_by(of("1")), Some(1));
        assert_eq!(of("250m").divided_by(of("1m")), Some(250));
        assert_eq!(of("64Mi").divided_by(of("1Mi")), Some(64));
        assert_eq!(of("1").divided_by(of("0")), None);
    }
}
