//! What a sandbox may reach.

use serde::{Deserialize, Serialize};

/// Says what a sandbox may reach (spec 07). Private ranges, the host and other sandboxes are
/// closed whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressPolicy {
    /// Whether the internet, and with it our resolver, is open. Default: true.
    pub allow_internet_access: bool,
}

impl EgressPolicy {
    /// Nothing may be reached.
    pub const CLOSED: Self = Self { allow_internet_access: false };
    /// The internet may be reached: what a create without `network` gets.
    pub const OPEN: Self = Self { allow_internet_access: true };
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self::OPEN
    }
}
