//! The resources that the reference participant serves.

pub mod key_value;
