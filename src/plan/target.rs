//! The texts of references: `train.hashnet/model`, `train.hashnet@bits=64/model`, or a path.

use crate::stage;

/// What the text of a reference says, before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// An output of another stage.
    Output {
        /// `train.hashnet`
        stage: String,
        /// Points of axes picked out: `@bits=64,seed=1`; `*` for all values of one.
        select: Vec<(String, String)>,
        port: String,
    },
    /// A file or folder of the user's.
    Path(String),
}

/// The value of a point that stands for all of an axis.
pub(super) const ALL: &str = "*";

/// Whether a reference means all points of an axis: `train.hashnet@bits=*/model`.
pub(super) fn gathers(text: &str) -> bool {
    matches!(parse(text), Text::Output { select, .. } if select.iter().any(|(_, value)| value == ALL))
}

/// Reads a reference. What looks like `kind.name/port` with a known kind is an output; `./` in front makes it a path.
pub(super) fn parse(text: &str) -> Text {
    let path = || Text::Path(text.to_string());
    // Without a slash it is a stage whose output was forgotten, if it looks like one.
    let (head, port) = text.rsplit_once('/').unwrap_or((text, ""));
    let (stage, points) = head.split_once('@').unwrap_or((head, ""));
    let Some((kind, name)) = stage.split_once('.') else { return path() };
    if stage::find(kind).is_none() || !crate::names::is_name(name) {
        return path();
    }
    // A point without `=` keeps an empty value: no axis has it, and the plan says so.
    let points = points.split(',').filter(|point| !point.trim().is_empty());
    let select = points.map(|point| point.split_once('=').unwrap_or((point, "")));
    Text::Output {
        stage: stage.to_string(),
        select: select.map(|(axis, value)| (axis.trim().to_string(), value.trim().to_string())).collect(),
        port: port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_and_paths_are_told_apart() {
        let output = |stage: &str, select: &[(&str, &str)], port: &str| Text::Output {
            stage: stage.into(),
            select: select.iter().map(|(a, v)| (a.to_string(), v.to_string())).collect(),
            port: port.into(),
        };
        assert_eq!(parse("train.a/model"), output("train.a", &[], "model"));
        assert_eq!(parse("train.a"), output("train.a", &[], ""));
        assert_eq!(parse("train.a@bits=64,seed=1/model"), output("train.a", &[("bits", "64"), ("seed", "1")], "model"));
        assert_eq!(parse("train.a@bits=*/model"), output("train.a", &[("bits", "*")], "model"));
        assert!(
            gathers("train.a@seed=1,bits=*/model") && !gathers("train.a@bits=1/*") && !gathers("./train.a@bits=*/x")
        );
        for path in ["data/weights.safetensors", "./train.a/model", "model.safetensors", "data.x/y"] {
            assert_eq!(parse(path), Text::Path(path.into()));
        }
    }
}
