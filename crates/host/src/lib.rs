//! The traits behind which a node's host lies: [`Images`], [`Layers`],
//! [`Slots`], [`Captures`], [`Archive`] and [`Gpus`].
//!
//! A node asks for a root file system and a network place; it never learns how they are made.
//! [`sim`] holds in-memory versions with the same manners, so a node of simulated parts needs no
//! root.

mod archive;
mod gpu;
mod image;
mod layer;
pub mod sim;
mod slot;
mod snapshot;

pub use archive::{Archive, ArchiveError, Archived, Collected, OnProgress, Progress};
pub use gpu::{GpuDevice, GpuError, Gpus};
pub use image::{
    ImageError, ImageHold, ImageHolds, Images, PullProgress, PullTrouble, Removal, StoredImage,
    Template,
};
pub use layer::{LayerError, Layers, PoolSpace, RootFs};
pub use slot::{Slot, SlotError, SlotId, Slots};
pub use snapshot::{Capture, CaptureDraft, CaptureError, CaptureName, Captures};
