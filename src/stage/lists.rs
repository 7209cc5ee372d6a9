//! `[lists.*]`: labelled images of a data set, as the lists of a retrieval experiment.

use super::{Ctx, Describe, Images, Stage};
use crate::dataset::source::{Source, SourceSpec};
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Lists of training, query and database images, each image decoded once and named by its content.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lists {
    /// Where the images and labels come from.
    dataset: SourceSpec,
}

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
        let lists = ["train", "query", "database"];
        lists.into_iter().chain(self.makes_images().then_some(MADE)).collect()
    }

    fn check(&self) -> Vec<(&'static str, Error)> {
        self.source().check().err().map(|error| ("dataset", error)).into_iter().collect()
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
        for (name, list) in [("train", &splits.train), ("query", &splits.query), ("database", &splits.database)] {
            list.write(&cx.output(name))?;
        }
        Ok(())
    }
}
