//! Sizes in memory: `2GiB`, `512 MiB`, `1.5GB`, or a whole number of bytes.

use super::split;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// What a person is told to write.
    pub const EXPECTED: &'static str = "a size such as \"2GiB\" or \"512MiB\", or a whole number of bytes";
}

/// Units, the first of each size as it is shown. A bare letter is a power of 1024, as for Docker, Slurm and systemd.
const UNITS: [(&str, u64); 14] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not {}", Self::EXPECTED);
        let (number, unit) = split(text.trim()).ok_or_else(wrong)?;
        let (_, size) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
        let bytes = number * *size as f64;
        // Beyond 2^53 a float no longer counts single bytes; no machine has that many.
        if bytes.fract() != 0.0 && *size == 1 || bytes >= (1u64 << 53) as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for Bytes {
    /// Rounded to a tenth of the largest unit that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size) = UNITS[..5].iter().find(|(_, size)| self.0 >= *size).unwrap_or(&UNITS[4]);
        let tenths = (self.0 as f64 / *size as f64 * 10.0).round();
        if tenths % 10.0 == 0.0 {
            write!(f, "{} {name}", tenths / 10.0)
        } else {
            write!(f, "{:.1} {name}", tenths / 10.0)
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Bytes::EXPECTED)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
        Ok(Bytes(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
        u64::try_from(value).map(Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
        value.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(value), &self))
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": 0,
            "pattern": "^\\s*[0-9]+([.][0-9]+)?\\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\\s*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_read_in_the_units_people_write() {
        let cases = [
            ("2GiB", 2 << 30),
            ("24G", 24 << 30),
            ("512 MiB", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("6GB", 6_000_000_000),
            ("6gb", 6_000_000_000),
            ("1024", 1024),
            ("10 B", 10),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "G", "-1G", "2 GiBs", "1e9", "1.5", "0x10", "2G 3M", "nan", "1..5G", "99999999999T"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        let shown = |bytes| Bytes(bytes).to_string();
        assert_eq!(shown(6 << 30), "6 GiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
        assert_eq!(shown(1000), "1000 B");
        assert_eq!(shown(0), "0 B");
        for bytes in [6 << 30, 3 << 29, 7, 1 << 40] {
            assert_eq!(shown(bytes).parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn text_and_whole_numbers_are_sizes_and_nothing_else_is() {
        let read = |value| serde_json::from_value::<Bytes>(value);
        assert_eq!(read(json!("1K")).unwrap(), Bytes(1024));
        assert_eq!(read(json!(1024)).unwrap(), Bytes(1024));
        for value in [json!(-1), json!(1.5), json!(true), json!("much"), json!([1])] {
            let error = read(value.clone()).unwrap_err().to_string();
            assert!(error.contains("a size such as \"2GiB\""), "{value}: {error}");
        }
    }
}
