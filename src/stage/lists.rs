//! `[lists.*]`: labelled images of a data set, as the lists of a retrieval experiment.

use super::contract::{broken, readable};
use super::protocol::{self, Protocol};
use super::{Ctx, Describe, Images, Stage};
use crate::dataset::source::{Source, SourceSpec};
use crate::dataset::{Item, List};
use crate::error::{Error, Result};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Lists of training, query and database images, each image decoded once and named by its content.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lists {
    /// Where the images and labels come from.
    dataset: SourceSpec,
    /// What happens when a query is in the database or was trained on, or the lists break another rule.
    #[serde(default)]
    protocol: Protocol,
}

/// The lists, which are its outputs.
const LISTS: [&str; 3] = ["train", "query", "database"];

/// Output of a generator: the pictures it made.
const MADE: &str = "images";

impl Describe for Lists {
    const NAME: &'static str = "lists";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "List the training, query and database images of a data set, and check every one";
}

impl Lists {
    fn source(&self) -> &dyn Source {
        self.dataset.builder()
    }

    fn makes_images(&self) -> bool {
        self.source().root(Path::new("")).is_none()
    }
}

impl Stage for Lists {
    fn outputs(&self) -> Vec<&'static str> {
        LISTS.into_iter().chain(self.makes_images().then_some(MADE)).collect()
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        let source = self.source();
        let breaches = if self.protocol == Protocol::Strict { source.breaches() } else { vec![] };
        let breaches = breaches.iter().map(|breach| protocol::error(breach));
        source.check().err().into_iter().chain(breaches).map(|error| ("dataset", error)).collect()
    }

    fn files(&self, project: &Path) -> Result<Vec<(String, PathBuf)>> {
        self.source().files(project)
    }

    fn needs(&self, project: &Path) -> Vec<(String, PathBuf)> {
        self.source().needs(project)
    }

    fn images(&self, project: &Path) -> Images {
        self.source().root(project).map_or(Images::Output(MADE), Images::Folder)
    }

    fn run(&self, cx: &mut Ctx) -> anyhow::Result<()> {
        let (project, made) = (cx.project().to_path_buf(), cx.output(MADE));
        if self.makes_images() {
            std::fs::create_dir_all(&made).map_err(|e| Error::io("make the folder", &made, &e))?;
        }
        let splits =
            self.source().build(&project, &made, &mut |done, total| cx.step(done, total, || "images".into()))?;
        for note in &splits.notes {
            cx.warn(note.clone());
        }
        self.protocol.judge(cx, &splits.breaches(self.source().train_in_database()))?;
        for (name, list) in LISTS.into_iter().zip([&splits.train, &splits.query, &splits.database]) {
            list.write(&cx.output(name))?;
        }
        Ok(())
    }

    fn contract(&self, cx: &mut Ctx) -> Result<()> {
        let folder = self.source().root(cx.project()).unwrap_or_else(|| cx.output(MADE));
        for name in LISTS {
            // Reading a list refuses labels out of range.
            let list = readable(name, List::read(&cx.output(name)))?;
            if let Some(item) = first_repeated(&list) {
                return Err(broken(name, format!("`{}` is in it twice", item.path)));
            }
            if let Some(item) = list.items.par_iter().find_first(|item| !folder.join(&item.path).is_file()) {
                return Err(broken(name, format!("`{}` is not in `{}`", item.path, folder.display())));
            }
        }
        Ok(())
    }
}

/// The first image that has been in the list before.
fn first_repeated(list: &List) -> Option<&Item> {
    let mut seen = HashSet::new();
    list.items.iter().find(|item| !seen.insert(&item.path))
}
