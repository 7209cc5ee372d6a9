//! Image files to what a network reads, for `peers/images.py` to time and to compare.
//!
//! ```text
//! images rounds FILE...          for each line of seconds on its input: works through the files for so long, on one
//!                                thread, and prints {"images":n,"seconds":cpu}
//! images pixels FOLDER FILE...   writes FOLDER/0.rgb, the decoded pixels, and FOLDER/0.crop, resized and cut out, and so
//!                                on for each file; FOLDER/0.error for one that cannot be decoded
//! ```

#![expect(clippy::print_stdout, reason = "what it measures is read from there")]

use hashpipe::error::{Error, Result};
use hashpipe::image::{Transform, decode};
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match &arguments[..] {
        ["rounds", files @ ..] => rounds(files),
        ["pixels", folder, files @ ..] => pixels(Path::new(folder), files),
        // `cargo bench` calls it with other arguments.
        _ => {
            println!("run benches/peers/images.py");
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

fn read(file: &str) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| Error::io("read", Path::new(file), &e))
}

fn rounds(files: &[&str]) -> Result<()> {
    let files = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let transform = Transform::imagenet(256, 224);
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Error::io("read", Path::new("standard input"), &e))?;
        let seconds: f64 = line.trim().parse().map_err(|_| Error::input(format!("`{line}` is no time")))?;
        let (begin, before, mut images) = (Instant::now(), cpu_seconds(), 0);
        while begin.elapsed().as_secs_f64() < seconds {
            for file in &files {
                let cut = transform.read_eval(black_box(file)).map_err(|e| Error::data(e.to_string()))?;
                black_box(cut);
            }
            images += files.len();
        }
        let used = match (before, cpu_seconds()) {
            (Some(before), Some(now)) => now - before,
            _ => begin.elapsed().as_secs_f64(),
        };
        println!("{{\"images\":{images},\"seconds\":{used}}}");
    }
    Ok(())
}

/// Seconds that this thread has been on a processor, where the kernel tells.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

fn pixels(folder: &Path, files: &[&str]) -> Result<()> {
    let transform = Transform::imagenet(256, 224);
    for (number, file) in files.iter().enumerate() {
        let write = |ending: &str, bytes: &[u8]| {
            let path = folder.join(format!("{number}.{ending}"));
            std::fs::write(&path, bytes).map_err(|e| Error::io("write", &path, &e))
        };
        let bytes = read(file)?;
        match (decode(&bytes), transform.read_eval(&bytes)) {
            (Ok(image), Ok(cut)) => {
                write("rgb", &image.data)?;
                write("crop", &cut)?;
            }
            (Err(error), _) | (_, Err(error)) => write("error", error.to_string().as_bytes())?,
        }
    }
    Ok(())
}
