//! Everything that is wrong with a file, said at once, but not on ten thousand screens.

use crate::error::{Error, Result};

/// Faults of one phase, in the order found.
#[derive(Debug, Default)]
pub(super) struct Faults {
    shown: Vec<Error>,
    more: usize,
}

impl Faults {
    /// How many are shown in full; the others are counted.
    const SHOWN: usize = 10;

    pub(super) fn push(&mut self, fault: Error) {
        match self.shown.len() < Self::SHOWN {
            true => self.shown.push(fault),
            false => self.more += 1,
        }
    }

    /// Returns one error with all of them, if there were any.
    pub(super) fn into_result(mut self) -> Result<()> {
        if self.more > 0 {
            let last = self.shown.pop().map(|fault| fault.note(format!("and {} more like these", self.more)));
            self.shown.extend(last);
        }
        Error::all(self.shown).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted() {
        let mut faults = Faults::default();
        for i in 0..25 {
            faults.push(Error::data(format!("fault {i}")));
        }
        let shown = faults.into_result().unwrap_err().render("error");
        assert!(shown.contains("fault 9\nnote: and 15 more like these") && !shown.contains("fault 10"), "{shown}");
        assert!(Faults::default().into_result().is_ok());
    }
}
