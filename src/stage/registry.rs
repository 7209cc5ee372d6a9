//! Every kind of stage there is, one line each.

use super::{Describe, Late, Shape, Stage};
use super::{
    command::Command, encode::Encode, evaluate::Evaluate, export::Export, import::Import, infer::Infer, lists::Lists,
    prepare::Prepare, train::Train,
};
use figment::Figment;
use figment::providers::Serialized;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The kinds of stages, in the order data flows.
pub static STAGES: &[Kind] = &[
    kind::<Lists>(),
    kind::<Prepare>(),
    kind::<Train>(),
    kind::<Import>(),
    kind::<Encode>(),
    kind::<Evaluate>(),
    kind::<Export>(),
    kind::<Infer>(),
    kind::<Command>(),
];

/// A kind of stage: what a pipeline file calls `[name.*]`.
pub struct Kind {
    pub name: &'static str,
    pub version: u32,
    pub about: &'static str,
    parse: fn(&Value) -> Result<Parsed, Box<figment::Error>>,
    schema: fn() -> Value,
}

/// A stage with its parameters.
pub struct Parsed {
    pub stage: Box<dyn Stage>,
    /// Every parameter, defaults included, as plain data: what the key is made of.
    pub params: Value,
}

impl Kind {
    /// Reads a parameter table; unknown keys and wrong types are errors that name the key.
    pub fn parse(&self, table: &Value) -> Result<Parsed, Box<figment::Error>> {
        (self.parse)(table)
    }

    /// The JSON schema of its table.
    pub fn schema(&self) -> Value {
        (self.schema)()
    }

    /// What its table may hold.
    pub fn shape(&self) -> Shape {
        Shape::from_schema(&self.schema())
    }

    /// Its parameters that came later than the stage, read once.
    pub fn late(&self) -> Option<&'static Late> {
        static ALL: OnceLock<HashMap<&str, Late>> = OnceLock::new();
        let of = |kind: &Kind| Some((kind.name, Late::of(&kind.shape())?));
        ALL.get_or_init(|| STAGES.iter().filter_map(of).collect()).get(self.name)
    }
}

/// The kind with this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    STAGES.iter().find(|kind| kind.name == name)
}

/// A kind that is not in the table.
#[cfg(test)]
pub(crate) const fn kind_of<S: Describe>() -> Kind {
    kind::<S>()
}

const fn kind<S: Describe>() -> Kind {
    fn parse<S: Describe>(table: &Value) -> Result<Parsed, Box<figment::Error>> {
        // figment's errors name the key, and its reading costs ten times as much.
        let stage: S = match S::deserialize(table) {
            Ok(stage) => stage,
            Err(_) => Figment::from(Serialized::defaults(table)).extract()?,
        };
        let params = serde_json::to_value(&stage).expect("parameters are plain data");
        Ok(Parsed { stage: Box::new(stage), params })
    }
    fn schema<S: Describe>() -> Value {
        schemars::schema_for!(S).to_value()
    }
    Kind { name: S::NAME, version: S::VERSION, about: S::ABOUT, parse: parse::<S>, schema: schema::<S> }
}
