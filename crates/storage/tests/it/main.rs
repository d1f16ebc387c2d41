//! The pool and its layers on real loop devices, XFS and overlays. Needs root.

mod capture;
mod clone;
mod layer;
mod pool;
mod stage;
