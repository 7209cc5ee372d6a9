//! Numbers and tables as a person reads them.

use std::collections::BTreeMap;

/// A duration: `0.4s`, `12.3s`, `11m42s`, `3h05m`.
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else {
        format!("{}h{:02}m", whole / 3600, whole % 3600 / 60)
    }
}

/// A size in bytes: `812 B`, `3.1 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago something was: `just now`, `5 minutes ago`, `2 days ago`.
pub fn age(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => return "just now".into(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// A count with thousands separated: `112,218`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// `1 stage`, `2 stages`.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// Figures with their names: what is measured first, what it is to be compared with last.
pub fn metrics(metrics: &BTreeMap<String, f64>) -> Vec<(&str, String)> {
    let mut figures: Vec<(&str, String)> =
        metrics.iter().map(|(name, value)| (name.as_str(), figure(*value))).collect();
    figures.sort_by_key(|(name, _)| (*name == "chance", !name.starts_with("mAP")));
    figures
}

/// A figure: four digits behind the point, none for a count.
fn figure(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() >= 2.0 { count(value.abs() as u64) } else { format!("{value:.4}") }
}

/// Columns as wide as their widest cell; those whose cells all begin with a digit stand to the right.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
    let columns: Vec<(usize, bool)> = (0..heads.len())
        .map(|i| {
            let width = rows.iter().map(|row| cell(row, i).chars().count()).chain([heads[i].chars().count()]).max();
            let number = |text: String| {
                text.is_empty() || text.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit())
            };
            (width.unwrap_or(0), !rows.is_empty() && rows.iter().all(|row| number(cell(row, i))))
        })
        .collect();
    let line = |cells: Vec<String>| {
        let mut out = String::new();
        for ((width, right), text) in columns.iter().zip(cells) {
            let text = if *right { format!("{text:>width$}") } else { format!("{text:<width$}") };
            out.push_str(&text);
            out.push_str("  ");
        }
        out.trim_end().to_string()
    };
    let head = line(heads.iter().map(ToString::to_string).collect());
    let body = rows.iter().map(|row| line((0..heads.len()).map(|i| cell(row, i)).collect()));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [duration(0.41), duration(59.96), duration(702.0), duration(11_100.0)],
            ["0.4s", "1m00s", "11m42s", "3h05m"]
        );
        assert_eq!([size(12), size(3 << 20)], ["12 B", "3.0 MiB"]);
        assert_eq!([age(5), age(60), age(200_000)], ["just now", "1 minute ago", "2 days ago"]);
        assert_eq!([count(7), count(112_218)], ["7", "112,218"]);
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [vec!["a".into(), "7".into()], vec!["bcd".into(), "16".into()]];
        assert_eq!(table(&["x", "bits"], &rows), "x    bits\na       7\nbcd    16");
    }
}
