//! A participant as it is served: a real folder, real connections, the key-value store, and a
//! coordinator that does exactly what a test wants.

mod ballots;
mod elections;
mod enlisting;
mod fake;
mod in_doubt;
mod log;
mod peers;
mod pre_commit;
mod serving;
mod sessions;
mod site;
mod three_phase;
mod unary;
mod voting;
