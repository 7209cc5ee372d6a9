//! What goes wrong, where, and what to do about it; and its one rendering.

use std::fmt::Write as _;
use std::path::Path;

/// `Result` with hashpipe's own error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is. Decides the exit code and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line or the pipeline file.
    Input,
    /// Lists, images, weights.
    Data,
    /// A stage that ran and failed.
    Stage,
    /// Something was edited while it was being read.
    Changed,
    /// The cache holds something it should not.
    Cache,
    /// An output is not what its stage promises, or lists break the protocol that was asked for.
    Contract,
    /// A task wants more than this machine has.
    Resources,
    /// A file could not be read or written.
    Io,
    /// Another process is at work on the same, and this one was told not to wait.
    Busy,
    /// Stopped by the user.
    Interrupted,
}

/// What to do about a full disk.
pub const FULL: &str = "the disk is full: free some space and run again; what is cached is kept";

/// What to do about a limit of the shell.
const TOO_LARGE: &str =
    "files may only grow so large here: `ulimit -f` shows the limit, `ulimit -f unlimited` lifts it";

impl Kind {
    const ALL: [Self; 10] = [
        Self::Input,
        Self::Data,
        Self::Stage,
        Self::Changed,
        Self::Cache,
        Self::Resources,
        Self::Io,
        Self::Contract,
        Self::Busy,
        Self::Interrupted,
    ];

    /// The process's exit code, as documented in README.md.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Stage | Self::Io => 1,
            Self::Input | Self::Data => 2,
            Self::Changed => 4,
            Self::Cache => 5,
            Self::Resources => 6,
            Self::Contract => 7,
            Self::Busy => 75,
            Self::Interrupted => 130,
        }
    }
}

/// Where in a user's text the trouble is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A place in a file; `line` and `column` count from 1, `text` is the whole line, `width` the columns to mark.
    File { file: String, line: usize, column: usize, text: String, width: usize },
    /// A whole file.
    Path(String),
    /// An argument or an environment variable, quoted as it was given.
    Argument(String),
}

impl Place {
    /// Without the line itself: `file:line`.
    pub fn short(&self) -> String {
        match self {
            Self::File { file, line, .. } => format!("{file}:{line}"),
            Self::Path(text) | Self::Argument(text) => text.clone(),
        }
    }

    /// The line with this number (from 1), marked from its first to its last visible character.
    pub fn line(file: &Path, line: usize, text: &str) -> Self {
        let column = text.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let width = text.trim().chars().count().max(1);
        Self::File { file: file.display().to_string(), line, column, text: text.to_string(), width }
    }
}

/// A message, a place, facts, and what to do.
#[derive(Debug)]
pub struct Error(Box<Report>);

#[derive(Debug)]
struct Report {
    kind: Kind,
    message: String,
    place: Option<Place>,
    notes: Vec<String>,
    hints: Vec<String>,
    /// Further errors of the same phase: everything wrong with a file is said at once.
    others: Vec<Error>,
    /// The whole text, if another process rendered it.
    rendered: Option<String>,
}

impl Error {
    /// An error of the given kind; `message` is a lowercase fragment without a period, names in backticks.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Report {
            kind,
            message,
            place: None,
            notes: vec![],
            hints: vec![],
            others: vec![],
            rendered: None,
        }))
    }

    /// A fault in the command line or the pipeline file.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A fault in a list, an image, or weights.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// A file that cannot be read or written.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let mut e = Self::new(Kind::Io, format!("cannot {doing} `{}`", path.display())).note(error.to_string());
        match error.kind() {
            std::io::ErrorKind::StorageFull => e = e.hint(FULL),
            std::io::ErrorKind::FileTooLarge => e = e.hint(TOO_LARGE),
            _ => {}
        }
        e
    }

    /// A task that wants more than this machine has.
    pub fn resources(message: impl Into<String>) -> Self {
        Self::new(Kind::Resources, message)
    }

    /// Stopped by the user.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// An error another process rendered, with the exit code it gave.
    pub fn rendered(text: &str, exit_code: u8) -> Self {
        let kind = Kind::ALL.into_iter().find(|kind| kind.exit_code() == exit_code).unwrap_or(Kind::Stage);
        let message = text.lines().next().unwrap_or_default();
        let mut error = Self::new(kind, message.strip_prefix("error: ").unwrap_or(message));
        error.0.rendered = Some(text.to_string());
        error
    }

    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.0.place = place.into();
        self
    }

    /// Sets the place, unless a closer one is known.
    #[must_use]
    pub fn within(mut self, place: Place) -> Self {
        self.0.place.get_or_insert(place);
        self
    }

    /// Adds a fact: what was found, what was expected.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Adds an action: a command, a key, a spelling.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// One error out of many; `None` if there are none.
    pub fn all(errors: Vec<Error>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        first.0.others.extend(errors);
        Some(first)
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The text a person reads, under the heading `error` or `warning`, without a final newline.
    pub fn render(&self, heading: &str) -> String {
        if let Some(text) = &self.0.rendered {
            // What was learnt of it since.
            let notes = self.0.notes.iter().map(|note| format!("\nnote: {note}"));
            let hints = self.0.hints.iter().map(|hint| format!("\nhint: {hint}"));
            return std::iter::once(text.clone()).chain(notes).chain(hints).collect();
        }
        let mut out = String::new();
        self.render_one(heading, &mut out);
        for other in &self.0.others {
            out.push('\n');
            other.render_one(heading, &mut out);
        }
        if !self.0.others.is_empty() {
            let _ = write!(out, "\n{} {heading}s", self.0.others.len() + 1);
        }
        out.trim_end().to_string()
    }

    fn render_one(&self, heading: &str, out: &mut String) {
        let report = &self.0;
        let _ = writeln!(out, "{heading}: {}", bounded(&report.message));
        match &report.place {
            Some(Place::File { file, line, column, text, width }) => {
                let gutter = line.to_string().len();
                let _ = writeln!(out, "{:gutter$}--> {file}:{line}:{column}", "");
                let _ = writeln!(out, "{:gutter$} |", "");
                let (text, skipped) = window(text, *column);
                let _ = writeln!(out, "{line} | {text}");
                let width = (*width).clamp(1, text.chars().count().saturating_sub(column - skipped - 1).max(1));
                let _ = writeln!(out, "{:gutter$} | {:2$}{3}", "", "", column - skipped - 1, "^".repeat(width));
            }
            Some(Place::Path(path)) => {
                let _ = writeln!(out, "  --> {path}");
            }
            Some(Place::Argument(argument)) => {
                let _ = writeln!(out, "  --> {argument}");
            }
            None => {}
        }
        for note in &report.notes {
            let _ = writeln!(out, "note: {}", bounded(note));
        }
        for hint in &report.hints {
            let _ = writeln!(out, "hint: {}", bounded(hint));
        }
    }
}

/// A text none of whose lines fills a screen: what a damaged file holds is quoted in many places.
fn bounded(text: &str) -> String {
    const LONGEST: usize = 1000;
    let line = |line: &str| match line.char_indices().nth(LONGEST) {
        None => line.to_string(),
        Some((at, _)) => format!("{}.. and {} more characters", &line[..at], line[at..].chars().count()),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The part of a long line around `column`, with the number of characters cut in front of it.
fn window(text: &str, column: usize) -> (String, usize) {
    const WIDEST: usize = 120;
    let text = text.replace('\t', " ");
    if text.chars().count() <= WIDEST {
        return (text, 0);
    }
    let skipped = column.saturating_sub(WIDEST / 2);
    (text.chars().skip(skipped).take(WIDEST).collect(), skipped)
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_place_and_its_hints() {
        let place =
            Place::File { file: "a.toml".into(), line: 11, column: 1, text: "learning_rte = 1".into(), width: 12 };
        let error = Error::input("unknown key `learning_rte`").at(place).hint("did you mean `learning_rate`?");
        let expected = "error: unknown key `learning_rte`\n  --> a.toml:11:1\n   |\n11 | learning_rte = 1\n   | ^^^^^^^^^^^^\nhint: did you mean `learning_rate`?";
        assert_eq!(error.render("error"), expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = "x".repeat(500);
        let place = Place::File { file: "a".into(), line: 1, column: 400, text, width: 300 };
        let shown = Error::data("m").at(place).render("error");
        assert!(shown.lines().all(|line| line.len() < 140), "{shown}");
    }

    #[test]
    fn what_is_quoted_does_not_fill_the_screen() {
        let shown = Error::data("é".repeat(5_000)).note(format!("short\n{}", "x".repeat(70_000))).render("error");
        assert!(shown.len() < 4_000 && shown.contains("short\nx"), "{shown}");
        assert!(shown.contains("é.. and 4000 more characters") && shown.ends_with("x.. and 69000 more characters"));
    }

    #[test]
    fn many_errors_are_counted() {
        let error = Error::all(vec![Error::input("a"), Error::input("b")]).unwrap();
        assert_eq!(error.render("error"), "error: a\n\nerror: b\n\n2 errors");
    }
}
