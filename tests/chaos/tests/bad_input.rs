//! What bad input gets: an error that names the field, the limit or the way out, and a server that goes on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use handfast_chaos::programs::program;
use handfast_chaos::{Cluster, Oracle, Server, ask};
use handfast_client::key_value::Work;
use handfast_client::{CommitOptions, TransactionOptions};
use handfast_wire::v1;
use tonic::{Code, Status};

/// One request to the coordinator and what it must be answered with.
async fn refused(
    cluster: &Cluster,
    request: v1::ExecuteTransactionRequest,
    code: Code,
    says: &[&str],
) {
    let shown = format!("{:.300}", format!("{request:?}"));
    let refused = ask::execute_once(cluster.coordinator.address(), request).await;
    check(refused.expect_err(&shown), code, says, &shown);
}

fn check(status: Status, code: Code, says: &[&str], shown: &str) {
    assert_eq!(status.code(), code, "{shown}: {}", status.message());
    for text in says {
        assert!(status.message().contains(text), "{shown}: no {text:?} in {:?}", status.message());
    }
}

fn branch(participant: &str) -> v1::BranchWork {
    v1::BranchWork {
        participant: participant.to_owned(),
        payload: Work::new().put("key", "never").encode(),
    }
}

fn with(options: v1::TransactionOptions) -> v1::ExecuteTransactionRequest {
    v1::ExecuteTransactionRequest {
        branches: vec![branch("a")],
        options: Some(options),
        ..Default::default()
    }
}

fn seconds(seconds: i64) -> v1::TransactionOptions {
    let mut options = v1::TransactionOptions::default();
    options.timeout.get_or_insert_default().seconds = seconds;
    options
}

#[tokio::test]
async fn a_whole_transaction_that_is_malformed_or_too_large() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let request = v1::ExecuteTransactionRequest::default;

    refused(&cluster, request(), Code::InvalidArgument, &["branches"]).await;
    let unknown = v1::ExecuteTransactionRequest { branches: vec![branch("nobody")], ..request() };
    refused(&cluster, unknown, Code::NotFound, &["nobody", "registered"]).await;
    for name in ["", "Upper", "with space", "a/b", &"x".repeat(65)] {
        let named = v1::ExecuteTransactionRequest { branches: vec![branch(name)], ..request() };
        refused(&cluster, named, Code::InvalidArgument, &["participant"]).await;
    }
    let twice =
        v1::ExecuteTransactionRequest { branches: vec![branch("a"), branch("a")], ..request() };
    refused(&cluster, twice, Code::InvalidArgument, &["twice"]).await;
    let many = v1::ExecuteTransactionRequest { branches: vec![branch("a"); 257], ..request() };
    refused(&cluster, many, Code::InvalidArgument, &["257", "256"]).await;
    let mut large = branch("a");
    large.payload = vec![0; (1 << 20) + 1].into();
    let large = v1::ExecuteTransactionRequest { branches: vec![large], ..request() };
    refused(&cluster, large, Code::InvalidArgument, &["1048577", "1048576"]).await;

    for name in ["with\nnewline", "umlaut-ä", &"x".repeat(65)] {
        let named = v1::ExecuteTransactionRequest {
            request_id: (*name).to_owned(),
            branches: vec![branch("a")],
            ..request()
        };
        refused(&cluster, named, Code::InvalidArgument, &["request_id"]).await;
    }
    for timeout in [-1, 0, 3601, i64::MAX] {
        refused(&cluster, with(seconds(timeout)), Code::InvalidArgument, &["timeout"]).await;
    }
    let paxos = v1::Protocol::PaxosCommit.into();
    let paxos = v1::TransactionOptions { protocol: paxos, ..Default::default() };
    refused(&cluster, with(paxos), Code::Unimplemented, &["PROTOCOL_TWO_PHASE"]).await;
    let strange = v1::TransactionOptions { protocol: 99, ..Default::default() };
    refused(&cluster, with(strange), Code::InvalidArgument, &["protocol", "99"]).await;
    let long = v1::TransactionOptions { summary: "x".repeat(257), ..Default::default() };
    refused(&cluster, with(long), Code::InvalidArgument, &["summary", "256"]).await;
    let labels = (0..17).map(|n| (n.to_string(), String::new())).collect();
    let labels = v1::TransactionOptions { labels, ..Default::default() };
    refused(&cluster, with(labels), Code::InvalidArgument, &["labels", "16"]).await;
    let reply =
        v1::ExecuteTransactionRequest { branches: vec![branch("a")], reply_time: 99, ..request() };
    refused(&cluster, reply, Code::InvalidArgument, &["reply_time", "99"]).await;

    nothing_was_done(&cluster).await;
}

/// Work that makes no sense is the participant's to refuse: it votes no, and says why.
#[tokio::test]
async fn work_that_makes_no_sense_aborts() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let address = cluster.coordinator.address();
    let garbage = [("a", vec![0xff; 40]), ("b", Work::new().put("key", "never").encode().to_vec())];
    let outcome = ask::execute_once(address, ask::execute_request("", garbage, None)).await;
    let outcome = outcome.expect("an outcome");
    assert_eq!(outcome.state(), v1::TransactionState::Aborted);
    let reason = outcome.abort_reason.expect("a reason");
    assert_eq!((reason.cause(), reason.participant.as_str()), (v1::AbortCause::VotedNo, "a"));

    for work in [
        Work::new().put("", "never"),
        Work::new().put("x".repeat(1025), "never"),
        Work::new().put("key", "no number").add("key", 1),
        Work::new().add_with_floor("key", -1, 0),
        Work::new().put("key", i64::MAX.to_string()).add("key", 1),
    ] {
        let request = ask::execute_request("", [("a", work.encode())], None);
        let outcome = ask::execute_once(address, request).await.expect("an outcome");
        assert_eq!(outcome.state(), v1::TransactionState::Aborted, "{work:?}");
        let reason = outcome.abort_reason.expect("a reason");
        assert!(!reason.message.is_empty(), "{work:?}: it says why");
    }
    nothing_was_done(&cluster).await;
}

#[tokio::test]
async fn ids_and_states_that_do_not_fit() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let address = cluster.coordinator.address();
    let told = |status: Status, code, says: &[&str]| check(status, code, says, "a question");

    for id in ["x", "0000-02-1-1", "0000-02-0000000001-00000000000000zz"] {
        let status = ask::get(address, id).await.expect_err("no id");
        told(status, Code::InvalidArgument, &["transaction_id"]);
    }
    let never = ask::get(address, "0000-02-0000000001-00000000ffffffff").await;
    told(never.expect_err("never begun"), Code::NotFound, &["never"]);
    let future = ask::get(address, "0000-02-00000000ff-0000000000000001").await;
    told(future.expect_err("never begun"), Code::NotFound, &["never"]);
    let foreign = ask::get(address, "0007-02-0000000001-0000000000000001").await;
    told(foreign.expect_err("another slot"), Code::FailedPrecondition, &["slot 7"]);
    told(ask::get(address, "").await.expect_err("nothing asked for"), Code::InvalidArgument, &[]);
    let request = ask::get_request(address, "never made").await;
    told(request.expect_err("never made"), Code::NotFound, &["never made"]);

    let mut service = ask::transactions(address).await.expect("connected");
    let both = v1::GetTransactionRequest {
        transaction_id: "0000-02-0000000001-0000000000000001".to_owned(),
        request_id: "and a name".to_owned(),
    };
    let both = service.get_transaction(both).await;
    told(both.expect_err("one too many"), Code::InvalidArgument, &["request_id"]);
    for page_size in [-1, 1001] {
        let list = v1::ListTransactionsRequest { page_size, ..Default::default() };
        let list = service.list_transactions(list).await;
        told(list.expect_err("no such page"), Code::InvalidArgument, &["page_size", "1000"]);
    }
    let page_token = "made up".to_owned();
    let list = v1::ListTransactionsRequest { page_token, ..Default::default() };
    let list = service.list_transactions(list).await;
    told(list.expect_err("no such page"), Code::InvalidArgument, &["page_token"]);

    // A request_id belongs to one request.
    let oracle = Oracle::new();
    let client = cluster.client();
    let one = ["a", "b"].map(|name| (name, Work::new().put("one", "1")));
    let first = oracle.execute(&client, "mine", one).await.committed().to_string();
    let two = ["a", "b"].map(|name| (name, Work::new().put("two", "2").encode()));
    let other = ask::execute_once(address, ask::execute_request("mine", two, None)).await;
    told(other.expect_err("another request"), Code::FailedPrecondition, &[&first]);

    // What is over stays over.
    let id = first.clone();
    let abort = v1::AbortTransactionRequest { transaction_id: id, reason: String::new() };
    let abort = service.abort_transaction(abort).await.expect_err("it has committed");
    told(abort, Code::FailedPrecondition, &["committed"]);
    let begun = client.begin(TransactionOptions::new()).await.expect("begun");
    let id = begun.id();
    begun.abort("a change of mind").await.expect("aborted");
    let committed = client.attach(id).commit_with(CommitOptions::default()).await;
    assert!(matches!(committed, Err(handfast_client::Error::Aborted { .. })), "{committed:?}");
    let late = client.attach(id).key_value("a").apply(Work::new().put("late", "x")).await;
    assert!(late.is_err(), "work in a transaction that is over: {late:?}");
    oracle.check(&cluster).await;
}

#[tokio::test]
async fn a_participant_is_not_somebody_else() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let status = ask::held(cluster.address("a"), "b").await.expect_err("that is a, not b");
    check(status, Code::FailedPrecondition, &["a", "b"], "a question to a for b");

    let origin = ask::origin(cluster.coordinator.address(), "a").await.expect("an origin");
    let mut service = ask::participant(cluster.address("a")).await.expect("connected");
    let prepare = |origin: &v1::Origin, id: &str| v1::PrepareRequest {
        transaction_id: id.to_owned(),
        origin: Some(origin.clone()),
        carries_work: true,
        payload: Work::new().put("key", "never").encode(),
        participant: "a".to_owned(),
        ..Default::default()
    };
    let id = format!("0000-02-{:010x}-00000000000000ff", origin.epoch);
    let old = v1::Origin { epoch: origin.epoch - 1, ..origin.clone() };
    let old = service.prepare(prepare(&old, &id)).await.expect_err("an epoch that is over");
    check(old, Code::FailedPrecondition, &["epoch"], "PREPARE of an old epoch");
    let other_slot = v1::Origin { slot: 7, ..origin.clone() };
    let other_slot = service.prepare(prepare(&other_slot, &id)).await.expect_err("another slot");
    check(other_slot, Code::FailedPrecondition, &["slot 7"], "PREPARE by another slot");
    let mut bare = prepare(&origin, &id);
    bare.origin = None;
    let bare = service.prepare(bare).await.expect_err("nobody's");
    check(bare, Code::InvalidArgument, &["origin"], "PREPARE by nobody");
    let broken = service.prepare(prepare(&origin, "not an id")).await.expect_err("no id");
    check(broken, Code::InvalidArgument, &["transaction_id"], "PREPARE without an id");

    // COMMIT of what was never prepared here is refused loudly, and changes nothing.
    let commit = v1::CommitRequest {
        transaction_id: id.clone(),
        origin: Some(origin.clone()),
        participant_incarnation: 1,
        participant: "a".to_owned(),
    };
    let commit = service.commit(commit).await.expect_err("never prepared here");
    assert!(matches!(commit.code(), Code::DataLoss | Code::FailedPrecondition), "{commit:?}");
    nothing_was_done(&cluster).await;
}

/// Bytes that are no gRPC, endless headers, connections that say nothing: they cost the sender a connection.
#[tokio::test]
async fn bytes_that_are_no_protocol() {
    let cluster = Cluster::start(&["a", "b"]).await;
    for address in [cluster.coordinator.address(), cluster.address("a")] {
        let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(address)).collect();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            vec![0; 100_000],
            (0..=255).cycle().take(100_000).collect(),
        ] {
            let mut connection = TcpStream::connect(address).expect("it accepts");
            connection.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
            // The server may end it before it has read everything.
            let _ = connection.write_all(&bytes);
            let _ = connection.shutdown(Shutdown::Write);
            let _ = connection.read_to_end(&mut Vec::new());
        }
        drop(silent);
    }
    nothing_was_done(&cluster).await;
}

/// Everybody still serves, and no key holds anything.
async fn nothing_was_done(cluster: &Cluster) {
    let untouched = Work::new().expect_absent("key").put("other", "x");
    let both = ["a", "b"].map(|name| (name, untouched.clone()));
    let oracle = Oracle::new();
    oracle.execute(&cluster.client(), "afterwards", both).await.committed();
    oracle.check(cluster).await;
}

/// A command line, how it ends, and what it must say.
async fn fails(name: &str, arguments: &[&str], code: i32, says: &[&str]) {
    let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    let mut server = Server::new(name, program(name), arguments);
    let (status, said) = server.refuses().await;
    assert_eq!(status.code(), Some(code), "{said}");
    for text in says {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
    assert!(!said.contains("panic"), "{said}");
}

#[tokio::test]
async fn command_lines_and_folders() {
    const COORDINATOR: &str = "handfast-coordinator";
    const PARTICIPANT: &str = "handfast-participant";
    let mut cluster = Cluster::start(&["a"]).await;
    let folder = cluster.coordinator_data().display().to_string();
    let other = cluster.participant_data("a").display().to_string();
    let fresh = |name: &str| cluster.folder().join(name).display().to_string();

    fails(COORDINATOR, &["--no-such-flag"], 2, &["--no-such-flag"]).await;
    fails(COORDINATOR, &["--timeout", "soon"], 2, &["timeout", "soon"]).await;
    fails(COORDINATOR, &["--slot", "65536"], 2, &["slot", "65535"]).await;
    fails(COORDINATOR, &["--data", &folder], 1, &[&folder, "process"]).await;
    fails(
        PARTICIPANT,
        &["key-value", "--name", "Bad Name", "--data", &fresh("x")],
        1,
        &["Bad Name"],
    )
    .await;
    let taken = cluster.coordinator.address();
    let mut second = Server::new(
        "second",
        program(COORDINATOR),
        vec![
            "--data".to_owned(),
            fresh("second"),
            "--metrics-listen".to_owned(),
            taken.to_string(),
        ],
    );
    let (status, said) = second.refuses().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains(&taken.port().to_string()), "{said}");

    // A folder of the other kind, a folder of somebody else's, a folder that cannot be made.
    for server in cluster.servers() {
        server.kill();
    }
    fails(COORDINATOR, &["--data", &other], 1, &[&other, "participant"]).await;
    fails(
        PARTICIPANT,
        &["key-value", "--name", "a", "--data", &folder],
        1,
        &[&folder, "coordinator"],
    )
    .await;
    let foreign = cluster.folder().join("letters");
    std::fs::create_dir(&foreign).expect("made");
    std::fs::write(foreign.join("letter.txt"), "dear").expect("written");
    let foreign = foreign.display().to_string();
    fails(COORDINATOR, &["--data", &foreign], 1, &[&foreign, "letter.txt"]).await;
    fails(COORDINATOR, &["--data", "/dev/null/x"], 1, &["/dev/null/x"]).await;
    fails(COORDINATOR, &["--slot", "3", "--data", &folder], 1, &[&folder, "slot 0", "--slot 0"])
        .await;

    // Nothing of this has done any harm.
    cluster.start_all().await;
    Oracle::new().check(&cluster).await;
}
