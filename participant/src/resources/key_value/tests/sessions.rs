//! Interactive sessions: locks are held between calls, and a session that is gone is never committed.

use super::super::branches::{SESSION_BYTES_MAX, SESSION_LOCKS_MAX};
use super::super::operations::{OPERATIONS_MAX, VALUE_BYTES_MAX};
use super::super::{ApplyError, InvalidWork};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_session_sees_its_own_writes_and_commits_them() {
    let site = Site::new(&[("a", "5")]);
    site.begin(id(1));
    assert_eq!(site.apply(id(1), vec![add("a", 1), put("b", "x")]).await.as_deref(), Ok("6 x"));
    assert_eq!(site.apply(id(1), vec![get("a"), delete("b")]).await.as_deref(), Ok("6 -"));
    assert_eq!(site.apply(id(1), vec![get("b"), add("a", 1)]).await.as_deref(), Ok("- 7"));
    assert_eq!(site.disk.value("a").as_deref(), Some("5"));
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), "yes: ");
    site.commit(id(1)).await;
    assert_eq!((site.disk.value("a").as_deref(), site.disk.value("b")), (Some("7"), None));
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_only_read_is_read_only() {
    let site = Site::new(&[("a", "5")]);
    site.begin(id(1));
    assert_eq!(site.apply(id(1), vec![get("a")]).await.as_deref(), Ok("5"));
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), "read-only: ");
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_session_a_joined_prepare_is_refused() {
    let site = Site::new(&[]);
    let reason = "no: no work of this transaction is here (the participant restarted, or the branch was given up)";
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), reason);
    assert_eq!(
        site.store.apply(id(1), KeyValueWork::default()).await,
        Err(ApplyError::Unknown(id(1)))
    );
    site.begin(id(2));
    assert!(site.apply(id(2), vec![put("a", "1")]).await.is_ok());
    let restarted = site.reopened();
    assert_eq!(vote(&restarted.prepare_work(id(2), Work::Joined).await), reason);
    assert_eq!(vote(&restarted.prepare(id(3), vec![get("a")]).await), "yes: -");
}

#[tokio::test(start_paused = true)]
async fn an_aborted_session_gives_everything_up() {
    let site = Site::new(&[]);
    site.begin(id(1));
    assert!(site.apply(id(1), vec![put("a", "1")]).await.is_ok());
    site.abort(id(1)).await;
    assert!(site.is_empty());
    assert_eq!(site.disk.value("a"), None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_operation_aborts_the_session_and_gives_its_locks_up() {
    let site = Site::new(&[("a", "5")]);
    site.begin(id(1));
    assert!(site.apply(id(1), vec![put("b", "1")]).await.is_ok());
    let refused = site.apply(id(1), vec![add("a", -6)]).await.expect_err("below the floor");
    assert_eq!(refused, "key \"a\": 5 + -6 is below the floor of 0");
    assert_eq!(vote(&site.prepare(id(2), vec![get("a"), get("b")]).await), "yes: 5 -");
    // Whatever comes next is told the same.
    assert_eq!(site.apply(id(1), vec![get("a")]).await.expect_err("aborted"), refused);
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), format!("no: {refused}"));
    site.commit(id(2)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_work_changes_nothing() {
    let site = Site::new(&[]);
    site.begin(id(1));
    assert!(site.apply(id(1), vec![put("a", "1")]).await.is_ok());
    let work = KeyValueWork { operations: vec![get("")] };
    let invalid = ApplyError::Invalid(InvalidWork::Key { index: 0, bytes: 0 });
    assert_eq!(site.store.apply(id(1), work).await, Err(invalid));
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), "yes: ");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_wounded_and_its_locks_go_at_once() {
    let site = Site::new(&[]);
    let reason = format!("wounded by older transaction {}", id(1));
    for (number, key) in [(2, "a"), (3, "b")] {
        site.begin(id(number));
        assert!(site.apply(id(number), vec![put(key, "young")]).await.is_ok());
    }
    let yes = site.prepare(id(1), vec![put("a", "old"), put("b", "old")]).await;
    assert_eq!(vote(&yes), "yes: old old");
    assert_eq!(site.apply(id(2), vec![get("c")]).await.expect_err("doomed"), reason);
    assert_eq!(vote(&site.prepare_work(id(3), Work::Joined).await), format!("no: {reason}"));
    site.abort(id(2)).await;
    site.commit(id(1)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wound_explains_what_went_wrong_after_it() {
    let site = Site::new(&[]);
    site.begin(id(2));
    assert!(site.apply(id(2), vec![put("a", "young")]).await.is_ok());
    let (call, _) = site.store.branches().start_applying(id(2), [].into_iter()).expect("idle");
    site.prepare(id(1), vec![put("a", "old")]).await;
    // What a wounded call reads is nobody's business.
    let reason = site.store.branches().refuse_applying(id(2), call, "a strange value".into());
    assert_eq!(reason, format!("wounded by older transaction {}", id(1)));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_prepared_is_not_wounded() {
    let site = Site::new(&[]);
    site.begin(id(2));
    assert!(site.apply(id(2), vec![put("a", "young")]).await.is_ok());
    assert_eq!(vote(&site.prepare_work(id(2), Work::Joined).await), "yes: ");
    let no = vote(&site.prepare(id(1), vec![put("a", "old")]).await);
    assert!(no.contains("which is younger and has prepared"), "{no}");
    site.commit(id(2)).await;
    assert_eq!(site.disk.value("a").as_deref(), Some("young"));
}

#[tokio::test(start_paused = true)]
async fn of_two_sessions_that_read_and_then_write_the_older_goes_on() {
    let site = Site::new(&[("a", "5")]);
    for number in [1, 2] {
        site.begin(id(number));
        assert_eq!(site.apply(id(number), vec![get("a")]).await.as_deref(), Ok("5"));
    }
    let younger = {
        let site = site.clone();
        tokio::spawn(async move { site.apply(id(2), vec![add("a", 1)]).await })
    };
    site.until_waiting(id(2)).await;
    assert_eq!(site.apply(id(1), vec![add("a", 1)]).await.as_deref(), Ok("6"));
    let wounded = younger.await.expect("no panic").expect_err("wounded");
    assert_eq!(wounded, format!("wounded by older transaction {}", id(1)));
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), "yes: ");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_has_done_nothing_and_waits_for_nothing() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("b", "1")]).await;
    site.begin(id(2));
    assert!(site.apply(id(2), vec![put("c", "1")]).await.is_ok());
    let call = {
        let site = site.clone();
        tokio::spawn(async move { site.apply(id(2), vec![add("c", 1), get("b")]).await })
    };
    site.until_waiting(id(2)).await;
    call.abort();
    assert!(call.await.is_err());
    assert!(!site.store.branches().waits(id(2)));
    site.commit(id(1)).await;
    // The session lives on as it was, and nothing has taken b in its name.
    assert_eq!(site.apply(id(2), vec![get("c")]).await.as_deref(), Ok("1"));
    site.begin(id(3));
    assert!(site.apply(id(3), vec![put("b", "3")]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_transaction_come_one_at_a_time() {
    let site = Site::new(&[]);
    site.prepare(id(1), vec![put("a", "1")]).await;
    site.begin(id(2));
    let running = {
        let site = site.clone();
        tokio::spawn(async move { site.apply(id(2), vec![get("a")]).await })
    };
    site.until_waiting(id(2)).await;
    let work = KeyValueWork::default();
    assert_eq!(site.store.apply(id(2), work.clone()).await, Err(ApplyError::Busy(id(2))));
    // A transaction that is committed while it is still at work is not one that anybody meant.
    let no = vote(&site.prepare_work(id(2), Work::Joined).await);
    assert!(no.contains("still running"), "{no}");
    let given_up = running.await.expect("no panic").expect_err("given up");
    assert_eq!(given_up, "the branch was given up while the call ran");
    assert_eq!(site.store.apply(id(1), work).await, Err(ApplyError::Ending(id(1))));
    site.commit(id(1)).await;
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_outlives_its_branch_does_not_touch_the_next_one() {
    let site = Site::new(&[("a", "5")]);
    site.prepare(id(1), vec![put("a", "6")]).await;
    site.begin(id(2));
    let late = {
        let site = site.clone();
        tokio::spawn(async move { site.apply(id(2), vec![add("a", 1)]).await })
    };
    site.until_waiting(id(2)).await;
    site.abort(id(2)).await;
    site.begin(id(2));
    let mut next = Box::pin(site.apply(id(2), vec![add("a", 1)]));
    tokio::select! {
        biased;
        early = &mut next => panic!("a is locked: {early:?}"),
        () = std::future::ready(()) => {}
    }
    assert!(late.await.expect("no panic").is_err());
    site.commit(id(1)).await;
    assert_eq!(next.await.as_deref(), Ok("7"));
}

#[tokio::test(start_paused = true)]
async fn a_session_takes_no_work_before_it_is_enlisted() {
    let site = Site::new(&[]);
    let opening = site.store.open_session(id(1)).expect("new");
    assert!(matches!(site.store.open_session(id(1)), Err(ApplyError::Busy(_))));
    assert!(matches!(
        site.store.apply(id(1), KeyValueWork::default()).await,
        Err(ApplyError::Busy(_))
    ));
    drop(opening);
    assert!(site.is_empty());
    let opening = site.store.open_session(id(1)).expect("new again");
    site.abort(id(1)).await;
    assert_eq!(opening.enlisted(), Err(ApplyError::Unknown(id(1))));
    assert!(site.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_bounded() {
    let site = Site::new(&[]);
    let large = "x".repeat(VALUE_BYTES_MAX);
    site.begin(id(1));
    // Overwriting is not counted twice.
    for key in 0..SESSION_BYTES_MAX / VALUE_BYTES_MAX - 1 {
        for _ in 0..2 {
            assert!(site.apply(id(1), vec![put(&key.to_string(), &large)]).await.is_ok());
        }
    }
    assert!(
        site.apply(id(1), vec![put("last", &large)])
            .await
            .expect_err("full")
            .contains("16777216 bytes")
    );

    site.begin(id(2));
    let gets = |call: usize| (0..OPERATIONS_MAX).map(|key| get(&format!("{call}-{key}"))).collect();
    for call in 0..SESSION_LOCKS_MAX / OPERATIONS_MAX {
        assert!(site.apply(id(2), gets(call)).await.is_ok());
    }
    assert!(
        site.apply(id(2), vec![get("one more")]).await.expect_err("full").contains("50000 keys")
    );
}

#[tokio::test(start_paused = true)]
async fn carried_work_and_a_session_do_not_mix() {
    let site = Site::new(&[]);
    site.begin(id(1));
    assert!(site.apply(id(1), vec![put("a", "1")]).await.is_ok());
    let no = vote(&site.prepare(id(1), vec![put("b", "1")]).await);
    assert!(no.starts_with("no: the prepare carries work, and other work"), "{no}");
    assert!(site.is_empty());
}
