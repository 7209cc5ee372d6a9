//! Names of runs.

use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// A run's name: `261123-143022-kvtz`, the day, the time (UTC), and a word: its first half is the part of the second, so
/// that names sort by time, its second half is drawn by lot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct RunId(String);

/// Letters of a run's word: no vowels, so that it is none that means something, and nothing that looks like another.
const LETTERS: &[u8; 20] = b"bcdfghjkmnpqrstvwxyz";
const WORD: usize = 4;

impl RunId {
    /// A name for a run that begins now.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let lot = blake3::hash(format!("{} {}", since.as_nanos(), std::process::id()).as_bytes());
        Self::of(since.as_secs(), since.subsec_nanos(), lot.as_bytes())
    }

    fn of(seconds: u64, nanos: u32, lot: &[u8; 32]) -> Self {
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let letter = |n: u32| char::from(LETTERS[n as usize % LETTERS.len()]);
        let base = LETTERS.len() as u32;
        let part = nanos / (1_000_000_000 / (base * base)).max(1);
        let part = part.min(base * base - 1);
        let letters = [part / base, part, lot[0].into(), lot[1].into()];
        let word: String = letters.into_iter().map(letter).collect();
        Self(format!("{:02}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{word}", year % 100))
    }

    /// Reads a name of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let digits = |part: &str| part.len() == 6 && part.bytes().all(|b| b.is_ascii_digit());
        let dated = digits(parts.next()?) && digits(parts.next()?);
        let word = parts.next()?;
        let named = word.len() == WORD && word.bytes().all(|b| LETTERS.contains(&b));
        (dated && named).then(|| Self(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text is the beginning of the name, or of its word.
    pub(super) fn is_meant_by(&self, text: &str) -> bool {
        let word = self.0.rsplit('-').next().unwrap_or_default();
        !text.is_empty() && (self.0.starts_with(text) || word.starts_with(text))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Year, month and day of a number of days since 1970-01-01, in the calendar of today.
///
/// The count starts in March of year 0, so that the day that comes and goes is the last of its year
/// (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        // From `date -u -d @SECONDS +%F`.
        let dates = [(0, (1970, 1, 1)), (951_782_400, (2000, 2, 29)), (4_107_542_400, (2100, 3, 1))];
        for (seconds, expected) in dates {
            assert_eq!(date(seconds / 86_400), expected);
        }
    }

    #[test]
    fn names_sort_by_time_and_are_meant_by_their_parts() {
        let earlier = RunId::of(1_795_444_222, 999_999_999, &[19; 32]);
        let later = RunId::of(1_795_444_223, 0, &[0; 32]);
        let just_later = RunId::of(1_795_444_223, 5_000_000, &[0; 32]);
        assert!(earlier < later && later < just_later);
        assert_eq!(earlier.as_str(), "261123-143022-zzzz");
        assert_eq!(RunId::parse(earlier.as_str()), Some(earlier.clone()));
        assert!(["261123", "261123-1430", "zz"].iter().all(|text| earlier.is_meant_by(text)));
        assert!(["", "143022", "261124"].iter().all(|text| !earlier.is_meant_by(text)));
        assert_eq!(RunId::parse("newest"), None);
    }
}
