//! The targets: functions that take any bytes, and must not panic, nor break what they claim.

pub(crate) mod command_line;
pub(crate) mod configuration;
pub(crate) mod coordinator;
pub(crate) mod folder;
pub(crate) mod frames;
pub(crate) mod key_value;
pub(crate) mod participant;
pub(crate) mod records;
pub(crate) mod recovery;
pub(crate) mod services;
pub(crate) mod wire;
