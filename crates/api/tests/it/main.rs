//! The crate against what stands beside it in the tree.

mod error_page;
