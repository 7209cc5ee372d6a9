//! `hashpipe codes`: codes out to other programs, and in from them.

use super::codes_stats;
use crate::codefile::{self, BitOrder, FORMATS, Format, Options};
use crate::error::{Error, Result};
use crate::report::{note, plural, print};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what a file of codes holds, whoever wrote it
    Inspect(Inspect),
    /// Show what codes are like: balance, entropy, correlation and effective bits, collisions
    Stats(codes_stats::Arguments),
    /// Write codes for another program; `--to` or the ending of OUT tells the format
    Convert(Convert),
    /// List the formats
    Formats,
}

#[derive(Debug, Args)]
struct Reading {
    /// Length of the codes, for files that only tell how many bytes they have
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// Which end of a byte holds the first bit in the file that is read
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Order::Little)]
    bit_order: Order,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    /// Bit j is bit j % 8 of its byte
    Little,
    /// Bit j is bit 7 - j % 8 of its byte: `numpy.packbits` as it is
    Big,
}

impl Order {
    fn meant(self) -> BitOrder {
        match self {
            Self::Little => BitOrder::Little,
            Self::Big => BitOrder::Big,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A file of codes
    file: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Convert {
    /// A file of codes, such as the reference's `database_code_64.npy`
    input: PathBuf,
    /// Where to
    output: PathBuf,
    /// The format to write, one of `hashpipe codes formats`
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    #[command(flatten)]
    reading: Reading,
    /// Which end of a byte holds the first bit in the file that is written
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Order::Little)]
    to_bit_order: Order,
    /// Number the codes from here on
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    first_id: Option<i64>,
    /// Bits of a bucket's name in Faiss's hash indexes [default: about one code per bucket]
    #[arg(long, value_name = "N")]
    hash_bits: Option<usize>,
    /// Tables of a Faiss multi-hash index [default: 4, or as many as fit]
    #[arg(long, value_name = "N")]
    tables: Option<usize>,
}

pub(super) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Inspect(arguments) => inspect(arguments)?,
        Command::Stats(arguments) => return codes_stats::run(arguments),
        Command::Convert(arguments) => convert(arguments)?,
        Command::Formats => {
            FORMATS
                .iter()
                .for_each(|Format { name, suffix, about, .. }| print(&format!("{name:16} {suffix:18} {about}")));
        }
    }
    Ok(0)
}

fn options(reading: &Reading) -> Options {
    Options { bits: reading.bits, order: reading.bit_order.meant(), ..Options::default() }
}

fn inspect(arguments: &Inspect) -> Result<()> {
    let (set, format) = codefile::read(&arguments.file, &options(&arguments.reading))?;
    let (codes, distinct) = (&set.codes, set.codes.distinct());
    if arguments.json {
        let about = json!({
            "file": arguments.file, "format": format.name, "codes": codes.len(), "bits": codes.bits(),
            "distinct": distinct, "zeros": set.zeros, "ids": set.ids.is_some(),
        });
        print(&about.to_string());
        return Ok(());
    }
    let ids = if set.ids.is_some() { "with ids" } else { "numbered from 0" };
    print(&format!("{}: {} of {} bits, {ids}", format.about, plural(codes.len(), "code"), codes.bits()));
    print(&format!("{distinct} different ones, {} were exactly 0", plural(set.zeros as usize, "output")));
    Ok(())
}

fn convert(arguments: &Convert) -> Result<()> {
    let Convert { input, output, to, reading, .. } = arguments;
    let format = to.as_ref().map_or_else(|| Format::of_name(output), |name| Format::find(name))?;
    let (mut set, from) = codefile::read(input, &options(reading))?;
    if let (Ok(input), Ok(output)) = (input.canonicalize(), output.canonicalize())
        && input == output
    {
        return Err(Error::input("the output is the input").hint("give another file to write"));
    }
    if let Some(first) = arguments.first_id {
        set.ids = Some((0..set.codes.len() as i64).map(|i| first.saturating_add(i)).collect());
    }
    let options = Options {
        bits: None,
        order: arguments.to_bit_order.meant(),
        hash_bits: arguments.hash_bits,
        tables: arguments.tables,
    };
    format.write(output, &set, &options)?;
    let (count, bits) = (plural(set.codes.len(), "code"), set.codes.bits());
    note(&format!("{}: {count} of {bits} bits, from {} to {}", output.display(), from.name, format.name));
    if set.zeros > 0 {
        note(&format!("{} were exactly 0; they count as negative", plural(set.zeros as usize, "output")));
    }
    Ok(())
}
