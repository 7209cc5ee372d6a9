//! Whether a task could run on this machine at all, which is told before anything runs.

use super::{Load, Slots};
use crate::amounts::Bytes;
use crate::error::{Error, Result};
use crate::schedule::machine::Card;
use crate::schedule::need::Need;

impl Slots {
    /// Whether a task could start if it had the machine to itself.
    ///
    /// # Errors
    /// Says all that the task wants too much of, and what to do.
    pub(in crate::schedule) fn can_ever(&self, task: &str, need: &Need) -> Result<()> {
        let mut too_much = vec![];
        if need.threads() > self.machine.cpus {
            let note = format!("it wants {} threads, and there are {}", need.threads(), self.machine.cpus);
            too_much.push((note, "`--jobs` says how many threads there are; without `cpus` it takes what is free"));
        }
        if let Some(there) = self.machine.memory.filter(|there| need.memory > *there) {
            let note = format!("it wants {} of memory, and there are {}", Bytes(need.memory), Bytes(there));
            let hint = "want less `memory` in `[resources]`, or tell how much there is: `host = { memory = .. }`";
            too_much.push((note, hint));
        }
        if need.gpus > 0 && self.fitting(need) < need.gpus {
            let note = format!("it wants {}, and there {}", gpus(need), self.inventory());
            let hint = match self.machine.cards() {
                _ if !self.lost().is_empty() => "`nvidia-smi` and `dmesg` (Xid) tell of the card; it may need a reset",
                [] if self.machine.hides_all() => {
                    "unset CUDA_VISIBLE_DEVICES, or name the cards that `nvidia-smi -L` lists"
                }
                [] => "without a driver, `--gpus` or `host = { gpus = .. }` in `[resources]` says how many there are",
                _ => "want less in `[resources]`: `gpus = 0` keeps it off them",
            };
            too_much.push((note, hint));
        }
        if too_much.is_empty() {
            return Ok(());
        }
        let error = Error::resources(format!("`{task}` can never run on this machine"));
        // Asking for it may load the driver.
        let absent = if need.gpus > 0 { self.machine.absent() } else { None };
        let error = absent.into_iter().fold(error, Error::note);
        Err(too_much.into_iter().fold(error, |error, (note, hint)| error.note(note).hint(hint)))
    }

    /// How many cards could ever suit a task.
    fn fitting(&self, need: &Need) -> usize {
        let nobody = vec![0; self.machine.cards().len()];
        self.suiting(need, &nobody, &vec![Load::default(); nobody.len()]).len()
    }

    /// The cards in a sentence that begins with "there".
    fn inventory(&self) -> String {
        let shown = |(position, card): (usize, &Card)| match card.memory {
            _ if self.lost().contains(&position) => format!("{card}, which does not answer any more"),
            Some(memory) => format!("{card} with {}", Bytes(memory)),
            None => format!("{card}, whose memory is not known"),
        };
        let cards: Vec<String> = self.machine.cards().iter().enumerate().map(shown).collect();
        match &cards[..] {
            [] => "is none".into(),
            [card] => format!("is {card}"),
            cards => format!("are {}", cards.join(", ")),
        }
    }
}

/// `2 GPUs with 6 GiB each`
fn gpus(need: &Need) -> String {
    let count = if need.gpus == 1 { "a GPU".into() } else { format!("{} GPUs", need.gpus) };
    match need.part() {
        Some(part) if need.gpus == 1 => format!("{count} with {}", Bytes(part)),
        Some(part) => format!("{count} with {} each", Bytes(part)),
        None => count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::machine::Machine;
    use crate::schedule::slots::tests::{GIB, gpu, slots};

    #[test]
    fn all_that_can_never_fit_is_told() {
        let slots = slots(2, 4, &[(24, 0)]);
        let need = Need { cpus: Some(3), memory: 5 * GIB, gpus: 2, gpu_memory: Some(6 * GIB), alone: false };
        let error = slots.can_ever("train.a", &need).unwrap_err();
        assert_eq!(error.kind().exit_code(), 6);
        let said = error.render("error");
        let pieces = [
            "`train.a` can never run on this machine",
            "it wants 3 threads, and there are 2",
            "it wants 5 GiB of memory, and there are 4 GiB",
            "it wants 2 GPUs with 6 GiB each, and there is GPU 0 with 24 GiB",
            "`--jobs`",
        ];
        for piece in pieces {
            assert!(said.contains(piece), "{piece}\n{said}");
        }
        assert!(slots.can_ever("t", &gpu(Some(24))).is_ok());
        assert!(slots.can_ever("t", &gpu(Some(25))).is_err());
        assert!(Slots::new(Machine::told(1, None, vec![])).can_ever("t", &gpu(None)).is_err());
    }
}
