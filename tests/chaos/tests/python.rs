//! Another language, from the proto files alone: a client and a participant in Python, whose stubs are
//! generated here.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use handfast_chaos::{Cluster, Oracle, Server, ask, eventually, eventually_ok};
use handfast_client::key_value::Work;
use serde_json::Value;
use tokio::process::Command;

/// This package, in the checkout that cargo runs the tests of: two may share what was compiled.
fn here() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    here.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into())
}

/// The Python that has grpcio and grpcio-tools.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("HANDFAST_PYTHON") {
        return PathBuf::from(python);
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let python = home.join(".cache/handfast/handfast-python/bin/python");
    assert!(
        python.is_file(),
        "no Python with grpcio and grpcio-tools: run `make test`, which installs one, or name one in \
         HANDFAST_PYTHON"
    );
    python
}

/// A cluster, and beside its participants one that is written in Python and called p.
struct World {
    cluster: Cluster,
    p: Server,
    environment: Vec<(String, String)>,
}

impl World {
    async fn start(participants: &[&str]) -> Self {
        let cluster = Cluster::start(participants).await;
        let stubs = cluster.folder().join("stubs");
        generate(&stubs).await;
        let environment = vec![("PYTHONPATH".to_owned(), stubs.display().to_string())];
        let arguments = [
            here().join("python/participant.py").display().to_string(),
            "--name".to_owned(),
            "p".to_owned(),
            "--data".to_owned(),
            cluster.folder().join("p").display().to_string(),
            "--coordinator".to_owned(),
            cluster.coordinator.endpoint(),
        ];
        let mut p = Server::new("participant p, in Python", python(), arguments.to_vec());
        p.set_environment(&environment);
        p.start().await;
        let world = Self { cluster, p, environment };
        world.connected().await;
        world
    }

    /// Waits until the coordinator has reached p as well.
    async fn connected(&self) {
        self.cluster.connected().await;
        let address = self.cluster.coordinator.address();
        eventually("the coordinator has reached p", || async move {
            ask::participants(address).await.is_ok_and(|registered| {
                registered.iter().any(|known| known.participant == "p" && known.connected)
            })
        })
        .await;
    }

    /// The client: begins to execute, and tries again until it is told.
    fn execute(&self, request_id: &str, arguments: &[&str]) -> tokio::task::JoinHandle<Value> {
        let mut command = Command::new(python());
        command
            .arg(here().join("python/client.py"))
            .args(["--coordinator", &self.cluster.coordinator.endpoint()])
            .args(["--request-id", request_id])
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::spawn(async move {
            let output = command.output().await.expect("Python runs");
            let said = String::from_utf8_lossy(&output.stdout);
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "the client failed:\n{why}");
            serde_json::from_str(&said).expect("one line of JSON")
        })
    }

    /// What p's file says.
    fn file(&self) -> Value {
        let path = self.cluster.folder().join("p/state.json");
        let text = std::fs::read_to_string(&path).expect("p's file");
        serde_json::from_str(&text).expect("JSON")
    }

    /// p holds so many branches in doubt; their ids.
    async fn wait_in_doubt(&self, count: usize) -> Vec<String> {
        let address = self.p.address();
        eventually_ok(&format!("p holds {count} in doubt"), || async move {
            match ask::in_doubt(address, "p").await {
                Ok(held) if held.len() == count => Ok(held),
                Ok(held) => Err(format!("{held:?}")),
                Err(status) => Err(status.to_string()),
            }
        })
        .await
    }

    /// Everything has ended, here and there.
    async fn nothing_is_left(&self) {
        self.wait_in_doubt(0).await;
        self.cluster.nothing_is_left().await;
    }

    /// How often the key-value participant has added.
    async fn count_at(&self, name: &str) -> Option<String> {
        handfast_chaos::read(&self.cluster.client(), name, &["count".to_owned()]).await.remove(0)
    }
}

/// Stubs from the proto files, as any user would generate them.
async fn generate(stubs: &Path) {
    std::fs::create_dir(stubs).expect("made");
    let proto = here().join("../../proto");
    let files = ["site", "types", "transaction", "participant", "coordinator", "key_value"];
    let ours = files.map(|file| format!("handfast/v1/{file}.proto"));
    let output = Command::new(python())
        .args(["-m", "grpc_tools.protoc"])
        .arg(format!("-I{}", proto.display()))
        .arg(format!("--python_out={}", stubs.display()))
        .arg(format!("--grpc_python_out={}", stubs.display()))
        .args(ours)
        .arg("google/rpc/status.proto")
        .output()
        .await
        .expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const BOTH: &[&str] = &["--key-value", "a:count:1", "--json", r#"p:{"put": {"k": "v"}}"#];

#[tokio::test]
async fn a_participant_with_five_calls_takes_part() {
    let world = World::start(&["a"]).await;
    let committed = world.execute("commit", BOTH).await.expect("an outcome");
    assert_eq!(committed["state"], "TRANSACTION_STATE_COMMITTED", "{committed}");
    assert_eq!(world.file()["data"]["k"], "v");
    assert_eq!(world.count_at("a").await.as_deref(), Some("1"));
    // Alone, it does not know one-phase commit, and votes.
    let alone = world.execute("alone", &["--json", r#"p:{"put": {"k": "w"}}"#]).await;
    assert_eq!(alone.expect("an outcome")["state"], "TRANSACTION_STATE_COMMITTED");
    assert_eq!(world.file()["data"]["k"], "w");

    // It votes no.
    let refused = ["--key-value", "a:count:1", "--json", r#"p:{"refuse": "closed on Sundays"}"#];
    let refused = world.execute("refused", &refused).await.expect("an outcome");
    assert_eq!(refused["state"], "TRANSACTION_STATE_ABORTED");
    assert!(refused["reason"].as_str().is_some_and(|why| why.contains("Sundays")), "{refused}");
    // It has prepared, and another one votes no.
    let request = ask::execute_request(
        "vetoed",
        [
            ("a", Work::new().expect("never there", "x").encode().to_vec()),
            ("p", br#"{"put": {"k": "never"}}"#.to_vec()),
        ],
        None,
    );
    let vetoed = ask::execute_once(world.cluster.coordinator.address(), request).await;
    assert_eq!(vetoed.expect("an outcome").state(), handfast_client::TransactionState::Aborted);
    world.nothing_is_left().await;
    assert_eq!(world.file()["data"]["k"], "w");
    assert_eq!(world.count_at("a").await.as_deref(), Some("1"));
}

/// A client without a client library, and a coordinator that dies between its decision and its first word.
#[tokio::test]
async fn the_coordinator_is_killed_between_decision_and_delivery() {
    killed_between_decision_and_delivery(BOTH).await;
}

/// The same with a call that goes over a stream.
#[tokio::test]
async fn the_coordinator_is_killed_between_decision_and_delivery_under_a_stream() {
    killed_between_decision_and_delivery(&[BOTH, &["--stream"]].concat()).await;
}

async fn killed_between_decision_and_delivery(asked: &[&str]) {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut world = World::start(&["a"]).await;
    world.cluster.restart_coordinator_at(POINT).await;
    world.connected().await;
    let told = world.execute("order-1", asked);
    world.cluster.coordinator.dies_at(POINT).await;
    let voted = world.wait_in_doubt(1).await;
    world.cluster.coordinator.start().await;
    // The client has not given up, and is told of its first attempt.
    let told = told.await.expect("an outcome");
    assert_eq!(told["transaction_id"], voted[0], "{told}");
    assert!(told["attempts"].as_u64() > Some(1), "{told}");
    assert_ne!(told["state"], "TRANSACTION_STATE_ABORTED");
    world.nothing_is_left().await;
    assert_eq!(world.file()["data"]["k"], "v");
    assert_eq!(world.count_at("a").await.as_deref(), Some("1"));
    // And so is whoever asks once more.
    let again = world.execute("order-1", asked).await.expect("an outcome");
    assert_eq!(again["transaction_id"], voted[0]);
    assert_eq!(again["repeated"], true);
    assert_eq!(world.count_at("a").await.as_deref(), Some("1"));
    Oracle::new().check(&world.cluster).await;
}

/// It is in doubt and dies; nothing was decided. It never asks: the coordinator finds the branch in its list.
#[tokio::test]
async fn a_participant_restarted_in_doubt_is_told_of_the_abort() {
    const POINT: &str = "coordinator.before-decision-sync";
    let mut world = World::start(&["a"]).await;
    world.cluster.restart_coordinator_at(POINT).await;
    world.connected().await;
    let request = ask::execute_request(
        "",
        [
            ("a", Work::new().add("count", 1).encode().to_vec()),
            ("p", br#"{"put": {"k": "never"}}"#.to_vec()),
        ],
        None,
    );
    let lost = tokio::spawn(ask::execute_once(world.cluster.coordinator.address(), request));
    world.cluster.coordinator.dies_at(POINT).await;
    lost.await.expect("no panic").expect_err("nobody was left to answer");
    let voted = world.wait_in_doubt(1).await;
    world.p.kill_and_start().await;
    assert_eq!(world.wait_in_doubt(1).await, voted, "it is all in its file");
    world.cluster.coordinator.start().await;
    world.nothing_is_left().await;
    assert_eq!(world.file()["finished"][&voted[0]], "aborted");
    assert_eq!(world.file()["data"].get("k"), None);
    assert_eq!(world.count_at("a").await, None);
}

/// It has voted and is away when the commit is decided; it comes back and is told.
#[tokio::test]
async fn a_participant_restarted_in_doubt_is_told_of_the_commit() {
    const POINT: &str = "coordinator.after-decision-sync";
    let mut world = World::start(&["a"]).await;
    world.cluster.restart_coordinator_at(POINT).await;
    world.connected().await;
    let told = world.execute("order-1", BOTH);
    world.cluster.coordinator.dies_at(POINT).await;
    let voted = world.wait_in_doubt(1).await;
    world.p.kill();
    world.cluster.coordinator.start().await;
    world.cluster.wait_in_doubt("a", 0).await;
    assert_eq!(world.count_at("a").await.as_deref(), Some("1"));
    world.p.start().await;
    world.nothing_is_left().await;
    assert_eq!(world.file()["finished"][&voted[0]], "committed");
    assert_eq!(world.file()["data"]["k"], "v");
    assert_eq!(told.await.expect("an outcome")["transaction_id"], voted[0]);
}
