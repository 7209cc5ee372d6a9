//! How the codes of another program are to be read, as an argument says it.

use crate::external::{BitOrder, Layout, Reading};
use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct CodesForm {
    /// What the numbers of a NumPy array are [default: told by their type]
    #[arg(long, value_enum)]
    layout: Option<LayoutWord>,
    /// Which bit of a packed number comes first
    #[arg(long, value_enum, value_name = "ORDER", default_value_t = OrderWord::Little)]
    bit_order: OrderWord,
    /// Length of packed codes, where their last number is not full
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LayoutWord {
    /// -1, 0 and +1, a number for each bit
    Signs,
    /// 0 and 1, a number for each bit
    Bits,
    /// As many bits in a number as its type has
    Packed,
    /// Outputs of a network, whose signs are the code
    Outputs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderWord {
    /// The least: np.packbits(.., bitorder="little")
    Little,
    /// The greatest: np.packbits as it comes
    Big,
}

impl CodesForm {
    pub(super) fn reading(&self) -> Reading {
        let layout = match self.layout {
            None => Layout::Auto,
            Some(LayoutWord::Signs) => Layout::Signs,
            Some(LayoutWord::Bits) => Layout::Bits,
            Some(LayoutWord::Packed) => Layout::Packed,
            Some(LayoutWord::Outputs) => Layout::Outputs,
        };
        let order = match self.bit_order {
            OrderWord::Little => BitOrder::Little,
            OrderWord::Big => BitOrder::Big,
        };
        Reading { layout, order, bits: self.bits }
    }
}
