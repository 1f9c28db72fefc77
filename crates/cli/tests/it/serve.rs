//! The server as a process: addresses, reads, new data, and how it stops.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::project::{Project, Run};

pub struct Server {
    child: Child,
    pub grpc: String,
    http: String,
}

impl Server {
    pub fn start(project: &Project) -> Self {
        let mut command =
            project.command(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| {
            let line = lines.next().unwrap().unwrap();
            let (told, url) = line.split_once(' ').unwrap();
            assert_eq!(told, name);
            url.trim().to_owned()
        };
        let grpc = address("gRPC");
        let http = address("HTTP");
        Self { child, grpc, http }
    }

    /// The body of an HTTP answer with status 200.
    pub fn http(&self, path: &str) -> String {
        let address = self.http.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn get(&self, project: &Project, arguments: &[&str]) -> Run {
        let mut all = vec!["get", "--endpoint", &self.grpc];
        all.extend_from_slice(arguments);
        project.granary(&all)
    }

    /// Ends it with a signal; gives its exit code and what it said.
    pub fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(killed.success());
        let code = self.child.wait().unwrap().code();
        let mut told = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut told)
            .unwrap();
        (code, told)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where it ended already.
        let _ = self.child.kill();
    }
}

const READ: [&str; 6] = [
    "--service",
    "limits",
    "--key",
    "customer_id=1,9,",
    "--output",
    "json",
];

#[test]
fn a_server_answers_as_the_project_does_and_stops_on_a_signal() {
    let project = Project::small().applied().materialized();
    let mut local = vec!["get"];
    local.extend_from_slice(&READ);
    let expected = project.granary(&local).json();

    for signal in ["-TERM", "-INT"] {
        let server = Server::start(&project);
        assert_eq!(server.get(&project, &READ).json(), expected);
        server.http("/healthz");
        server.http("/readyz");
        assert!(server.http("/metrics").contains("granary_"));
        let (code, told) = server.stop(signal);
        assert_eq!(code, Some(0), "{told}");
    }
}

#[test]
fn a_server_sees_a_new_run_without_a_restart() {
    let project = Project::small().applied();
    project
        .granary(&["materialize", "--as-of", "2026-01-20"])
        .succeeded();
    let server = Server::start(&project);
    let balance = || -> Value {
        let answer = server.get(&project, &READ).json();
        answer["columns"][1]["values"][0].clone()
    };
    assert_eq!(balance(), json!(10.5));
    project.granary(&["materialize"]).succeeded();
    // It looks several times a second; a slow machine gets its time.
    let seen = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        balance() == json!(20.5)
    });
    assert!(seen);
}

#[test]
fn refusals_of_a_server_are_told_as_they_are() {
    let project = Project::small().applied().materialized();
    let server = Server::start(&project);
    let get = |arguments: &[&str]| server.get(&project, arguments);
    get(&["--service", "limit", "--key", "customer_id=1"]).failed(1, &["\"limit\""]);
    get(&["--service", "limits", "--key", "customer_id=abc"])
        .failed(1, &["customer_id expects BIGINT"]);
    get(&[
        "--features",
        "customer_balance.nothing",
        "--key",
        "customer_id=1",
    ])
    .failed(1, &["nothing"]);
    // In the same words as without a server.
    for target in [["--features", "nothing.x"], ["--service", "limit"]] {
        let arguments = [target[0], target[1], "--key", "customer_id=1"];
        let mut local = vec!["get"];
        local.extend_from_slice(&arguments);
        let local = project.granary(&local);
        assert_eq!(get(&arguments).failed(1, &[]).stderr, local.stderr);
    }
    let grpc = server.grpc.clone();
    server.stop("-TERM");
    let arguments = [
        "get",
        "--endpoint",
        &grpc,
        "--service",
        "limits",
        "--key",
        "customer_id=1",
    ];
    project.granary(&arguments).failed(1, &[&grpc]);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let project = Project::small().applied().materialized();
    let server = Server::start(&project);
    let taken = server.grpc.strip_prefix("http://").unwrap();
    let run = project.granary(&["serve", "--grpc", taken, "--http", "127.0.0.1:0"]);
    run.failed(1, &[taken]);
}
