//! How much of a GPU's memory this process may take: all that is free, or what the scheduler gave it of a card that it
//! shares with others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Bytes of the cards in some slots that this process was given; of the others it may take what is free.
static GIVEN: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());

/// Says that of the memory of the GPU in a slot, this process has so many bytes. What lies there for long keeps to it.
pub fn give(slot: usize, bytes: u64) {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, bytes);
}

/// Bytes that this process was given of the GPU in a slot.
#[cfg(any(test, feature = "cuda"))]
pub(super) fn given(slot: usize) -> Option<u64> {
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).copied()
}

/// Room on a GPU, in bytes.
#[cfg(any(test, feature = "cuda"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// What could be allocated now, if nobody else did.
    pub free: u64,
    /// What the process was given; nothing if it has the card alone.
    pub given: Option<u64>,
    /// What it has allocated, and the most that it had at once.
    pub held: u64,
    pub peak: u64,
}

/// What a process takes of a card beside its allocations: CUDA's context, compiled programs, the libraries' own memory.
#[cfg(any(test, feature = "cuda"))]
const BESIDE: u64 = 1 << 30;

#[cfg(any(test, feature = "cuda"))]
impl Room {
    /// What the process may still take.
    pub(crate) fn left(self) -> u64 {
        self.beyond(self.held)
    }

    /// What may lie there for long, so that the work beside it has what it needs.
    ///
    /// Who has a card alone leaves it one half. Who shares a card has no half to give away: nothing may stay until the work
    /// `was_seen`, and then what it never took, but for a small part, since memory is not given out without gaps.
    pub(crate) fn to_keep(self, was_seen: bool) -> u64 {
        /// The part of a share that is left for gaps: one of so many.
        const GAPS: u64 = 32;
        match self.given {
            None => self.free / 2,
            Some(given) if was_seen => self.beyond(self.peak.max(self.held).saturating_add(given / GAPS)),
            Some(_) => 0,
        }
    }

    /// What is left when so much is taken.
    fn beyond(self, taken: u64) -> u64 {
        self.given.map_or(self.free, |given| self.free.min(given.saturating_sub(taken).saturating_sub(BESIDE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(free: u64, given: Option<u64>, held: u64, peak: u64) -> Room {
        Room { free: free * GIB, given: given.map(|given| given * GIB), held: held * GIB, peak: peak * GIB }
    }

    #[test]
    fn who_has_a_card_alone_keeps_half_of_what_is_free() {
        for was_seen in [false, true] {
            assert_eq!(room(140, None, 3, 9).to_keep(was_seen), 70 * GIB);
        }
        assert_eq!(room(140, None, 3, 9).left(), 140 * GIB);
    }

    #[test]
    fn who_shares_a_card_keeps_to_its_share_whatever_is_free() {
        // 32 GiB, of which 3 are taken and one is CUDA's own; the work took 4 more at most.
        let seen = room(140, Some(32), 3, 7);
        assert_eq!((seen.left(), seen.to_keep(false), seen.to_keep(true)), (28 * GIB, 0, 23 * GIB));
        // Four such tasks fit beside each other, whichever comes first.
        assert!(4 * (seen.to_keep(true) + seen.peak + BESIDE) <= 4 * 32 * GIB);
        // Others took more than they were given.
        assert_eq!(room(5, Some(32), 3, 7).to_keep(true), 5 * GIB);
        // A share that is too small keeps nothing.
        assert_eq!(room(140, Some(8), 3, 7).to_keep(true), 0);
        assert_eq!(room(140, Some(2), 3, 7).left(), 0);
    }

    #[test]
    fn what_a_task_alone_was_seen_to_use_is_enough_to_keep_as_much_again() {
        // A context of half a GiB, 4 GiB of work, 10 GiB of images; the scheduler adds an eighth.
        let mib = 1 << 20;
        let given = (512 + (4 + 10) * 1024) * mib / 8 * 9;
        let share = Room { free: 100 * GIB, given: Some(given), held: GIB, peak: 4 * GIB };
        assert!(share.to_keep(true) >= 10 * GIB);
    }

    #[test]
    fn what_was_given_is_known_by_slot() {
        give(1_000_007, 5);
        assert_eq!((given(1_000_007), given(1_000_008)), (Some(5), None));
    }
}
