//! How figures are written.

use crate::samples::Estimate;

/// A ratio as an overhead in percent with its interval: `+3.1 % (2.0 … 4.4)`, with `~` in front where
/// the interval includes zero.
pub(super) fn overhead(ratio: Option<Estimate>) -> String {
    let Some(ratio) = ratio else { return String::new() };
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let noise = if ratio.is_noise_around(1.0) { "~" } else { "" };
    let median = signed(percent(ratio.median));
    match ratio.interval {
        Some((low, high)) => {
            format!("{noise}{median} % ({} … {})", signed(percent(low)), signed(percent(high)))
        }
        None => format!("{noise}{median} % (too few rounds)"),
    }
}

/// A ratio as an overhead in percent alone, where the interval is of no interest.
pub(super) fn percent(ratio: Option<Estimate>) -> String {
    ratio.map_or_else(String::new, |ratio| format!("{} %", signed((ratio.median - 1.0) * 100.0)))
}

/// A ratio as what is left of a rate: `0.97 (0.95 … 0.99)`.
pub(super) fn share(ratio: Option<Estimate>) -> String {
    let Some(ratio) = ratio else { return String::new() };
    match ratio.interval {
        Some((low, high)) => format!("{:.2} ({low:.2} … {high:.2})", ratio.median),
        None => format!("{:.2}", ratio.median),
    }
}

fn signed(percent: f64) -> String {
    // Without a sign on what rounds to zero.
    let text = format!("{percent:+.1}");
    if text == "-0.0" || text == "+0.0" { "0.0".to_owned() } else { text.replace('-', "−") }
}

/// Nanoseconds in microseconds.
pub(super) fn micros(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(String::new, |estimate| format!("{:.2}", estimate.median / 1e3))
}

/// Nanoseconds.
pub(super) fn nanos(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(String::new, |estimate| grouped(estimate.median))
}

/// A whole number with commas.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("−", rest));
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    format!("{sign}{}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overheads_say_when_they_are_noise() {
        let ratio =
            |median, low, high| Some(Estimate { median, interval: Some((low, high)), samples: 9 });
        assert_eq!(overhead(ratio(1.031, 1.02, 1.044)), "+3.1 % (+2.0 … +4.4)");
        assert_eq!(overhead(ratio(1.0, 0.98, 1.01)), "~0.0 % (−2.0 … +1.0)");
        assert_eq!(overhead(None), "");
        let few = Some(Estimate { median: 1.5, interval: None, samples: 2 });
        assert_eq!(overhead(few), "~+50.0 % (too few rounds)");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(-12.4), "−12");
        assert_eq!(grouped(999.0), "999");
    }
}
