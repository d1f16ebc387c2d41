//! Pulls from a registry in this process, imports from files, and hostile images by either way.
//! Needs root: images say whom their files belong to.
#![cfg(test)]

mod cut;
mod hostile;
mod image;
mod import;
mod layers;
mod login;
mod mirror;
mod mutation;
mod pull;
mod registry;
mod tar;
mod wrong;
