//! Search and evaluation of given codes, for `benches/peers/ranking.py`, which makes them and times others on them.
//!
//! `ranking FOLDER BITS THREADS ROUNDS`: in FOLDER lie `database.u64` and `queries.u64` (words of codes, little-endian),
//! and, for evaluation, `database.labels` and `queries.labels` (class numbers of an item per line). A line of JSON per
//! measurement: what, the least wall and CPU seconds of all rounds, and what came out.

use hashpipe::retrieval::{
    Backend, Codes, Comparison, Engine, Labels, Refusal, Relevance, Wanted, instructions, popcount_floor,
};
use nix::sys::resource::{UsageWho, getrusage};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

#[global_allocator]
static MEMORY: hashpipe::memory::Memory = hashpipe::memory::Memory::new();

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [folder, bits, threads, rounds] = &arguments[..] else {
        return Err("usage: ranking FOLDER BITS THREADS ROUNDS".into());
    };
    let (folder, bits, rounds): (&Path, usize, usize) = (Path::new(folder), bits.parse()?, rounds.parse()?);
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build_global()?;
    let (database, queries) = (codes(folder, "database", bits)?, codes(folder, "queries", bits)?);
    tell(&format!(r#"{{"instructions":"{}","popcounts_per_second":{:.3e}}}"#, instructions(), popcount_floor() * 1e9))?;

    if folder.join("database.labels").exists() {
        evaluations(folder, &queries, &database, rounds)?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        tell(&format!(r#"{{"peak_memory":"{}"}}"#, peak.trim()))?;
    }
    let engine = Engine::over(&database);
    for k in [10, 100, 5000] {
        let mut sum = 0u64;
        let (seconds, cpu) = timed(rounds, || {
            let found = engine.top_k(&queries, k)?;
            sum = found.iter().flatten().map(|near| u64::from(near.distance)).sum();
            Ok(())
        })?;
        tell(&format!(r#"{{"what":"top {k}","seconds":{seconds},"cpu":{cpu},"sum_of_distances":{sum}}}"#))?;
    }
    Ok(())
}

/// Times evaluations; tells the mean AP@5000, ties in database order, of the first 200 queries and of all.
fn evaluations(folder: &Path, queries: &Codes, database: &Codes, rounds: usize) -> Result<(), Error> {
    let (labels, query_labels) = (labels(folder, "database")?, labels(folder, "queries")?);
    let relevance = Relevance::shared_class(&query_labels, &labels)?;
    let comparison = Comparison::over(&Backend::default(), queries, database, relevance);
    let whole = Wanted::all(&[100, 1000, 5000, usize::MAX]);
    for (what, wanted, at) in [
        ("mAP@5000", Wanted::map_only(&[5000]), 0),
        ("all metrics", Wanted::all(&[100, 1000, 5000]), 2),
        ("all metrics, mAP@all too", whole, 2),
    ] {
        let mut found = None;
        let (seconds, cpu) = timed(rounds, || {
            found = Some(comparison.evaluate::<Refusal>(&wanted, |_| Ok(()))?);
            Ok(())
        })?;
        let Some(found) = found else { continue };
        let few = found.per_query.iter().take(200).map(|query| query.ap[at].by_hits.stable);
        let first = few.clone().sum::<f64>() / few.count().max(1) as f64;
        let map = serde_json::to_string(&found.summary.map[at])?;
        tell(&format!(r#"{{"what":"{what}","seconds":{seconds},"cpu":{cpu},"first_200":{first},"map":{map}}}"#))?;
    }
    Ok(())
}

fn tell(line: &str) -> Result<(), Error> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn codes(folder: &Path, name: &str, bits: usize) -> Result<Codes, Error> {
    let bytes = std::fs::read(folder.join(format!("{name}.u64")))?;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    Ok(Codes::from_words(bits, bytes.chunks_exact(8).map(word).collect())?)
}

fn labels(folder: &Path, name: &str) -> Result<Labels, Error> {
    let text = std::fs::read_to_string(folder.join(format!("{name}.labels")))?;
    let items: Result<Vec<Vec<u32>>, _> =
        text.lines().map(|line| line.split_whitespace().map(str::parse).collect()).collect();
    let items = items?;
    let classes = items.iter().flatten().max().map_or(0, |&last| last as usize + 1);
    Ok(Labels::from_indices(classes.max(80), items.iter().map(Vec::as_slice))?)
}

/// The least wall and CPU seconds of so many rounds.
fn timed(rounds: usize, mut work: impl FnMut() -> Result<(), Error>) -> Result<(f64, f64), Error> {
    let mut least = (f64::MAX, f64::MAX);
    for _ in 0..rounds {
        let (began, used) = (Instant::now(), cpu_seconds()?);
        work()?;
        least = (least.0.min(began.elapsed().as_secs_f64()), least.1.min(cpu_seconds()? - used));
    }
    Ok(least)
}

fn cpu_seconds() -> Result<f64, Error> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let (user, system) = (used.user_time(), used.system_time());
    Ok((user.tv_sec() + system.tv_sec()) as f64 + (user.tv_usec() + system.tv_usec()) as f64 * 1e-6)
}
