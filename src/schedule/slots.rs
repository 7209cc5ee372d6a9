//! CPU threads and GPU slots, and what a task gets of them.

/// What is free.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    cpus: usize,
    gpus: Vec<usize>,
}

/// What a task was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) threads: usize,
    pub(super) gpu: Option<usize>,
}

impl Slots {
    pub(super) fn new(cpus: usize, gpus: &[usize]) -> Self {
        Self { cpus, gpus: gpus.to_vec() }
    }

    /// Gives a share to a task, or nothing if it has to wait.
    ///
    /// Free threads are divided among the `waiting` tasks that could start now: results do not depend on the number of
    /// threads, so a task may take what would lie idle, but never more than its `most`.
    pub(super) fn take(&mut self, wants_gpu: bool, most: Option<usize>, waiting: usize) -> Option<Share> {
        if self.cpus == 0 || (wants_gpu && self.gpus.is_empty()) {
            return None;
        }
        let fair = self.cpus.div_ceil(waiting.max(1));
        let threads = fair.min(most.unwrap_or(usize::MAX)).max(1);
        self.cpus -= threads;
        let gpu = if wants_gpu { Some(self.gpus.remove(0)) } else { None };
        Some(Share { threads, gpu })
    }

    pub(super) fn is_full(&self) -> bool {
        self.cpus == 0
    }

    pub(super) fn give_back(&mut self, share: Share) {
        self.cpus += share.threads;
        self.gpus.extend(share.gpu);
        self.gpus.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_among_those_who_wait() {
        let mut slots = Slots::new(8, &[]);
        let first = slots.take(false, None, 3).unwrap();
        assert_eq!(first.threads, 3);
        assert_eq!(slots.take(false, None, 2).unwrap().threads, 3);
        assert_eq!(slots.take(false, None, 1).unwrap().threads, 2);
        assert_eq!(slots.take(false, None, 1), None);
        slots.give_back(first);
        assert_eq!(slots.take(false, Some(1), 1).unwrap().threads, 1);
    }

    #[test]
    fn a_gpu_task_waits_for_a_gpu_and_others_do_not() {
        let mut slots = Slots::new(4, &[0]);
        let first = slots.take(true, Some(1), 1).unwrap();
        assert_eq!(first.gpu, Some(0));
        assert_eq!(slots.take(true, Some(1), 1), None);
        assert_eq!(slots.take(false, Some(1), 1).unwrap().gpu, None);
        slots.give_back(first);
        assert_eq!(slots.take(true, Some(1), 1).unwrap().gpu, Some(0));
    }
}
