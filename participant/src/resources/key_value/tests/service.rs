//! The gRPC service, without the network.

use handfast_wire::v1::ApplyRequest;
use handfast_wire::v1::key_value_service_server::KeyValueService;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::super::{Enlist, EnlistError, EnlistErrorCode, KeyValueGrpc};
use super::*;

/// Notes who enlists, and fails when told to.
#[derive(Clone, Default)]
struct Enlister {
    enlisted: Arc<Mutex<Vec<TransactionId>>>,
    failure: Arc<Mutex<Option<EnlistErrorCode>>>,
}

impl Enlist for Enlister {
    async fn enlist(&self, id: TransactionId) -> Result<(), EnlistError> {
        tokio::task::yield_now().await;
        if let Some(code) = *self.failure.lock().expect("no test panics here") {
            return Err(EnlistError { code, message: "not now".into() });
        }
        self.enlisted.lock().expect("no test panics here").push(id);
        Ok(())
    }
}

struct Served {
    site: Site,
    enlister: Enlister,
    service: KeyValueGrpc<Enlister>,
}

impl Served {
    fn new() -> Self {
        let (site, enlister) = (Site::new(&[("a", "5")]), Enlister::default());
        let service = KeyValueGrpc::new(site.store.clone(), enlister.clone());
        Self { site, enlister, service }
    }

    async fn apply(
        &self,
        transaction_id: &str,
        operations: Vec<KeyValueOperation>,
    ) -> Result<String, Status> {
        let work = Some(KeyValueWork { operations });
        let request = ApplyRequest { transaction_id: transaction_id.into(), work };
        let response = self.service.apply(Request::new(request)).await?;
        Ok(shown(&response.into_inner().result.expect("always set")))
    }

    async fn refused(&self, number: u64, operations: Vec<KeyValueOperation>) -> (Code, String) {
        let answer = self.apply(&id(number).to_string(), operations).await;
        kind(&answer.expect_err("it must be refused"))
    }
}

fn kind(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error carries an ErrorInfo");
    assert_eq!(info.domain, "handfast");
    (status.code(), info.reason.clone())
}

#[tokio::test(start_paused = true)]
async fn the_first_call_enlists_and_the_others_do_not() {
    let served = Served::new();
    let text = id(1).to_string();
    assert_eq!(served.apply(&text, vec![add("a", 1)]).await.expect("done"), "6");
    assert_eq!(served.apply(&text, vec![get("a")]).await.expect("done"), "6");
    assert_eq!(*served.enlister.enlisted.lock().expect("no panic"), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_cannot_be_enlisted_does_nothing() {
    let served = Served::new();
    for (code, status, reason) in [
        (EnlistErrorCode::NotFound, Code::NotFound, "UNKNOWN_TRANSACTION"),
        (EnlistErrorCode::WrongState, Code::FailedPrecondition, "WRONG_STATE"),
        (EnlistErrorCode::Unavailable, Code::Unavailable, "STARTING"),
    ] {
        *served.enlister.failure.lock().expect("no panic") = Some(code);
        assert_eq!(served.refused(1, vec![put("a", "6")]).await, (status, reason.into()));
        assert!(served.site.is_empty());
    }
    *served.enlister.failure.lock().expect("no panic") = None;
    assert_eq!(served.apply(&id(1).to_string(), vec![get("a")]).await.expect("done"), "5");
}

#[tokio::test(start_paused = true)]
async fn two_first_calls_at_once_enlist_once() {
    let served = Served::new();
    let text = id(1).to_string();
    let (first, second) =
        tokio::join!(served.apply(&text, vec![get("a")]), served.apply(&text, vec![get("a")]));
    assert_eq!(first.expect("done"), "5");
    assert_eq!(
        kind(&second.expect_err("one at a time")),
        (Code::FailedPrecondition, "WRONG_STATE".into())
    );
    assert_eq!(*served.enlister.enlisted.lock().expect("no panic"), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn errors_say_whose_turn_it_is() {
    let served = Served::new();
    assert_eq!(
        kind(&served.apply("7", vec![]).await.expect_err("no id")),
        (Code::InvalidArgument, "INVALID_FIELD".into())
    );
    let request = ApplyRequest { transaction_id: id(1).to_string(), work: None };
    let status = served.service.apply(Request::new(request)).await.expect_err("no work");
    assert_eq!(kind(&status), (Code::InvalidArgument, "INVALID_FIELD".into()));
    assert!(served.site.is_empty());
    assert_eq!(
        served.refused(1, vec![get("")]).await,
        (Code::InvalidArgument, "INVALID_FIELD".into())
    );
    assert_eq!(
        served.refused(1, vec![add("a", -6)]).await,
        (Code::Aborted, "TRANSACTION_ABORTED".into())
    );
    assert_eq!(
        served.refused(1, vec![get("a")]).await,
        (Code::Aborted, "TRANSACTION_ABORTED".into())
    );
    served.site.prepare(id(2), vec![put("a", "6")]).await;
    assert_eq!(
        served.refused(2, vec![get("a")]).await,
        (Code::FailedPrecondition, "WRONG_STATE".into())
    );
}
