//! The skeleton's log: RocksDB, one thread that writes, one sync for whatever has queued.
//!
//! Opened as the product's journal opens it (one column family, no compression, the same sizes, every write
//! synced), and nothing on top: no checksums of its own, no sequence, no HEAD file, nothing that is read.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use rocksdb::{DB, DBCompressionType, DBRecoveryMode, LogLevel, Options, WriteBatch, WriteOptions};

const MEMTABLE_BYTES: usize = 32 << 20;
const MEMTABLES_MAX: i32 = 3;
const TABLES_UNMERGED: i32 = 8;
const WAL_BYTES_MAX: u64 = 192 << 20;
const BACKGROUND_JOBS: i32 = 2;

/// A write, and what may be done when it is durable.
#[derive(Debug)]
pub struct Entry<C> {
    pub key: [u8; 9],
    pub value: Bytes,
    pub then: C,
}

/// The submitting end. The writer ends when the last one is gone.
#[derive(Debug)]
pub struct Log<C> {
    queue: Arc<Queue<C>>,
}

#[derive(Debug)]
struct Queue<C> {
    state: Mutex<State<C>>,
    news: Condvar,
}

#[derive(Debug)]
struct State<C> {
    queued: Vec<Entry<C>>,
    /// The writer sleeps; waking it costs a system call, which is made only then.
    asleep: bool,
    closed: bool,
}

/// What a batch is written to, and synced.
pub trait Disk: Send + 'static {
    /// Returns when every value is durable.
    ///
    /// # Errors
    /// When they may not be.
    fn write(&mut self, batch: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()>;
}

/// RocksDB in a folder.
pub struct Rocks {
    db: DB,
    options: WriteOptions,
}

impl Rocks {
    /// Opens it as the product's journal is opened.
    ///
    /// # Errors
    /// RocksDB's own.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_recycle_log_file_num(0);
        options.set_enable_pipelined_write(false);
        options.set_write_buffer_size(MEMTABLE_BYTES);
        options.set_max_write_buffer_number(MEMTABLES_MAX);
        options.set_level_zero_file_num_compaction_trigger(TABLES_UNMERGED);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_max_background_jobs(BACKGROUND_JOBS);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let db = DB::open(&options, folder)
            .with_context(|| format!("{} cannot be opened", folder.display()))?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(Self { db, options })
    }
}

impl Disk for Rocks {
    fn write(&mut self, batch: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let mut writes = WriteBatch::default();
        for (key, value) in batch {
            writes.put(key, value);
        }
        Ok(self.db.write_opt(writes, &self.options)?)
    }
}

impl<C: Send + 'static> Log<C> {
    /// Writes to `disk`. `on_durable` is called on the writer's thread with all that one sync has made
    /// durable.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        mut disk: impl Disk,
        mut on_durable: impl FnMut(Vec<C>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let state = State { queued: Vec::new(), asleep: false, closed: false };
        let queue = Arc::new(Queue { state: Mutex::new(state), news: Condvar::new() });
        let taken = Arc::clone(&queue);
        std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            while let Some(entries) = taken.take() {
                let mut batch = entries.iter().map(|entry| (&entry.key[..], &entry.value[..]));
                if let Err(error) = disk.write(&mut batch) {
                    eprintln!("handfast-skeleton: the log has failed: {error:#}");
                    std::process::exit(1);
                }
                on_durable(entries.into_iter().map(|entry| entry.then).collect());
            }
        })?;
        Ok(Self { queue })
    }

    /// Queues writes and returns.
    pub fn submit(&self, entries: Vec<Entry<C>>) {
        if entries.is_empty() {
            return;
        }
        let mut state = self.queue.lock();
        match state.queued.is_empty() {
            true => state.queued = entries,
            false => state.queued.extend(entries),
        }
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.queue.news.notify_one();
        }
    }
}

impl<C> Drop for Log<C> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.news.notify_one();
    }
}

impl<C> Queue<C> {
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        // The state is whole between any two of its calls, whoever panicked in between.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that has queued; waits for the first. `None`: nothing will come any more.
    fn take(&self) -> Option<Vec<Entry<C>>> {
        let mut state = self.lock();
        while state.queued.is_empty() {
            if state.closed {
                return None;
            }
            state.asleep = true;
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        Some(std::mem::take(&mut state.queued))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_submitted_is_durable_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, durable) = mpsc::channel();
        let disk = Rocks::open(folder.path()).expect("an empty folder");
        let log = Log::start(disk, move |done: Vec<u64>| drop(sender.send(done)));
        let log = log.expect("a thread");
        let entry = |number: u64| {
            let mut key = [0; 9];
            key[1..].copy_from_slice(&number.to_be_bytes());
            Entry { key, value: Bytes::from_static(b"v"), then: number }
        };
        log.submit((0..3).map(entry).collect());
        log.submit((3..5).map(entry).collect());
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(durable.recv_timeout(Duration::from_secs(30)).expect("durable"));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        drop(log);
        // The writer has ended, and closed the database, when its sender is gone.
        assert!(durable.recv_timeout(Duration::from_secs(30)).is_err());
        let db = DB::open_for_read_only(&Options::default(), folder.path(), false);
        let mut last = [0; 9];
        last[8] = 4;
        assert_eq!(db.expect("closed").get(last).expect("readable").as_deref(), Some(&b"v"[..]));
    }
}
