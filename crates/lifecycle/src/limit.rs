//! Time limits (spec 01 §7).

use tarn_types::{Launch, UnixMillis};

/// What a sandbox's `timeout_secs` means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing ends it.
    None,
    /// It ends at this time: the absolute clock of an ephemeral sandbox, from `running` on.
    EndsAt(UnixMillis),
    /// It is suspended after so many idle seconds: the clock of a named sandbox. As long as there
    /// is no suspend, such a sandbox stays running; ending it would lose what its name promises.
    SuspendsWhenIdle {
        /// The idle time, in seconds.
        secs: u64,
    },
}

/// Returns the limit of a sandbox that began to run at `running_at`.
#[must_use]
pub fn limit(launch: &Launch, running_at: UnixMillis) -> Limit {
    match (launch.timeout_secs, launch.named) {
        (0, _) => Limit::None,
        (secs, true) => Limit::SuspendsWhenIdle { secs },
        (secs, false) => Limit::EndsAt(running_at.plus_secs(secs)),
    }
}
