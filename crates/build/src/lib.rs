//! What a Dockerfile means: its stages, what each instruction does to a file system and to an
//! image's configuration, and the key under which the outcome can be used again.
//!
//! Pure: no I/O, no clock. Who runs a command or copies a file is none of its business; it says
//! which. The format is that of the Dockerfile reference of Docker, version 1, without
//! `RUN --mount`; what is not understood is refused with its line, never passed over.
//!
//! ```text
//!  text ──▶ Dockerfile (stages of instructions) ──▶ StageState::apply ──▶ Effect ──▶ CacheKey
//! ```

mod context;
mod dockerfile;
mod effect;
mod error;
mod expand;
mod key;
mod lex;
mod pattern;
mod stage;
mod tally;

pub use context::{ContextIndex, ContextNode, MAX_PATH, NodeKind, Picked, Selection};
pub use dockerfile::{Base, Dockerfile, Stage};
pub use effect::{Copy, CopyFrom, Effect, Inline, Run};
pub use error::DockerfileError;
pub use key::CacheKey;
pub use pattern::Pattern;
pub use stage::{BuildConfig, StageState};
