//! What a restart finds.

use super::super::OpenError;
use super::super::staged::Staged;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_prepared_branch_is_in_doubt_after_a_restart_and_has_its_locks() {
    let site = Site::new(&[("read", "1"), ("written", "1")]);
    site.prepare(id(1), vec![get("read"), put("written", "2")]).await;
    let site = site.reopened();
    assert_eq!(site.store.in_doubt().await, Ok(vec![id(1)]));
    assert_eq!(vote(&site.prepare(id(2), vec![get("read")]).await), "yes: 1");
    site.commit(id(2)).await;
    let held = |key| {
        format!(
            "no: lock on key \"{key}\" is held by {} (in doubt since before this participant started); waited 5 s",
            id(1)
        )
    };
    assert_eq!(vote(&site.prepare(id(3), vec![put("read", "3")]).await), held("read"));
    assert_eq!(vote(&site.prepare(id(4), vec![get("written")]).await), held("written"));
    let waiting = site.prepare_waiting(id(5), vec![get("written")]).await;
    site.commit(id(1)).await;
    assert_eq!(vote(&waiting.await.expect("no panic")), "yes: 2");
    site.commit(id(5)).await;
    assert!(site.is_empty());
    assert!(site.reopened().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_abort_after_a_restart_removes_the_staged_branch() {
    let site = Site::new(&[("a", "1")]);
    site.prepare(id(1), vec![put("a", "2")]).await;
    let site = site.reopened();
    site.abort(id(1)).await;
    assert_eq!((site.disk.value("a").as_deref(), site.disk.staged_count()), (Some("1"), 0));
    assert!(site.reopened().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_prepared_survives() {
    let site = Site::new(&[("a", "1")]);
    site.begin(id(1));
    assert!(site.apply(id(1), vec![get("a"), put("b", "2")]).await.is_ok());
    assert_eq!(vote(&site.prepare_work(id(1), Work::Joined).await), "yes: ");
    let site = site.reopened();
    let no = vote(&site.prepare(id(2), vec![put("a", "2")]).await);
    assert!(no.contains("in doubt since before"), "{no}");
    site.commit(id(1)).await;
    assert_eq!(site.disk.value("b").as_deref(), Some("2"));
}

fn refusal(fill: impl FnOnce(&Disk)) -> OpenError {
    let disk = Arc::new(Disk::default());
    fill(&disk);
    match KeyValueStore::open(disk, KeyValueConfig::default()) {
        Ok(_) => panic!("it must not open"),
        Err(error) => error,
    }
}

#[test]
fn a_store_that_cannot_tell_what_is_in_doubt_does_not_open() {
    let torn = refusal(|disk| disk.stage(id(1), vec![0xff]));
    assert!(matches!(torn, OpenError::Staged { id: found, .. } if found == id(1)), "{torn}");
    let nobody =
        refusal(|disk| drop(disk.staged.lock().expect("no panic").insert(vec![7], vec![])));
    assert!(matches!(nobody, OpenError::Damaged(_)), "{nobody}");
    let staged = Staged { writes: [("a".into(), None)].into(), read: Default::default() };
    let both =
        refusal(|disk| [1, 2].iter().for_each(|number| disk.stage(id(*number), staged.encode())));
    assert!(matches!(both, OpenError::Conflict { .. }), "{both}");
    let disk = Arc::new(Disk::default());
    disk.fails.store(true, Ordering::Relaxed);
    assert!(matches!(
        KeyValueStore::open(disk, KeyValueConfig::default()),
        Err(OpenError::Journal(_))
    ));
}
