//! Slots on real namespaces: each test has a whole host to itself, which needs root.

mod dns;
mod egress;
mod host;
mod ipv6;
mod lifetime;
mod limits;
mod log;
mod reach;
mod table;
mod timing;
mod turnover;
