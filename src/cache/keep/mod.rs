//! Housekeeping: what the cache holds, what may go, and whether what is there is what it should be.

mod choose;
mod gc;
mod inventory;
mod item;
mod leftovers;
mod limits;
mod pins;
mod usage;
mod verify;

pub use gc::{Freed, Request, gc, gc_after_run};
pub use item::{Item, What};
pub use leftovers::GRACE;
pub use limits::Limits;
pub use usage::{StageUsage, Usage, usage};
pub use verify::{Fault, Verified, verify};
