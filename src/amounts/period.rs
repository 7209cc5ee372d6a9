//! Lengths of time: `90s`, `30m`, `1h30m`, `2 days`.

use super::split;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time, never none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

impl Period {
    /// What a person is told to write.
    pub const EXPECTED: &'static str = "a length of time such as \"90s\", \"30m\" or \"1h30m\"";
}

/// Units in seconds; the first spelling of each is the one shown.
const UNITS: [(&[&str], f64); 5] = [
    (&["d", "day", "days"], 86_400.0),
    (&["h", "hour", "hours"], 3_600.0),
    (&["m", "min", "minute", "minutes"], 60.0),
    (&["s", "sec", "second", "seconds"], 1.0),
    (&["ms"], 0.001),
];

impl FromStr for Period {
    type Err = String;

    /// Reads numbers with units, added up. A bare number is refused: its unit could only be guessed.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not {}", Self::EXPECTED);
        let (mut seconds, mut rest) = (0.0, text.trim());
        while !rest.is_empty() {
            let (number, after) = split(rest).ok_or_else(wrong)?;
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            let (_, size) = UNITS.iter().find(|(names, _)| names.contains(&unit)).ok_or_else(wrong)?;
            seconds += number * size;
            rest = next.trim_start();
        }
        let period = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        if period.is_zero() { Err(wrong()) } else { Ok(Self(period)) }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_millis();
        for (names, seconds) in UNITS {
            let size = (seconds * 1000.0) as u128;
            if left >= size {
                write!(f, "{}{}", left / size, names[0])?;
                left %= size;
            }
        }
        if self.0.as_millis() == 0 { write!(f, "less than 1ms") } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Period::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Period, E> {
        value.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(\\s*[0-9]+([.][0-9]+)?\\s*[a-z]+)+\\s*$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lengths_of_time_need_units_and_add_up() {
        let cases =
            [("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1.5 h", 5400.0), ("250ms", 0.25)];
        for (text, seconds) in cases {
            assert_eq!(text.parse::<Period>().unwrap().0.as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "90", "0s", "s", "-1s", "2 weeks", "1h30", "1e3s", "9999999999999999999999d"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_length_is_shown_as_it_would_be_written() {
        for text in ["90s", "1h30m", "250ms", "2d1s"] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.to_string().parse(), Ok(period));
        }
        assert_eq!("90s".parse::<Period>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn a_bare_number_is_no_length_of_time() {
        let error = serde_json::from_value::<Period>(json!(90)).unwrap_err().to_string();
        assert!(error.contains("such as \"90s\""), "{error}");
    }
}
