//! The rules. Each is a story with one resource, told by what is seen from outside.

use std::path::Path;
use std::time::Duration;

use handfast_commit_core::id::RequestId;
use handfast_commit_core::message::{FromParticipant, Vote};

use super::site::{Seen, Site, id, must};
use super::voting::{
    lost_pre_commit, pre_committed_aborts, pre_committed_commits, pre_committed_survives,
};
use super::{Broken, Subject};
use crate::resource_manager::{Finished, ResourceManager, Work};

/// How long is watched for what must not happen.
const MUST_NOT_WITHIN: Duration = Duration::from_millis(200);

/// Makes a fresh site for each rule, and names the rule that is broken.
macro_rules! rules {
    ($subject:expr, $folder:expr; $($rule:literal => $check:ident,)*) => {
        $({
            let folder = $folder.join(stringify!($check));
            let checked = async {
                let mut site = Site::new($subject, &folder).await?;
                $check(&mut site).await
            };
            let checked: Result<(), Seen> = checked.await;
            checked.map_err(|seen| Broken { rule: $rule, seen })?;
        })*
    };
}

pub(super) async fn check_all<S: Subject>(subject: &S, folder: &Path) -> Result<(), Broken> {
    rules! { subject, folder;
        "prepared work is not seen before its commit, and is seen after it" => commit_shows,
        "aborted work is never seen, and stands in nobody's way" => abort_leaves_nothing,
        "the abort of a branch that was never heard of is done" => abort_of_the_unheard_of,
        "in_doubt lists exactly the prepared branches" => in_doubt_is_exact,
        "a prepared branch survives a crash, unseen, and commits" => prepared_survives,
        "a prepared branch survives a crash, and aborts" => prepared_survives_and_aborts,
        "what was prepared and never voted for is aborted at the next start" => lost_vote,
        "a commit that was not recorded is repeated, and done once" => lost_commit,
        "an abort that was not recorded is repeated" => lost_abort,
        "a commit that is repeated is done once" => commit_twice,
        "conflicting branches wait or are refused" => conflicts,
        "a branch that survived a crash still excludes others" => conflicts_after_a_crash,
        "a prepare that waits can be called off" => called_off,
        "work that cannot be done is refused, and leaves nothing" => bad_work,
        "work that is not here cannot be prepared" => unknown_session,
        "what keeps everything in the store commits in one phase, once" => one_phase,
        "a pre-commit changes nothing that is seen, and the commit comes behind it" => pre_committed_commits,
        "a branch that was pre-committed can be aborted" => pre_committed_aborts,
        "a pre-committed branch survives a crash, and commits or aborts" => pre_committed_survives,
        "a pre-commit that was not recorded is repeated" => lost_pre_commit,
    }
    Ok(())
}

async fn commit_shows<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.shows(1, 0, "at first").await?;
    site.prepared(1, 1, 5).await?;
    site.shows(1, 0, "after the vote").await?;
    site.holds(&[1], "after the vote").await?;
    site.committed(1).await?;
    site.shows(1, 5, "after the commit").await?;
    site.holds(&[], "after the commit").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 11, "after a second commit").await?;
    site.crash().await?;
    site.shows(1, 11, "after a crash").await?;
    site.holds(&[], "after a crash").await
}

async fn abort_leaves_nothing<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    site.aborted(1).await?;
    site.shows(1, 0, "after the abort").await?;
    site.holds(&[], "after the abort").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 6, "after another branch's commit").await?;
    site.crash().await?;
    site.shows(1, 6, "after a crash").await
}

async fn abort_of_the_unheard_of<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    for _ in 0..2 {
        if let Err(error) = must("the abort", site.resource().abort(id(1))).await? {
            return Err(format!("it failed: {error}"));
        }
    }
    site.aborted(2).await?;
    site.holds(&[], "afterwards").await?;
    // The PREPARE that the abort has overtaken.
    let late = site.prepare(2, 1, 5).await?;
    if !matches!(late, Vote::No { .. }) {
        return Err(format!("a PREPARE behind its ABORT was answered with {late:?}"));
    }
    site.prepared(3, 1, 1).await?;
    site.committed(3).await?;
    site.shows(1, 1, "in the end").await
}

async fn in_doubt_is_exact<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    for number in 1..=6 {
        site.prepared(number, number as u32, number).await?;
    }
    site.holds(&[1, 2, 3, 4, 5, 6], "after six votes").await?;
    site.committed(2).await?;
    site.aborted(3).await?;
    site.committed(6).await?;
    site.holds(&[1, 4, 5], "after two commits and an abort").await?;
    for place in 1..=6 {
        let number = if [2, 6].contains(&place) { u64::from(place) } else { 0 };
        site.shows(place, number, "after two commits and an abort").await?;
    }
    Ok(())
}

async fn prepared_survives<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    site.prepared(2, 2, 7).await?;
    site.crash().await?;
    site.holds(&[1, 2], "after a crash").await?;
    site.shows(1, 0, "after a crash").await?;
    site.committed(1).await?;
    site.shows(1, 5, "after the commit").await?;
    site.crash().await?;
    site.holds(&[2], "after another crash").await?;
    site.shows(1, 5, "after another crash").await?;
    site.committed(2).await?;
    site.shows(2, 7, "after the second commit").await
}

async fn prepared_survives_and_aborts<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    site.crash().await?;
    site.aborted(1).await?;
    site.holds(&[], "after the abort").await?;
    site.shows(1, 0, "after the abort").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 6, "after another branch's commit").await
}

async fn lost_vote<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.fail_next_write();
    if let Ok(vote) = site.prepare(1, 1, 5).await {
        return Err(format!("{vote:?} was answered although its record failed"));
    }
    site.crash().await?;
    site.holds(&[], "after the crash").await?;
    site.shows(1, 0, "after the crash").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 6, "after another branch's commit").await
}

async fn lost_commit<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    site.fail_next_write();
    if let Ok(answer) = site.committing(1).await {
        return Err(format!("{answer:?} was answered although its record failed"));
    }
    site.crash().await?;
    site.committed(1).await?;
    site.shows(1, 5, "after the repeated commit").await?;
    site.holds(&[], "after the repeated commit").await?;
    site.crash().await?;
    site.shows(1, 5, "after another crash").await
}

async fn lost_abort<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    site.fail_next_write();
    // Nobody waits for the record of an abort, so that this may be answered.
    let _ = site.aborting(1).await;
    site.crash().await?;
    site.aborted(1).await?;
    site.holds(&[], "after the repeated abort").await?;
    site.shows(1, 0, "after the repeated abort").await?;
    site.prepared(2, 1, 6).await?;
    site.committed(2).await?;
    site.shows(1, 6, "after another branch's commit").await
}

async fn commit_twice<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    let (first, second) = tokio::join!(site.committing(1), site.committing(1));
    for answer in [first?, second?, site.committing(1).await?] {
        if !matches!(answer, FromParticipant::Committed { .. }) {
            return Err(format!("it was answered with {answer:?}"));
        }
    }
    site.shows(1, 5, "after three commits of one branch").await?;
    let again = site.prepare(1, 1, 5).await?;
    site.shows(1, 5, &format!("after a late PREPARE (answered {again:?})")).await
}

async fn excluded<S: Subject>(site: &Site<'_, S>, holder: u64, other: u64) -> Result<(), Seen> {
    let work = site.subject().work(1, 7);
    let mut waiting = Box::pin(site.preparing(other, work, None));
    let early = tokio::time::timeout(MUST_NOT_WITHIN, &mut waiting).await;
    let sum = match early {
        Ok(Ok(Vote::Prepared)) => {
            return Err(format!(
                "branch {other} has prepared while branch {holder} was in doubt about the same place"
            ));
        }
        Ok(Err(seen)) => return Err(seen),
        Ok(Ok(_refused)) => {
            site.committed(holder).await?;
            5
        }
        Err(_still_waiting) => {
            site.committed(holder).await?;
            match waiting.await? {
                Vote::Prepared => {
                    site.committed(other).await?;
                    12
                }
                _ => 5,
            }
        }
    };
    site.shows(1, sum, "after both").await?;
    site.holds(&[], "after both").await
}

async fn conflicts<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    if !site.subject().excludes() {
        return Ok(());
    }
    site.prepared(1, 1, 5).await?;
    excluded(site, 1, 2).await
}

async fn conflicts_after_a_crash<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    if !site.subject().excludes() {
        return Ok(());
    }
    site.prepared(1, 1, 5).await?;
    site.crash().await?;
    excluded(site, 1, 2).await
}

async fn called_off<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    site.prepared(1, 1, 5).await?;
    let waiting = tokio::spawn(site.preparing(2, site.subject().work(1, 7), None));
    // Whether it waits or has been refused by now: from here on it must come to its end.
    site.aborted(2).await?;
    let vote = waiting.await.map_err(|error| error.to_string())??;
    if site.subject().excludes() && vote == Vote::Prepared {
        return Err("a branch that was called off while it waited has prepared".to_owned());
    }
    site.holds(&[1], "after it was called off").await?;
    site.committed(1).await?;
    site.shows(1, 5, "in the end").await
}

async fn bad_work<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    let Some(work) = site.subject().bad_work() else {
        return Ok(());
    };
    let vote = site.preparing(1, work, None).await?;
    if !matches!(&vote, Vote::No { reason } if !reason.is_empty()) {
        return Err(format!("it was answered with {vote:?}"));
    }
    site.holds(&[], "after the no").await
}

async fn unknown_session<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    let prepared = must("the vote", site.resource().prepare(id(1), Work::Joined)).await?;
    if let crate::resource_manager::Prepared::Yes { .. } = prepared {
        return Err("a branch without work has prepared".to_owned());
    }
    match must("the commit", site.resource().commit(id(2))).await? {
        Ok(Finished::Done { .. }) => {
            Err("the commit of a branch that was never prepared was done".to_owned())
        }
        _ => site.holds(&[], "afterwards").await,
    }
}

async fn one_phase<S: Subject>(site: &mut Site<'_, S>) -> Result<(), Seen> {
    if !site.resource().keeps_all_in_store() {
        return Ok(());
    }
    let request: RequestId = "r-1".parse().map_err(|_| "the suite's own request id".to_owned())?;
    let work = || site.subject().work(1, 5);
    site.fail_next_write();
    if let Ok(vote) = site.preparing(1, work(), Some(request.clone())).await {
        return Err(format!("{vote:?} was answered although its record failed"));
    }
    site.crash().await?;
    site.shows(1, 0, "after a commit that was not recorded").await?;
    site.holds(&[], "after a commit that was not recorded").await?;
    for number in [2, 3] {
        let work = site.subject().work(1, 5);
        let vote = site.preparing(number, work, Some(request.clone())).await?;
        if !matches!(vote, Vote::Committed { .. }) {
            return Err(format!("it was answered with {vote:?}"));
        }
        site.shows(1, 5, "after the commit, and after its repetition").await?;
        site.crash().await?;
    }
    site.shows(1, 5, "after all").await?;
    site.holds(&[], "after all").await
}
