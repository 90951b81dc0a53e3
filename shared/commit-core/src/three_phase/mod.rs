#![doc = include_str!("../../docs/three_phase.md")]

mod ballot;
pub(crate) mod coordinator;
pub(crate) mod decided;
pub(crate) mod delivering;
mod leader;
pub(crate) mod participant;
mod seat;
mod site;
mod sites;
mod view;
pub(crate) mod witness;

pub use ballot::Ballot;
pub use site::{Site, Standing};
pub use sites::{SiteName, SiteNumber, Sites, Witness};
pub use view::SiteView;
