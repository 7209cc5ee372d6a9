//! What this machine can do: the program's own work, measured over and over in turns.
//!
//! A figure is a median over many short turns, after some that do not count. What is compared takes turns with what it
//! is compared with, so that a busy second hits both alike.

mod hash;
mod images;
mod network;
mod retrieval;

pub use hash::hash;
pub use images::images;
pub use network::{Network, network};
pub use retrieval::{Limits, Retrieval};

use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Turns that do not count: buffers are made, clocks go up, files come into memory.
const WARM_UP: usize = 2;

/// Turns at least, however long each takes: fewer have no median worth the name.
const LEAST: usize = 3;

/// Something that can be done again and again.
pub struct Subject<'a> {
    /// What it is, for a table.
    pub name: String,
    /// What a prediction looks for; empty if none does.
    pub speed_of: String,
    /// What is counted: `images`, `bytes`.
    pub unit: &'static str,
    pub threads: usize,
    /// Does some of it; gives how many units that were.
    pub turn: Box<dyn FnMut() -> Result<f64> + 'a>,
    /// Does what cannot be avoided of it, if that can be told apart; gives how many units that stands for.
    pub floor: Option<Box<dyn FnMut() -> Result<f64> + 'a>>,
}

/// What was measured of a subject, in units per second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub name: String,
    /// What a prediction looks for; empty if none does.
    pub speed_of: String,
    pub unit: &'static str,
    pub threads: usize,
    pub median: f64,
    /// A tenth of the turns were slower.
    pub p10: f64,
    /// A tenth of the turns were faster.
    pub p90: f64,
    pub turns: usize,
    /// The most that could be reached if only what cannot be avoided were done.
    pub floor: Option<f64>,
}

/// Lets subjects take turns until each has worked for so long.
///
/// # Errors
/// The first error of any subject.
pub fn measure(subjects: &mut [Subject], enough: Duration) -> Result<Vec<Figures>> {
    let mut rates: Vec<(Vec<f64>, Vec<f64>)> = vec![(vec![], vec![]); subjects.len()];
    let mut worked = vec![Duration::ZERO; subjects.len()];
    for round in 0.. {
        let mut over = true;
        for ((subject, (rates, floors)), worked) in subjects.iter_mut().zip(&mut rates).zip(&mut worked) {
            if *worked >= enough && rates.len() >= LEAST {
                continue;
            }
            over = false;
            let (rate, took) = timed(&mut subject.turn)?;
            if let Some(floor) = &mut subject.floor {
                floors.push(timed(floor)?.0);
            }
            if round >= WARM_UP {
                *worked += took;
                rates.push(rate);
            }
        }
        if over {
            break;
        }
    }
    Ok(subjects.iter().zip(rates).map(|(subject, (rates, floors))| figures(subject, rates, floors)).collect())
}

/// Units per second of one turn, and how long it took.
fn timed(turn: &mut dyn FnMut() -> Result<f64>) -> Result<(f64, Duration)> {
    let began = Instant::now();
    let units = turn()?;
    let took = began.elapsed();
    Ok((units / took.as_secs_f64().max(1e-9), took))
}

fn figures(subject: &Subject, mut rates: Vec<f64>, mut floors: Vec<f64>) -> Figures {
    rates.sort_by(f64::total_cmp);
    floors.sort_by(f64::total_cmp);
    Figures {
        name: subject.name.clone(),
        speed_of: subject.speed_of.clone(),
        unit: subject.unit,
        threads: subject.threads,
        median: quantile(&rates, 0.5),
        p10: quantile(&rates, 0.1),
        p90: quantile(&rates, 0.9),
        turns: rates.len(),
        floor: (!floors.is_empty()).then(|| quantile(&floors, 0.5)),
    }
}

/// A quantile of sorted numbers, between neighbours in proportion; 0 if there are none.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = part * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Threads that work together, so many and no others.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| Error::new(Kind::Io, format!("cannot start {threads} threads")).note(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!([0.0, 0.1, 0.5, 0.9, 1.0].map(|part| quantile(&sorted, part)), [1.0, 1.4, 3.0, 4.6, 5.0]);
        assert_eq!((quantile(&[], 0.5), quantile(&[7.0], 0.9)), (0.0, 7.0));
    }

    #[test]
    fn subjects_take_turns_and_the_first_ones_do_not_count() {
        let order = std::cell::RefCell::new(String::new());
        let subject = |name: &'static str| Subject {
            name: name.into(),
            speed_of: String::new(),
            unit: "things",
            threads: 1,
            turn: Box::new(|| {
                order.borrow_mut().push_str(name);
                Ok(1.0)
            }),
            floor: None,
        };
        let found = measure(&mut [subject("a"), subject("b")], Duration::ZERO).unwrap();
        assert_eq!(order.take(), "ab".repeat(WARM_UP + LEAST));
        assert_eq!(found.iter().map(|figures| figures.turns).collect::<Vec<_>>(), [LEAST, LEAST]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let turns = Cell::new(0);
        let turn = || {
            turns.set(turns.get() + 1);
            if turns.get() < 2 { Ok(1.0) } else { Err(Error::input("no")) }
        };
        let subject = Subject {
            name: "x".into(),
            speed_of: String::new(),
            unit: "things",
            threads: 1,
            turn: Box::new(turn),
            floor: None,
        };
        assert!(measure(&mut [subject], Duration::ZERO).is_err());
        assert_eq!(turns.get(), 2);
    }
}
