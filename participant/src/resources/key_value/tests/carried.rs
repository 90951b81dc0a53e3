//! Work that comes with the prepare.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_branch_commits() {
    let site = Site::new(&[("a", "5"), ("b", "x")]);
    let operations = vec![get("a"), add("a", -2), delete("b"), put("c", "new"), get("a")];
    let yes = site.prepare(id(1), operations).await;
    assert_eq!(vote(&yes), "yes: 5 3 - new 3");
    assert_eq!(site.disk.value("a").as_deref(), Some("5"), "nothing is visible before the commit");
    assert_eq!(site.disk.staged_count(), 1);
    assert_eq!(site.store.in_doubt().await, Ok(vec![id(1)]));
    site.commit(id(1)).await;
    let value = |key| site.disk.value(key);
    assert_eq!((value("a"), value("b"), value("c")), (Some("3".into()), None, Some("new".into())));
    assert_eq!(site.disk.staged_count(), 0);
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_branch_aborts() {
    let site = Site::new(&[("a", "5")]);
    assert_eq!(vote(&site.prepare(id(1), vec![put("a", "6")]).await), "yes: 6");
    site.abort(id(1)).await;
    assert_eq!(site.disk.value("a").as_deref(), Some("5"));
    assert_eq!(site.disk.staged_count(), 0);
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_phase_is_the_changes_of_prepare_and_commit_in_one_write() {
    let site = Site::new(&[]);
    assert!(site.store.keeps_all_in_store());
    let Prepared::Yes { mut changes, .. } =
        site.store.prepare(id(1), carried(vec![put("a", "1")])).await
    else {
        panic!("it can be done");
    };
    let Ok(Finished::Done { changes: commit }) = site.store.commit(id(1)).await else {
        panic!("it was prepared");
    };
    changes.extend(commit);
    site.disk.write(changes);
    assert_eq!((site.disk.value("a").as_deref(), site.disk.staged_count()), (Some("1"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_cannot_be_done_votes_no_and_leaves_nothing() {
    let site = Site::new(&[("a", "5")]);
    let no = site.prepare(id(1), vec![put("b", "1"), add("a", -6)]).await;
    assert_eq!(vote(&no), "no: key \"a\": 5 + -6 is below the floor of 0");
    let no = site.prepare(id(2), vec![expect("a", "6")]).await;
    assert_eq!(vote(&no), "no: key \"a\" has another value than expected");
    let no =
        site.prepare_work(id(3), Work::Carried { payload: vec![0xff], only_branch: true }).await;
    assert!(vote(&no).starts_with("no: payload is no handfast.v1.KeyValueWork"), "{no:?}");
    let no = site.prepare(id(4), vec![get("")]).await;
    assert_eq!(vote(&no), "no: work.operations[0].key has 0 bytes; a key has 1 to 1024");
    site.disk.fails.store(true, Ordering::Relaxed);
    let no = site.prepare(id(5), vec![get("a")]).await;
    assert!(vote(&no).starts_with("no: key \"a\" could not be read: "), "{no:?}");
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn reads_alone_are_read_only_when_there_is_no_other_branch() {
    let site = Site::new(&[("a", "5")]);
    let payload = KeyValueWork { operations: vec![get("a"), expect("a", "5")] }.encode_to_vec();
    let vote_alone = site.prepare_work(id(1), Work::Carried { payload, only_branch: true }).await;
    assert_eq!(vote(&vote_alone), "read-only: 5 5");
    assert!(site.is_empty());
    // Without locks there is nothing that could be given up too early.
    assert_eq!(vote(&site.prepare(id(2), vec![]).await), "read-only: ");
}

#[tokio::test(start_paused = true)]
async fn reads_beside_other_branches_keep_their_locks_until_the_end() {
    let site = Site::new(&[("a", "5")]);
    assert_eq!(vote(&site.prepare(id(1), vec![get("a")]).await), "yes: 5");
    let reader = site.prepare(id(2), vec![get("a")]).await;
    assert_eq!(vote(&reader), "yes: 5");
    let writer = site.prepare_waiting(id(3), vec![put("a", "6")]).await;
    site.commit(id(1)).await;
    settle().await;
    assert!(!writer.is_finished());
    site.commit(id(2)).await;
    assert_eq!(vote(&writer.await.expect("no panic")), "yes: 6");
}

#[tokio::test(start_paused = true)]
async fn locks_are_held_until_the_end_is_durable() {
    let site = Site::new(&[("a", "5")]);
    site.prepare(id(1), vec![put("a", "6")]).await;
    let next = site.prepare_waiting(id(2), vec![add("a", 1)]).await;
    let Ok(Finished::Done { changes }) = site.store.commit(id(1)).await else {
        panic!("it was prepared");
    };
    settle().await;
    assert!(!next.is_finished(), "the commit is decided, and not yet durable");
    site.disk.write(changes);
    site.store.finished(id(1), Ending::Committed);
    assert_eq!(vote(&next.await.expect("no panic")), "yes: 7");
}

#[tokio::test(start_paused = true)]
async fn an_older_one_dies_of_a_younger_one_that_has_prepared() {
    let site = Site::new(&[]);
    site.prepare(id(2), vec![put("a", "1")]).await;
    let no = vote(&site.prepare(id(1), vec![put("a", "2")]).await);
    assert!(
        no.starts_with(&format!("no: lock on key \"a\" is held by {}, which is younger", id(2))),
        "{no}"
    );
    assert_eq!(site.store.in_doubt().await, Ok(vec![id(2)]));
}

#[tokio::test(start_paused = true)]
async fn an_older_one_wounds_a_younger_one_that_waits_elsewhere() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("b", "1")]).await;
    // 3 has a and waits for b.
    let victim = site.prepare_waiting(id(3), vec![put("a", "3"), put("b", "3")]).await;
    assert_eq!(vote(&site.prepare(id(2), vec![put("a", "2")]).await), "yes: 2");
    let no = vote(&victim.await.expect("no panic"));
    assert_eq!(no, format!("no: wounded by older transaction {}", id(2)));
    site.commit(id(1)).await;
    site.commit(id(2)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn waiters_are_served_by_age_and_readers_together() {
    let site = Site::new(&[("a", "0")]);
    site.prepare(id(1), vec![add("a", 1)]).await;
    let fifth = site.prepare_waiting(id(5), vec![get("a")]).await;
    let fourth = site.prepare_waiting(id(4), vec![add("a", 1)]).await;
    let third = site.prepare_waiting(id(3), vec![get("a")]).await;
    let second = site.prepare_waiting(id(2), vec![get("a")]).await;
    site.commit(id(1)).await;
    assert_eq!(vote(&second.await.expect("no panic")), "yes: 1");
    assert_eq!(vote(&third.await.expect("no panic")), "yes: 1");
    settle().await;
    assert!(!fourth.is_finished() && !fifth.is_finished());
    site.commit(id(2)).await;
    site.commit(id(3)).await;
    assert_eq!(vote(&fourth.await.expect("no panic")), "yes: 2");
    settle().await;
    assert!(!fifth.is_finished());
    site.abort(id(4)).await;
    assert_eq!(vote(&fifth.await.expect("no panic")), "yes: 1");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_and_names_the_key_and_who_has_it() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("a", "1")]).await;
    // The clock stands still until nobody has anything else to do.
    let no = vote(&site.prepare(id(2), vec![put("a", "2")]).await);
    assert_eq!(
        no,
        format!("no: lock on key \"a\" is held by {} (prepared 5 s ago); waited 5 s", id(1))
    );
    site.commit(id(1)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_stops_waiting_lets_those_behind_it_in() {
    let site = Site::new(&[("a", "5")]);
    site.prepare(id(1), vec![get("a")]).await;
    let writer = site.prepare_waiting(id(2), vec![put("a", "6")]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reader = site.prepare_waiting(id(3), vec![get("a")]).await;
    assert!(vote(&writer.await.expect("no panic")).starts_with("no: lock on key \"a\" is held by"));
    assert_eq!(vote(&reader.await.expect("no panic")), "yes: 5");
}

#[tokio::test(start_paused = true)]
async fn cancelling_wakes_a_waiting_prepare() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("a", "1")]).await;
    let waiting = site.prepare_waiting(id(2), vec![put("a", "2")]).await;
    site.store.cancel(id(2));
    // Long before its time is over: nothing but the wake-up can have ended it.
    settle().await;
    assert!(waiting.is_finished());
    assert_eq!(vote(&waiting.await.expect("no panic")), "no: the transaction is being aborted");
    // A hint that comes too late or for nobody does nothing.
    site.store.cancel(id(1));
    site.store.cancel(id(7));
    site.commit(id(1)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_prepare_that_is_dropped_leaves_nothing() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("b", "1")]).await;
    let waiting = site.prepare_waiting(id(2), vec![put("a", "2"), put("b", "2")]).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(vote(&site.prepare(id(3), vec![put("a", "3")]).await), "yes: 3");
    site.commit(id(1)).await;
    site.commit(id(3)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn commit_and_abort_may_be_repeated_and_never_contradict() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("a", "1")]).await;
    let first = site.store.commit(id(1)).await;
    assert_eq!(site.store.commit(id(1)).await, first);
    assert!(site.store.abort(id(1)).await.is_err(), "a commit is never undone");
    site.commit(id(1)).await;

    site.prepare(id(2), vec![put("b", "1")]).await;
    let first = site.store.abort(id(2)).await;
    assert_eq!(site.store.abort(id(2)).await, first);
    assert_eq!(site.store.commit(id(2)).await, Ok(Finished::Unknown));
    site.abort(id(2)).await;

    assert_eq!(site.store.commit(id(3)).await, Ok(Finished::Unknown));
    assert_eq!(site.store.abort(id(3)).await, Ok(Finished::Unknown));
    assert_eq!((site.disk.value("a").as_deref(), site.disk.value("b")), (Some("1"), None));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_prepare_repeats_the_vote_and_not_the_work() {
    let site = Site::new(&[]);
    let first = site.store.prepare(id(1), carried(vec![add("a", 1)])).await;
    assert_eq!(site.store.prepare(id(1), carried(vec![add("a", 1)])).await, first);
    site.commit(id(1)).await;
    assert_eq!(site.disk.value("a").as_deref(), Some("1"));
}
