//! Certificates from files, from the local CA and issued, and handshakes with real clients.

mod authority;
mod files;
mod handshake;
mod issued;
mod world;
