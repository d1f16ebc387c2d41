//! The driver on real gVisor. Needs root, and gVisor from `./x setup` and `./x build`.

mod host;
mod life;
