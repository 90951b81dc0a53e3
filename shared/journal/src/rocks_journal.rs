//! The journal on RocksDB, in a folder of its own.
//!
//! Laws:
//! - **Every write is synced, and there is one write at a time.** One column family, so one write-ahead log;
//!   the table is the first byte of the key.
//! - **A log that lost acknowledged batches is refused.** Every batch carries its running number under the
//!   journal's own key, and the HEAD file holds the last one acknowledged ([`crate::head_file`]). RocksDB
//!   itself tolerates a log that ends inside a record, as a crash leaves it, and nothing else.
//! - **A refused log is left as it was found**: it is first opened for reading only, which replays it in
//!   memory; RocksDB's real open writes tables and deletes logs.
//! - **A failed write poisons the journal.** RocksDB can resume from some errors by itself; after a failed
//!   sync the kernel may have dropped the very pages, so nothing here relies on it. What is on disk is
//!   read at the next open, which writes what it recovered into synced tables before it returns.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, ErrorKind, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use handfast_commit_core::mutants::{Mutant, mutant};

use crate::error::{DAMAGE_ADVICE, hex};
use crate::folder::{Folder, unwritable};
use crate::head_file::HeadFile;
use crate::{
    Journal, JournalError, Kind, LogSequence, Mutation, OpenError, Reader, Table, Visit, frame,
};

/// The first byte of the journal's own keys; no table has it.
const OWN_PREFIX: u8 = 0;

/// The journal's own key: its frame holds the number of the last batch, its payload the incarnation.
const OWN_KEY: [u8; 4] = [OWN_PREFIX, b'l', b'o', b'g'];

/// The sizes of a RocksDB journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// What gathers in memory before it becomes a table file, in bytes.
    pub memtable_bytes: usize,
    /// All write-ahead logs together, in bytes; bounds what a start has to replay.
    pub wal_bytes_max: u64,
    /// The cache for table blocks, in bytes.
    pub cache_bytes: usize,
}

impl Default for JournalOptions {
    /// 32 MiB, 192 MiB, 32 MiB. The smaller a memtable, the better the processor's caches hold it, and the more
    /// often it becomes a table.
    fn default() -> Self {
        JournalOptions { memtable_bytes: 32 << 20, wal_bytes_max: 192 << 20, cache_bytes: 32 << 20 }
    }
}

/// A journal in a folder.
#[derive(Debug)]
pub struct RocksJournal {
    shared: Arc<Shared>,
    head: HeadFile,
    /// The last batch.
    sequence: LogSequence,
    write_options: SyncedWrites,
}

/// What the writer and its readers have in common. The fields are dropped in this order: the folder is
/// unlocked when RocksDB has closed it.
struct Shared {
    db: DB,
    /// Why nothing more comes from this journal.
    poison: OnceLock<String>,
    folder: Folder,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("folder", &self.folder)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}

/// RocksDB's write options, with the one setting that matters made once.
struct SyncedWrites(WriteOptions);

impl SyncedWrites {
    fn new() -> Self {
        let mut options = WriteOptions::default();
        options.set_sync(!mutant(Mutant::NoSync));
        SyncedWrites(options)
    }
}

impl std::fmt::Debug for SyncedWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncedWrites")
    }
}

impl RocksJournal {
    /// Opens the journal in `folder`, creating both where they are missing.
    ///
    /// # Errors
    /// [`OpenError`], each variant of which says what to do. A folder that is refused is left as it was.
    pub fn open(folder: &Path, kind: Kind, options: JournalOptions) -> Result<Self, OpenError> {
        RocksJournal::open_with(folder, kind, rocks_options(kind, &options))
    }

    fn open_with(folder: &Path, kind: Kind, mut rocks_options: Options) -> Result<Self, OpenError> {
        let folder = Folder::open(folder, kind)?;
        let exists = folder.has_log()?;
        let expected = if exists {
            let sequence = probe(&folder, &rocks_options)?;
            folder.refuse_behind(sequence)?;
            sequence
        } else {
            let log = folder.log_path();
            fs::create_dir_all(&log).map_err(|source| unwritable(&log, source))?;
            rocks_options.create_if_missing(true);
            LogSequence(0)
        };

        let db = DB::open(&rocks_options, folder.log_path())
            .map_err(|error| refused_by_rocks(&folder, &error))?;
        let sequence = last_sequence(&db, &folder)?;
        if sequence != expected {
            return Err(folder.corrupt(format!(
                "its log ended at batch {expected} when it was read, and at {sequence} when it was opened"
            )));
        }
        let head = folder.start_head(sequence)?;
        tracing::info!(
            folder = %folder.path().display(),
            %sequence,
            incarnation = %format_args!("{:016x}", folder.incarnation()),
            "journal open"
        );
        Ok(RocksJournal {
            shared: Arc::new(Shared { db, poison: OnceLock::new(), folder }),
            head,
            sequence,
            write_options: SyncedWrites::new(),
        })
    }

    /// The number of the last batch.
    pub fn sequence(&self) -> LogSequence {
        self.sequence
    }

    /// Poisons the journal and returns the error that says so.
    fn poison(&self, detail: String) -> JournalError {
        // Only this writer sets it, and only once.
        let _ = self.shared.poison.set(detail.clone());
        JournalError::Write { place: self.shared.place(), detail }
    }
}

impl Journal for RocksJournal {
    fn append(&mut self, batch: &[Mutation]) -> Result<LogSequence, JournalError> {
        self.shared.refuse_poisoned()?;
        if batch.is_empty() {
            return Ok(self.sequence);
        }
        let sequence = LogSequence(self.sequence.0 + 1);
        let mut writes = WriteBatch::default();
        let mut key = Vec::new();
        let mut value = Vec::new();
        // Neighbours in the memtable go in side by side, and each finds its place beside the one before.
        // Of mutations of one key the last one counts: they keep their order.
        let mut sorted: Vec<&Mutation> = batch.iter().collect();
        sorted.sort_by(|a, b| (a.table.prefix(), &a.key).cmp(&(b.table.prefix(), &b.key)));
        for mutation in sorted {
            disk_key(mutation.table, &mutation.key, &mut key);
            match &mutation.value {
                Some(payload) => {
                    value.clear();
                    let prefix = mutation.table.prefix();
                    frame::encode(prefix, &mutation.key, sequence, payload, &mut value);
                    writes.put(&key, &value);
                }
                None => writes.delete(&key),
            }
        }
        value.clear();
        let incarnation = self.shared.folder.incarnation().to_le_bytes();
        frame::encode(OWN_PREFIX, &OWN_KEY, sequence, &incarnation, &mut value);
        writes.put(OWN_KEY, &value);

        if let Err(error) = self.shared.db.write_opt(writes, &self.write_options.0) {
            return Err(self.poison(error.into_string()));
        }
        // The batch is durable. A HEAD that cannot be written would leave it unguarded, on a disk that fails.
        if let Err(error) = self.head.write(sequence) {
            return Err(self.poison(format!("its HEAD file: {error}")));
        }
        self.sequence = sequence;
        Ok(sequence)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(RocksReader(Arc::clone(&self.shared)))
    }
}

impl Drop for RocksJournal {
    /// A clean end leaves a HEAD that does not lag.
    fn drop(&mut self) {
        if self.shared.poison.get().is_none()
            && let Err(error) = self.head.sync()
        {
            tracing::warn!(folder = %self.shared.place(), %error, "the HEAD file could not be synced");
        }
    }
}

/// The reading end.
struct RocksReader(Arc<Shared>);

impl Reader for RocksReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let shared = &self.0;
        shared.refuse_poisoned()?;
        let mut on_disk = Vec::new();
        disk_key(table, key, &mut on_disk);
        match shared.db.get_pinned(&on_disk) {
            Ok(None) => Ok(None),
            Ok(Some(framed)) => match frame::decode(table.prefix(), key, &framed) {
                Ok((_, payload)) => Ok(Some(payload.to_vec())),
                Err(what) => Err(shared.damaged(table, key, what)),
            },
            Err(error) => Err(shared.unread(table, key, &error)),
        }
    }

    fn scan(&self, table: Table, from: &[u8], visit: Visit<'_>) -> Result<(), JournalError> {
        let shared = &self.0;
        shared.refuse_poisoned()?;
        let mut first = Vec::new();
        disk_key(table, from, &mut first);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound([table.prefix() + 1]);
        // A scan of everything would push out what point lookups need.
        options.fill_cache(false);
        let mut iterator = shared.db.raw_iterator_opt(options);
        iterator.seek(&first);
        // For the message, should the iterator itself fail.
        let mut reached = from.to_vec();
        while let Some((on_disk, framed)) = iterator.item() {
            let Some((_, key)) = on_disk.split_first() else {
                return Err(shared.damaged(table, &reached, "the key after it is empty"));
            };
            reached.clear();
            reached.extend_from_slice(key);
            match frame::decode(table.prefix(), key, framed) {
                Ok((_, payload)) => {
                    if visit(key, payload).is_break() {
                        return Ok(());
                    }
                }
                Err(what) => return Err(shared.damaged(table, key, what)),
            }
            iterator.next();
        }
        // An iterator that failed looks like one that has ended.
        iterator.status().map_err(|error| shared.unread(table, &reached, &error))
    }

    fn incarnation(&self) -> u64 {
        self.0.folder.incarnation()
    }
}

impl Shared {
    fn place(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn refuse_poisoned(&self) -> Result<(), JournalError> {
        match self.poison.get() {
            None => Ok(()),
            Some(_) if mutant(Mutant::PoisonIgnored) => Ok(()),
            Some(reason) => {
                Err(JournalError::Poisoned { place: self.place(), reason: reason.clone() })
            }
        }
    }

    fn damaged(&self, table: Table, key: &[u8], what: &str) -> JournalError {
        JournalError::Corrupt {
            place: self.place(),
            table,
            key: hex(key),
            advice: format!("{what}. {DAMAGE_ADVICE}"),
        }
    }

    fn unread(&self, table: Table, key: &[u8], error: &rocksdb::Error) -> JournalError {
        match error.kind() {
            ErrorKind::Corruption => self.damaged(table, key, error.as_ref()),
            _ => JournalError::Read { place: self.place(), detail: error.to_string() },
        }
    }
}

/// Reads the log without changing anything in it, and returns its last batch.
fn probe(folder: &Folder, options: &Options) -> Result<LogSequence, OpenError> {
    let db = DB::open_for_read_only(options, folder.log_path(), false)
        .map_err(|error| refused_by_rocks(folder, &error))?;
    last_sequence(&db, folder)
}

/// The number of the last batch in `db`; 0 in an empty one.
fn last_sequence(db: &DB, folder: &Folder) -> Result<LogSequence, OpenError> {
    let framed = db.get(OWN_KEY).map_err(|error| refused_by_rocks(folder, &error))?;
    let Some(framed) = framed else {
        let mut iterator = db.raw_iterator();
        iterator.seek_to_first();
        iterator.status().map_err(|error| refused_by_rocks(folder, &error))?;
        return if iterator.valid() {
            Err(folder.corrupt("its log holds records, and no batch number".to_owned()))
        } else {
            Ok(LogSequence(0))
        };
    };
    let (sequence, payload) = frame::decode(OWN_PREFIX, &OWN_KEY, &framed)
        .map_err(|what| folder.corrupt(format!("its batch number cannot be read: {what}")))?;
    if payload != folder.incarnation().to_le_bytes() {
        return Err(folder.corrupt(
            "its log and its FORMAT file have different incarnations, so files of two folders are mixed"
                .to_owned(),
        ));
    }
    Ok(sequence)
}

/// What RocksDB's refusal to open means to an operator.
fn refused_by_rocks(folder: &Folder, error: &rocksdb::Error) -> OpenError {
    let text: &str = error.as_ref();
    // A file that the log knows of and that is gone is damage, though the system calls it an I/O error.
    if error.kind() == ErrorKind::IOError && !text.contains("No such file or directory") {
        return unwritable(&folder.log_path(), std::io::Error::other(text.to_owned()));
    }
    folder.corrupt(text.to_owned())
}

fn disk_key(table: Table, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(table.prefix());
    out.extend_from_slice(key);
}

fn rocks_options(kind: Kind, options: &JournalOptions) -> Options {
    const BACKGROUND_JOBS: i32 = 2;
    const OPEN_FILES_MAX: i32 = 256;
    /// Writers wait while so many are full and not yet in tables.
    const MEMTABLES_MAX: i32 = 3;
    /// Most entries are gone before that many tables are there: to merge them earlier is to merge them in vain.
    const TABLES_UNMERGED: i32 = 8;
    const INFO_LOGS: usize = 4;
    const INFO_LOG_BYTES: usize = 1 << 20;
    const BLOOM_BITS_PER_KEY: f64 = 10.0;
    /// Of the memtable's bytes: some ten bits for each of its keys.
    const MEMTABLE_BLOOM: f64 = 0.02;

    let mut rocks = Options::default();
    // What the promise rests on.
    rocks.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    if mutant(Mutant::CorruptionSkipped) {
        rocks.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
    }
    rocks.set_recycle_log_file_num(0);
    rocks.set_manual_wal_flush(false);
    rocks.set_enable_pipelined_write(false);
    rocks.set_unordered_write(false);
    rocks.set_paranoid_checks(true);
    // HEAD guards the end of the newest log only; this guards those before it.
    rocks.set_track_and_verify_wals_in_manifest(true);

    // Sizes.
    rocks.set_write_buffer_size(options.memtable_bytes);
    rocks.set_max_write_buffer_number(MEMTABLES_MAX);
    rocks.set_level_zero_file_num_compaction_trigger(TABLES_UNMERGED);
    if kind == Kind::Coordinator {
        // Most look-ups are for what is not there: a new request, a transaction that has just begun. A participant
        // looks up what is there, and would pay for the filter with each of its writes.
        rocks.set_memtable_whole_key_filtering(true);
        rocks.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM);
    }
    // There is one writer.
    rocks.set_allow_concurrent_memtable_write(false);
    rocks.set_max_total_wal_size(options.wal_bytes_max);
    rocks.set_compression_type(DBCompressionType::None);
    rocks.set_max_background_jobs(BACKGROUND_JOBS);
    rocks.set_max_open_files(OPEN_FILES_MAX);
    rocks.set_log_level(LogLevel::Warn);
    rocks.set_keep_log_file_num(INFO_LOGS);
    rocks.set_max_log_file_size(INFO_LOG_BYTES);
    rocks.set_stats_dump_period_sec(0);
    rocks.set_stats_persist_period_sec(0);

    let mut blocks = BlockBasedOptions::default();
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    blocks.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    rocks.set_block_based_table_factory(&blocks);
    rocks
}

#[cfg(test)]
mod tests {
    use rocksdb::statistics::Ticker;

    use super::*;

    /// A process that is killed loses nothing unsynced, so only the syncs themselves can be counted.
    #[test]
    fn every_append_is_one_sync() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = rocks_options(Kind::Coordinator, &JournalOptions::default());
        options.enable_statistics();
        let mut journal =
            RocksJournal::open_with(folder.path(), Kind::Coordinator, options.clone()).unwrap();
        let syncs = || options.get_ticker_count(Ticker::WalFileSynced);
        let before = syncs();
        for n in 1..=10 {
            let batch = [Mutation::put(Table::Live, "a", "1"), Mutation::delete(Table::Meta, "b")];
            assert_eq!(journal.append(&batch), Ok(LogSequence(n)));
            assert_eq!(syncs() - before, n);
        }
        journal.append(&[]).unwrap();
        assert_eq!(syncs() - before, 10);
    }
}
