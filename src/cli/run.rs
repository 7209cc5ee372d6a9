//! `hashpipe run`: bring a pipeline up to date.

use super::telling::{self, Telling};
use super::{Folders, Pipeline};
use crate::cache::{Results, Standing, State, Store, survey};
use crate::error::{Error, Kind, Place, Result};
use crate::plan::{Plan, Target, TaskId};
use crate::report::{Summary, duration, materialise, plural, print, screen, table};
use crate::runs::Runs;
use crate::schedule::{self, INTERRUPTS, Options, Outcome};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
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
    /// GPUs to use: how many, or their numbers as in `0,2`
    #[arg(long, value_name = "N", env = "HASHPIPE_GPUS", default_value = "0", value_parser = gpus)]
    gpus: Gpus,
    /// Go on with what does not depend on a failure
    #[arg(long, short)]
    keep_going: bool,
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

/// More than any machine has.
const MOST_GPUS: usize = 1024;

/// Slots of the GPUs to use.
#[derive(Debug, Clone, Default)]
struct Gpus(Vec<usize>);

fn gpus(text: &str) -> Result<Gpus, String> {
    let wrong = || format!("write a count up to {MOST_GPUS}, or numbers as in `0,2`");
    let number = |text: &str| text.trim().parse().ok().filter(|n| *n <= MOST_GPUS).ok_or_else(wrong);
    let numbers: BTreeSet<usize> = match text.contains(',') {
        true => text.split(',').filter(|part| !part.trim().is_empty()).map(number).collect::<Result<_, _>>()?,
        false => (0..number(text)?).collect(),
    };
    Ok(Gpus(numbers.into_iter().collect()))
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    if !arguments.gpus.0.is_empty() && !crate::device::can_use_gpus() {
        crate::device::open(Some(arguments.gpus.0[0])).map_err(|e| e.at(Place::Argument("--gpus".into())))?;
    }
    let plan = arguments.pipeline.plan()?;
    let targets = targets(&plan, arguments)?;
    let force = select(&plan, &arguments.force)?;
    if arguments.dry_run {
        return dry_run(&plan, &arguments.folders.reader(&plan), &targets, &force, arguments.json);
    }
    let store = Store::open(&arguments.folders.cache(&plan))?;
    let output = arguments.folders.output(&plan);
    watch_for_interrupts()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runs = Runs::at(store.runs());
    let record = telling::record(&plan, &arguments.pipeline, &targets);
    let screen = screen(arguments.json, arguments.verbose);
    let mut telling = Telling::new(&runs, record, arguments.events.as_deref(), screen)?;
    let options = Options {
        jobs: arguments.jobs.map_or(cores, usize::from),
        gpus: arguments.gpus.0.clone(),
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
    let told = finish(&plan, &store, &outcome, &output, &mut telling, arguments.json);
    let exit_code = told.as_ref().map_or_else(|error| error.kind().exit_code(), |()| outcome.exit_code());
    let exit_code = if exit_code == Kind::Interrupted.exit_code() { stopped_code() } else { exit_code };
    let metrics: HashMap<&str, _> =
        outcome.results.iter().map(|(id, action)| (plan.task(*id).name.as_str(), &action.metrics)).collect();
    telling.finish(exit_code, |task| metrics.get(task).map(|metrics| (*metrics).clone()));
    told.map(|()| exit_code)
}

/// The results of this run and of what lay outside of it, so that a part of a run does not make a part of a report.
fn everything(plan: &Plan, store: &Store, outcome: &Outcome) -> Results {
    let mut results = outcome.results.clone();
    if outcome.states.count(schedule::State::Out) > 0 {
        let all: Vec<TaskId> = plan.tasks.iter().map(|task| task.id).collect();
        let cached = survey(plan, store, &all, &[]).into_iter().filter_map(|s| Some((s.task, s.action?)));
        results.extend(cached);
    }
    results
}

/// Brings `output/` up to date, shows the table if anything ran, and says the last line.
fn finish(
    plan: &Plan,
    store: &Store,
    outcome: &Outcome,
    output: &Path,
    telling: &mut Telling,
    json: bool,
) -> Result<()> {
    materialise(plan, store, &outcome.results, output)?;
    let summary = Summary::new(plan, &everything(plan, store, outcome), output);
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
    let (ran, cached) = (count(Done), count(Cached));
    let problems: Vec<String> = [(Failed, "failed"), (Blocked, "blocked"), (Stopped, "stopped or not started")]
        .iter()
        .filter(|(state, _)| count(*state) > 0)
        .map(|(state, word)| format!("{} {word}", count(*state)))
        .collect();
    if ran == 0 && problems.is_empty() {
        format!("hashpipe: nothing to do, {} cached{place}", plural(cached, "task"))
    } else if problems.is_empty() {
        format!("hashpipe: ran {} in {}, {cached} cached{place}", plural(ran, "task"), duration(outcome.seconds))
    } else {
        format!("hashpipe: {}, {ran} ran, {cached} cached; logs: {}", problems.join(", "), logs.display())
    }
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

/// Says what would run, and what is missing for it.
fn dry_run(plan: &Plan, store: &Store, targets: &[TaskId], force: &[TaskId], json: bool) -> Result<u8> {
    let standings = survey(plan, store, targets, force);
    if json {
        for standing in &standings {
            print(&standing.to_json(plan).to_string());
        }
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|standing| {
            let word = match standing.state {
                State::Cached => "cached",
                State::Ready | State::Stale => "run",
                State::Blocked => "unknown",
                State::Missing => "missing",
            };
            vec![word.into(), plan.task(standing.task).name.clone(), standing.because.clone()]
        })
        .collect();
    print(&table(&["would", "task", "because"], &rows));
    needs(plan, &standings);
    let count = |states: &[State]| standings.iter().filter(|s| states.contains(&s.state)).count();
    print(&format!(
        "\n{} cached, {} to run, {} not known before those ran, {} with missing files",
        count(&[State::Cached]),
        count(&[State::Ready, State::Stale]),
        count(&[State::Blocked]),
        count(&[State::Missing])
    ));
    Ok(0)
}

/// The files that tasks with missing inputs need, and where to get them.
fn needs(plan: &Plan, standings: &[Standing]) {
    let mut told = vec![];
    for standing in standings.iter().filter(|standing| standing.state == State::Missing) {
        let task = plan.task(standing.task);
        let wanted =
            (&task.stage, task.inputs.values().filter(|t| matches!(t, Target::Path { .. })).collect::<Vec<_>>());
        if told.contains(&wanted) {
            continue;
        }
        print(&format!("\n{} needs these files:", task.stage));
        told.push(wanted);
        let paths = task.inputs.values().filter_map(|target| match target {
            Target::Path { path, .. } => Some(("named in the pipeline".to_string(), path.clone())),
            Target::Output { .. } => None,
        });
        let rows: Vec<Vec<String>> = paths
            .chain(task.step.needs(&plan.project))
            .map(|(what, path)| {
                let there = if path.exists() { "there" } else { "missing" };
                vec![format!("  {there}"), path.display().to_string(), what]
            })
            .collect();
        if rows.iter().all(|row| row[0].trim() == "there") {
            // The folders are there; what is missing is inside.
            print(&standing.error.as_ref().map_or(String::new(), |error| error.render("error")));
        } else {
            print(&table(&["  ", "path", "what it is"], &rows));
        }
        if let Some(obtain) = &task.obtain {
            print(obtain.trim_end());
        }
    }
}

/// Set when the run was told to end by another signal than Ctrl-C's.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// The exit code of a run that was stopped.
fn stopped_code() -> u8 {
    /// 128 and the number of SIGTERM, as shells have it.
    const TERMINATED_CODE: u8 = 143;
    if TERMINATED.load(Ordering::SeqCst) { TERMINATED_CODE } else { Kind::Interrupted.exit_code() }
}

fn watch_for_interrupts() -> Result<()> {
    /// Presses after which nothing is waited for any more: the tasks end with their runner.
    const AT_ONCE: usize = 3;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::new(Kind::Io, format!("cannot watch for Ctrl-C: {e}")))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            TERMINATED.fetch_or(signal != SIGINT, Ordering::SeqCst);
            if INTERRUPTS.fetch_add(1, Ordering::SeqCst) + 1 >= AT_ONCE {
                std::process::exit(i32::from(stopped_code()));
            }
        }
    });
    Ok(())
}
