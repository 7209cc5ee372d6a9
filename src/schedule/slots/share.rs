//! What a task was given.

/// What a task was given, to be given back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::schedule) struct Share {
    pub threads: usize,
    /// Bytes.
    pub memory: u64,
    pub gpus: Vec<Part>,
}

/// A card, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::schedule) struct Part {
    /// Among the machine's cards.
    pub position: usize,
    /// The card's number, as `nvidia-smi` counts.
    pub card: usize,
    /// What names it in `CUDA_VISIBLE_DEVICES`.
    pub name: String,
    /// Bytes; the whole card if it is not said.
    pub memory: Option<u64>,
}

impl Share {
    /// What tells a process its cards: none without a GPU. CUDA numbers cards by speed unless it is told otherwise.
    pub(in crate::schedule) fn environment(&self) -> [(&'static str, String); 2] {
        let names: Vec<&str> = self.gpus.iter().map(|part| part.name.as_str()).collect();
        [("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into()), ("CUDA_VISIBLE_DEVICES", names.join(","))]
    }

    /// The numbers of its cards.
    pub(in crate::schedule) fn cards(&self) -> Vec<usize> {
        self.gpus.iter().map(|part| part.card).collect()
    }

    /// Bytes of each of its cards; nothing for one that it has alone.
    pub(in crate::schedule) fn card_memory(&self) -> Vec<Option<u64>> {
        self.gpus.iter().map(|part| part.memory).collect()
    }

    /// The positions of its cards, and whether it has them alone.
    pub(in crate::schedule) fn positions(&self) -> Vec<(usize, bool)> {
        self.gpus.iter().map(|part| (part.position, part.memory.is_none())).collect()
    }
}
