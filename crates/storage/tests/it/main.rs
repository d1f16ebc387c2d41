//! The pool and its layers on real loop devices, XFS and overlays. Needs root.

mod archive;
mod capture;
mod clone;
mod grow;
mod layer;
mod pool;
mod s3;
mod stage;
