//! `hashpipe graph`: which stage needs which.

use super::Pipeline;
use crate::error::Result;
use crate::plan::{Plan, Target, Task};
use crate::report::{print, table};
use clap::Args;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    /// Every task instead of every stage
    #[arg(long)]
    tasks: bool,
    /// In Graphviz's language
    #[arg(long, conflicts_with = "mermaid")]
    dot: bool,
    /// In Mermaid's language
    #[arg(long)]
    mermaid: bool,
}

/// A node, and what it needs: (node, output).
struct Node {
    name: String,
    tasks: usize,
    needs: BTreeSet<(String, String)>,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let nodes = nodes(&plan, arguments.tasks);
    print(&if arguments.dot {
        dot(&nodes)
    } else if arguments.mermaid {
        mermaid(&nodes)
    } else {
        text(&nodes)
    });
    Ok(0)
}

fn nodes(plan: &Plan, tasks: bool) -> Vec<Node> {
    let name = |task: &Task| if tasks { task.name.clone() } else { task.stage.clone() };
    let mut nodes: Vec<Node> = vec![];
    for task in &plan.tasks {
        let needs = task.inputs.iter().map(|(text, target)| match target {
            Target::Output { task, port } => (name(plan.task(*task)), port.clone()),
            Target::Path { .. } => (text.clone(), String::new()),
        });
        match nodes.iter_mut().find(|node| node.name == name(task)) {
            Some(node) => {
                node.tasks += 1;
                node.needs.extend(needs);
            }
            None => nodes.push(Node { name: name(task), tasks: 1, needs: needs.collect() }),
        }
    }
    nodes
}

fn text(nodes: &[Node]) -> String {
    let join = |(node, port): &(String, String)| if port.is_empty() { node.clone() } else { format!("{node}/{port}") };
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let needs: Vec<String> = node.needs.iter().map(join).collect();
            vec![node.name.clone(), node.tasks.to_string(), needs.join(", ")]
        })
        .collect();
    table(&["stage", "tasks", "needs"], &rows)
}

fn label(node: &Node) -> String {
    if node.tasks > 1 { format!("{} x{}", node.name, node.tasks) } else { node.name.clone() }
}

fn dot(nodes: &[Node]) -> String {
    let mut out = String::from("digraph pipeline {\n  rankdir = LR;\n  node [shape = box];\n");
    for node in nodes {
        out += &format!("  {:?} [label = {:?}];\n", node.name, label(node));
        for (need, port) in &node.needs {
            out += &format!("  {need:?} -> {:?} [label = {port:?}];\n", node.name);
        }
    }
    out + "}"
}

fn mermaid(nodes: &[Node]) -> String {
    // Mermaid's ids allow few characters; the names stand in the labels.
    let id = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut out = String::from("graph LR\n");
    for node in nodes {
        out += &format!("  {}[\"{}\"]\n", id(&node.name), label(node));
        for (need, port) in &node.needs {
            let known = nodes.iter().any(|other| other.name == *need);
            let from = if known { id(need) } else { format!("{}[\"{need}\"]", id(need)) };
            let arrow = if port.is_empty() { "-->".to_string() } else { format!("-- {port} -->") };
            out += &format!("  {from} {arrow} {}\n", id(&node.name));
        }
    }
    out.trim_end().to_string()
}
