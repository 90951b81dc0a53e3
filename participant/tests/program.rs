//! The reference participant as a program: what it prints, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handfast-participant"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HANDFAST_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("it runs")
}

/// Fails with one line on standard error that has these parts.
#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(output.stdout.is_empty());
    let line = said.lines().find(|line| line.starts_with("handfast-participant: "));
    let line = line.unwrap_or_else(|| panic!("no line of its own: {said}"));
    for part in parts {
        assert!(line.contains(part), "{part}: {line}");
    }
}

/// A running participant, which is killed when the test is over.
struct Server {
    child: Child,
    line: String,
}

impl Server {
    fn start(data: &str, more: &[&str]) -> Self {
        let mut arguments = vec![
            "key-value",
            "--name",
            "kv",
            "--data",
            data,
            "--coordinator",
            "http://127.0.0.1:1",
        ];
        arguments.extend(more);
        let mut child = program(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        Self { child, line }
    }

    fn port(&self) -> u16 {
        let port =
            self.line.trim_end().strip_prefix("handfast-participant kv listening on 127.0.0.1:");
        port.unwrap_or_else(|| panic!("not the line: {:?}", self.line)).parse().expect("a port")
    }

    fn terminate(&mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill");
        assert!(sent.success());
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (self.child.wait().expect("a status").code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_says_where_it_listens_and_ends_in_good_order() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("text");
    for _ in 0..2 {
        let mut server = Server::start(data, &[]);
        assert_ne!(server.port(), 0);
        let (code, said) = server.terminate();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("0 branches are left in doubt"), "{said}");
    }
}

#[test]
fn a_folder_and_a_port_have_one_participant() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("text");
    let server = Server::start(data, &[]);
    refused(&["key-value", "--name", "kv", "--data", data], 1, &[data, "in use by process"]);
    let other = tempfile::tempdir().expect("a folder");
    let other = other.path().to_str().expect("text");
    let listen = format!("127.0.0.1:{}", server.port());
    let arguments = ["key-value", "--name", "b", "--data", other, "--listen", &listen];
    refused(&arguments, 1, &[&server.port().to_string(), "is in use"]);
}

#[test]
fn what_it_cannot_use_is_named() {
    let data = tempfile::tempdir().expect("a folder");
    let file = data.path().join("file");
    std::fs::write(&file, "no folder").expect("written");
    let file = file.to_str().expect("text");
    refused(&["key-value", "--name", "kv", "--data", file], 1, &[file, "another folder"]);
    let free = data.path().join("data");
    let free = free.to_str().expect("text");
    let with = |more: &[&'static str]| {
        let mut arguments = vec!["key-value", "--data", free];
        arguments.extend(more);
        arguments
    };
    refused(&with(&[]), 2, &["--name", "HANDFAST_NAME"]);
    refused(&with(&["--name", "A b"]), 1, &["name", "a-z"]);
    refused(&with(&["--name", "a", "--coordinator", "nowhere"]), 1, &["coordinator", "http://"]);
    refused(&with(&["--name", "a", "--lock-wait", "5"]), 2, &["lock_wait", "500ms"]);
    let reachable = ["--name", "a", "--listen", "192.0.2.1:7501"];
    refused(&with(&reachable), 1, &["192.0.2.1:7501", "--insecure"]);
    assert!(TcpListener::bind("127.0.0.1:0").is_ok());
}

#[test]
fn the_configuration_is_shown_with_its_origins() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "lock_wait = \"7s\"\nname = \"from-file\"\n").expect("written");
    let path = file.path().to_str().expect("text");
    let output = program(&["config", "show", "--config", path, "--name", "from-flag"])
        .env("HANDFAST_DRAIN", "3s")
        .output()
        .expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for (setting, origin) in [
        ("name = \"from-flag\"", "# flag --name".to_owned()),
        ("lock_wait = \"7s\"", format!("# file {path}")),
        ("drain = \"3s\"", "# environment HANDFAST_DRAIN".to_owned()),
        ("coordinator = \"http://127.0.0.1:7420\"", "# default".to_owned()),
    ] {
        let line = shown.lines().find(|line| line.starts_with(setting));
        assert!(line.is_some_and(|line| line.ends_with(&origin)), "{setting} {origin}: {shown}");
    }
    std::fs::write(file.path(), "lock_wiat = \"7s\"\n").expect("written");
    refused(&["config", "show", "--config", path], 2, &["`lock_wiat`", "did you mean `lock_wait`"]);
}

#[test]
fn metrics_are_served_when_asked_for() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().to_str().expect("text");
    let mut server = Server::start(data, &["--metrics-listen", "127.0.0.1:0"]);
    let stderr = server.child.stderr.as_mut().expect("piped");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| Some(line.split_once("metrics on http://")?.1.to_owned()))
        .expect("a line about metrics");
    let address = address.strip_suffix("/metrics").expect("an address").to_owned();
    let fetch = |page: &str| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(&address).expect("connected");
        let request = format!("GET {page} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    assert!(fetch("/readyz").starts_with("HTTP/1.1 200"));
    assert!(fetch("/metrics").contains("handfast_participant_in_doubt 0"));
}
