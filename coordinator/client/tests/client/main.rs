//! The client library against a server: what is repeated, what is told, what is never told.
//!
//! Each test runs in both modes: what comes of a call does not depend on the way it took.

mod fake;
mod proxy;

mod executing;
mod interactive;
mod stream;

use std::time::Duration;

use handfast_client::{Client, ClientMode, ClientOptions};

/// A client whose calls are cut off after `deadline`.
fn client(mode: ClientMode, endpoint: &str, deadline: Duration) -> Client {
    let options = ClientOptions { mode, deadline, ..ClientOptions::default() };
    Client::connect_with(endpoint, options).expect("an endpoint")
}

/// Makes tests of functions that take a mode.
macro_rules! in_both_modes {
    ($($module:ident: $($test:ident),* $(,)?;)*) => {
        mod over_a_stream {
            use handfast_client::ClientMode::Stream;
            $(mod $module {
                $(#[tokio::test]
                async fn $test() {
                    crate::$module::$test(super::Stream).await;
                })*
            })*
        }
        mod by_itself {
            use handfast_client::ClientMode::Unary;
            $(mod $module {
                $(#[tokio::test]
                async fn $test() {
                    crate::$module::$test(super::Unary).await;
                })*
            })*
        }
    };
}

/// Waits until it is so, for at most half a minute.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s in vain until {what}");
}

in_both_modes! {
    executing:
        a_commit_brings_the_results,
        retries_keep_the_request_id,
        a_request_id_that_is_given_is_kept_and_one_that_is_drawn_is_used_once,
        a_broken_connection_is_mended_and_the_request_repeated,
        without_an_answer_the_outcome_is_unknown,
        a_refusal_after_a_doubtful_attempt_leaves_the_outcome_unknown,
        an_answer_that_settles_nothing_is_an_unknown_outcome,
        an_abort_says_who_and_why,
        refusals_have_types_of_their_own,
        a_participant_that_is_not_registered_is_named,
        where_nobody_listens_nothing_was_done,
        a_client_and_its_clones_share_one_connection,
        transactions_are_found_listed_watched_and_resolved,
        asking_again_brings_the_outcome_of_a_transaction_that_is_decided_later;
    interactive:
        work_that_succeeds_is_committed,
        work_that_fails_is_aborted_and_its_error_is_the_one_told,
        a_transaction_that_is_dropped_is_aborted_and_one_that_is_left_is_not,
        work_that_may_have_been_done_is_not_done_again,
        work_that_was_not_done_is_tried_again,
        an_abort_by_the_participant_is_told_as_one,
        a_commit_is_repeated_and_its_abort_is_believed_after_doubt,
        a_commit_without_an_answer_is_unknown_and_is_not_aborted_behind_its_back,
        a_committed_transaction_is_not_aborted;
}
