//! What kind of trouble an error is; status, retry, log level and metric label follow from it.

use serde::{Deserialize, Serialize};

/// Sorts every error of tarn into one of eight kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request itself is wrong; sending it again cannot help.
    Invalid,
    /// The thing named does not exist for this caller.
    NotFound,
    /// The request contradicts the present state.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// A limit of the project or the cluster is reached.
    Quota,
    /// Something needed is away for the moment; a retry may help.
    Unavailable,
    /// The caller, or a shutdown, withdrew the work.
    Cancelled,
    /// A fault of ours.
    Internal,
}
