//! Durations as people write them: `500ms`, `40s`, `5m`, `2h`; a bare number is seconds.

use std::time::Duration;

/// Reads a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; one looks like 500ms, 40s, 5m or 2h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(0) | None => Err(format!("{text:?} is out of range; it must be above 0 and fit")),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

/// Writes a duration so that [`parse_duration`] reads it back.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        let check = |text: &str, ms: u64, shown: &str| {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_millis(ms));
            assert_eq!(show_duration(duration), shown);
        };
        check("500ms", 500, "500ms");
        check("40", 40_000, "40s");
        check("40s", 40_000, "40s");
        check("5m", 300_000, "300s");
        check("2h", 7_200_000, "7200s");
        for text in ["", "s", "0s", "-1s", "1.5s", "1d", "18446744073709551615h", "1 s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
