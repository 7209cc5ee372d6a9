//! The promises of the runner, each with a test of its own, on real processes; see `README.md` beside this file.

/// Two runs and their readers at once, and a disk that is full.
mod company;
/// What a command must have written, and where it is put.
mod contracts;
/// What is changed in the cache, or lost, or torn.
mod damage;
/// What is edited, replaced and swapped, before a stage runs and while it does.
mod edits;
/// Tasks and runs that fail, are killed, or take too long.
mod endings;
/// Runs killed at random moments.
mod fuzz;
/// GPUs as a driver tells of them.
mod gpus;
/// One task that reads all points of a sweep.
mod gathering;
/// Trainings that go on from where others ended.
mod growing;
/// Plain runs with nothing to do.
mod idle;
/// What changes a key, and what does not, over generated stages.
mod keys;
/// Threads that are lent to running tasks.
mod lending;
/// Parameters that stages got later.
mod late;
/// Going runs, commands that wait, and what is left of both.
mod scene;
/// What a command sees of the world.
mod sealing;
/// Threads, memory and GPUs: who gets them, and when.
mod sharing;
/// A temporary project, and hashpipe run in it as a user would.
#[path = "../it/space.rs"]
#[expect(dead_code, reason = "the other tests use the rest of it")]
mod space;
/// What dry runs, explanations, states and records say.
mod telling;
