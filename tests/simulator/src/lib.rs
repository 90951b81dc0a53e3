//! The simulator: a world of processes, networks, disks and clocks that one seed decides, around the
//! production code.
//!
//! What runs is the product's own: the state machines of `handfast_commit_core`, the driver, the log writer
//! and the journal contract (on [`MemoryDisk`](handfast_journal::MemoryDisk)), the coordinator's and the
//! participant's shards with their recovery, and the key-value store with its locks. What is simulated is
//! everything that they touch: messages, sessions, syncs, time, crashes, and the clients. One world is one
//! thread; nothing in it reads a clock, a random device or the order of a hash map, so that equal seeds give
//! equal runs, byte for byte.
//!
//! A run goes like this: the seed draws a [`Swarm`](swarm::Swarm) (how many processes, which faults and how
//! often), clients run their transactions while the faults happen, and the [`Oracle`](oracle::Oracle) checks
//! after every event what must always be true. Then all faults stop, everybody is started again, and every
//! transaction must end: nothing in doubt, no lock held, no decision kept for others, no money lost, the history
//! serializable.
//!
//! In two of three runs some transactions are committed in three phases, beside those of two: the participants, the
//! coordinator and, in some runs, witnesses are then voting sites, which reach each other over the same network.
//! Whoever begins an election may be killed for it, and the coordinator may stay away for long.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`world`] | the event loop; its parts are one side each: coordinator, participants, voting sites, clients, faults, healing |
//! | [`coordinator`], [`participant`] | one process each, around the production code |
//! | [`swarm`], [`faults`] | what the seed draws; what has been injected |
//! | [`oracle`] | what must always be true |
//! | [`trace`], [`diagram`] | what happened, for people |
//! | [`report`] | many seeds on several threads, progress and totals |

pub mod client;
pub mod coordinator;
pub mod diagram;
pub mod event;
pub mod faults;
pub mod oracle;
pub mod outbox;
pub mod participant;
pub mod random;
pub mod report;
pub mod swarm;
pub mod trace;
pub mod world;
