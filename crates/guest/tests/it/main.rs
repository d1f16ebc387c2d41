//! The real `tarnd` on loopback, driven over HTTP: every route, and every way to be refused.

mod access;
mod copy;
mod daemon;
mod file;
mod follow;
mod hostile;
mod load;
mod logs;
mod managed;
mod pressure;
mod process;
mod pty;
mod rootfs;
mod run;
mod seal;
mod tree;
mod tunnel;
mod websocket;
