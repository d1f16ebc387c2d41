//! The bound on open files: high for us, who hold two for each tunnel; as it was for programs,
//! many of which do foolish things when it is high.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

static BEFORE: OnceLock<(u64, u64)> = OnceLock::new();

/// Raises the bound for this process as far as it may; best effort.
pub(crate) fn raise_descriptor_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        BEFORE.get_or_init(|| (soft, hard));
    }
}

/// Returns the soft and the hard bound to give programs, if ours differs.
pub(crate) fn descriptor_limit_before() -> Option<(u64, u64)> {
    BEFORE.get().copied()
}
