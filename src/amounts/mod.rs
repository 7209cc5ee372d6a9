//! Amounts a person writes (`2GiB`, `90s`), and what a task may want of a machine in them.
//!
//! Knows neither pipelines nor machines, so that the file, a stage's own table and the scheduler speak of the same.

mod bytes;
mod period;
mod wants;

pub use bytes::Bytes;
pub use period::Period;
pub use wants::{CardMemory, Host, Wants};

/// A number and the unit behind it: `1.5` and `GiB`. Nothing if it does not begin with a plain decimal number.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}
