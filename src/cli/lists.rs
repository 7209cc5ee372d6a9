//! `hashpipe lists`: what is in a list, or what is wrong with it, before anything runs.

use crate::config::{Config, Request};
use crate::dataset::PRESETS;
use crate::dataset::source::{Expected, Summary, check};
use crate::error::{Error, Result};
use crate::names::known_or_nearest;
use crate::plan::Plan;
use crate::report::{count, plural, print, table};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a list, or all those of a pipeline, and tell every fault with its line
    Check(Check),
    /// Show the data sets of the field: classes, and ranks that count
    Presets(Presets),
}

#[derive(Debug, Args)]
pub(super) struct Check {
    /// A list (published, CSV, TSV, JSON Lines, COCO annotations, one of hashpipe's), or a pipeline file
    file: PathBuf,
    /// Look for the images in this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// What all paths begin with that the folder does not have
    #[arg(long, value_name = "PREFIX")]
    strip: Option<String>,
    /// The data set it is of, which says how many classes there are
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    over: super::Over,
    /// One JSON object per list
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Presets {
    /// One JSON object per data set
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Check(arguments) if arguments.file.extension().is_some_and(|end| end == "toml") => pipeline(arguments),
        Command::Check(arguments) => one(arguments),
        Command::Presets(arguments) => {
            presets(arguments.json);
            Ok(0)
        }
    }
}

fn one(arguments: &Check) -> Result<u8> {
    let classes = match &arguments.preset {
        None => None,
        Some(name) => {
            let known = PRESETS.map(|preset| preset.name);
            let found = PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
                Error::input(format!("there is no preset `{name}`")).hint(known_or_nearest(name, &known, "presets"))
            })?;
            Some(found.class_names())
        }
    };
    let expected = Expected { root: arguments.root.clone(), strip: arguments.strip.clone(), classes };
    let Summary { form, images, unlabelled, classes, images_exist } = check(&arguments.file, &expected)?;
    let labels: u64 = classes.iter().map(|(_, images)| images).sum();
    if arguments.json {
        let by_class: serde_json::Map<_, _> = classes.into_iter().map(|(name, n)| (name, n.into())).collect();
        let line = json!({
            "file": arguments.file, "form": form, "images": images, "unlabelled": unlabelled, "labels": labels,
            "classes": by_class, "images_exist": images_exist,
        });
        print(&line.to_string());
        return Ok(0);
    }
    print(&format!(
        "{form}: {} of {}, {:.2} labels each, {} without any{}",
        plural(usize::try_from(images).unwrap_or(usize::MAX), "image"),
        match classes.len() {
            1 => "1 class".to_string(),
            n => format!("{} classes", count(n as u64)),
        },
        labels as f64 / images.max(1) as f64,
        count(unlabelled),
        if images_exist { "; every image is there" } else { "" },
    ));
    let rows: Vec<Vec<String>> = classes
        .into_iter()
        .map(|(name, n)| vec![name, count(n), format!("{:.1} %", 100.0 * n as f64 / images.max(1) as f64)])
        .collect();
    print(&table(&["class", "images", "share"], &rows));
    Ok(0)
}

/// Every `lists` stage of a pipeline.
fn pipeline(arguments: &Check) -> Result<u8> {
    let over = &arguments.over;
    let request = Request { file: arguments.file.clone(), profile: over.profile.clone(), sets: over.sets.clone() };
    let plan = Plan::new(&Config::load(&request)?)?;
    let (mut rows, mut errors) = (vec![], vec![]);
    for task in plan.tasks.iter().filter(|task| task.kind.name == "lists") {
        match task.step.files(&plan.project) {
            Err(error) => errors.push(error),
            Ok(files) => {
                let images = files.iter().filter(|(name, _)| name.starts_with("images/")).count();
                if arguments.json {
                    print(&json!({ "stage": task.name, "files": files.len(), "images": images }).to_string());
                }
                rows.push(vec![task.name.clone(), count(files.len() as u64), count(images as u64)]);
            }
        }
    }
    if !arguments.json && !rows.is_empty() {
        print(&table(&["stage", "files", "of them images"], &rows));
    }
    if rows.is_empty() && errors.is_empty() {
        return Err(Error::input(format!("`{}` has no stage `[lists.*]`", arguments.file.display())));
    }
    Error::all(errors).map_or(Ok(0), Err)
}

fn presets(as_json: bool) {
    if as_json {
        return PRESETS
            .iter()
            .for_each(|preset| print(&serde_json::to_string(preset).expect("a preset is plain data")));
    }
    let ranks = |k: usize| if k == 0 { "all".to_string() } else { count(k as u64) };
    let row = |preset: &crate::dataset::Preset| {
        vec![preset.name.to_string(), preset.classes.to_string(), ranks(preset.top_k)]
    };
    print(&table(&["preset", "classes", "ranks that count"], &PRESETS.iter().map(row).collect::<Vec<_>>()));
}
