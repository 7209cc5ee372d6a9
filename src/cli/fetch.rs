//! `hashpipe fetch`: data sets from where their makers put them.

use crate::error::{Error, Result};
use crate::fetch::{Access, Archive, Fetch, Fetched, Patience, Progress, Set, Source, find, sets};
use crate::report::{Meter, count, note, print, size, table};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Data sets, as `coco2014`; `--list` shows them
    #[arg(required_unless_present = "list", value_name = "NAME")]
    names: Vec<String>,
    /// Folder to put them in
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// Show what can be fetched, from where, and what has to be asked for by hand
    #[arg(long)]
    list: bool,
    /// Say what would be fetched; ask no server and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Take the files from here instead: URL, a slash, and the file's name
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Proxy [default: the environment's `http_proxy`, `https_proxy`, `all_proxy`, but for `no_proxy`]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Files at once
    #[arg(short, long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// Attempts without a new byte before a file is given up
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
    /// Seconds without a byte before an attempt is given up
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,
    /// Leave archives as they are
    #[arg(long)]
    no_unpack: bool,
    /// Keep archives beside what was unpacked
    #[arg(long, conflicts_with = "no_unpack")]
    keep_archives: bool,
    /// Fetch also what is there already
    #[arg(long)]
    again: bool,
    /// One JSON object per file
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    if arguments.list {
        list(arguments)?;
        return Ok(0);
    }
    let (mut chosen, mut errors) = (vec![], vec![]);
    for name in &arguments.names {
        match find(name) {
            Ok(set) => chosen.push(set),
            Err(error) => errors.push(error),
        }
    }
    if arguments.jobs == 0 || arguments.retries == 0 || arguments.timeout == 0 {
        errors.push(Error::input("`--jobs`, `--retries` and `--timeout` must each be at least 1"));
    }
    Error::all(errors).map_or(Ok(()), Err)?;
    for set in &chosen {
        if let Some(form) = &set.form {
            note(&format!("{}: {form}\n  {}", set.name, set.page));
        }
    }
    let mut files: Vec<Source> = vec![];
    for file in chosen.iter().flat_map(|set| &set.files) {
        if !files.iter().any(|other| other.url == file.url) {
            files.push(file.clone());
        }
    }
    if files.is_empty() {
        return Err(Error::input("there is nothing to fetch: it has to be asked for by hand"));
    }
    let fetch = Fetch {
        to: arguments.to.clone().unwrap_or_default(),
        access: Access { proxy: arguments.proxy.clone(), patience: Duration::from_secs(arguments.timeout) },
        mirror: arguments.mirror.clone(),
        patience: Patience { attempts: arguments.retries, ..Patience::default() },
        at_once: arguments.jobs,
        keep_archives: arguments.keep_archives,
        unpack: !arguments.no_unpack,
        again: arguments.again,
    };
    if arguments.dry_run { would(&fetch, &files, arguments.json) } else { fetches(&fetch, &files, arguments.json) }
}

fn fetches(fetch: &Fetch, files: &[Source], as_json: bool) -> Result<u8> {
    let progress = Progress::default();
    let meter = Meter::new("fetched");
    let told = |fetched: &Fetched| {
        fetched.notes.iter().for_each(|text| note(text));
        if as_json { print(&line(fetched)) } else { note(&sentence(fetched)) }
    };
    let so_far = || (progress.done.load(Relaxed), progress.total.load(Relaxed));
    let fetched = meter.during(so_far, || fetch.run(files, &progress, &told))?;
    drop(meter);
    let there = fetched.iter().filter(|one| one.was_there).count();
    note(&format!(
        "hashpipe: fetched {} of {} files, {} were there; {}",
        fetched.len() - there,
        fetched.len(),
        there,
        fetch.to.display()
    ));
    Ok(0)
}

/// What came of a file, for a person.
fn sentence(fetched: &Fetched) -> String {
    if fetched.was_there {
        return format!("there    {}", fetched.name);
    }
    let compared = match &fetched.compared {
        Some(kind) => format!("{kind} as published"),
        None => "no published checksum".into(),
    };
    let unpacked = fetched.unpacked.map(|found| format!(", {} files of {}", count(found.files), size(found.bytes)));
    format!("fetched  {}  {}, {compared}{}", fetched.name, size(fetched.size), unpacked.unwrap_or_default())
}

fn line(fetched: &Fetched) -> String {
    let Fetched { name, url, size, was_there, compared, sha256, unpacked, notes } = fetched;
    json!({
        "file": name, "url": url, "size": size, "was_there": was_there, "compared": compared, "sha256": sha256,
        "unpacked": unpacked, "notes": notes,
    })
    .to_string()
}

fn would(fetch: &Fetch, files: &[Source], as_json: bool) -> Result<u8> {
    let mut rows = vec![];
    for file in files {
        let (there, url) = (!fetch.again && fetch.is_there(file)?, fetch.address(file));
        let checksum = file.checksum().map(|sum| format!("{} {}", sum.algorithm, sum.hex));
        if as_json {
            print(
                &json!({ "file": file.name(), "url": url, "size": file.size, "checksum": checksum, "was_there": there })
                    .to_string(),
            );
            continue;
        }
        let what = if there { "there" } else { "fetch" };
        let bytes = file.size.map_or_else(|| "size unknown".into(), size);
        rows.push(vec![what.into(), url, bytes, checksum.unwrap_or_else(|| "no published checksum".into())]);
    }
    if !as_json {
        print(&table(&["", "from", "size", "checksum"], &rows));
    }
    Ok(0)
}

fn list(arguments: &Arguments) -> Result<()> {
    let chosen: Vec<Set> = match arguments.names.is_empty() {
        true => sets(),
        false => arguments.names.iter().map(|name| find(name)).collect::<Result<_>>()?,
    };
    for (position, set) in chosen.iter().enumerate() {
        if arguments.json {
            let files: Vec<_> = set.files.iter().map(|file| json!({ "url": file.url, "size": file.size })).collect();
            print(
                &json!({ "name": set.name, "about": set.about, "page": set.page, "form": set.form, "files": files })
                    .to_string(),
            );
            continue;
        }
        if position > 0 {
            print("");
        }
        print(&format!("{}  {}\n  {}", set.name, set.about, set.page));
        for file in &set.files {
            let bytes = file.size.map_or_else(|| "size unknown".into(), size);
            let sum = file.checksum().map_or("no published checksum".into(), |sum| format!("{} known", sum.algorithm));
            let kind = match file.archive() {
                Some(Archive::Zip) => "unpacked when it is whole",
                Some(_) => "unpacked as it comes",
                None => "kept as it is",
            };
            print(&format!("  {}  ({bytes}, {sum}, {kind})", file.url));
        }
        if let Some(form) = &set.form {
            print(&format!("  By hand: {form}"));
        }
    }
    Ok(())
}
