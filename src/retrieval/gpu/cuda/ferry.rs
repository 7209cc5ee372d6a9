//! Parts of a database on their way to the card.
//!
//! The host makes a part in pieces of locked memory that take turns, and a stream of its own copies them. Parts that do
//! not stay take turns, too: while the card compares codes of one, the next one is copied, and made before that. So a
//! pass over what does not fit takes as long as the slowest of the three, the bus as a rule.

use super::super::Source;
use super::super::layout::{Layout, SLOTS};
use super::{Done, refused};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, CudaView};
use crate::device::pinned::{Turn, Turns};
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Words of a piece: 32 MiB.
const PIECE: usize = 1 << 22;
/// Pieces of locked memory: one is made while the other is copied.
const PIECES: usize = 2;

/// Some codes of the database, on the card.
#[derive(Debug)]
pub(super) struct Part {
    pub layout: Layout,
    /// As long as the layout, or longer.
    words: CudaSlice<u64>,
}

impl Part {
    pub(super) fn above(&self) -> CudaView<'_, u64> {
        self.words.slice(self.layout.above())
    }

    /// What a query's signs "not below 0" are compared with.
    pub(super) fn second_side(&self, ternary: bool) -> Option<CudaView<'_, u64>> {
        ternary.then(|| self.words.slice(self.layout.not_below().unwrap_or(self.layout.above())))
    }

    /// If any code was removed.
    pub(super) fn there(&self) -> Option<CudaView<'_, u64>> {
        self.layout.there().map(|there| self.words.slice(there))
    }

    /// If the database has classes.
    pub(super) fn labels(&self) -> Option<CudaView<'_, u64>> {
        self.layout.labels().map(|labels| self.words.slice(labels))
    }

    /// What every kernel is told of it after its words: codes, words of a row of bits, and where it begins.
    pub(super) fn numbers(&self) -> [u64; 3] {
        let codes = &self.layout.codes;
        [codes.len() as u64, self.layout.row() as u64, codes.start as u64]
    }

    /// Words of a code.
    pub(super) fn width(&self) -> i32 {
        self.layout.width as i32
    }

    /// The stretches it has codes of.
    pub(super) fn stretches(&self, stretch: usize) -> Range<usize> {
        self.layout.codes.start / stretch..self.layout.codes.end.div_ceil(stretch)
    }
}

/// What brings parts to a card.
pub(super) struct Ferry {
    device: CudaDevice,
    copies: Arc<CudaStream>,
    memory: Turns<u64>,
    /// The one that was filled last is the last.
    slots: VecDeque<Slot>,
}

/// Memory for parts that come and go.
struct Slot {
    part: Part,
    /// When what read it last is done.
    free: Option<CudaEvent>,
}

impl fmt::Debug for Ferry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ferry").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Drop for Ferry {
    fn drop(&mut self) {
        let _turn = Turn::of(&self.device);
        // After an error a copy may be on its way that no work waits for.
        let _ = self.copies.synchronize();
        self.slots.clear();
        self.memory = Turns::default();
    }
}

impl Ferry {
    pub(super) fn new(device: &CudaDevice) -> Done<Self> {
        let copies = device.cuda_stream().context().new_stream().map_err(refused)?;
        Ok(Self { device: device.clone(), copies, memory: Turns::default(), slots: VecDeque::new() })
    }

    /// Brings a part that stays. Work that is asked for from now on may read it.
    pub(super) fn keep(&mut self, source: &Source, codes: Range<usize>) -> Done<Part> {
        let layout = Layout::of(source, codes);
        let (words, ready) = self.room(layout.len())?;
        let mut part = Part { layout, words };
        self.copies.wait(&ready).map_err(refused)?;
        self.fill(source, &mut part)?;
        Ok(part)
    }

    /// Brings a part for the work that is asked for until [`done`](Self::done).
    pub(super) fn bring(&mut self, source: &Source, codes: Range<usize>) -> Done<&Part> {
        let layout = Layout::of(source, codes);
        let oldest = if self.slots.len() < SLOTS { None } else { self.slots.pop_front() };
        let mut slot = match oldest.filter(|slot| slot.part.words.len() >= layout.len()) {
            Some(slot) => slot,
            // What an old one held may still be read: it was given back on the stream that reads it, and so after that.
            None => {
                let (words, ready) = self.room(layout.len())?;
                Slot { part: Part { layout: layout.clone(), words }, free: Some(ready) }
            }
        };
        slot.part.layout = layout;
        if let Some(free) = slot.free.take() {
            self.copies.wait(&free).map_err(refused)?;
        }
        let filled = self.fill(source, &mut slot.part);
        self.slots.push_back(slot);
        filled?;
        let last = self.slots.back().ok_or_else(|| refused("no part was brought"))?;
        Ok(&last.part)
    }

    /// The work on the part that was brought last has been asked for.
    pub(super) fn done(&mut self) -> Done<()> {
        let event = self.device.cuda_stream().record_event(None).map_err(refused)?;
        if let Some(slot) = self.slots.back_mut() {
            slot.free = Some(event);
        }
        Ok(())
    }

    /// New memory, and when it may be written to.
    fn room(&self, words: usize) -> Done<(CudaSlice<u64>, CudaEvent)> {
        let room = self.device.alloc_zeros(words.max(1)).map_err(refused)?;
        Ok((room, self.device.cuda_stream().record_event(None).map_err(refused)?))
    }

    /// Makes and sends all words of a part, and has the work that is asked for from now on wait for them.
    fn fill(&mut self, source: &Source, part: &mut Part) -> Done<()> {
        let Part { layout, words } = part;
        let most = layout.len().min(PIECE).next_power_of_two();
        for piece in layout.pieces(PIECE) {
            let memory = self.memory.next(self.copies.context(), PIECES, most.max(piece.len())).map_err(refused)?;
            piece.fill(source, layout, &mut memory.numbers().map_err(refused)?[..piece.len()]);
            memory.send_runs(&self.copies, words, piece.runs(layout)).map_err(refused)?;
        }
        let sent = self.copies.record_event(None).map_err(refused)?;
        self.device.cuda_stream().wait(&sent).map_err(refused)
    }
}
