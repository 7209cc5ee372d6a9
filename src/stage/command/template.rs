//! The words of a command with what stands for inputs, outputs and parameters in them.
//!
//! `{in.NAME}`, `{each.NAME}`, `{out.NAME}`, `{param.NAME}` and `{threads}` are filled in; any other brace is left as it is, so that
//! `awk '{print $1}'` needs no escapes.

use crate::stage::Words;

/// Something that is filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hole<'a> {
    In(&'a str),
    /// Every file of an input, as words of their own.
    Each(&'a str),
    Out(&'a str),
    Param(&'a str),
    Threads,
}

impl<'a> Hole<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text == "threads" {
            return Some(Self::Threads);
        }
        match text.split_once('.')? {
            ("in", name) => Some(Self::In(name)),
            ("each", name) => Some(Self::Each(name)),
            ("out", name) => Some(Self::Out(name)),
            ("param", name) => Some(Self::Param(name)),
            _ => None,
        }
    }
}

/// A stretch of text, or a hole in it.
enum Part<'a> {
    Text(&'a str),
    Hole(Hole<'a>),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let (mut parts, mut rest, mut begun) = (vec![], text, 0);
    while let Some(open) = rest[begun..].find('{').map(|at| at + begun) {
        let hole = rest[open..].find('}').and_then(|end| Some((Hole::parse(&rest[open + 1..open + end])?, end)));
        match hole {
            Some((hole, end)) => {
                parts.extend([Part::Text(&rest[..open]), Part::Hole(hole)]);
                (rest, begun) = (&rest[open + end + 1..], 0);
            }
            None => begun = open + 1,
        }
    }
    parts.push(Part::Text(rest));
    parts
}

/// Every hole of a command.
pub(super) fn holes(words: &Words) -> Vec<Hole<'_>> {
    let of = |text| {
        parts(text).into_iter().filter_map(|part| match part {
            Part::Hole(hole) => Some(hole),
            Part::Text(_) => None,
        })
    };
    words.texts().iter().flat_map(|text| of(text)).collect()
}

/// The hole that is all of a word, if one is.
pub(super) fn lone_hole(word: &str) -> Option<Hole<'_>> {
    match parts(word)[..] {
        [Part::Text(""), Part::Hole(hole), Part::Text("")] => Some(hole),
        _ => None,
    }
}

/// The text with its holes filled.
pub(super) fn fill(text: &str, value: &dyn Fn(Hole) -> String) -> String {
    let filled = parts(text).into_iter().map(|part| match part {
        Part::Text(text) => text.to_string(),
        Part::Hole(hole) => value(hole),
    });
    filled.collect()
}

/// A word as the shell reads it back: in quotes if it holds anything the shell would act on.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_other_braces_stay() {
        let text = "awk '{print $1}' {in.a}/{in.b} > {out.c} ${HOME} {param.x}{threads} {in.d";
        let words = Words::Line(text.into());
        let expected = [Hole::In("a"), Hole::In("b"), Hole::Out("c"), Hole::Param("x"), Hole::Threads];
        assert_eq!(holes(&words), expected);
        let value = |hole: Hole| match hole {
            Hole::In(name) | Hole::Each(name) | Hole::Out(name) | Hole::Param(name) => name.to_uppercase(),
            Hole::Threads => "2".into(),
        };
        assert_eq!(fill(text, &value), "awk '{print $1}' A/B > C ${HOME} X2 {in.d");
        assert_eq!(fill("{{in.a}}", &value), "{A}");
        assert_eq!(lone_hole("{each.a}"), Some(Hole::Each("a")));
        assert!(["x{each.a}", "{each.a} ", "{each.a}{each.b}", "x"].iter().all(|word| lone_hole(word).is_none()));
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("in/a-b.npy"), "in/a-b.npy");
        assert_eq!([quoted(""), quoted("a b"), quoted("it's")], ["''", "'a b'", r"'it'\''s'"]);
    }
}
