//! What must be true in every state, and what must be seen in some run.

use stateright::Property;

use handfast_commit_core::id::TransactionId;
use handfast_commit_core::record::{CoordinatorRecord, ParticipantRecord};
use handfast_commit_core::three_phase::Standing;

use crate::bounds::Verdict;
use crate::log::Key;
use crate::marks::Mark;
use crate::sites::is_excused;
use crate::state::{Fact, ParticipantHost, State};
use crate::world::World;

/// No two branches of a transaction end differently.
pub const ATOMIC: &str = "atomicity: no two branches end differently";
/// Nothing is committed that somebody has not voted for.
pub const VALID: &str = "validity: it commits only if all voted for it";
/// What was decided stays decided.
pub const STABLE: &str = "stability: a decision never changes";
/// An answer is a fact.
pub const TOLD: &str = "truth: what a client was told is what is";
/// No work is done twice.
pub const ONCE: &str = "once: a request takes effect at most once";
/// What must not happen is never seen.
pub const SOUND: &str = "soundness: no alarm, no broken invariant, no failed assertion";
/// A decision is forgotten when nobody can need it any more.
pub const KEPT: &str = "forgetting: it ends when everybody has it on the disk, not before";
/// When nothing goes wrong any more, everything ends.
pub const ENDS: &str = "the end: at rest nothing is open, and everything agrees";
/// Whatever has happened, it is not too late. Checked when all states are known.
pub const ENDLESS: &str = "the end: whatever has happened, everything can still end";
/// A branch blocks only when nobody who can be asked knows.
pub const BLOCKS: &str = "blocking: a branch is left in doubt only when it must be";
/// Without a fault it commits.
pub const COMMITS: &str = "non-triviality: without a fault and with every vote it commits";

/// What must be true in every state.
pub fn always() -> Vec<Property<World>> {
    vec![
        Property::always(ATOMIC, |_, state| atomic(state)),
        Property::always(VALID, valid),
        Property::always(STABLE, stable),
        Property::always(TOLD, told),
        Property::always(ONCE, |_, state| once(state)),
        Property::always(SOUND, |_, state: &State| state.broken.is_none()),
        Property::always(KEPT, |_, state| kept(state)),
        Property::always(ENDS, ends),
        Property::always(BLOCKS, blocks),
        Property::always(COMMITS, commits),
    ]
}

fn hosts(state: &State) -> impl Iterator<Item = &ParticipantHost> + Clone {
    state.participants.iter().map(|host| host.get())
}

fn took_effect(state: &State, id: TransactionId) -> bool {
    hosts(state).any(|host| host.resource.effects.contains_key(&id))
}

fn aborted(state: &State, id: TransactionId) -> bool {
    hosts(state).any(|host| host.resource.aborted.contains(&id))
}

fn atomic(state: &State) -> bool {
    !state.client.attempts.iter().any(|id| took_effect(state, *id) && aborted(state, *id))
}

/// Every voter of a decision in the log, durable or on its way, has its vote on its disk, and everybody else
/// has only read. What took effect, everybody else has voted for as well.
fn valid(world: &World, state: &State) -> bool {
    let voted = |number: usize, id: TransactionId| {
        let host = state.participants[number].get();
        let resource = &host.resource;
        let prepared =
            host.log.durable.get(&Key::Transaction(id)).is_some_and(|entry| match &entry.record {
                ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_) => true,
                ParticipantRecord::Decided(branch) => branch.committed,
                _ => false,
            });
        prepared || resource.effects.contains_key(&id)
    };
    let for_it = |id: TransactionId| {
        (0..world.names.len()).all(|number| {
            voted(number, id) || state.participants[number].get().resource.read_only.contains(&id)
        })
    };
    let log = &state.coordinator.get().log;
    let decided = log.durable.values().chain(&log.pending).all(|record| match record {
        CoordinatorRecord::Commit(commit) => {
            let voters = commit.voters.iter().map(|(name, _)| world.number(name));
            voters.clone().all(|number| voted(number, commit.id)) && for_it(commit.id)
        }
        // Nobody moves towards commit before everybody has voted for it.
        CoordinatorRecord::Voting(voting) => {
            voting.site.standing == Standing::PreAborted
                || moved_after_votes(state, voting.id, &for_it)
        }
        CoordinatorRecord::Decision(decision) => decision.outcome.is_err() || for_it(decision.id),
        CoordinatorRecord::Ended(_)
        | CoordinatorRecord::Witness(_)
        | CoordinatorRecord::WitnessForgotten { .. } => true,
    });
    decided && state.client.attempts.iter().all(|id| !took_effect(state, *id) || for_it(*id))
}

/// The coordinator's move is written when every vote is in; afterwards some branch may have been aborted by a
/// quorum that did not hear of the move.
fn moved_after_votes(
    state: &State,
    id: TransactionId,
    for_it: &impl Fn(TransactionId) -> bool,
) -> bool {
    for_it(id) || hosts(state).any(|host| host.resource.aborted.contains(&id))
}

/// The log or a message says aborted. After the outcome window only who has acknowledged a commit can still be
/// told that: as the answer to a question from long ago, to which it does not listen any more.
fn given_up(world: &World, state: &State, fact: Fact) -> bool {
    let expired = state.budget.expiries < world.bounds.budget.expiries;
    fact.abort_logged || fact.abort_sent && !(expired && fact.commit_logged)
}

/// Neither the log nor what participants were told ever says both, nor differs from what a branch did.
fn stable(world: &World, state: &State) -> bool {
    state.facts.iter().all(|(id, fact)| {
        let committed = fact.commit_logged || fact.commit_sent;
        let given_up = given_up(world, state, *fact);
        let differs = committed && aborted(state, *id) || given_up && took_effect(state, *id);
        !(committed && given_up || differs)
    })
}

fn told(world: &World, state: &State) -> bool {
    let told = &state.client.told;
    told.iter().all(|(id, committed)| {
        let fact = state.facts.get(id).copied().unwrap_or_default();
        let only_read = hosts(state).all(|host| host.resource.read_only.contains(id));
        let read = world.bounds.parties.iter().all(|party| party.verdicts == [Verdict::ReadOnly]);
        if told.contains(&(*id, !committed)) {
            return false;
        }
        if *committed {
            // What a quorum has moved to is looked at when the client is told.
            let decided = fact.commit_logged
                || took_effect(state, *id)
                || only_read
                || read
                || id.is_three_phase();
            decided && !aborted(state, *id) && !given_up(world, state, fact)
        } else {
            !took_effect(state, *id) && !fact.commit_logged && !fact.commit_sent
        }
    })
}

fn once(state: &State) -> bool {
    hosts(state).all(|host| {
        let effects = host.resource.effects.values();
        effects.map(|times| u32::from(*times)).sum::<u32>() <= 1
    })
}

/// Who has acknowledged has it on its disk: the coordinator does not keep it for a branch that could come back
/// in doubt.
fn kept(state: &State) -> bool {
    let log = &state.coordinator.get().log;
    log.durable.values().chain(&log.pending).all(|record| match record {
        CoordinatorRecord::Ended(ended) if ended.outcome.is_ok() => hosts(state).all(|host| {
            let in_doubt = host.log.durable.get(&Key::Transaction(ended.id));
            !in_doubt.is_some_and(|entry| {
                matches!(entry.record, ParticipantRecord::Prepared(_) | ParticipantRecord::Voted(_))
            })
        }),
        _ => true,
    })
}

/// A cheap look before the thorough one: most states are not at rest.
fn may_rest(world: &World, state: &State) -> bool {
    let coordinator = state.coordinator.get();
    let down = coordinator.core.is_none();
    (!down || !world.bounds.returns)
        && coordinator.log.pending.is_empty()
        && hosts(state).all(|host| {
            host.core.is_some() && host.log.pending.is_empty() && host.resource.calls.is_empty()
        })
        && (world.ever() || state.bag.is_empty())
        && state.links.iter().all(|link| link.is_empty())
}

fn in_doubt(host: &ParticipantHost) -> bool {
    host.core.as_ref().is_some_and(|core| core.open_branches().next().is_some())
}

fn is_over(state: &State) -> bool {
    let coordinator = state.coordinator.get();
    let Some(core) = &coordinator.core else {
        // What may be open then is another property, where nobody else can end it.
        return !state.client.attempts.iter().any(|id| id.is_three_phase())
            || !hosts(state).any(in_doubt);
    };
    let answered = (0..state.client.attempts.len()).all(|attempt| {
        state.client.answered.contains(&attempt) || state.client.cut_off.contains(&attempt)
    });
    let agree = state.client.attempts.iter().all(|id| {
        let fact = state.facts.get(id).copied().unwrap_or_default();
        let told = state.client.told.contains(&(*id, true));
        let committed = fact.commit_logged || took_effect(state, *id) || told;
        hosts(state).all(|host| {
            let resource = &host.resource;
            let reads = resource.read_only.contains(id);
            !committed || reads || resource.effects.contains_key(id)
        })
    });
    let delivered = coordinator.log.durable.values().all(|record| match record {
        CoordinatorRecord::Commit(_)
        | CoordinatorRecord::Voting(_)
        | CoordinatorRecord::Decision(_) => false,
        CoordinatorRecord::Ended(_)
        | CoordinatorRecord::Witness(_)
        | CoordinatorRecord::WitnessForgotten { .. } => true,
    });
    let released = hosts(state).all(|host| host.resource.holds.is_empty() && !in_doubt(host));
    core.undecided() == 0 && core.undelivered() == 0 && delivered && answered && agree && released
}

fn ends(world: &World, state: &State) -> bool {
    if state.broken.is_some() || !may_rest(world, state) {
        return true;
    }
    if is_over(state) || is_excused(world, state) {
        world.graph.over(state);
        return true;
    }
    !world.is_at_rest(state)
}

/// The coordinator is gone for good: whoever is in doubt has found nobody who knows.
fn blocks(world: &World, state: &State) -> bool {
    if state.broken.is_some() || state.coordinator.get().core.is_some() || !may_rest(world, state) {
        return true;
    }
    let somebody_knows = |id: TransactionId| took_effect(state, id) || aborted(state, id);
    let needless = hosts(state).any(|host| {
        host.core.as_ref().is_some_and(|core| {
            core.open_branches().any(|open| open.one_phase.is_none() && somebody_knows(open.id))
        })
    });
    !needless || !world.is_at_rest(state)
}

fn commits(world: &World, state: &State) -> bool {
    if !world.bounds.must_commit || !may_rest(world, state) {
        return true;
    }
    let id = state.client.attempts[0];
    let committed = state.client.told.contains(&(id, true))
        && hosts(state).all(|host| host.resource.effects.get(&id) == Some(&1));
    committed || !world.is_at_rest(state)
}

/// What must be seen in some run.
pub fn sometimes(mark: Mark) -> Property<World> {
    macro_rules! by_number {
        ($($number:literal)*) => {
            match mark as usize {
                $($number => |world: &World, _: &State| world.reached.tell(Mark::ALL[$number]),)*
                _ => |_: &World, _: &State| false,
            }
        };
    }
    let condition: fn(&World, &State) -> bool = by_number!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34
        35 36 37 38 39 40 41 42 43 44 45 46 47 48 49
    );
    Property::sometimes(mark.text(), condition)
}
