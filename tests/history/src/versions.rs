//! The order of every key's versions, read off a history, and what is wrong without any cycle.
//!
//! A version is the last write of a committed transaction to a key. Its predecessor is what that transaction
//! read of the key before it wrote; the first version of each key is that there is none.

use std::collections::HashMap;

use crate::history::{
    Action, History, Instant, Key, NEVER, Operation, Outcome, Ticket, Value, number,
};
use crate::story;
use crate::violation::{Anomaly, Violation};

/// The number of a version. The first ones are the absences, by key.
pub(crate) type VersionId = u32;

#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) key: Key,
    /// `None`: the key is absent.
    pub(crate) value: Option<Value>,
    pub(crate) writer: Option<Ticket>,
    pub(crate) previous: Option<VersionId>,
    pub(crate) next: Option<VersionId>,
    /// The predecessor was not read by the writer but concluded.
    pub(crate) concluded: bool,
}

/// A write as it was recorded.
#[derive(Debug, Clone, Copy)]
struct Write {
    ticket: Ticket,
    /// The transaction wrote the key no more after this.
    last: bool,
    version: Option<VersionId>,
}

type Writes = HashMap<(Key, Value), Write>;

#[derive(Debug)]
pub(crate) struct Versions {
    pub(crate) all: Vec<Version>,
    /// Which committed transaction read which version of others.
    pub(crate) readers: Vec<(VersionId, Ticket)>,
    committed: Vec<bool>,
    unplaced: usize,
    reads: usize,
}

/// What one transaction did with one key: its first read, if that came before its writes, and its last write.
#[derive(Debug, Clone, Copy)]
struct Use {
    key: Key,
    /// What of others it saw.
    read: Option<Option<Value>>,
    /// What it must see from now on.
    sees: Option<Value>,
    wrote: Option<Value>,
}

/// The operations of each transaction, in their order.
struct Grouped {
    operations: Vec<Operation>,
    starts: Vec<usize>,
}

impl Grouped {
    fn new(history: &History) -> Self {
        let mut starts = vec![0; history.transactions.len() + 1];
        for operation in &history.operations {
            starts[operation.ticket.0 as usize + 1] += 1;
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut free = starts.clone();
        let mut operations = history.operations.clone();
        for operation in &history.operations {
            let place = &mut free[operation.ticket.0 as usize];
            operations[*place] = *operation;
            *place += 1;
        }
        Self { operations, starts }
    }

    fn of(&self, ticket: Ticket) -> &[Operation] {
        let index = ticket.0 as usize;
        &self.operations[self.starts[index]..self.starts[index + 1]]
    }
}

/// Finds the [`Use`] of a key in constant time, for one transaction after the other.
struct Uses {
    /// For each key the round in which it was used last, and where its use is.
    places: Vec<(u32, u32)>,
    uses: Vec<Use>,
    round: u32,
}

impl Uses {
    fn new(keys: usize) -> Self {
        Self { places: vec![(0, 0); keys], uses: Vec::new(), round: 0 }
    }

    /// What a transaction did with each key; and the first operation that contradicts an earlier one.
    fn collect(&mut self, operations: &[Operation]) -> (&[Use], Option<Operation>) {
        self.uses.clear();
        self.round += 1;
        let mut contradiction = None;
        for operation in operations {
            let Operation { key, action, .. } = *operation;
            let place = &mut self.places[key.0 as usize];
            if place.0 != self.round {
                *place = (self.round, number(self.uses.len()));
                self.uses.push(Use { key, read: None, sees: None, wrote: None });
            }
            let used = &mut self.uses[place.1 as usize];
            match action {
                Action::Write(value) => {
                    used.wrote = Some(value);
                    used.sees = Some(value);
                }
                Action::Read(value) if used.read.is_none() && used.wrote.is_none() => {
                    used.read = Some(value);
                    used.sees = value;
                }
                Action::Read(value) if value != used.sees => {
                    contradiction = contradiction.or(Some(*operation));
                }
                Action::Read(_) => {}
            }
        }
        (&self.uses, contradiction)
    }
}

impl Versions {
    /// Infers everything that can be.
    ///
    /// # Errors
    /// What is wrong already.
    pub(crate) fn infer(history: &History) -> Result<Self, Violation> {
        for (index, transaction) in history.transactions.iter().enumerate() {
            if transaction.contradicted {
                let story = "the client was told both an abort and a commit".to_owned();
                let ticket = Ticket(number(index));
                return Err(story::of_few(history, Anomaly::Contradiction, &[ticket], &[], &story));
            }
        }
        let grouped = Grouped::new(history);
        let mut uses = Uses::new(history.keys.len());
        let mut writes = collect_writes(history)?;
        let committed = committed(history, &grouped, &mut uses, &writes);
        let roots = (0..number(history.keys.len())).map(|key| Version {
            key: Key(key),
            value: None,
            writer: None,
            previous: None,
            next: None,
            concluded: false,
        });
        let mut versions =
            Self { all: roots.collect(), readers: Vec::new(), committed, unplaced: 0, reads: 0 };
        for operation in &history.operations {
            versions.add_version(operation, &mut writes);
        }
        let mut blind = Vec::new();
        for index in 0..history.transactions.len() {
            if versions.committed[index] {
                let ticket = Ticket(number(index));
                let (uses, contradiction) = uses.collect(grouped.of(ticket));
                if let Some(operation) = contradiction {
                    return Err(internal(history, uses, operation));
                }
                for used in uses {
                    versions.add_use(history, &writes, ticket, used, &mut blind)?;
                }
            }
        }
        if !blind.is_empty() {
            versions.place(history, &writes, blind);
        }
        Ok(versions)
    }

    fn add_version(&mut self, operation: &Operation, writes: &mut Writes) {
        let Action::Write(value) = operation.action else { return };
        if !self.committed[operation.ticket.0 as usize] {
            return;
        }
        if let Some(write) = writes.get_mut(&(operation.key, value))
            && write.last
        {
            write.version = Some(number(self.all.len()));
            self.all.push(Version {
                key: operation.key,
                value: Some(value),
                writer: Some(operation.ticket),
                previous: None,
                next: None,
                concluded: false,
            });
        }
    }

    fn add_use(
        &mut self,
        history: &History,
        writes: &Writes,
        ticket: Ticket,
        used: &Use,
        blind: &mut Vec<VersionId>,
    ) -> Result<(), Violation> {
        let seen = match used.read {
            None => None,
            Some(None) => Some(used.key.0),
            Some(Some(value)) => Some(self.version_read(history, writes, ticket, used.key, value)?),
        };
        if let Some(version) = seen {
            self.reads += 1;
            self.readers.push((version, ticket));
        }
        let Some(value) = used.wrote else { return Ok(()) };
        let Some(version) = writes.get(&(used.key, value)).and_then(|write| write.version) else {
            return Ok(());
        };
        match seen {
            None => {
                blind.push(version);
                Ok(())
            }
            Some(previous) => self.link(history, previous, version),
        }
    }

    fn link(
        &mut self,
        history: &History,
        previous: VersionId,
        version: VersionId,
    ) -> Result<(), Violation> {
        if let Some(other) = self.all[previous as usize].next {
            return Err(lost_update(history, &self.all, previous, other, version));
        }
        self.all[previous as usize].next = Some(version);
        self.all[version as usize].previous = Some(previous);
        Ok(())
    }

    /// The version of others that a committed transaction read.
    fn version_read(
        &self,
        history: &History,
        writes: &Writes,
        ticket: Ticket,
        key: Key,
        value: Value,
    ) -> Result<VersionId, Violation> {
        let name = &history.keys[key.0 as usize];
        let reader = &history.transaction(ticket).name;
        let Some(write) = writes.get(&(key, value)) else {
            let story = format!("{reader} read {name} = {value}, which nobody wrote");
            return Err(story::of_few(history, Anomaly::Phantom, &[ticket], &[key], &story));
        };
        if let Some(version) = write.version
            && write.ticket != ticket
        {
            return Ok(version);
        }
        let writer = &history.transaction(write.ticket).name;
        let (anomaly, story) = if write.ticket == ticket {
            let story = format!("{reader} read {name} = {value}, which it wrote only later");
            (Anomaly::Internal, story)
        } else if history.transaction(write.ticket).outcome == Outcome::Aborted {
            let story =
                format!("{reader} read {name} = {value}, which {writer} wrote, which aborted");
            (Anomaly::AbortedRead, story)
        } else {
            let story = format!(
                "{reader} read {name} = {value}, which {writer} wrote and overwrote itself"
            );
            (Anomaly::IntermediateRead, story)
        };
        Err(story::of_few(history, anomaly, &[write.ticket, ticket], &[key], &story))
    }

    /// Puts chains of versions whose first predecessor nobody recorded behind the others of their key.
    fn place(&mut self, history: &History, writes: &Writes, mut blind: Vec<VersionId>) {
        // For each key the chain that its last value is in.
        let mut ends = HashMap::new();
        for (key, value) in &history.last {
            let version = match value {
                None => Some(key.0),
                Some(value) => writes.get(&(*key, *value)).and_then(|write| write.version),
            };
            if let Some(version) = version {
                ends.insert(*key, self.head(version));
            }
        }
        blind.sort_by_key(|head| (self.all[*head as usize].key, self.begun(history, *head)));
        for heads in blind
            .chunk_by(|a, b| self.all[*a as usize].key == self.all[*b as usize].key)
            .map(<[_]>::to_vec)
            .collect::<Vec<_>>()
        {
            self.place_in_key(history, &heads, &ends);
        }
    }

    fn place_in_key(
        &mut self,
        history: &History,
        heads: &[VersionId],
        ends: &HashMap<Key, VersionId>,
    ) {
        let Some(first) = heads.first() else { return };
        let key = self.all[*first as usize].key;
        let end = ends.get(&key);
        let (mut order, at_end): (Vec<_>, Vec<_>) =
            heads.iter().copied().partition(|head| Some(head) != end);
        // Real time has to say of any two that are left which came first.
        let told = order
            .windows(2)
            .all(|pair| self.shown(history, pair[0]) < self.begun(history, pair[1]));
        if !told || end == Some(&key.0) {
            self.unplaced += heads.len();
            return;
        }
        order.extend(at_end);
        let mut previous = key.0;
        for head in order {
            let tail = self.tail(previous);
            self.all[tail as usize].next = Some(head);
            self.all[head as usize].previous = Some(tail);
            self.all[head as usize].concluded = true;
            previous = head;
        }
    }

    fn begun(&self, history: &History, version: VersionId) -> Instant {
        let writer = self.all[version as usize].writer;
        writer.map_or(0, |writer| history.transaction(writer).begun)
    }

    /// When at the latest the first of a chain of versions was there: then one of them was answered for.
    fn shown(&self, history: &History, head: VersionId) -> Instant {
        let mut shown = NEVER;
        let mut next = Some(head);
        while let Some(version) = next {
            let version = &self.all[version as usize];
            let ended = version.writer.map_or(0, |writer| history.transaction(writer).ended);
            shown = shown.min(ended);
            next = version.next;
        }
        shown
    }

    fn tail(&self, mut version: VersionId) -> VersionId {
        while let Some(next) = self.all[version as usize].next {
            version = next;
        }
        version
    }

    /// The first of a chain; of a circle, which the graph will report, any.
    fn head(&self, start: VersionId) -> VersionId {
        let mut version = start;
        while let Some(previous) = self.all[version as usize].previous {
            version = previous;
            if version == start {
                break;
            }
        }
        version
    }

    /// Every key ends with its last version.
    ///
    /// # Errors
    /// A key that does not.
    pub(crate) fn check_last(&self, history: &History) -> Result<(), Violation> {
        if history.last.is_empty() {
            return Ok(());
        }
        let written: HashMap<(Key, Value), VersionId> = self.all[history.keys.len()..]
            .iter()
            .zip(history.keys.len()..)
            .filter_map(|(version, id)| Some(((version.key, version.value?), number(id))))
            .collect();
        let heads =
            self.all[history.keys.len()..].iter().filter(|version| version.previous.is_none());
        let loose: HashMap<Key, Ticket> =
            heads.filter_map(|version| Some((version.key, version.writer?))).collect();
        for (key, value) in &history.last {
            let name = &history.keys[key.0 as usize];
            let found = match value {
                None => Some(key.0),
                Some(value) => written.get(&(*key, *value)).copied(),
            };
            let Some(found) = found else {
                let story = format!(
                    "{name} ends with {}, which no committed transaction left there",
                    story::value(*value)
                );
                return Err(story::of_few(history, Anomaly::Phantom, &[], &[*key], &story));
            };
            let lost = match self.all[found as usize].next {
                Some(next) => self.all[next as usize].writer,
                // Written blindly by somebody, and nobody has seen it.
                None if self.head(found) == key.0 => loose.get(key).copied(),
                None => None,
            };
            if let Some(lost) = lost {
                let story = format!(
                    "{name} ends with {}, and the later write of {} is gone",
                    story::value(*value),
                    history.transaction(lost).name
                );
                return Err(story::of_few(history, Anomaly::LostWrite, &[lost], &[*key], &story));
            }
        }
        Ok(())
    }

    pub(crate) fn has_committed(&self, index: usize) -> bool {
        self.committed[index]
    }

    pub(crate) fn unplaced(&self) -> usize {
        self.unplaced
    }

    /// Reads and writes by committed transactions.
    pub(crate) fn counts(&self, keys: usize) -> (usize, usize) {
        (self.reads, self.all.len() - keys)
    }
}

/// Every write by its key and value.
fn collect_writes(history: &History) -> Result<Writes, Violation> {
    let mut writes = Writes::with_capacity(history.operations.len() / 2);
    let mut latest: HashMap<(Ticket, Key), Value> = HashMap::new();
    for operation in &history.operations {
        let Operation { ticket, key, action: Action::Write(value) } = *operation else { continue };
        if let Some(before) =
            writes.insert((key, value), Write { ticket, last: true, version: None })
        {
            let name = &history.keys[key.0 as usize];
            let story = format!("{name} = {value} was written twice; values have to be unique");
            let tickets = [before.ticket, ticket];
            return Err(story::of_few(history, Anomaly::Misrecorded, &tickets, &[key], &story));
        }
        if let Some(overwritten) = latest.insert((ticket, key), value)
            && let Some(write) = writes.get_mut(&(key, overwritten))
        {
            write.last = false;
        }
    }
    Ok(writes)
}

/// Who committed: who was told so, and of those who were told nothing whose writes were seen.
fn committed(history: &History, grouped: &Grouped, uses: &mut Uses, writes: &Writes) -> Vec<bool> {
    let told = |outcome| outcome == Outcome::Committed;
    let mut committed: Vec<bool> =
        history.transactions.iter().map(|transaction| told(transaction.outcome)).collect();
    let mut to_visit: Vec<Ticket> = Vec::new();
    let seen = |key: Key, value: Option<Value>, committed: &mut Vec<bool>| {
        let write = writes.get(&(key, value?))?;
        let index = write.ticket.0 as usize;
        let unknown = history.transactions[index].outcome == Outcome::Unknown;
        (unknown && !std::mem::replace(&mut committed[index], unknown)).then_some(write.ticket)
    };
    for index in 0..committed.len() {
        if told(history.transactions[index].outcome) {
            to_visit.push(Ticket(number(index)));
        }
    }
    for (key, value) in &history.last {
        to_visit.extend(seen(*key, *value, &mut committed));
    }
    while let Some(ticket) = to_visit.pop() {
        let (uses, _) = uses.collect(grouped.of(ticket));
        for used in uses {
            to_visit.extend(seen(used.key, used.read.flatten(), &mut committed));
        }
    }
    committed
}

fn internal(history: &History, uses: &[Use], operation: Operation) -> Violation {
    let Operation { ticket, key, action } = operation;
    let own = uses.iter().any(|used| used.key == key && used.wrote.is_some());
    let read = match action {
        Action::Read(value) => story::value(value),
        Action::Write(value) => story::value(Some(value)),
    };
    let story = format!(
        "{} read {} = {read} though it had {} another value",
        history.transaction(ticket).name,
        history.keys[key.0 as usize],
        if own { "written" } else { "read" },
    );
    story::of_few(history, Anomaly::Internal, &[ticket], &[key], &story)
}

fn lost_update(
    history: &History,
    all: &[Version],
    previous: VersionId,
    one: VersionId,
    other: VersionId,
) -> Violation {
    let [previous, one, other] = [previous, one, other].map(|version| &all[version as usize]);
    let writers: Vec<Ticket> = [one.writer, other.writer].into_iter().flatten().collect();
    let name = &history.keys[previous.key.0 as usize];
    let names: Vec<&str> =
        writers.iter().map(|writer| history.transaction(*writer).name.as_str()).collect();
    let story = format!(
        "{} both read {name} = {} and wrote their own value over it, {} and {}: one of them is lost",
        names.join(" and "),
        story::value(previous.value),
        story::value(one.value),
        story::value(other.value),
    );
    story::of_few(history, Anomaly::LostUpdate, &writers, &[previous.key], &story)
}
