//! One task to files: what a stage is, and everything it may ask of the world.
//!
//! A stage is a function from files and parameters to files. It knows nothing of the graph, the cache or the terminal,
//! and imports no other step, so any step may import it.

mod command;
mod context;
mod content;
mod contract;
mod encode;
mod evaluate;
mod export;
mod import;
mod infer;
mod late;
mod lists;
mod param;
mod plain;
mod prepare;
mod prepared;
mod protocol;
mod reference;
mod refs;
mod registry;
mod select;
mod shelf;
mod train;

pub use content::Content;
pub use context::{Ctx, Input, Job, Message, Stop};
pub use late::Late;
pub use param::{Param, Shape, Variant};
pub use plain::{Scalar, Words};
pub use reference::Ref;
pub use refs::Refs;
#[cfg(test)]
pub(crate) use registry::kind_of;
pub use registry::{Kind, Parsed, STAGES, find};

use crate::error::{Error, Result};
use crate::model::backbone::BackboneSpec;
use crate::model::{Precision, has_bf16, vectors};
use candle_core::Device;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A step of a pipeline: a function from files and parameters to files.
///
/// The struct that implements it is its parameter table: what it holds is what the key holds.
pub trait Stage: Send + Sync {
    /// The files or folders it writes. Each must exist when `run` returns.
    fn outputs(&self) -> Vec<&str>;

    /// What an output is.
    fn holds(&self, output: &str) -> Content {
        let _ = output;
        Content::Other
    }

    /// What its references must be, by their key paths; one that is not here may be anything.
    fn takes(&self) -> Vec<(&'static str, Content)> {
        vec![]
    }

    /// Outputs that a person wants to find in `output/`, under the names they get there.
    fn shown(&self) -> Vec<(&'static str, &'static str)> {
        vec![]
    }

    /// Outputs that the user wants at a place of the project, under that path.
    fn places(&self) -> Vec<(&str, String)> {
        vec![]
    }

    /// What it occupies while it runs. Never part of the key.
    fn resources(&self) -> Resources {
        Resources { gpu: false }
    }

    /// Whether a GPU can do its work where the file asks for one, though none is taken for it unasked.
    fn can_use_a_gpu(&self) -> bool {
        false
    }

    /// The most GPUs that it can use at once.
    fn most_gpus(&self) -> usize {
        if self.runs_a_program() { usize::MAX } else { 1 }
    }

    /// Whether it runs a program of the user's: what that can do with threads and GPUs, only the user knows.
    fn runs_a_program(&self) -> bool {
        false
    }

    /// Whether it can use more than one thread.
    fn is_parallel(&self) -> bool {
        true
    }

    /// Whether the number of its threads may change while it runs: it does its work in steps ([`crate::threads`]), and
    /// tells of each.
    fn follows_threads(&self) -> bool {
        false
    }

    /// What else decides its result.
    fn facts(&self) -> Vec<Fact> {
        vec![]
    }

    /// Names by which its program finds what it reads and writes, as (name in the key, name), where those say more than
    /// the key does already. `known_as` gives the path that an input has for the user.
    fn seen_names(&self, known_as: &dyn Fn(&Ref) -> String) -> Vec<(String, String)> {
        let _ = known_as;
        vec![]
    }

    /// Whether it reports figures worth a row.
    fn is_measured(&self) -> bool {
        true
    }

    /// Whether its result may be reused.
    fn is_cached(&self) -> bool {
        true
    }

    /// Faults that no single value shows, each with the key it is about.
    fn check(&self) -> Vec<(&str, Error)> {
        vec![]
    }

    /// What is not wrong but probably not meant, each with the key path it is about.
    fn remarks(&self) -> Vec<(String, Error)> {
        vec![]
    }

    /// Files beyond its references that decide the result, as (name in the key, path). Reports all that are missing.
    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        let _ = project;
        Ok(vec![])
    }

    /// What must lie ready before it can run, for a person: (what it is, path).
    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        let _ = project;
        vec![]
    }

    /// Where the images lie that its lists name.
    fn images(&self, project: &Path) -> Images {
        let _ = project;
        Images::None
    }

    /// How a finished result with a smaller value of one parameter can be made into one with a larger.
    fn extends(&self) -> Option<Extends> {
        None
    }

    /// Outputs that hold times, and so differ between equal runs.
    fn varies(&self) -> Vec<&'static str> {
        vec![]
    }

    /// How far an attempt that was stopped had come, for a person: `epoch 37 of 100`. A quick look that changes nothing.
    fn resumable(&self, scratch: &Path) -> Option<String> {
        let _ = scratch;
        None
    }

    /// How much work it is, if that can be told before it ran.
    fn work(&self) -> Option<Work> {
        None
    }

    /// Reads `cx.path(&self.model)`, writes `cx.output("codes")`.
    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()>;

    /// Checks the outputs as they lie on disk, before anything is published; also the place to tell what they are like.
    ///
    /// # Errors
    /// [`Kind::Contract`](crate::error::Kind::Contract) if one is not what the stage promises.
    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let _ = cx;
        Ok(())
    }
}

/// Runs a stage and checks what it made.
pub fn perform(stage: &dyn Stage, cx: &mut Ctx) -> anyhow::Result<()> {
    stage.run(cx)?;
    Ok(stage.contract(cx)?)
}

/// A parameter that only says when to stop: a result with a smaller value, all else in the key being equal, is the
/// beginning of one with a larger, to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extends {
    /// The parameter, a whole number: `epochs`.
    pub param: &'static str,
    /// The outputs of the smaller result that are needed; all of them, or none is used.
    pub outputs: &'static [&'static str],
}

/// The work of a stage on a list of images, for predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    pub pass: Pass,
    pub network: Network,
    pub list: Ref,
    /// Times every image is seen.
    pub rounds: f64,
    pub precision: Precision,
}

/// What is done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Forward,
    Train,
}

/// A network by what decides its speed, or by the stage it comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Network {
    Known(String),
    Of(Ref),
}

impl Pass {
    /// What a speed is kept under that was measured of a network, on a GPU or the CPU.
    pub fn speed_of(self, network: &str, precision: Precision, gpu: bool) -> String {
        let word = if self == Self::Forward { "forward" } else { "train" };
        let precision = if precision.is_default() { String::new() } else { format!(" in {}", precision.name()) };
        let device = if gpu { " on a GPU" } else { "" };
        format!("{word} {network}{precision}{device}")
    }
}

/// What decides a network's speed.
pub fn network_name(backbone: &BackboneSpec, side: usize) -> String {
    let backbone = serde_json::to_string(backbone).expect("parameters are plain data");
    format!("{backbone} of {side} pixels")
}

/// Warns where rounding gains nothing.
fn tell_precision(cx: &mut Ctx, precision: Precision, device: &Device) {
    if !device.is_cpu() {
        return;
    }
    if precision == Precision::Tf32 {
        cx.warn("tf32 is imitated on a CPU: `precision = \"f32\"` is faster and more precise there");
    }
    if precision == Precision::Bf16 && !has_bf16() {
        let vectors = vectors(precision);
        cx.warn(format!(
            "bf16 is emulated with {vectors}, as this processor has neither AMX nor AVX-512-BF16: `precision = \"f32\"` \
             is about as fast and more precise"
        ));
    }
}

/// How many images a list names.
///
/// # Errors
/// If it cannot be read.
pub fn images_in(list: &Path) -> Result<usize> {
    let text = std::fs::read(list).map_err(|e| Error::io("read", list, &e))?;
    // Its first line is a heading.
    Ok(text.iter().filter(|byte| **byte == b'\n').count().saturating_sub(1))
}

/// The static side of a stage.
pub trait Describe: Stage + Serialize + DeserializeOwned + JsonSchema + 'static {
    /// Table name in a pipeline file: `[encode.database]` is an `encode` stage.
    const NAME: &'static str;
    /// Raise this when the same parameters and inputs would give other bytes.
    const VERSION: u32;
    /// One line for `hashpipe stages`.
    const ABOUT: &'static str;
}

/// What a stage occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Whether a GPU makes it faster; it gets a slot of one if there are any.
    pub gpu: bool,
}

/// Something outside of the project that decides a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The program this word means: a path from the project folder, or a name that `PATH` finds.
    Program(String),
    /// The value of an environment variable.
    Variable(String),
}

/// Where the images of a list lie. Not content: the list itself carries a digest of every image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Images {
    /// It makes no lists.
    None,
    /// In a folder of the user's.
    Folder(PathBuf),
    /// In one of the stage's own outputs.
    Output(&'static str),
}

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(test)]
mod testing;
