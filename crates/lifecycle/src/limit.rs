//! Time limits (spec 01 §7).

use tarn_types::{Launch, UnixMillis};

/// What a sandbox's `timeout_secs` means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing ends it.
    None,
    /// It ends at this time: the absolute clock of an ephemeral sandbox, from `running` on.
    EndsAt(UnixMillis),
    /// It is suspended at this time: the absolute clock of a sandbox claimed from a pool, from its
    /// claim on, or from where it last went on.
    SuspendsAt(UnixMillis),
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
    match (launch.timeout_secs, launch.named, launch.claimed_at) {
        (0, _, _) => Limit::None,
        (secs, true, _) => Limit::SuspendsWhenIdle { secs },
        (secs, false, None) => Limit::EndsAt(running_at.plus_secs(secs)),
        // It may have run long before.
        (secs, false, Some(claimed_at)) => {
            Limit::SuspendsAt(running_at.max(claimed_at).plus_secs(secs))
        }
    }
}
