//! Supervised tasks, and the seams through which time and randomness enter.
//!
//! Everything that runs in the background is spawned through [`Tasks`]: it has a name, it is
//! counted, and shutdown can wait for it. Rules and tests take a [`Clock`] and an [`Entropy`]
//! instead of asking the machine.

mod clock;
mod entropy;
mod tasks;

pub use clock::{Clock, ManualClock, SystemClock};
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use tasks::Tasks;
