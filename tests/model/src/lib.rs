#![doc = include_str!("../README.md")]

pub mod action;
pub mod bounds;
pub mod check;
pub mod configurations;
mod coordinator_host;
mod graph;
pub mod lies;
pub mod log;
pub mod marks;
mod model;
pub mod network;
mod participant_host;
pub mod properties;
mod saturate;
mod sites;
pub mod state;
mod story;
mod witness_host;
pub mod world;
