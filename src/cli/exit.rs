//! What the exit codes mean: the one table behind `--help`, the manual and `doc/formats.md`.

/// Exit code of `--check` when there is work to do.
pub(super) const WORK_TO_DO: u8 = 3;

/// Every exit code and its meaning.
pub(super) const CODES: [(u8, &str); 11] = [
    (0, "done, or nothing to do"),
    (1, "a stage failed, or a file could not be read, written or fetched"),
    (2, "the command line, the pipeline file or the data (lists, images, weights) is wrong"),
    (WORK_TO_DO, "with `--check`: there is work to do"),
    (4, "an input changed while it was read: the result was thrown away"),
    (5, "the cache is damaged in a way that running again does not mend"),
    (6, "a task wants more than this machine will ever have"),
    (7, "a stage's output is not what it must be, or lists break the protocol"),
    (75, "with `--no-wait`: another run is making the same result"),
    (130, "interrupted: Ctrl-C once lets running stages stop in order, twice ends them at once"),
    (143, "ended by a signal to terminate, which is taken as Ctrl-C"),
];

/// The table as a person reads it.
pub(super) fn text() -> String {
    let rows: Vec<String> = CODES.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}")).collect();
    format!("Exit codes:\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn formats_md_has_the_same_table() {
        let doc = include_str!("../../doc/formats.md");
        for (code, meaning) in CODES {
            assert!(doc.contains(&format!("| {code} | {meaning} |")), "doc/formats.md: | {code} | {meaning} |");
        }
    }

    #[test]
    fn no_error_ends_with_another_code() {
        for code in 0..=u8::MAX {
            let kind = Error::rendered("error: x", code).kind();
            // A code that no kind has reads as a failed stage.
            let known = CODES.iter().any(|(other, _)| *other == code);
            assert!(known || kind == Kind::Stage, "{code} is {kind:?}");
        }
    }
}
