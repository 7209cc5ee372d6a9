//! `hashpipe graph`: which stage needs which, what uses one, and how one leads to another.

mod draw;
mod view;
mod ways;

use super::Pipeline;
use crate::error::Result;
use crate::report::{note, print};
use clap::Args;
use view::{Towards, View};
use ways::Ways;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// Every task instead of every stage, as when a task is named below
    #[arg(long)]
    tasks: bool,
    /// Only this and all it needs (a stage, a task, a kind, or a file as the pipeline names it)
    #[arg(long, value_name = "STAGE", group = "around")]
    deps: Option<String>,
    /// Only this and all that uses it
    #[arg(long, value_name = "STAGE", group = "around")]
    rdeps: Option<String>,
    /// With --deps or --rdeps, no more than so many steps away
    #[arg(long, value_name = "N", requires = "around")]
    depth: Option<usize>,
    /// Only the shortest way from one to another that uses it
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], conflicts_with = "around")]
    path: Option<Vec<String>>,
    /// With --path, every way
    #[arg(long, requires = "path")]
    all: bool,
    /// In Graphviz's language
    #[arg(long, group = "form")]
    dot: bool,
    /// In Mermaid's language
    #[arg(long, group = "form")]
    mermaid: bool,
    /// As one line of JSON
    #[arg(long, group = "form")]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let named = arguments.path.iter().flatten().chain(&arguments.deps).chain(&arguments.rdeps);
    let tasks = arguments.tasks || named.into_iter().any(|name| name.contains('@'));
    let mut view = View::new(&plan, tasks);
    let ways = match (&arguments.deps, &arguments.rdeps, arguments.path.as_deref()) {
        (Some(name), ..) => {
            view.keep_around(&view.find(&plan, name)?, Towards::Needs, arguments.depth);
            None
        }
        (_, Some(name), _) => {
            view.keep_around(&view.find(&plan, name)?, Towards::Users, arguments.depth);
            None
        }
        (.., Some([from, to])) => {
            let ways = Ways::find(&view, &view.find(&plan, from)?, &view.find(&plan, to)?, arguments.all);
            view.keep_only(&ways.found);
            if ways.count > ways.found.len() as u128 && arguments.all {
                note(&format!("hashpipe: the first {} of {} ways", ways.found.len(), ways.count));
            }
            Some((ways, from.as_str(), to.as_str()))
        }
        _ => None,
    };
    print(&match (&ways, arguments) {
        (_, Arguments { dot: true, .. }) => draw::dot(&view),
        (_, Arguments { mermaid: true, .. }) => draw::mermaid(&view),
        (ways, Arguments { json: true, .. }) => draw::json(&view, ways.as_ref().map(|(ways, ..)| ways)).to_string(),
        (Some((ways, from, to)), _) => draw::ways(&view, ways, from, to),
        (None, _) => draw::text(&view),
    });
    Ok(0)
}
