//! `hashpipe run`: bring a pipeline up to date.

use super::dry_run;
use super::telling::{self, Telling};
use super::{Folders, Pipeline};
use crate::cache::{Actions, Digests, Question, Results, Store, Watch, survey};
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, TaskId};
use crate::process;
use crate::report::{Summary, duration, materialise, note, plural, print, screen};
use crate::runs::Runs;
use crate::schedule::{self, Asked, Gpus, INTERRUPTS, Machine, Options, Outcome, check_gpus};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pipeline: Pipeline,
    #[command(flatten)]
    folders: Folders,
    /// Threads to use, shared by the tasks that run side by side [default: all cores]
    #[arg(long, short, value_name = "N", env = "HASHPIPE_JOBS", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// GPUs to use: how many, or their numbers as in `0,2` [default: all that the driver shows]
    #[arg(long, value_name = "N", env = "HASHPIPE_GPUS")]
    gpus: Option<Gpus>,
    /// Go on with what does not depend on a failure
    #[arg(long, short)]
    keep_going: bool,
    /// Fail with exit code 75 instead of waiting for another run that makes the same
    #[arg(long)]
    no_wait: bool,
    /// Show what would run, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Only this stage and what it needs (a stage, a task, or a kind; may be repeated)
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Only this stage and what follows from it (and what those need)
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
    /// Run this stage even if its result is there
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Tell what happens as lines of JSON on standard output
    #[arg(long)]
    json: bool,
    /// Write what happens as lines of JSON to this file, too
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    events: Option<PathBuf>,
    /// A line for every task, however many there are
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let question = question(arguments);
    if let Some((cache, question)) = &question
        && let Some(tasks) = Store::at(cache).nothing_to_do(question)
    {
        let store = Store::open(cache)?;
        note(&nothing_to_do(usize::try_from(tasks).unwrap_or(usize::MAX), ""));
        tidy(cache, &store);
        return Ok(0);
    }
    let plan = arguments.pipeline.plan()?;
    check_gpus(arguments.gpus.as_ref(), plan.tasks.iter().map(schedule::use_of_gpu))?;
    let asked = Asked { jobs: arguments.jobs.map(usize::from), gpus: arguments.gpus.clone(), host: plan.host };
    let machine = Machine::find(&asked)?;
    let targets = targets(&plan, arguments)?;
    let force = select(&plan, &arguments.force)?;
    if arguments.dry_run {
        let store = arguments.folders.reader(&plan);
        return dry_run::run(
            &dry_run::Dry { plan: &plan, store: &store, machine: &machine },
            &targets,
            &force,
            arguments.json,
        );
    }
    let store = Store::open(&arguments.folders.cache(&plan))?;
    let output = arguments.folders.output(&plan);
    writable(&output)?;
    let watch = Arc::new(Watch::default());
    watch_for_interrupts(watch.clone())?;
    let runs = Runs::at(store.runs());
    let record = telling::record(&plan, &arguments.pipeline, &targets);
    let screen = screen(arguments.json, arguments.verbose);
    let mut telling = Telling::new(&runs, record, arguments.events.as_deref(), screen)?;
    for remark in &plan.remarks {
        telling.say(&remark.render("warning"));
    }
    let options = Options {
        machine,
        no_wait: arguments.no_wait,
        watch,
        run: telling.id(),
        keep_going: arguments.keep_going,
        targets,
        force,
        logs: telling.logs(),
    };
    let outcome = match schedule::run(&plan, &store, &options, &mut |event| telling.tell(event)) {
        Ok(outcome) => outcome,
        Err(error) => {
            telling.finish(error.kind().exit_code(), |_| None);
            return Err(error);
        }
    };
    let digests = store.digests();
    let told = finish(&plan, &store, &digests, &outcome, &output, &mut telling, arguments.json);
    let exit_code = told.as_ref().map_or_else(|error| error.kind().exit_code(), |()| outcome.exit_code());
    let exit_code = if exit_code == Kind::Interrupted.exit_code() { stopped_code() } else { exit_code };
    let actions = records(&plan, &store, &outcome.results);
    let by_name: std::collections::HashMap<&str, _> =
        actions.iter().map(|(id, action)| (plan.task(*id).name.as_str(), &action.metrics)).collect();
    let record = telling.finish(exit_code, |task| by_name.get(task).map(|metrics| (*metrics).clone()));
    let idle = exit_code == 0 && record.is_none() && outcome.states.count(schedule::State::Cached) == plan.tasks.len();
    if let Some((_, question)) = question.filter(|_| idle && plan.remarks.is_empty() && outcome.warnings.is_empty())
        && let Some(newest) = runs.newest_files(&plan.pipeline)
    {
        let watched = [&newest[..], &[store.journal_path(&plan.pipeline)]].concat();
        let found = (&outcome.results, &outcome.contents);
        store.note_nothing_to_do(&question, &plan, found, &digests, &watched);
    }
    tidy(&arguments.folders.cache(&plan), &store);
    // As with the settings: the process ends, and all of this at once with it.
    std::mem::forget((plan, outcome));
    told.map(|()| exit_code)
}

/// Whether results can be shown: that is no thing to find out after hours of work. Makes nothing yet.
fn writable(output: &Path) -> Result<()> {
    let there = output.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    tempfile::tempfile_in(there).map(|_| ()).map_err(|e| {
        Error::io("write in the folder", output, &e).hint("`--output DIR` names another one; `cache/` is not touched")
    })
}

/// The cache and the question, if nothing is asked but to bring all of a pipeline up to date.
fn question(arguments: &Arguments) -> Option<(PathBuf, Question)> {
    let all = arguments.only.is_empty() && arguments.from.is_empty() && arguments.force.is_empty();
    let told = arguments.json || arguments.verbose || arguments.events.is_some() || arguments.dry_run;
    if !all || told || arguments.gpus.is_some() {
        return None;
    }
    let (file, over) = (&arguments.pipeline.file, &arguments.pipeline.over);
    let project = crate::config::project(file).ok()?;
    let cache = arguments.folders.cache_in(&project);
    let output = arguments.folders.output.as_ref().map(|output| output.to_string_lossy().into_owned());
    let mut parts = vec![];
    for part in [over.profile.as_deref(), output.as_deref()] {
        parts.extend([if part.is_some() { "given" } else { "" }, part.unwrap_or_default()]);
    }
    parts.extend(over.sets.iter().map(String::as_str));
    let question = Question::new(&Store::at(&cache), &project, file, &parts)?;
    Some((cache, question))
}

/// Keeps the cache to its limits.
fn tidy(cache: &Path, store: &Store) {
    if let Some(text) = super::cache::tidy(cache, store) {
        note(&text);
    }
}

/// The records of what is worth showing: commands that measure nothing are many and say nothing.
fn records(plan: &Plan, store: &Store, results: &Results) -> Actions {
    let shown = results.iter().filter(|(id, _)| plan.task(**id).step.is_measured());
    shown.filter_map(|(id, made)| Some((*id, store.action(&made.key)?))).collect()
}

/// The results of this run and of what lay outside of it, so that a part of a run does not make a part of a report.
fn everything(plan: &Plan, store: &Store, outcome: &Outcome) -> Results {
    let mut results = outcome.results.clone();
    if outcome.states.count(schedule::State::Out) > 0 {
        let all: Vec<TaskId> = plan.tasks.iter().map(|task| task.id).collect();
        let cached = survey(plan, store, &all, &[]).into_iter().filter_map(|s| Some((s.task, s.made?)));
        results.extend(cached);
    }
    results
}

/// Brings `output/` up to date, shows the table if anything ran, and says the last line.
fn finish(
    plan: &Plan,
    store: &Store,
    digests: &Digests,
    outcome: &Outcome,
    output: &Path,
    telling: &mut Telling,
    json: bool,
) -> Result<()> {
    for warning in outcome.warnings.iter().chain(&materialise(plan, store, digests, &outcome.results, output)?) {
        telling.say(&warning.render("warning"));
    }
    let summary = Summary::new(plan, &records(plan, store, &everything(plan, store, outcome)), output);
    let mut place = String::new();
    if !summary.is_empty() {
        place = format!("; {}", summary.write()?.display());
        telling.tell(&summary.to_event());
        if !json && outcome.states.count(schedule::State::Done) > 0 {
            print(&summary.to_text());
        }
    }
    let last = last_line(outcome, &place, &telling.logs());
    telling.say(&last);
    Ok(())
}

fn last_line(outcome: &Outcome, place: &str, logs: &Path) -> String {
    use schedule::State::{Blocked, Cached, Done, Failed, Stopped};
    let count = |state| outcome.states.count(state);
    let (ran, cached) = (count(Done), count(Cached) + count(schedule::State::Evicted));
    let problems: Vec<String> = [(Failed, "failed"), (Blocked, "blocked"), (Stopped, "stopped or not started")]
        .iter()
        .filter(|(state, _)| count(*state) > 0)
        .map(|(state, word)| format!("{} {word}", count(*state)))
        .collect();
    if ran == 0 && problems.is_empty() {
        nothing_to_do(cached, place)
    } else if problems.is_empty() {
        format!("hashpipe: ran {} in {}, {cached} cached{place}", plural(ran, "task"), duration(outcome.seconds))
    } else {
        format!("hashpipe: {}, {ran} ran, {cached} cached; logs: {}", problems.join(", "), logs.display())
    }
}

fn nothing_to_do(cached: usize, place: &str) -> String {
    format!("hashpipe: nothing to do, {} cached{place}", plural(cached, "task"))
}

/// What to bring up to date.
fn targets(plan: &Plan, arguments: &Arguments) -> Result<Vec<TaskId>> {
    if arguments.only.is_empty() && arguments.from.is_empty() {
        return Ok(plan.tasks.iter().map(|task| task.id).collect());
    }
    let mut targets = select(plan, &arguments.only)?;
    targets.extend(plan.graph.with_followers(&select(plan, &arguments.from)?));
    Ok(targets)
}

fn select(plan: &Plan, patterns: &[String]) -> Result<Vec<TaskId>> {
    let found: Vec<Vec<TaskId>> = patterns.iter().map(|pattern| plan.select(pattern)).collect::<Result<_>>()?;
    Ok(found.concat())
}

/// Set when the run was told to end by another signal than Ctrl-C's.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// The exit code of a run that was stopped.
fn stopped_code() -> u8 {
    /// 128 and the number of SIGTERM, as shells have it.
    const TERMINATED_CODE: u8 = 143;
    if TERMINATED.load(Ordering::SeqCst) { TERMINATED_CODE } else { Kind::Interrupted.exit_code() }
}

fn watch_for_interrupts(watch: Arc<Watch>) -> Result<()> {
    /// Presses after which nothing is waited for any more: the tasks end with their runner.
    const AT_ONCE: usize = 3;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGTSTP])
        .map_err(|e| Error::new(Kind::Io, format!("cannot watch for Ctrl-C: {e}")))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            // Tasks are in groups of their own, where the terminal's Ctrl-Z does not reach them.
            if signal == SIGTSTP {
                process::pause();
                continue;
            }
            watch.stop();
            TERMINATED.fetch_or(signal != SIGINT, Ordering::SeqCst);
            if INTERRUPTS.fetch_add(1, Ordering::SeqCst) + 1 >= AT_ONCE {
                std::process::exit(i32::from(stopped_code()));
            }
        }
    });
    Ok(())
}
