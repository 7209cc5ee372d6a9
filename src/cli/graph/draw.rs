//! A graph as text, in the languages of Graphviz and Mermaid, and as JSON.

use super::view::{Node, View};
use super::ways::Ways;
use crate::report::table;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A row for each stage; files stand where they are needed.
pub(super) fn text(view: &View) -> String {
    let far = view.shown().any(|node| node.steps.is_some());
    let mut head = vec!["stage", "tasks", "needs"];
    if far {
        head.insert(2, "steps");
    }
    let row = |node: &Node| {
        let needs = view.needs(node).flat_map(|(need, ports)| ports.iter().map(|port| joined(&need.name, port)));
        let needs: BTreeSet<String> = needs.collect();
        let tasks = if node.kind.is_some() { node.tasks.to_string() } else { "file".into() };
        let mut row = vec![node.name.clone(), tasks, needs.into_iter().collect::<Vec<_>>().join(", ")];
        if let Some(steps) = node.steps.filter(|_| far) {
            row.insert(2, steps.to_string());
        }
        row
    };
    let rows: Vec<Vec<String>> = view.shown().filter(|node| node.kind.is_some() || far).map(row).collect();
    table(&head, &rows)
}

fn joined(name: &str, port: &str) -> String {
    if port.is_empty() { name.to_string() } else { format!("{name}/{port}") }
}

/// A line for each way: `lists.a/train -> train.b/model -> encode.c`.
pub(super) fn ways(view: &View, ways: &Ways, from: &str, to: &str) -> String {
    if ways.found.is_empty() {
        let other = if ways.backwards { format!(": `{from}` needs `{to}`") } else { String::new() };
        return format!("no way leads from `{from}` to `{to}`{other}");
    }
    let step = |pair: &[usize]| {
        let ports = view.nodes[pair[1]].needs.get(&pair[0]).into_iter().flatten();
        joined(&view.nodes[pair[0]].name, &ports.map(String::as_str).collect::<Vec<_>>().join(","))
    };
    let line = |way: &Vec<usize>| {
        let mut steps: Vec<String> = way.windows(2).map(step).collect();
        steps.extend(way.last().map(|last| view.nodes[*last].name.clone()));
        steps.join(" -> ")
    };
    ways.found.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn label(node: &Node) -> String {
    if node.tasks > 1 { format!("{} x{}", node.name, node.tasks) } else { node.name.clone() }
}

pub(super) fn dot(view: &View) -> String {
    let mut out = String::from("digraph pipeline {\n  rankdir = LR;\n  node [shape = box];\n");
    for node in view.shown() {
        // A file is drawn by the arrows that leave it, unless it stands alone.
        if node.kind.is_some() || !node.users.iter().any(|user| view.nodes[*user].shown) {
            out += &format!("  {:?} [label = {:?}];\n", node.name, label(node));
        }
        for (need, ports) in view.needs(node) {
            for port in ports {
                out += &format!("  {:?} -> {:?} [label = {port:?}];\n", need.name, node.name);
            }
        }
    }
    out + "}"
}

pub(super) fn mermaid(view: &View) -> String {
    let ids = ids(view);
    let id = |node: &Node| ids[node.name.as_str()].clone();
    let box_of = |node: &Node| format!("{}[\"{}\"]", id(node), label(node).replace('"', "#quot;"));
    let mut out = String::from("graph LR\n");
    for node in view.shown() {
        if node.kind.is_some() || !node.users.iter().any(|user| view.nodes[*user].shown) {
            out += &format!("  {}\n", box_of(node));
        }
        for (need, ports) in view.needs(node) {
            let from = if need.kind.is_some() { id(need) } else { box_of(need) };
            for port in ports {
                let arrow = if port.is_empty() { "-->".to_string() } else { format!("-- {port} -->") };
                out += &format!("  {from} {arrow} {}\n", id(node));
            }
        }
    }
    out.trim_end().to_string()
}

/// Mermaid's ids allow few characters; the names stand in the labels. Where two names become one, numbers tell them apart.
fn ids(view: &View) -> HashMap<&str, String> {
    let (mut ids, mut taken) = (HashMap::new(), HashSet::new());
    for node in &view.nodes {
        let plain = node.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let id = (1..).map(|number| if number == 1 { plain.clone() } else { format!("{plain}_{number}") });
        if let Some(id) = id.into_iter().find(|id| !taken.contains(id)) {
            taken.insert(id.clone());
            ids.insert(node.name.as_str(), id);
        }
    }
    ids
}

/// What is shown, and the ways if they were asked for.
pub(super) fn json(view: &View, ways: Option<&Ways>) -> Value {
    let node = |node: &Node| {
        let mut value = json!({ "name": node.name, "kind": node.kind, "tasks": node.tasks });
        if let Some(steps) = node.steps {
            value["steps"] = steps.into();
        }
        value
    };
    let edges = view.shown().flat_map(|node| view.needs(node).map(move |(need, ports)| (node, need, ports)));
    let edges = edges.flat_map(|(node, need, ports)| {
        ports
            .iter()
            .map(|port| json!({ "from": need.name, "output": Some(port).filter(|p| !p.is_empty()), "to": node.name }))
    });
    let edges: Vec<Value> = edges.collect();
    let mut value = json!({ "nodes": view.shown().map(node).collect::<Vec<_>>(), "edges": edges });
    if let Some(ways) = ways {
        let name = |at: &usize| view.nodes[*at].name.as_str();
        let all: Vec<Vec<&str>> = ways.found.iter().map(|way| way.iter().map(name).collect()).collect();
        value["paths"] = json!(all);
        // As text where a number of JSON would lose digits.
        value["count"] = u64::try_from(ways.count).map_or_else(|_| json!(ways.count.to_string()), |count| json!(count));
    }
    value
}
