//! Transactions that are begun, worked in and ended.

use std::time::Duration;

use handfast_client::key_value::Work;
use handfast_client::{Client, ClientMode, Error, TransactionOptions, TransactionState};
use tonic::{Code, Status};

use crate::fake::{Fake, Step, status};
use crate::{client, until};

const LONG: Duration = Duration::from_secs(60);

async fn start(mode: ClientMode) -> (Fake, Client) {
    let fake = Fake::start().await;
    let client = client(mode, &fake.endpoint, LONG);
    (fake, client)
}

pub async fn work_that_succeeds_is_committed(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let options = TransactionOptions::new().summary("a transfer");
    // Spawned, so that the future is known to be free to move between threads.
    let (balance, committed) = tokio::spawn(async move {
        let done = client.transaction(options, |session| async move {
            let accounts = session.key_value("accounts");
            accounts.apply(Work::new().put("alice", "10")).await?;
            let results = accounts.apply(Work::new().add_with_floor("alice", -3, 0)).await?;
            Ok::<_, Error>(results.integer(0))
        });
        done.await
    })
    .await
    .expect("no panic")
    .expect("committed");
    assert_eq!(balance, Some(7));
    assert!(committed.is_applied());
    assert_eq!(fake.states(), [TransactionState::Committed]);
}

pub async fn work_that_fails_is_aborted_and_its_error_is_the_one_told(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let done = client.transaction(TransactionOptions::new(), |session| async move {
        session.key_value("nobody").apply(Work::new().get("k")).await
    });
    let error = done.await.expect_err("no such participant");
    assert!(
        matches!(&error, Error::UnknownParticipant { participant: Some(name), .. } if name == "nobody")
    );
    assert_eq!(fake.states(), [TransactionState::Aborted]);
    assert_eq!(fake.applied(), 0);
}

pub async fn a_transaction_that_is_dropped_is_aborted_and_one_that_is_left_is_not(
    mode: ClientMode,
) {
    let (fake, client) = start(mode).await;
    let left = client.begin(TransactionOptions::new()).await.expect("begun").leave();
    drop(client.begin(TransactionOptions::new()).await.expect("begun"));
    until("the dropped one is aborted", || fake.states()[1] == TransactionState::Aborted).await;
    assert_eq!(fake.states()[0], TransactionState::Active);
    drop(client.attach(left));
    client.attach(left).commit().await.expect("committed");
    assert_eq!(fake.states()[0], TransactionState::Committed);
}

pub async fn work_that_may_have_been_done_is_not_done_again(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    fake.script([Step::Fail(Status::unavailable("a proxy"))]);
    let applied = transaction.key_value("accounts").apply(Work::new().add("alice", 1)).await;
    let error = applied.expect_err("nobody knows");
    assert!(matches!(error, Error::WorkUnknown { .. }), "{error}");
    assert_eq!(fake.applied(), 1);
    transaction.abort("unclear").await.expect("aborted");
}

pub async fn work_that_was_not_done_is_tried_again(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    fake.script([Step::Fail(status(Code::Unavailable, "STARTING", "starting", None))]);
    let results = transaction.key_value("accounts").apply(Work::new().add("alice", 1)).await;
    assert_eq!(results.expect("applied").integer(0), Some(1));
    assert_eq!(fake.applied(), 2);
    transaction.commit().await.expect("committed");
}

pub async fn an_abort_by_the_participant_is_told_as_one(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    fake.script([Step::Fail(status(Code::Aborted, "TRANSACTION_ABORTED", "wounded", None))]);
    let error =
        transaction.key_value("accounts").apply(Work::new().get("k")).await.expect_err("aborted");
    let Error::Aborted { transaction_id, participant, .. } = &error else { panic!("{error}") };
    assert_eq!(*transaction_id, transaction.id());
    assert_eq!(participant.as_deref(), Some("accounts"));
}

pub async fn a_commit_is_repeated_and_its_abort_is_believed_after_doubt(mode: ClientMode) {
    let (fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    fake.script([
        Step::Fail(Status::unavailable("a proxy")),
        Step::Fail(status(Code::Aborted, "TRANSACTION_ABORTED", "timed out", None)),
    ]);
    let id = transaction.id();
    let error = transaction.commit().await.expect_err("aborted");
    assert!(
        matches!(error, Error::Aborted { transaction_id, .. } if transaction_id == id),
        "{error}"
    );
}

pub async fn a_commit_without_an_answer_is_unknown_and_is_not_aborted_behind_its_back(
    mode: ClientMode,
) {
    let (fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    fake.script([Step::Hang]);
    let id = transaction.id();
    let options = handfast_client::CommitOptions {
        deadline: Some(Duration::from_millis(200)),
        ..Default::default()
    };
    let error = transaction.commit_with(options).await.expect_err("no answer");
    assert!(matches!(error, Error::OutcomeUnknown { transaction_id: Some(_), .. }), "{error}");
    // An abort that was on its way would have arrived before the last of these questions.
    for _ in 0..5 {
        let found = client.get(id).await.expect("found");
        assert_eq!(found.state(), TransactionState::Active);
    }
}

pub async fn a_committed_transaction_is_not_aborted(mode: ClientMode) {
    let (_fake, client) = start(mode).await;
    let transaction = client.begin(TransactionOptions::new()).await.expect("begun");
    let again = client.attach(transaction.id());
    transaction.commit().await.expect("committed");
    let error = again.abort("too late").await.expect_err("committed");
    assert!(matches!(error, Error::WrongState { .. }), "{error}");
}
