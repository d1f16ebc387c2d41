//! Builds of images: from a Dockerfile and its context, or from a registry, to a registered image
//! (spec 06 §2).
//!
//! ```text
//!  create ─▶ awaiting_context ─(upload, seal)─▶ executing ─▶ publishing ─▶ succeeded
//!                 │ (30 min)                      │             │
//!                 └──────▶ cancelled ◀──(cancel)──┴──▶ failed ◀─┘
//! ```
//!
//! A build runs in ordinary sandboxes of its project, under the project's limits, quota and
//! network; nothing on the host opens a path of theirs or runs a command of a Dockerfile. What a
//! step leads to is kept as a snapshot, which is a clone of a layer, under the key that
//! `tarn-build` makes; a step that is kept is not run, and a build all of whose steps are kept
//! starts no sandbox.
//!
//! [`Builder`] is the service; `engine` walks through the stages over the trait `Workshop`, and
//! `site` is that trait over sandboxes.

mod aside;
mod context;
mod daemon;
mod engine;
mod journal;
mod service;
mod site;
mod workshop;

pub use service::{
    BuildAsk, BuildSource, BuildView, Builder, BuilderConfig, BuilderError, Cancel, LegacyAsk,
    LoginReader, Upload,
};
