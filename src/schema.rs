//! JSON Schemas (draft 2020-12) of pipeline files, events and records of runs, from the types that read and write them.
//!
//! A pipeline's schema says what one file can show: a file that extends another need not be whole, and whether stages
//! and points that are named exist is the plan's affair.

use crate::amounts::{Host, Wants};
use crate::config::TOP_KEYS;
use crate::event::Line;
use crate::runs::Record;
use crate::stage::{Param, STAGES, Shape, Variant};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Names of stages.
const NAME: &str = "^[A-Za-z0-9_-]+$";

/// Whether a pipeline file must be one that can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// Unless it extends another file.
    Yes,
    /// It is there to be extended.
    No,
}

/// The schema of a line of events.
pub fn events() -> Value {
    titled::<Line>("A line of a run's events")
}

/// The schema of `run.json`.
pub fn run() -> Value {
    titled::<Record>("The record of a run")
}

/// As the type is written, so that what may be left out when reading is told as always there.
fn titled<T: JsonSchema>(title: &str) -> Value {
    let generator: SchemaGenerator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    schema["title"] = title.into();
    schema
}

/// The schema of a pipeline file, as TOML is read into JSON.
pub fn pipeline(whole: Whole) -> Value {
    let kinds = || STAGES.iter().map(|kind| kind.name);
    let stages = Value::Object(kinds().map(|kind| (kind.to_string(), stages_of(kind))).collect());
    let mut properties = settings();
    merge(&mut properties, &stages);
    let mut layer = settings();
    merge(&mut layer, &stages);
    for key in ["extends", "profile"] {
        layer.as_object_mut().map(|layer| layer.remove(key));
    }
    properties["profile"]["additionalProperties"] = closed(layer);
    let definitions = STAGES.iter().map(|kind| {
        let mut table = partial(&kind.shape());
        table["description"] = kind.about.into();
        (kind.name.to_string(), table)
    });
    let mut schema = closed(properties);
    schema["$schema"] = DRAFT.into();
    schema["title"] = "A hashpipe pipeline".into();
    schema["$defs"] = Value::Object(definitions.collect());
    if whole == Whole::Yes {
        let required = STAGES.iter().filter_map(|kind| {
            let table = required(&kind.shape())?;
            Some((kind.name.to_string(), json!({ "additionalProperties": table })))
        });
        schema["if"] = json!({ "not": { "required": ["extends"] } });
        schema["then"] = json!({ "properties": Value::Object(required.collect()) });
    }
    schema
}

/// The keys of a pipeline file that are not kinds of stages.
fn settings() -> Value {
    let kinds: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
    let subject = format!(r"^({})(\.[A-Za-z0-9_-]+)?$|^host$", kinds.join("|"));
    let obtain = kinds
        .iter()
        .map(|kind| (kind.to_string(), json!({ "type": "object", "additionalProperties": { "type": "string" } })));
    let settings = json!({
        "name": {
            "type": "string", "pattern": NAME,
            "description": "Its folder in `output/`; by default, the file's name.",
        },
        "about": { "type": "string", "description": "What it is, for readers." },
        "extends": { "type": "string", "description": "A pipeline file that this one lies over, from here." },
        "vars": { "type": "object", "description": "Values for `{vars.name}` in any string." },
        "profile": { "type": "object", "description": "What `--profile NAME` lays over the file." },
        "resources": {
            "type": "object", "propertyNames": { "pattern": subject },
            "properties": { "host": schemars::schema_for!(Host).to_value() },
            "additionalProperties": schemars::schema_for!(Wants).to_value(),
            "description": "What tasks of a kind or of one stage may occupy. Never part of a key.",
        },
        "obtain": {
            "type": "object", "additionalProperties": false, "properties": Value::Object(obtain.collect()),
            "description": "How to get what a stage needs, in words.",
        },
    });
    debug_assert!(TOP_KEYS.iter().all(|key| settings.get(key).is_some()));
    settings
}

/// The tables `[kind.*]`.
fn stages_of(kind: &str) -> Value {
    json!({
        "type": "object", "propertyNames": { "pattern": NAME },
        "additionalProperties": { "$ref": format!("#/$defs/{kind}") },
    })
}

/// A value in a file that need not say everything.
fn partial(shape: &Shape) -> Value {
    match shape {
        Shape::Table(params) => table(params, None),
        Shape::Choice(variants) => choice(variants),
        Shape::Map(item) => json!({ "type": "object", "additionalProperties": partial(item) }),
        Shape::List { item, min, max } => {
            let mut list = json!({ "type": "array", "items": partial_item(item) });
            for (name, bound) in [("minItems", min), ("maxItems", max)] {
                if let Some(bound) = bound {
                    list[name] = (*bound).into();
                }
            }
            json!({ "anyOf": [list, by(&list)] })
        }
        Shape::Ref | Shape::Refs => json!({ "anyOf": [single(shape), sweep(shape), by(&own_file())] }),
        Shape::Words => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
        Shape::Wants => schemars::schema_for!(Wants).to_value(),
        single_valued => json!({ "anyOf": [single(single_valued), sweep(single_valued), by(&single(single_valued))] }),
    }
}

/// An item of a list: a list in a list is no sweep.
fn partial_item(shape: &Shape) -> Value {
    if shape.is_single() { single(shape) } else { partial(shape) }
}

/// One value.
fn single(shape: &Shape) -> Value {
    let bounded = |kind: &str, min: &Option<f64>, max: &Option<f64>| {
        let mut schema = json!({ "type": kind });
        for (name, bound) in [("minimum", min), ("maximum", max)] {
            if let Some(bound) = bound {
                schema[name] = (*bound).into();
            }
        }
        schema
    };
    match shape {
        Shape::Integer { min, max } => bounded("integer", min, max),
        Shape::Number { min, max } => bounded("number", min, max),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Scalar => json!({ "type": ["boolean", "number", "string"] }),
        Shape::Word(words) => {
            let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
            json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": r"\{vars\." }] })
        }
        Shape::Ref => json!({ "type": "string", "not": { "pattern": all_points() } }),
        _ => json!({ "type": "string" }),
    }
}

/// A list where one value is expected: one task for each.
fn sweep(shape: &Shape) -> Value {
    json!({ "type": "array", "items": single(shape), "minItems": 1, "uniqueItems": true })
}

/// `{ by = "bits", 16 = 0, default = 7 }`: a value for each point of an axis.
fn by(value: &Value) -> Value {
    json!({
        "type": "object", "required": ["by"], "additionalProperties": value,
        "properties": { "by": { "type": "string", "description": "The swept parameter that decides." } },
    })
}

/// A reference that means all points of an axis: `train.hashnet@bits=*/model`.
fn all_points() -> String {
    let kinds: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
    format!(r"^({})\.[A-Za-z0-9_-]+@(.*,)?[^,]*=\s*\*\s*(,.*)?(/[^/]*)?$", kinds.join("|"))
}

/// The path of a file of the user's: no output of a stage, which would belong to another point of the axis.
fn own_file() -> Value {
    let kinds: Vec<&str> = STAGES.iter().map(|kind| kind.name).collect();
    let output = format!(r"^({})\.[A-Za-z0-9_-]+(@[^/]*)?(/[^/]*)?$", kinds.join("|"));
    json!({ "type": "string", "not": { "pattern": output } })
}

/// A table of these parameters; a choice's also has its `name`.
fn table(params: &[Param], name: Option<&str>) -> Value {
    let mut properties = Map::new();
    if let Some(name) = name {
        properties.insert("name".into(), json!({ "const": name }));
    }
    for param in params {
        let mut schema = partial(&param.shape);
        if !param.about.is_empty() {
            schema["description"] = param.about.clone().into();
        }
        if let Some(default) = &param.default {
            schema["default"] = default.clone();
        }
        properties.insert(param.name.clone(), schema);
    }
    closed(Value::Object(properties))
}

/// A table whose `name` decides which other keys it has. Without one it lies over a table that has it.
fn choice(variants: &[Variant]) -> Value {
    let with_name = variants.iter().map(|variant| {
        let mut schema = table(&variant.params, Some(&variant.name));
        let required = variant.params.iter().filter(|param| param.required).map(|param| param.name.as_str());
        schema["required"] = std::iter::once("name").chain(required).collect();
        schema["description"] = variant.about.clone().into();
        schema
    });
    let without = variants.iter().map(|variant| table(&variant.params, None));
    json!({ "anyOf": with_name.chain(without).collect::<Vec<_>>() })
}

/// What a whole table must have, beyond what any part of it must be; `None` if that is nothing.
fn required(shape: &Shape) -> Option<Value> {
    match shape {
        Shape::Choice(_) => Some(json!({ "required": ["name"] })),
        Shape::Table(params) => {
            let names: Vec<&str> =
                params.iter().filter(|param| param.required).map(|param| param.name.as_str()).collect();
            let below: Map<String, Value> =
                params.iter().filter_map(|param| Some((param.name.clone(), required(&param.shape)?))).collect();
            (!names.is_empty() || !below.is_empty()).then(|| json!({ "required": names, "properties": below }))
        }
        _ => None,
    }
}

/// A table with these keys and no others.
fn closed(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}
