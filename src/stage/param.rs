//! What a stage's table may hold, read from the very types that parse it.
//!
//! The JSON schema that `schemars` derives from a parameter struct becomes a small tree, which the plan walks to find
//! every fault of a table at once, to tell a sweep from a list, and which `hashpipe stages` prints.

use serde_json::{Map, Value};

/// One key of a table.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub shape: Shape,
    pub required: bool,
    pub default: Option<Value>,
    /// What was done before there was this parameter, if it came later than the stage; see [`Late`](super::Late).
    pub before: Option<Value>,
    /// First paragraph of the field's documentation.
    pub about: String,
}

/// What a value may be.
#[derive(Debug, Clone)]
pub enum Shape {
    Integer {
        min: Option<f64>,
        max: Option<f64>,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
    },
    Bool,
    Text,
    /// A truth value, a number or a string.
    Scalar,
    /// A string, or a list of strings.
    Words,
    /// One of a few words, each with its meaning.
    Word(Vec<(String, String)>),
    /// An output of another stage, or a path whose content counts.
    Ref,
    /// The same, or all points of a sweep.
    Refs,
    /// A path that only says where things lie.
    Place,
    List {
        item: Box<Shape>,
        min: Option<usize>,
        max: Option<usize>,
    },
    Table(Vec<Param>),
    /// A table whose `name` decides which other keys it has.
    Choice(Vec<Variant>),
    /// What it occupies: no part of a result, and checked with `[resources]`.
    Wants,
    /// Names of the user's own choosing, each with a value of one shape.
    Map(Box<Shape>),
}

/// One way to fill a [`Shape::Choice`].
#[derive(Debug, Clone)]
pub struct Variant {
    pub name: String,
    pub about: String,
    pub params: Vec<Param>,
}

impl Shape {
    /// Reads the tree from a JSON schema made by `schemars`.
    ///
    /// # Panics
    /// If a parameter struct uses a construct this reader does not know; the registry's test walks all of them.
    pub fn from_schema(schema: &Value) -> Self {
        let no_definitions = Map::new();
        let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&no_definitions);
        shape(schema, definitions)
    }

    /// Whether one value is expected, so that a list of them is a sweep.
    pub fn is_single(&self) -> bool {
        !matches!(self, Self::List { .. } | Self::Words | Self::Table(_) | Self::Choice(_) | Self::Map(_) | Self::Wants)
    }

    /// What a person is told to write.
    pub fn expected(&self) -> String {
        let between = |noun: &str, min: &Option<f64>, max: &Option<f64>| match (min, max) {
            (Some(min), Some(max)) => format!("{noun} from {min} to {max}"),
            (Some(min), None) => format!("{noun} of at least {min}"),
            (None, Some(max)) => format!("{noun} of at most {max}"),
            (None, None) => noun.to_string(),
        };
        match self {
            Self::Integer { min, max } => between("a whole number", min, max),
            Self::Number { min, max } => between("a number", min, max),
            Self::Bool => "true or false".into(),
            Self::Text => "a string".into(),
            Self::Scalar => "a number, a string, true or false".into(),
            Self::Words => "a string, or a list of strings".into(),
            Self::Word(words) => {
                format!("one of {}", words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", "))
            }
            Self::Ref => "a string such as \"train.name/model\"".into(),
            Self::Refs => "a string such as \"train.name/model\", or \"train.name@bits=*/model\" for all points".into(),
            Self::Place => "a path, as a string".into(),
            Self::List { item, min, max } => match (min, max) {
                (Some(min), Some(max)) if min == max => format!("a list of {min} items, each {}", item.expected()),
                _ => format!("a list, each item {}", item.expected()),
            },
            Self::Table(_) | Self::Map(_) | Self::Wants => "a table".into(),
            Self::Choice(variants) => {
                let names: Vec<_> = variants.iter().map(|v| format!("\"{}\"", v.name)).collect();
                format!("a table with `name` = {}", names.join(" or "))
            }
        }
    }
}

fn shape(schema: &Value, definitions: &Map<String, Value>) -> Shape {
    if schema["format"] == "wants" {
        return Shape::Wants;
    }
    let schema = resolve(schema, definitions);
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        // `Option<T>`: TOML has no null, so what is left is T.
        let some = options.iter().find(|option| option["type"] != "null");
        return shape(some.expect("an Option has a type"), definitions);
    }
    if let Some(options) = schema.get("oneOf").and_then(Value::as_array) {
        return one_of(options, definitions);
    }
    match schema["format"].as_str() {
        Some("words") => return Shape::Words,
        Some("scalar") => return Shape::Scalar,
        _ => {}
    }
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let count = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match type_of(schema) {
        "integer" => Shape::Integer { min: bound("minimum"), max: bound("maximum") },
        "number" => Shape::Number { min: bound("minimum"), max: bound("maximum") },
        "boolean" => Shape::Bool,
        "string" => match (schema.get("enum").and_then(Value::as_array), schema["format"].as_str()) {
            (Some(words), _) => Shape::Word(words.iter().map(|w| (text(w), String::new())).collect()),
            (None, Some("ref")) => Shape::Ref,
            (None, Some("refs")) => Shape::Refs,
            (None, Some("place")) => Shape::Place,
            _ => Shape::Text,
        },
        "array" => Shape::List {
            item: Box::new(shape(&schema["items"], definitions)),
            min: count("minItems"),
            max: count("maxItems"),
        },
        "object" => match schema.get("additionalProperties") {
            Some(value @ Value::Object(_)) => Shape::Map(Box::new(shape(value, definitions))),
            _ => Shape::Table(params(schema, definitions)),
        },
        other => panic!("parameter of type `{other}` is not understood: {schema}"),
    }
}

/// Words, or tables told apart by their `name`.
fn one_of(options: &[Value], definitions: &Map<String, Value>) -> Shape {
    if options.iter().all(|option| option.get("const").is_some() || option.get("enum").is_some()) {
        let words = options.iter().flat_map(|option| match option.get("enum").and_then(Value::as_array) {
            Some(words) => words.iter().map(|word| (text(word), String::new())).collect(),
            None => vec![(text(&option["const"]), about(option))],
        });
        return Shape::Word(words.collect());
    }
    let variants = options.iter().map(|option| {
        let option = resolve(option, definitions);
        let name = text(&option["properties"]["name"]["const"]);
        let params = params(option, definitions).into_iter().filter(|param| param.name != "name").collect();
        Variant { name, about: about(option), params }
    });
    Shape::Choice(variants.collect())
}

fn params(schema: &Value, definitions: &Map<String, Value>) -> Vec<Param> {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut params: Vec<Param> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| Param {
            name: name.clone(),
            shape: shape(schema, definitions),
            required: required.contains(&name.as_str()),
            default: schema.get("default").filter(|value| !value.is_null()).cloned(),
            before: schema.get("before").cloned(),
            about: match about(schema) {
                empty if empty.is_empty() => about(resolve(schema, definitions)),
                said => said,
            },
        })
        .collect();
    params.sort_by_key(|param| !param.required);
    params
}

fn resolve<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        Some(name) => resolve(&definitions[name], definitions),
        None => schema,
    }
}

fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(name) => name,
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("null"),
        _ => "nothing",
    }
}

fn about(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split("\n\n").next().unwrap_or_default().replace('\n', " ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    trait Anything {}
    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Circle {
        /// Half the width.
        #[schemars(range(min = 1, max = 9))]
        radius: usize,
    }
    impl Anything for Circle {}
    crate::choices! {
        /// A figure.
        enum Figure: Anything { Circle(Circle) = "circle" }
    }
    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Table {
        figure: Figure,
        sizes: [f32; 3],
        maybe: Option<bool>,
    }

    #[test]
    fn a_struct_becomes_a_tree() {
        let schema = serde_json::to_value(schemars::schema_for!(Table)).unwrap();
        let Shape::Table(params) = Shape::from_schema(&schema) else { panic!("not a table") };
        let names: Vec<_> = params.iter().map(|p| (p.name.as_str(), p.required)).collect();
        assert_eq!(names, [("figure", true), ("sizes", true), ("maybe", false)]);
        let Shape::Choice(variants) = &params[0].shape else { panic!("not a choice") };
        assert_eq!(variants[0].name, "circle");
        assert_eq!(variants[0].params[0].shape.expected(), "a whole number from 1 to 9");
        assert_eq!(variants[0].params[0].about, "Half the width.");
        assert_eq!(params[1].shape.expected(), "a list of 3 items, each a number");
        assert!(params[2].shape.is_single() && !params[1].shape.is_single());
        let circle = Figure::Circle(Circle { radius: 2 });
        assert_eq!(serde_json::to_string(&circle).unwrap(), r#"{"name":"circle","radius":2}"#);
        let _: &dyn Anything = circle.builder();
        assert_eq!(Figure::NAMES, ["circle"]);
    }
}
