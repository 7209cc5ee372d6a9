//! The order of stages and tasks.

use super::TaskId;
use petgraph::Direction;
use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

/// Who needs whom among tasks; an edge runs from what is needed to what needs it.
#[derive(Debug, Default, Clone)]
pub struct Graph(DiGraph<TaskId, ()>);

impl Graph {
    /// Adds a task after everything it needs. Ids are given in the order of adding.
    pub(crate) fn add(&mut self, needs: &[TaskId]) -> TaskId {
        let id = TaskId(self.0.node_count());
        let node = self.0.add_node(id);
        for need in needs {
            self.0.update_edge(NodeIndex::new(need.0), node, ());
        }
        id
    }

    /// The tasks whose outputs `task` reads, in order.
    pub fn needs(&self, task: TaskId) -> Vec<TaskId> {
        self.neighbours(task, Direction::Incoming)
    }

    /// The tasks that read outputs of `task`, in order.
    pub fn needed_by(&self, task: TaskId) -> Vec<TaskId> {
        self.neighbours(task, Direction::Outgoing)
    }

    fn neighbours(&self, task: TaskId, direction: Direction) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> =
            self.0.neighbors_directed(NodeIndex::new(task.0), direction).map(|node| self.0[node]).collect();
        tasks.sort_unstable();
        tasks
    }

    /// The given tasks and all they need, directly or not, in plan order.
    pub fn with_needs(&self, tasks: &[TaskId]) -> Vec<TaskId> {
        self.reach(tasks, Direction::Incoming)
    }

    /// The given tasks and all that need them, directly or not, in plan order.
    pub fn with_followers(&self, tasks: &[TaskId]) -> Vec<TaskId> {
        self.reach(tasks, Direction::Outgoing)
    }

    fn reach(&self, tasks: &[TaskId], direction: Direction) -> Vec<TaskId> {
        let mut seen = vec![false; self.0.node_count()];
        let mut next = tasks.to_vec();
        while let Some(task) = next.pop() {
            if !std::mem::replace(&mut seen[task.0], true) {
                next.extend(self.0.neighbors_directed(NodeIndex::new(task.0), direction).map(|node| self.0[node]));
            }
        }
        (0..seen.len()).filter(|i| seen[*i]).map(TaskId).collect()
    }
}

/// Stages in an order in which each comes after what it needs, or the members of every cycle, in the order of their
/// arrows.
///
/// `edges` are (needed, needing) positions.
pub(super) fn order(stages: usize, edges: &[(usize, usize)]) -> Result<Vec<usize>, Vec<Vec<usize>>> {
    let mut graph = DiGraph::<(), ()>::new();
    for _ in 0..stages {
        graph.add_node(());
    }
    for (from, to) in edges {
        graph.update_edge(NodeIndex::new(*from), NodeIndex::new(*to), ());
    }
    if let Ok(sorted) = toposort(&graph, None) {
        return Ok(sorted.into_iter().map(NodeIndex::index).collect());
    }
    let cycles = tarjan_scc(&graph)
        .into_iter()
        .filter(|members| members.len() > 1 || graph.contains_edge(members[0], members[0]));
    Err(cycles.map(|members| follow(&graph, &members)).collect())
}

/// A walk along the edges of a strongly connected set, from its first stage back to a stage already met.
fn follow(graph: &DiGraph<(), ()>, members: &[NodeIndex]) -> Vec<usize> {
    let mut at = members.iter().copied().min().unwrap_or_default();
    let mut walk = vec![];
    while !walk.contains(&at) {
        walk.push(at);
        // What `at` needs, so that the arrows read "needs".
        let next = graph.neighbors_directed(at, Direction::Incoming).find(|next| members.contains(next));
        let Some(next) = next else { break };
        at = next;
    }
    let start = walk.iter().position(|node| *node == at).unwrap_or(0);
    walk[start..].iter().map(|node| node.index()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_after_what_they_need() {
        assert_eq!(order(3, &[(2, 1), (1, 0)]), Ok(vec![2, 1, 0]));
    }

    #[test]
    fn a_cycle_is_told_in_the_order_of_its_arrows() {
        // 0 needs 2, 2 needs 1, 1 needs 0; 3 needs 0.
        assert_eq!(order(4, &[(2, 0), (1, 2), (0, 1), (0, 3)]), Err(vec![vec![0, 2, 1]]));
        assert_eq!(order(1, &[(0, 0)]), Err(vec![vec![0]]));
    }
}
