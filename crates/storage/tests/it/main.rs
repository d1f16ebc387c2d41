//! The pool and its layers on real loop devices, XFS and overlays. Needs root.

mod layer;
mod pool;
mod stage;
