//! Stages or tasks, the files they read, and what of that is to be shown.

use crate::error::Result;
use crate::plan::{Plan, Target, Task};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// A stage, a task, or a file of the user's.
pub(super) struct Node {
    pub(super) name: String,
    /// Of a stage or task; a file has none.
    pub(super) kind: Option<&'static str>,
    pub(super) tasks: usize,
    /// What it needs, by position, and which outputs of that; a file's is "".
    pub(super) needs: BTreeMap<usize, BTreeSet<String>>,
    /// What needs it, by position.
    pub(super) users: BTreeSet<usize>,
    /// Steps from what was asked for, if something was.
    pub(super) steps: Option<usize>,
    pub(super) shown: bool,
}

/// A graph: nodes in the order of the plan, each after what it needs, and then the files.
pub(super) struct View {
    pub(super) nodes: Vec<Node>,
    /// Whether nodes are tasks.
    tasks: bool,
    by_name: HashMap<String, usize>,
}

/// Which way to go from a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    Needs,
    Users,
}

impl View {
    pub(super) fn new(plan: &Plan, tasks: bool) -> Self {
        let mut view = Self { nodes: vec![], tasks, by_name: HashMap::new() };
        for task in &plan.tasks {
            let at = view.node(view.name(task), Some(task.kind.name));
            view.nodes[at].tasks += 1;
        }
        for task in &plan.tasks {
            let at = view.node(view.name(task), None);
            for (text, target) in &task.inputs {
                let (need, port) = match target {
                    Target::Output { task, port } => (view.node(view.name(plan.task(*task)), None), port.clone()),
                    Target::Path { .. } => (view.node(text.clone(), None), String::new()),
                };
                view.nodes[at].needs.entry(need).or_default().insert(port);
                view.nodes[need].users.insert(at);
            }
        }
        view
    }

    fn name(&self, task: &Task) -> String {
        if self.tasks { task.name.clone() } else { task.stage.clone() }
    }

    /// The position of a node, which is made if it is not there.
    fn node(&mut self, name: String, kind: Option<&'static str>) -> usize {
        if let Some(known) = self.by_name.get(&name) {
            return *known;
        }
        let at = self.nodes.len();
        self.by_name.insert(name.clone(), at);
        let (needs, users) = (BTreeMap::new(), BTreeSet::new());
        self.nodes.push(Node { name, kind, tasks: 0, needs, users, steps: None, shown: true });
        at
    }

    /// The nodes that a stage, a task, a kind or a file's name means.
    pub(super) fn find(&self, plan: &Plan, pattern: &str) -> Result<Vec<usize>> {
        let file = self.by_name.get(pattern).filter(|at| self.nodes[**at].kind.is_none());
        if let Some(file) = file {
            return Ok(vec![*file]);
        }
        let names = plan.select(pattern)?.into_iter().map(|id| self.name(plan.task(id)));
        let positions: BTreeSet<usize> = names.filter_map(|name| self.by_name.get(&name).copied()).collect();
        Ok(positions.into_iter().collect())
    }

    pub(super) fn next(&self, at: usize, towards: Towards) -> Vec<usize> {
        let node = &self.nodes[at];
        match towards {
            Towards::Needs => node.needs.keys().copied().collect(),
            Towards::Users => node.users.iter().copied().collect(),
        }
    }

    /// How many steps each node is away from the nearest of these; nothing for what is not reached.
    pub(super) fn steps(&self, from: &[usize], towards: Towards) -> Vec<Option<usize>> {
        let mut steps = vec![None; self.nodes.len()];
        from.iter().for_each(|at| steps[*at] = Some(0));
        let mut queue: VecDeque<(usize, usize)> = from.iter().map(|at| (*at, 0)).collect();
        while let Some((at, far)) = queue.pop_front() {
            for next in self.next(at, towards) {
                if steps[next].is_none() {
                    steps[next] = Some(far + 1);
                    queue.push_back((next, far + 1));
                }
            }
        }
        steps
    }

    /// Shows these and what is reached from them in so many steps.
    pub(super) fn keep_around(&mut self, from: &[usize], towards: Towards, depth: Option<usize>) {
        let steps = self.steps(from, towards);
        for (node, steps) in self.nodes.iter_mut().zip(steps) {
            node.steps = steps.filter(|steps| depth.is_none_or(|depth| *steps <= depth));
            node.shown = node.steps.is_some();
        }
    }

    /// Shows what lies on these ways, and of what leads from one to another only what is part of a way.
    pub(super) fn keep_only(&mut self, ways: &[Vec<usize>]) {
        let on: BTreeSet<usize> = ways.iter().flatten().copied().collect();
        let edges: BTreeSet<(usize, usize)> =
            ways.iter().flat_map(|way| way.windows(2).map(|pair| (pair[0], pair[1]))).collect();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.shown = on.contains(&at);
            node.needs.retain(|need, _| edges.contains(&(*need, at)));
        }
    }

    /// The shown nodes.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.shown)
    }

    /// What a node needs of what is shown.
    pub(super) fn needs<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (&'a Node, &'a BTreeSet<String>)> {
        node.needs.iter().map(|(need, ports)| (&self.nodes[*need], ports)).filter(|(need, _)| need.shown)
    }
}
