//! Certificates from files and from the local CA, and handshakes with real clients.

mod authority;
mod files;
mod handshake;
mod world;
