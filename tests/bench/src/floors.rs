//! The floors: how fast this machine is at the things that a transaction cannot do without.
//!
//! Closed loops, with a fixed number in flight: the disk alone (append and fdatasync), the disk through
//! RocksDB, and the wire alone (small messages echoed over one gRPC stream). Each log has one writer that
//! gathers whatever has queued while the sync before ran.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use handfast_wire::v1;
use handfast_wire::v1::coordinator_message::Message;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use tokio_stream::StreamExt;

use crate::log::{Disk, Entry, Log, Rocks};
use crate::outbox::Outbox;
use crate::serve::Served;

/// What is appended for each write; about what a transaction's records take.
const RECORD: [u8; 200] = [b'f'; 200];
/// For a time before anything is counted.
const WARM_UP_PART: u32 = 5;

/// A file that is appended to.
struct Appended {
    file: File,
    buffer: Vec<u8>,
}

impl Disk for Appended {
    fn write(&mut self, batch: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        self.buffer.clear();
        for (_, value) in batch {
            self.buffer.extend_from_slice(value);
        }
        self.file.write_all(&self.buffer)?;
        Ok(self.file.sync_data()?)
    }
}

/// Appends and syncs of a plain file, each second.
///
/// # Errors
/// When the file cannot be made.
pub fn fdatasync(folder: &Path, in_flight: usize, time: Duration) -> anyhow::Result<f64> {
    std::fs::create_dir_all(folder)?;
    let file = File::create(folder.join("floor"))
        .with_context(|| format!("{} cannot be written", folder.display()))?;
    written(Appended { file, buffer: Vec::new() }, in_flight, time)
}

/// Synced writes through RocksDB, each second.
///
/// # Errors
/// When it cannot be opened.
pub fn rocksdb(folder: &Path, in_flight: usize, time: Duration) -> anyhow::Result<f64> {
    written(Rocks::open(folder)?, in_flight, time)
}

fn written(disk: impl Disk, in_flight: usize, time: Duration) -> anyhow::Result<f64> {
    let (durable, done) = mpsc::channel();
    let log = Log::start(disk, move |batch: Vec<u64>| drop(durable.send(batch)))?;
    let entry = |number: u64| {
        let mut key = [b'f'; 9];
        key[1..].copy_from_slice(&number.to_be_bytes());
        Entry { key, value: Bytes::from_static(&RECORD), then: number }
    };
    let mut next = 0;
    let mut submit = |count: usize| {
        // One by one: each stands for a writer of its own.
        for _ in 0..count {
            log.submit(vec![entry(next)]);
            next += 1;
        }
    };
    submit(in_flight);
    let mut counted = Counted::new(time);
    while !counted.over() {
        let batch = done.recv().context("the log has ended")?;
        counted.add(batch.len());
        submit(batch.len());
    }
    Ok(counted.per_second())
}

/// Messages echoed over one stream of a server in this process, each second.
///
/// # Errors
/// When the port cannot be had.
pub async fn echo(folder: &Path, in_flight: usize, time: Duration) -> anyhow::Result<f64> {
    let served = Served::on_a_thread(folder)?;
    let channel = served.connect().await?;
    let mut client = ParticipantServiceClient::new(channel);
    let (outbox, frames) = Outbox::new();
    let frames = frames.map(|messages| v1::SessionRequest { hello: None, messages, origin: None });
    let mut incoming = client.session(frames).await?.into_inner();
    incoming.message().await?.context("no welcome")?;
    // The one thing that the skeleton's participant answers without a write.
    let message = || {
        let abort = v1::AbortRequest {
            transaction_id: "0000-02-0000000001-0000000000000001".to_owned(),
            origin: None,
            participant: "echo".to_owned(),
        };
        v1::CoordinatorMessage { message: Some(Message::Abort(abort)) }
    };
    outbox.push_all((0..in_flight).map(|_| message()).collect());
    let mut counted = Counted::new(time);
    while !counted.over() {
        let frame = incoming.message().await?.context("the echo has ended")?;
        counted.add(frame.messages.len());
        outbox.push_all(frame.messages.iter().map(|_| message()).collect());
    }
    Ok(counted.per_second())
}

/// Counts for a time, after a part of it has gone by.
struct Counted {
    begin: Instant,
    end: Instant,
    count: usize,
    last: Instant,
}

impl Counted {
    fn new(time: Duration) -> Self {
        let begin = Instant::now() + time / WARM_UP_PART;
        Self { begin, end: begin + time, count: 0, last: begin }
    }

    fn over(&self) -> bool {
        self.last >= self.end
    }

    fn add(&mut self, count: usize) {
        let now = Instant::now();
        if now >= self.begin {
            self.count += count;
            self.last = now;
        }
    }

    fn per_second(&self) -> f64 {
        self.count as f64 / (self.last - self.begin).as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn every_floor_counts_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        assert!(fdatasync(&at("file"), 4, SHORT).expect("a floor") > 0.0);
        assert!(rocksdb(&at("rocksdb"), 4, SHORT).expect("a floor") > 0.0);
        assert!(echo(&at("echo"), 4, SHORT).await.expect("a floor") > 0.0);
    }
}
