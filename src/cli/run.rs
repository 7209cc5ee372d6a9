//! `hashpipe run`: bring a pipeline up to date.

use super::{Folders, Pipeline};
use crate::cache::{Actions, Results, Standing, State, Store, Watch, survey};
use crate::error::{Error, Result};
use crate::plan::{Plan, Target, TaskId};
use crate::report::{Screen, Summary, duration, materialise, plural, print, screen, table};
use crate::schedule::{self, Asked, Gpus, INTERRUPTS, Machine, Options, Outcome, check_gpus};
use clap::Args;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
}

pub(super) fn run(arguments: &Arguments) -> Result<u8> {
    let plan = arguments.pipeline.plan()?;
    let uses = plan.tasks.iter().map(schedule::use_of_gpu);
    check_gpus(arguments.gpus.as_ref(), uses)?;
    let targets = targets(&plan, arguments)?;
    let force = select(&plan, &arguments.force)?;
    if arguments.dry_run {
        return dry_run(&plan, &arguments.folders.reader(&plan), &targets, &force, arguments.json);
    }
    let store = Store::open(&arguments.folders.cache(&plan))?;
    let output = arguments.folders.output(&plan);
    let watch = Arc::new(Watch::default());
    watch_for_interrupts(watch.clone())?;
    let asked = Asked { jobs: arguments.jobs.map(usize::from), gpus: arguments.gpus.clone(), host: plan.host };
    let options = Options {
        machine: Machine::find(&asked)?,
        keep_going: arguments.keep_going,
        targets,
        force,
        no_wait: arguments.no_wait,
        watch,
        run: String::new(),
        logs: output.join("log"),
    };
    let mut screen = screen(arguments.json);
    let outcome = schedule::run(&plan, &store, &options, &mut |event| screen.show(event))?;
    for warning in materialise(&plan, &store, &outcome.results, &output)? {
        screen.say(&warning.render("warning"));
    }
    let actions = records(&plan, &store, &everything(&plan, &store, &outcome));
    let summary = Summary::new(&plan, &actions, &output);
    finish(&summary, &outcome, &output, arguments.json, screen.as_mut())?;
    Ok(outcome.exit_code())
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

/// Writes the report, shows the table if anything ran, and says the last line.
fn finish(summary: &Summary, outcome: &Outcome, output: &Path, json: bool, screen: &mut dyn Screen) -> Result<()> {
    use schedule::State::{Blocked, Cached, Done, Failed, Stopped};
    let mut place = String::new();
    if !summary.is_empty() {
        place = format!("; {}", summary.write()?.display());
        if json {
            print(&summary.to_json().to_string());
        } else if outcome.states.count(Done) > 0 {
            print(&summary.to_text());
        }
    }
    let count = |state| outcome.states.count(state);
    let (ran, cached) = (count(Done), count(Cached));
    let problems: Vec<String> = [(Failed, "failed"), (Blocked, "blocked"), (Stopped, "stopped or not started")]
        .iter()
        .filter(|(state, _)| count(*state) > 0)
        .map(|(state, word)| format!("{} {word}", count(*state)))
        .collect();
    if ran == 0 && problems.is_empty() {
        screen.say(&format!("hashpipe: nothing to do, {} cached{place}", plural(cached, "task")));
    } else if problems.is_empty() {
        screen.say(&format!(
            "hashpipe: ran {} in {}, {cached} cached{place}",
            plural(ran, "task"),
            duration(outcome.seconds)
        ));
    } else {
        let logs = output.join("log");
        screen.say(&format!("hashpipe: {}, {ran} ran, {cached} cached; logs: {}", problems.join(", "), logs.display()));
    }
    Ok(())
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
            print(&standing.to_json(plan, store).to_string());
        }
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|standing| vec![would(standing).into(), plan.task(standing.task).name.clone(), standing.because.clone()])
        .collect();
    print(&table(&["would", "task", "because"], &rows));
    needs(plan, &standings);
    let count = |word: &str| standings.iter().filter(|standing| would(standing) == word).count();
    print(&format!(
        "\n{} cached, {} to run, {} not known before those ran, {} with missing files",
        count("cached"),
        count("run"),
        count("unknown"),
        count("missing")
    ));
    Ok(0)
}

/// What a run would do with a task.
fn would(standing: &Standing) -> &'static str {
    match (standing.state, standing.runs) {
        (State::Missing, _) => "missing",
        (_, Some(true)) => "run",
        (_, Some(false)) => "cached",
        (_, None) => "unknown",
    }
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

fn watch_for_interrupts(watch: Arc<Watch>) -> Result<()> {
    /// Presses after which nothing is waited for any more: the tasks end with their runner.
    const AT_ONCE: usize = 3;
    ctrlc::set_handler(move || {
        watch.stop();
        if INTERRUPTS.fetch_add(1, Ordering::SeqCst) + 1 >= AT_ONCE {
            std::process::exit(i32::from(crate::error::Kind::Interrupted.exit_code()));
        }
    })
    .map_err(|e| Error::new(crate::error::Kind::Io, format!("cannot watch for Ctrl-C: {e}")))
}
