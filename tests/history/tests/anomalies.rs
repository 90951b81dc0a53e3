//! Every anomaly in its smallest history, and the histories beside it that are none.

mod support;

use handfast_history::Anomaly;
use support::{holds, shows, violation};

#[test]
fn nothing_at_all_holds() {
    let stats = holds("");
    assert_eq!((stats.committed, stats.dependencies), (0, 0));
}

#[test]
fn one_after_the_other_holds() {
    let stats = holds(
        "a reads x; a writes x 1; a commits;
         b reads x 1; b writes x 2; b commits;
         c reads x 2; c commits; x ends 2",
    );
    assert_eq!((stats.committed, stats.reads, stats.writes), (3, 3, 2));
    // a → b twice (it read and it overwrote), b → c; a and b read what they overwrote themselves.
    assert_eq!((stats.dependencies, stats.unplaced), (3, 0));
}

#[test]
fn concurrent_transactions_may_be_in_any_order() {
    // The one that began later comes first.
    holds("a begins; b reads x; b writes x 1; b commits; a reads x 1; a commits");
    // The one that ended earlier comes later, as both are open at once.
    holds("a begins; b begins; a reads x; b reads x; b writes x 1; b commits; a commits");
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    holds("a reads x; a writes x 1; a aborts; b reads x; b commits; x ends");
    // Nor does what it saw count.
    holds("a reads x 77; a aborts");
}

#[test]
fn an_unknown_outcome_may_be_either() {
    let unseen = holds("a reads x; a writes x 1; a is-lost; b reads x; b commits");
    assert_eq!((unseen.unknown, unseen.unknown_seen), (1, 0));
    let seen = holds("a reads x; a writes x 1; a is-lost; b reads x 1; b commits");
    assert_eq!((seen.unknown, seen.unknown_seen), (1, 1));
    // It may take effect after the client has given up.
    holds("a reads x; a writes x 1; a is-lost; b reads x; b commits; c reads x 1; c commits");
    // What a second unknown one read shows that the first has committed, if it has itself.
    let chain = holds(
        "a reads x; a writes x 1; a is-lost; b reads x 1; b writes y 1; b is-lost; c reads y 1; c commits",
    );
    assert_eq!(chain.unknown_seen, 2);
}

#[test]
fn an_unknown_outcome_is_one_outcome() {
    shows(
        Anomaly::ReadSkew,
        "a b",
        "a reads x; a reads y; a writes x 1; a writes y 1; a is-lost; b reads x 1; b reads y; b commits",
    );
    // Once seen, it stays.
    shows(
        Anomaly::RealTime,
        "a b c",
        "a reads x; a writes x 1; a is-lost; b reads x 1; b commits; c reads x; c commits",
    );
}

#[test]
fn an_outcome_that_is_learnt_late_counts() {
    holds("a reads x; a writes x 1; a is-lost; b reads x; b commits; a commits; x ends 1");
    shows(
        Anomaly::RealTime,
        "a b",
        "a reads x; a writes x 1; a is-lost; a commits; b reads x; b commits",
    );
}

#[test]
fn two_outcomes_are_one_too_many() {
    shows(Anomaly::Contradiction, "a", "a writes x 1; a aborts; a commits");
    holds("a writes x 1; a commits; a commits; a is-lost");
}

#[test]
fn a_value_written_twice_is_not_checked() {
    shows(
        Anomaly::Misrecorded,
        "a b",
        "a reads x; a writes x 1; a commits; b reads x 1; b writes x 1; b commits",
    );
    holds("a reads x; a writes x 1; a commits; b reads y; b writes y 1; b commits");
}

#[test]
fn a_value_from_nowhere() {
    shows(Anomaly::Phantom, "a", "a reads x 7; a commits");
    shows(Anomaly::Phantom, "", "a reads x; a commits; x ends 7");
}

#[test]
fn a_transaction_sees_its_own_writes_and_one_state() {
    holds("a reads x; a writes x 1; a reads x 1; a writes x 2; a reads x 2; a commits");
    shows(Anomaly::Internal, "a", "a reads x; a writes x 1; a reads x; a commits");
    shows(Anomaly::Internal, "a", "a reads x 1; a writes x 1; a commits");
    shows(
        Anomaly::Internal,
        "b",
        "b reads x; a reads x; a writes x 1; a commits; b reads x 1; b commits",
    );
}

#[test]
fn aborted_read() {
    shows(Anomaly::AbortedRead, "a b", "a reads x; a writes x 1; b reads x 1; b commits; a aborts");
    shows(Anomaly::Phantom, "", "a reads x; a writes x 1; a aborts; x ends 1");
}

#[test]
fn intermediate_read() {
    shows(
        Anomaly::IntermediateRead,
        "a b",
        "a reads x; a writes x 1; b reads x 1; a writes x 2; a commits; b commits",
    );
}

#[test]
fn lost_update() {
    shows(
        Anomaly::LostUpdate,
        "a b",
        "a reads x; b reads x; a writes x 1; b writes x 2; a commits; b commits",
    );
    shows(
        Anomaly::LostUpdate,
        "b c",
        "a reads x; a writes x 1; a commits; b reads x 1; b writes x 2; b commits;
         c reads x 1; c writes x 3; c commits",
    );
}

#[test]
fn lost_write() {
    let text = "a reads x; a writes x 1; a commits; b reads x 1; b writes x 2; b commits; x ends 1";
    shows(Anomaly::LostWrite, "b", text);
    shows(Anomaly::LostWrite, "a", "a reads x; a writes x 1; a commits; x ends");
    // A write that nobody saw, without its read.
    shows(Anomaly::LostWrite, "a", "a writes x 1; a commits; x ends");
    // Read by a transaction at the end, it is one that comes too late.
    shows(Anomaly::RealTime, "a b", "a reads x; a writes x 1; a commits; b reads x; b commits");
}

#[test]
fn dirty_write() {
    shows(
        Anomaly::DirtyWrite,
        "a b",
        "a reads x; a writes x 1; b reads x 1; b writes x 2;
         b reads y; b writes y 2; a reads y 2; a writes y 1; a commits; b commits",
    );
}

#[test]
fn circular_information() {
    shows(
        Anomaly::CircularInformation,
        "a b",
        "a reads x; a writes x 1; b reads y; b writes y 1; a reads y 1; b reads x 1; a commits; b commits",
    );
    // Two that overwrote what each other wrote of one key.
    assert_eq!(
        violation("a reads x 2; a writes x 1; b reads x 1; b writes x 2; a commits; b commits")
            .anomaly,
        Anomaly::DirtyWrite
    );
}

#[test]
fn read_skew() {
    shows(
        Anomaly::ReadSkew,
        "a b",
        "a reads x; b reads x; b writes x 1; b reads y; b writes y 1; b commits; a reads y 1; a commits",
    );
    // Through a third one.
    shows(
        Anomaly::ReadSkew,
        "a b c",
        "a reads x; b reads x; b writes x 1; b reads y; b writes y 1; b commits;
         c reads y 1; c writes y 2; c reads z; c writes z 1; c commits; a reads z 1; a commits",
    );
}

#[test]
fn write_skew() {
    shows(
        Anomaly::WriteSkew,
        "a b",
        "a reads x; a reads y; b reads x; b reads y; a writes x 1; b writes y 1; a commits; b commits",
    );
    // Two observers that disagree on the order of two writes.
    shows(
        Anomaly::WriteSkew,
        "a b c d",
        "a begins; b begins; c begins; d begins;
         a reads x; a writes x 1; b reads y; b writes y 1;
         c reads x 1; c reads y; d reads y 1; d reads x; a commits; b commits; c commits; d commits",
    );
}

#[test]
fn real_time() {
    shows(Anomaly::RealTime, "a b", "a reads x; a writes x 1; a commits; b reads x; b commits");
    // Over the end of one that has nothing to do with it.
    shows(
        Anomaly::RealTime,
        "a b",
        "a reads x; a writes x 1; a commits; c reads z; c commits; b reads x; b commits",
    );
    // Neither was answered before the other began.
    holds("b begins; a reads x; a writes x 1; a commits; b reads x; b commits");
}

#[test]
fn real_time_and_data_together() {
    shows(
        Anomaly::RealTime,
        "a b c",
        "c begins; a reads x; a writes x 1; a commits; b reads y; b writes y 1; b commits;
         c reads y 1; c reads x; c commits",
    );
}

#[test]
fn the_shortest_cycle_is_told() {
    // A cycle of four, each of which overwrote what the one before it read; and one of two.
    let four = "p begins; q begins; r begins; s begins;
         p reads k; q reads l; r reads m; s reads n;
         p reads n; p writes n 1; q reads k; q writes k 1; r reads l; r writes l 1; s reads m; s writes m 1;
         p commits; q commits; r commits; s commits;";
    shows(Anomaly::WriteSkew, "p q r s", four);
    let two = "a reads x; a reads y; b reads x; b reads y; a writes x 1; b writes y 1; a commits; b commits;";
    shows(Anomaly::WriteSkew, "a b", &format!("{four} {two}"));
    shows(Anomaly::WriteSkew, "a b", &format!("{two} {four}"));
    // A cycle of three, and a way round it over two more.
    shows(
        Anomaly::WriteSkew,
        "p q r",
        "p begins; q begins; r begins; s begins; t begins;
         p reads j; q reads k; r reads l; r reads m; s reads n; t reads o;
         q reads j; q writes j 1; r reads k; r writes k 1; p reads l; p writes l 1;
         s reads m; s writes m 1; t reads n; t writes n 1; p reads o; p writes o 1;
         p commits; q commits; r commits; s commits; t commits",
    );
}

#[test]
fn a_story_names_everybody_and_everything() {
    let story = violation(
        "a reads x; a reads y; b reads x; b reads y; a writes x 1; b writes y 2; a commits; b commits",
    )
    .to_string();
    assert_eq!(
        story,
        "write skew (G2)\n\
         no order of these 2 transactions explains them\n  \
         a of client 0, committed, from 0 to 2: read x = nothing; read y = nothing; wrote x = 1;\n  \
         b of client 1, committed, from 1 to 3: read x = nothing; read y = nothing; wrote y = 2;\n  \
         a comes before b: it read y = nothing, which b overwrote with 2 (rw)\n  \
         b comes before a: it read x = nothing, which a overwrote with 1 (rw)\n"
    );
}

#[test]
fn a_write_without_its_read_is_placed_where_it_must_be() {
    // The only one: behind the others.
    let one = holds("a writes x 1; a commits; b reads x 1; b writes x 2; b commits; x ends 2");
    assert_eq!(one.unplaced, 0);
    // Two, of which the end of the key says which was last, though they were open at once.
    let two = "a begins; b begins; a writes x 1; b writes x 2; a commits; b commits;";
    assert_eq!(holds(&format!("{two} x ends 2")).unplaced, 0);
    assert_eq!(holds(&format!("{two} x ends 1")).unplaced, 0);
    assert_eq!(holds(two).unplaced, 2);
    // Two, one after the other: the order is theirs.
    let two = "a writes x 1; a commits; b writes x 2; b commits;";
    assert_eq!(holds(two).unplaced, 0);
    shows(Anomaly::RealTime, "a b", &format!("{two} x ends 1"));
    shows(Anomaly::RealTime, "b c", &format!("{two} c reads x 1; c commits"));
}
