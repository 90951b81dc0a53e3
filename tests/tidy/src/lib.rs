//! What the checks of the tree share: the list of its files, and a view of Rust source without
//! comments and text.
//!
//! The checks themselves are tests, one file per theme in `tests/`. Each is a pure function from a
//! path and a text to a list of complaints; its neighbours show on small inputs that it can fail; and
//! one test applies it to the whole tree. A complaint names the place and says the cure.
//!
//! Absent on purpose: dependencies (so that the checks run before anything else is built), and any
//! opinion that rustfmt, clippy or rustc already has.

pub mod manifest;
pub mod source;
pub mod tree;
