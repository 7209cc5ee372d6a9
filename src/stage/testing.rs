//! What the stages' tests share: tasks run in this process, on lists of tiny pictures.

use super::{Ctx, Input, Job, Message, Stage, Stop, find, perform};
use crate::dataset::{Item, List};
use crate::error::{Error, Kind, Result};
use crate::image::Transform;
use crate::model::HashModel;
use crate::model::backbone::{BackboneSpec, small::Small};
use crate::model::weights::{self, Card};
use candle_core::Device;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// A folder with inputs, and what tasks make of them.
pub(super) struct Desk {
    folder: tempfile::TempDir,
    runs: Cell<usize>,
}

/// What a task left behind.
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) said: Vec<Message>,
    pub(super) result: anyhow::Result<()>,
}

impl Ended {
    #[track_caller]
    pub(super) fn ok(self) -> Self {
        assert!(self.result.is_ok(), "{}", self.error().render("error"));
        self
    }

    pub(super) fn error(&self) -> &Error {
        self.result.as_ref().unwrap_err().downcast_ref().unwrap()
    }

    pub(super) fn path(&self, output: &str) -> PathBuf {
        self.job.outputs.join(output)
    }

    pub(super) fn bytes(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.path(output)).unwrap()
    }

    pub(super) fn warnings(&self) -> Vec<&str> {
        let warnings = self.said.iter().filter_map(|message| match message {
            Message::Warning { text } => Some(text.as_str()),
            _ => None,
        });
        warnings.collect()
    }

    pub(super) fn fact(&self, wanted: &str) -> Option<&str> {
        self.said.iter().find_map(|message| match message {
            Message::Fact { name, text } if name == wanted => Some(text.as_str()),
            _ => None,
        })
    }

    /// Asks the contract once more, of outputs that were tampered with; expects it to be broken.
    #[track_caller]
    pub(super) fn breach(&self) -> String {
        let mut cx = Ctx::new(self.job.clone(), Stop::default(), Box::new(|_| {}));
        let error = parsed(&self.job).contract(&mut cx).unwrap_err();
        assert_eq!(error.kind(), Kind::Contract, "{}", error.render("error"));
        error.render("error")
    }
}

fn parsed(job: &Job) -> Box<dyn Stage> {
    find(&job.kind).unwrap().parse(&job.params).unwrap().stage
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), runs: Cell::new(0) }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A task whose references are the names of files on the desk; outputs in a folder of its own.
    pub(super) fn job(&self, kind: &str, params: Value) -> Job {
        self.runs.set(self.runs.get() + 1);
        let outputs = self.path(&format!("outputs-{}", self.runs.get()));
        std::fs::create_dir_all(&outputs).unwrap();
        let mut inputs = BTreeMap::new();
        self.resolve(&params, &mut inputs);
        Job {
            task: format!("{kind}.test"),
            kind: kind.into(),
            params,
            inputs,
            project: self.path(""),
            scratch: outputs.with_extension("scratch"),
            outputs,
            shards: self.path("shards"),
            extends_from: BTreeMap::new(),
            threads: 1,
            gpus: vec![],
            gpu_memory: vec![],
        }
    }

    /// Takes every text in the parameters that is the name of a file for a reference.
    fn resolve(&self, params: &Value, inputs: &mut BTreeMap<String, Input>) {
        match params {
            Value::Object(table) => table.values().for_each(|value| self.resolve(value, inputs)),
            Value::String(text) if self.path(text).is_file() => {
                let input = Input { images: Some(self.path("images")), ..made(&self.path(text)) };
                inputs.insert(text.clone(), input);
            }
            _ => {}
        }
    }

    pub(super) fn run(&self, kind: &str, params: Value) -> Ended {
        run(self.job(kind, params))
    }

    /// Writes a tiny picture for each number, in a folder `images`, and lists them.
    pub(super) fn pictures(&self, numbers: impl IntoIterator<Item = u32>, folder: &str) -> Vec<Item> {
        std::fs::create_dir_all(self.path("images").join(folder)).unwrap();
        let item = |number: u32| {
            let path = format!("{folder}/{number}.bmp");
            let mut noise = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
            let mut pixels = vec![0; 8 * 8 * 3];
            noise.fill(&mut pixels);
            let pixels = image::RgbImage::from_raw(8, 8, pixels).unwrap();
            let mut bytes = std::io::Cursor::new(vec![]);
            pixels.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
            std::fs::write(self.path("images").join(&path), bytes.get_ref()).unwrap();
            Item { path, labels: vec![number % 2], digest: blake3::hash(bytes.get_ref()).to_string() }
        };
        numbers.into_iter().map(item).collect()
    }

    /// Writes a list of two classes.
    pub(super) fn list(&self, name: &str, items: &[Item]) {
        let list = List { classes: vec!["even".into(), "odd".into()], items: items.to_vec() };
        list.write(&self.path(name)).unwrap();
    }

    /// Writes a network for these pictures, with drawn weights.
    pub(super) fn model(&self, name: &str, bits: usize, seed: u64) {
        let backbone = BackboneSpec::Small(Small { channels: vec![4], width: 6, dropout: 0.0 });
        let network = HashModel::seeded(&backbone, bits, 8, seed, &Device::Cpu).unwrap();
        let card = Card::new(backbone, bits, Transform::imagenet(8, 8), vec!["even".into(), "odd".into()]);
        weights::save(&self.path(name), &network, &card).unwrap();
    }
}

/// A file as another task's output.
pub(super) fn made(path: &Path) -> Input {
    let digest = blake3::hash(&std::fs::read(path).unwrap()).to_string();
    Input { path: path.to_path_buf(), digest, images: None, known_as: String::new() }
}

pub(super) fn run(job: Job) -> Ended {
    run_until(job, |_| false)
}

/// Runs a task, which is asked to stop when it has said what is waited for.
pub(super) fn run_until(job: Job, until: impl Fn(&Message) -> bool + 'static) -> Ended {
    let (said, stop) = (Rc::new(RefCell::new(vec![])), Stop::default());
    let (heard, stopping) = (Rc::clone(&said), stop.clone());
    let say = move |message: Message| {
        if until(&message) {
            stopping.store(true, Ordering::Relaxed);
        }
        heard.borrow_mut().push(message);
    };
    let mut cx = Ctx::new(job.clone(), stop, Box::new(say)).without_pause();
    let result = perform(parsed(&job).as_ref(), &mut cx);
    drop(cx);
    Ended { job, said: said.take(), result }
}

struct Careless;

impl Stage for Careless {
    fn outputs(&self) -> Vec<&'static str> {
        vec!["file"]
    }
    fn run(&self, _: &mut Ctx) -> anyhow::Result<()> {
        Ok(())
    }
    fn contract(&self, _: &mut Ctx) -> Result<()> {
        Err(super::contract::broken("file", "it is not there"))
    }
}

#[test]
fn a_stage_that_breaks_its_contract_has_failed() {
    let mut cx = Ctx::new(Desk::new().job("lists", serde_json::json!({})), Stop::default(), Box::new(|_| {}));
    let error = perform(&Careless, &mut cx).unwrap_err().downcast::<Error>().unwrap();
    assert_eq!(error.kind().exit_code(), 7);
    let text = error.render("error");
    assert!(text.contains("`file` is not what it must be\nnote: it is not there\nnote: nothing was cached"), "{text}");
}
