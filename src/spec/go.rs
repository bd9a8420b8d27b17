//! Texts in the forms that Go programs take: durations (`time.ParseDuration`) and sizes (`docker/go-units`).

use std::time::Duration;

/// Units in nanoseconds, longest name first where one is the end of another.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 6e10),
    ("h", 3.6e12),
];

/// Parses a Go duration that is not negative: decimal numbers with units, such as `1h30m` or `1.5s`; a bare `0` is
/// allowed. `None` if it is not one.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        nanos += number * factor;
        rest = next;
    }
    // Go's limit: an int64 of nanoseconds, some 292 years.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked: within 0 and 2^63"
    )]
    (nanos < 9.2e18).then(|| Duration::from_nanos(nanos.round() as u64))
}

/// The shortest text that [`parse_duration`] reads as this duration.
#[must_use]
pub fn format_duration(d: Duration) -> String {
    let (secs, nanos) = (d.as_secs(), d.subsec_nanos());
    let mut out = String::new();
    for (count, unit) in [(secs / 3600, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")] {
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    if nanos > 0 {
        out.push_str(&format!("{nanos}ns"));
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// Parses a size in binary units: `128M`, `64k`, `1.5GiB`, `1048576`. `None` if it is not one.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * 1024_f64.powi(power);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked: within 0 and 2^63"
    )]
    (bytes.is_finite() && bytes < 9.2e18).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, want) in [
            ("5m", Some(Duration::from_secs(300))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("300ms", Some(Duration::from_millis(300))),
            ("2µs", Some(Duration::from_micros(2))),
            ("0", Some(Duration::ZERO)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 m", None),
            ("-5m", None),
            ("5x", None),
            (".s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_formatted_duration_is_read_back() {
        for d in [
            Duration::ZERO,
            Duration::from_secs(300),
            Duration::from_millis(90_061_500),
            Duration::from_nanos(7),
        ] {
            assert_eq!(parse_duration(&format_duration(d)), Some(d));
        }
        assert_eq!(format_duration(Duration::from_secs(300)), "5m");
    }

    #[test]
    fn sizes_are_binary() {
        for (text, want) in [
            ("128M", Some(128 << 20)),
            ("64m", Some(64 << 20)),
            ("1GiB", Some(1 << 30)),
            ("1.5k", Some(1536)),
            ("2 GB", Some(2 << 30)),
            ("4096", Some(4096)),
            ("", None),
            ("M", None),
            ("-1M", None),
            ("12X", None),
        ] {
            assert_eq!(parse_size(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_none(text in "\\PC{0,16}") {
            prop_assert!(parse_size(&text).is_none_or(|bytes| bytes < 1 << 63));
            prop_assert!(parse_duration(&text).is_none_or(|d| d < Duration::from_secs(1 << 34)));
        }

        #[test]
        fn sizes_never_wrap(digits in "[0-9]{1,40}", point in "(\\.[0-9]{0,3})?", unit in "[kmgtpKMGTP]?(i?[bB])?") {
            let text = format!("{digits}{point}{unit}");
            if let Some(bytes) = parse_size(&text) {
                let least = digits.parse::<u64>().expect("a size above 64 bits was taken");
                // A float has 53 bits.
                prop_assert!(bytes >= least - least / (1 << 50), "{text}: {bytes}");
            }
        }
    }
}
