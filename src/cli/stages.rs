//! `hashpipe stages`: what a pipeline file may say, from the types that parse it.

use crate::error::{Error, Result};
use crate::names::known_or_nearest;
use crate::report::{print, table};
use crate::stage::{self, Kind, Param, STAGES, Shape};
use clap::Args;
use serde_json::Value;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show only this kind, with all of its parameters
    kind: Option<String>,
    /// The JSON schema of each kind's table, one line per kind
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let kinds: Vec<&Kind> = match &arguments.kind {
        None => STAGES.iter().collect(),
        Some(name) => vec![stage::find(name).ok_or_else(|| {
            let known: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
            Error::input(format!("there is no kind of stage `{name}`")).hint(known_or_nearest(name, &known, "kinds"))
        })?],
    };
    for (position, kind) in kinds.iter().enumerate() {
        if arguments.json {
            print(
                &serde_json::json!({ "kind": kind.name, "version": kind.version, "schema": kind.schema() }).to_string(),
            );
            continue;
        }
        if position > 0 {
            print("");
        }
        print(&format!("[{}.NAME]  {}", kind.name, kind.about));
        let mut rows = vec![];
        if let Shape::Table(params) = kind.shape() {
            list(&params, "  ", None, &mut rows);
        }
        print(&table(&["  key", "default", "what it is"], &rows));
    }
    Ok(0)
}

/// Parameters as rows, those of a choice or table below it. `whole` is the default of the table they are in.
fn list(params: &[Param], indent: &str, whole: Option<&Value>, rows: &mut Vec<Vec<String>>) {
    for param in params {
        let own = whole.and_then(|whole| whole.get(&param.name)).or(param.default.as_ref());
        let default = match (own, param.required) {
            (Some(value), _) if matches!(param.shape, Shape::Choice(_)) => {
                value["name"].as_str().unwrap_or_default().to_string()
            }
            (Some(Value::Object(_)), _) => "as below".to_string(),
            (Some(value), _) => value.to_string(),
            (None, true) => "needed".to_string(),
            (None, false) => "none".to_string(),
        };
        let expected = match &param.shape {
            Shape::Table(_) => "a table".to_string(),
            shape => shape.expected(),
        };
        let about = if param.about.is_empty() { expected } else { format!("{} ({expected})", param.about) };
        rows.push(vec![format!("{indent}{}", param.name), default, about]);
        match &param.shape {
            Shape::Table(params) => list(params, &format!("{indent}  "), own, rows),
            Shape::Choice(variants) => {
                for variant in variants {
                    let name = format!("{indent}  name = \"{}\"", variant.name);
                    rows.push(vec![name, String::new(), variant.about.clone()]);
                    let chosen = own.filter(|own| own["name"] == variant.name);
                    list(&variant.params, &format!("{indent}    "), chosen, rows);
                }
            }
            _ => {}
        }
    }
}
