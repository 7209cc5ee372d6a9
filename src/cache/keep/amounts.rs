//! Sizes and lengths of time as a person writes them: `50GiB`, `30d`.

use serde::Deserialize;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

/// Reads a number with a unit, as so many of the smallest unit.
fn read(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, size) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    let value = number.parse::<f64>().ok()? * size;
    // Beyond this a float no longer counts single bytes; no machine has that many.
    (value < (1u64 << 53) as f64).then_some(value)
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, f64); 10] = [
            ("", 1.0),
            ("B", 1.0),
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
            ("TiB", 1_099_511_627_776.0),
            ("KB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("TB", 1e12),
        ];
        let wrong = || format!("`{text}` is not a size such as \"50GiB\" or \"512MiB\"");
        read(text, &UNITS).map(|bytes| Self(bytes as u64)).ok_or_else(wrong)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
        let wrong = || format!("`{text}` is not a length of time such as \"30d\" or \"12h\"");
        let seconds = read(text, &UNITS).ok_or_else(wrong)?;
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..3_600 => write!(f, "{}s", self.0.as_secs_f64()),
            3_600..86_400 => write!(f, "{}h", seconds / 3_600),
            _ => write!(f, "{}d", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units() {
        let bytes = |text: &str| text.parse::<Bytes>().ok().map(|bytes| bytes.0);
        assert_eq!(
            [bytes("50GiB"), bytes("1.5 KiB"), bytes("7"), bytes("2gb")],
            [Some(50 << 30), Some(1536), Some(7), Some(2_000_000_000)]
        );
        assert_eq!([bytes(""), bytes("GiB"), bytes("-1"), bytes("5 apples")], [None; 4]);
        let period = |text: &str| text.parse::<Period>().ok().map(|period| period.0.as_secs());
        assert_eq!([period("30d"), period("12h"), period("90")], [Some(2_592_000), Some(43_200), None]);
    }
}
