//! Which events of a trace are drawn.

use std::collections::BTreeSet;

use handfast_commit_core::id::TransactionId;

use super::View;
use crate::trace::{EventKind, ProcessId, Trace, TraceEvent};

/// The events to draw, and the stretch of time they are drawn in.
#[derive(Debug)]
pub(super) struct Window<'a> {
    /// Sorted by time.
    pub events: Vec<&'a TraceEvent>,
    /// The transaction that everything is about, if it is one.
    pub transaction: Option<TransactionId>,
    /// Microseconds.
    pub from: u64,
    /// Microseconds.
    pub to: u64,
    /// How many events of the view there was no room for.
    pub left_out: usize,
    /// Where most of those are that are left out between others: until when, and how many.
    pub gap: Option<(u64, usize)>,
}

pub(super) fn choose<'a>(trace: &'a Trace, view: &View) -> Window<'a> {
    let mut sorted: Vec<&TraceEvent> = trace.events().iter().collect();
    sorted.sort_by_key(|event| event.at);
    let violation =
        sorted.iter().copied().find(|event| matches!(event.kind, EventKind::Violation(_)));
    let anything_asked = view.transaction.is_some() || view.from.is_some() || view.to.is_some();
    let transaction = match violation {
        Some(violation) if !anything_asked => violation.about.first().copied(),
        _ => view.transaction,
    };
    let (from, to) = (view.from.unwrap_or(0), view.to.unwrap_or(u64::MAX));
    let mut events = match transaction {
        Some(id) => about(&sorted, id),
        None => sorted,
    };
    events.retain(|event| event.at <= to && event.end() >= from);

    let wanted = events.len();
    let events_max = view.events_max.max(1);
    let mut gap = None;
    match violation {
        // A transaction that does not end repeats itself: how that began, and how it ended.
        Some(_) if wanted > events_max && transaction.is_some() => {
            let (first, last) = (events_max.div_ceil(2), events_max / 2);
            gap = events.get(wanted - last).map(|event| (event.at, wanted - events_max));
            events.drain(first..wanted - last);
        }
        // The violation is the point of the picture: what led to it, and a little of what followed.
        Some(violation) if wanted > events_max => {
            let until = events.partition_point(|event| event.at <= violation.at);
            let end = (until + events_max / 10).min(wanted);
            events.truncate(end.max(events_max.min(wanted)));
            events.drain(..events.len().saturating_sub(events_max));
        }
        _ => events.truncate(events_max),
    }
    let first = events.iter().map(|event| event.at).min().unwrap_or(0);
    let last = events.iter().map(|event| visible_end(event)).max().unwrap_or(first);
    Window {
        left_out: wanted - events.len(),
        gap,
        events,
        transaction,
        from: first.max(from),
        to: last.min(to).max(first.max(from)),
    }
}

/// When an event is over, as far as that is worth room: a pause may be longer than everything else.
fn visible_end(event: &TraceEvent) -> u64 {
    if matches!(event.kind, EventKind::Pause { .. }) { event.at } else { event.end() }
}

/// What concerns a transaction: its own events, the syncs that they began or waited for, and while it lives
/// what happens to the processes that have to do with it, and to the world.
fn about<'a>(sorted: &[&'a TraceEvent], id: TransactionId) -> Vec<&'a TraceEvent> {
    let own = || sorted.iter().filter(|event| event.about.contains(&id));
    let from = own().map(|event| event.at).min().unwrap_or(0);
    let to = own().map(|event| event.end()).max().unwrap_or(0);
    let mut processes = BTreeSet::<ProcessId>::new();
    let mut moments = BTreeSet::<(ProcessId, u64)>::new();
    for event in own() {
        processes.extend(event.process);
        moments.extend(event.process.map(|process| (process, event.at)));
        if let EventKind::Message { to, .. } = &event.kind {
            processes.insert(*to);
            moments.insert((*to, event.end()));
        }
    }
    // A record is on its way from the moment at which a message of the transaction arrived; or the message
    // leaves that has waited for it.
    let written = |event: &TraceEvent| {
        matches!(event.kind, EventKind::Sync { .. })
            && event.process.is_some_and(|process| {
                moments.contains(&(process, event.at)) || moments.contains(&(process, event.end()))
            })
    };
    sorted
        .iter()
        .copied()
        .filter(|event| {
            let shared = event.is_of_a_process()
                && event.at <= to
                && event.end() >= from
                && event.process.is_none_or(|process| processes.contains(&process));
            event.about.contains(&id) || shared || written(event)
        })
        .collect()
}
