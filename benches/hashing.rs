//! Digests as the program computes them, for `hashing.py` to time.
//!
//! ```text
//! hashing file PATH           prints the digest, as `b3sum` does
//! hashing folder PATH MEMO    prints the folder's digest as JSON, with the seconds of each step and the memory
//! ```

#![expect(clippy::print_stdout, reason = "what it measures is read from there")]

use hashpipe::cache::Digests;
use hashpipe::error::Result;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["file", path] => file(Path::new(path)),
        ["folder", path, memo] => folder(Path::new(path), memo.into()),
        // `cargo bench` calls it with other arguments.
        _ => {
            println!("run benches/hashing.py");
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.render("error"));
            ExitCode::FAILURE
        }
    }
}

fn file(path: &Path) -> Result<()> {
    println!("{}  {}", Digests::read_only(PathBuf::new()).file(path)?, path.display());
    Ok(())
}

fn folder(path: &Path, memo: PathBuf) -> Result<()> {
    let mut seconds = vec![];
    let mut last = Instant::now();
    let mut lap = || seconds.push(std::mem::replace(&mut last, Instant::now()).elapsed().as_secs_f64());
    let digests = Digests::open(memo);
    lap();
    let digest = digests.folder(path)?;
    lap();
    digests.save()?;
    lap();
    let [load, find, save] = seconds[..] else { unreachable!("three laps") };
    let memory = peak_memory();
    println!("{{\"digest\":\"{digest}\",\"load\":{load},\"find\":{find},\"save\":{save},\"memory\":{memory}}}");
    Ok(())
}

/// The most bytes this process had in memory; 0 where the kernel does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
