//! The program as a whole: what it prints, where, and its exit code, against a server in memory.

#[path = "../../../client/tests/client/fake.rs"]
mod fake;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use handfast_wire::v1::{AbortCause, AbortReason, TransactionState};
use serde_json::Value;
use tonic::{Code, Status};

use crate::fake::{Fake, Step, status};

/// The program, without any configuration of the machine it runs on.
fn handfast(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handfast"));
    command.args(arguments).env_clear().env("HANDFAST_COORDINATOR", endpoint);
    command
}

/// A finished run.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn run_command(mut command: Command) -> Run {
    let run = tokio::task::spawn_blocking(move || command.output());
    let Output { status, stdout, stderr } =
        run.await.expect("no panic").expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

async fn run(endpoint: &str, arguments: &[&str]) -> Run {
    run_command(handfast(endpoint, arguments)).await
}

impl Run {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn fails(self, code: i32, said: &str) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.contains(said), "{self:?}");
        self.stderr
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_value_commands_work_alone_and_in_a_transaction() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    let put = run(at, &["kv", "put", "accounts", "alice", "10"]).await.ok();
    assert!(put.starts_with("committed 0000-02-"), "{put}");
    assert_eq!(
        run(at, &["kv", "add", "accounts", "alice", "-3", "--floor", "0"]).await.ok(),
        "7\n"
    );
    assert_eq!(run(at, &["kv", "get", "accounts", "alice"]).await.ok(), "7\n");
    assert_eq!(run(at, &["kv", "get", "accounts", "alice", "--raw"]).await.ok(), "7");
    run(at, &["kv", "expect", "accounts", "alice", "7"]).await.ok();
    run(at, &["kv", "expect", "accounts", "bob", "--absent"]).await.ok();

    let id = run(at, &["txn", "begin", "--summary", "by hand"]).await.ok();
    let id = id.trim();
    let done = run(at, &["kv", "delete", "accounts", "alice", "--txn", id]).await.ok();
    assert!(done.contains("still open"), "{done}");
    let shown = run(at, &["txn", "show", id]).await.ok();
    assert!(shown.contains("active") && shown.contains("by hand"), "{shown}");
    run(at, &["txn", "commit", id]).await.ok();
    run(at, &["txn", "show", id, "--wait"]).await.ok();
    run(at, &["kv", "get", "accounts", "alice"]).await.fails(3, "\"alice\" is absent");

    let id = run(at, &["txn", "begin"]).await.ok();
    let aborted = run(at, &["txn", "abort", id.trim(), "--reason", "changed my mind"]).await.ok();
    assert!(aborted.contains("aborted"), "{aborted}");
    run(at, &["txn", "show", id.trim(), "--wait"]).await.fails(1, "aborted");
    assert_eq!(fake.applied(), 1);
    assert_eq!(fake.states().last(), Some(&TransactionState::Aborted));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_over_a_stream_unless_told_otherwise() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    run(at, &["kv", "put", "orders", "k", "v"]).await.ok();
    assert_eq!(fake.opened(), 1);
    let unary = ["--client-mode", "unary", "kv", "get", "orders", "k"];
    assert_eq!(run(at, &unary).await.ok(), "v\n");
    let mut command = handfast(at, &["kv", "get", "orders", "k"]);
    command.env("HANDFAST_CLIENT_MODE", "unary");
    assert_eq!(run_command(command).await.ok(), "v\n");
    assert_eq!(fake.opened(), 1);
    run(at, &["--client-mode", "pigeon", "participants"]).await.fails(2, "stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn execute_carries_key_value_work_and_files() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    let arguments = [
        "txn",
        "execute",
        "--kv",
        "accounts: put n 1; add n 4",
        "--kv",
        "orders: put 'a b' \"\\xff\"",
        "--request-id",
        "r-1",
    ];
    let table = run(at, &arguments).await.ok();
    assert!(table.contains("r-1") && table.contains(r"\xff") && table.contains("add"), "{table}");
    let json = run(at, &[&arguments[..], &["--output", "json"]].concat()).await.json();
    assert_eq!(json["outcome"], "committed");
    assert_eq!(json["results"][0]["operations"][1]["value"], "5");
    assert_eq!(json["results"][1]["operations"][0]["value_base64"], "/w==");
    assert_eq!(fake.request_ids(), ["r-1", "r-1"]);

    // Work in the participant's own format, on stdin.
    let work = handfast_client::key_value::Work::new().put("from", "stdin").encode();
    let mut command = handfast(at, &["txn", "execute", "--branch", "orders=-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(&work).expect("written");
    let done =
        tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("no panic");
    assert!(done.expect("it ends").status.success());
    assert_eq!(run(at, &["kv", "get", "orders", "from"]).await.ok(), "stdin\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_events_are_printed() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    for _ in 0..3 {
        run(at, &["kv", "put", "orders", "k", "v"]).await.ok();
    }
    let listed = run(at, &["txn", "list"]).await.ok();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let listed = run(at, &["txn", "list", "--limit", "2", "--output", "json"]).await.json();
    assert_eq!(listed["transactions"].as_array().map(Vec::len), Some(2));
    assert_eq!(listed["more"], true);
    let none = run(at, &["txn", "list", "--state", "active", "--output", "json"]).await.json();
    assert_eq!(none["transactions"].as_array().map(Vec::len), Some(0));

    let id = listed["transactions"][0]["transaction_id"].as_str().expect("an id");
    let watched = run(at, &["txn", "watch", id]).await.ok();
    assert!(watched.contains("watching") && watched.contains("committed"), "{watched}");
    let watched = run(at, &["txn", "watch", id, "--output", "json"]).await.ok();
    assert_eq!(watched.lines().count(), 2, "one document to a line: {watched}");

    let participants = run(at, &["participants"]).await.ok();
    assert!(participants.contains("accounts") && participants.contains(at), "{participants}");
    let participants = run(at, &["participants", "--output", "json"]).await.json();
    assert_eq!(participants["participants"][1]["participant"], "orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_failures_apart() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    let execute = ["txn", "execute", "--kv", "orders: put k v"];

    let reason = AbortReason {
        cause: AbortCause::VotedNo.into(),
        participant: "orders".into(),
        message: "out of stock".into(),
    };
    fake.script([Step::Outcome(TransactionState::Aborted, reason)]);
    run(at, &execute).await.fails(1, "out of stock");

    run(at, &["txn", "execute"]).await.fails(2, "--branch or --kv");
    run(at, &["txn", "execute", "--kv", "orders: fetch k"]).await.fails(2, "no operation");
    run(at, &["txn", "show", "nonsense"]).await.fails(2, "0007-02-");
    run(at, &["nonsense"]).await.fails(2, "nonsense");
    run("not an endpoint", &["participants"]).await.fails(2, "no endpoint");
    fake.script([Step::Fail(status(
        Code::InvalidArgument,
        "INVALID_FIELD",
        "branches: too many",
        None,
    ))]);
    run(at, &execute).await.fails(2, "branches: too many");

    run(at, &["kv", "put", "nobody", "k", "v"]).await.fails(3, "nobody");
    run(at, &["kv", "put", "nobody", "k", "v", "--txn", "0000-02-0000000001-0000000000000001"])
        .await
        .fails(3, "handfast participants");
    run(at, &["txn", "show", "0000-02-0000000009-0000000000000001"]).await.fails(3, "not found");

    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", free.local_addr().expect("its address"));
    drop(free);
    run(&nobody, &execute).await.fails(4, &nobody);

    fake.script([Step::Hang]);
    let said =
        run(at, &[&execute[..], &["--timeout", "300ms", "--request-id", "r 2"]].concat()).await;
    let said = said.fails(5, "unknown");
    assert!(said.contains("--request-id 'r 2'"), "{said}");
    fake.script([Step::Hang]);
    let put = ["kv", "put", "orders", "k", "v", "--timeout", "300ms", "--request-id", "r-3"];
    run(at, &put).await.fails(5, "--request-id r-3");
    let id = run(at, &["txn", "begin"]).await.ok();
    run(at, &["txn", "show", id.trim(), "--wait", "--timeout", "300ms"]).await.fails(5, "unknown");
    fake.script([Step::Fail(Status::unavailable("a proxy"))]);
    let said = run(at, &["kv", "add", "accounts", "n", "1", "--txn", id.trim()]).await;
    said.fails(5, "handfast txn abort");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_json_where_json_was_asked_for() {
    let fake = Fake::start().await;
    let at = fake.endpoint.as_str();
    let error = |said: String| serde_json::from_str::<Value>(&said).expect("JSON")["error"].take();

    let reason = AbortReason { cause: AbortCause::Timeout.into(), ..AbortReason::default() };
    fake.script([Step::Outcome(TransactionState::Aborted, reason)]);
    let said = run(at, &["kv", "put", "orders", "k", "v", "--output", "json"]).await.fails(1, "");
    let said = error(said);
    assert_eq!((&said["kind"], &said["cause"]), (&Value::from("aborted"), &Value::from("timeout")));
    assert!(said["transaction_id"].is_string(), "{said}");

    let said = error(run(at, &["nonsense", "--output", "json"]).await.fails(2, ""));
    assert_eq!(said["kind"], "usage");
    let mut command = handfast(at, &["--output", "json", "participants"]);
    command.env("HANDFAST_TIMEOUT", "soon");
    let said = error(run_command(command).await.fails(2, "HANDFAST_TIMEOUT"));
    assert_eq!(said["exit_code"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_where_it_came_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("handfast.toml");
    std::fs::write(&file, "coordinator = 'http://file:1'\ntimeout = '3s'\n").expect("written");
    let path = file.to_str().expect("UTF-8");

    let shown = run("http://variable:1", &["config", "show", "--config", path, "--output", "json"])
        .await
        .json();
    assert_eq!(shown["coordinator"]["value"], "http://variable:1");
    assert_eq!(shown["coordinator"]["source"], "environment HANDFAST_COORDINATOR");
    assert_eq!(shown["timeout"]["source"], format!("file {path}"));
    assert_eq!(shown["output"]["source"], "flag --output");
    assert_eq!(shown["client_mode"]["value"], "stream");
    let flag = ["--coordinator", "http://flag:1", "config", "show", "--config", path];
    let shown = run("http://variable:1", &flag).await.ok();
    assert!(shown.contains("http://flag:1") && shown.contains("flag --coordinator"), "{shown}");
    let shown = run("", &["config", "show", "--config", path]).await.ok();
    assert!(shown.contains("http://file:1"), "{shown}");

    std::fs::write(&file, "colour = 'red'\n").expect("written");
    run("", &["config", "show", "--config", path]).await.fails(2, "colour");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let finished = tokio::task::spawn_blocking(|| {
        handfast("", &["completions", "bash"]).stdout(writer).stderr(Stdio::piped()).output()
    });
    let output = finished.await.expect("no panic").expect("the program starts");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));

    let script = run("", &["completions", "bash"]).await.ok();
    assert!(script.contains("handfast"), "a script");
    let help = run("", &["txn", "execute", "--help"]).await.ok();
    assert!(help.contains("Examples:") && help.contains("floor"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_doubt_is_asked_of_participants_themselves() {
    // No coordinator is needed where participants are named.
    let nobody = "http://127.0.0.1:1";
    let run_with = async |arguments: &[&str]| run(nobody, arguments).await;
    let silent = run_with(&["in-doubt", "a=http://127.0.0.1:1"]).await;
    assert_eq!(silent.code, Some(1), "{silent:?}");
    assert!(silent.stderr.contains("a (http://127.0.0.1:1): nobody answers there"), "{silent:?}");
    for (argument, said) in
        [("a", "name and an address"), ("=http://x", "name"), ("a=x", "no address")]
    {
        run_with(&["in-doubt", argument]).await.fails(2, said);
    }
    run_with(&["in-doubt"]).await.fails(4, "127.0.0.1:1");
}
