//! A real JetStream: `nats-server`, started by each test with a folder of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{cards, project};
use crate::project::Project;
use crate::serve::Server;

struct NatsServer(Child);

impl NatsServer {
    /// `None`, and a word of it, where the program is not there.
    fn start(port: u16, folder: &Path) -> Option<Self> {
        let spawn = |binary: &&str| {
            let mut command = Command::new(binary);
            command.args(["--jetstream", "--addr", "127.0.0.1", "--port"]);
            command.arg(port.to_string()).arg("--store_dir").arg(folder);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.spawn().ok()
        };
        let child = ["nats-server", "/usr/sbin/nats-server"];
        let child = child.iter().find_map(spawn);
        if child.is_none() {
            eprintln!("skipped: nats-server is not installed");
        }
        child.map(Self)
    }
}

impl Drop for NatsServer {
    /// With SIGKILL.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// As much of NATS's protocol as publishing takes.
struct Publisher {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Publisher {
    fn new(port: u16) -> Self {
        let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
        let stream = eventually(connect);
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut publisher = Self { stream, lines };
        publisher
            .stream
            .write_all(b"CONNECT {\"verbose\":false}\r\nSUB answers 1\r\n")
            .unwrap();
        publisher
    }

    /// With a log `CARDS` of the subject `cards`.
    fn with_log(port: u16) -> Self {
        let mut publisher = Self::new(port);
        let stream =
            r#"{"name": "CARDS", "subjects": ["cards"], "storage": "file", "retention": "limits"}"#;
        // Not ready at once after its start.
        let made = eventually(|| {
            let made = publisher.request("$JS.API.STREAM.CREATE.CARDS", stream);
            made.contains("\"created\"").then_some(made)
        });
        assert!(!made.contains("\"error\""), "{made}");
        publisher
    }

    /// The answer to a request; JetStream answers each, or NATS that it is away.
    fn request(&mut self, subject: &str, payload: &str) -> String {
        let length = payload.len();
        let request = format!("PUB {subject} answers {length}\r\n{payload}\r\n");
        self.stream.write_all(request.as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            if line.starts_with("PING") {
                self.stream.write_all(b"PONG\r\n").unwrap();
            }
            if line.starts_with("MSG") {
                let mut answer = String::new();
                self.lines.read_line(&mut answer).unwrap();
                return answer;
            }
        }
    }

    fn publish(&mut self, payload: &str) {
        let answer = self.request("cards", payload);
        assert!(answer.contains("\"seq\""), "{answer}");
    }

    fn events(&mut self, ids: Range<usize>) {
        for id in ids {
            self.publish(&format!(
                r#"{{"event_id": "{id}", "amount": 1, "at": "2026-01-01T00:00:00Z"}}"#
            ));
        }
    }
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look() {
            return found;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("it did not come");
}

/// One of the consumer's metrics.
fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.http("/metrics");
    let name = format!("{name}{{consumer=\"cards\",stream=\"card_event\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

fn waits_for(server: &Server, name: &str, value: u64) {
    eventually(|| (metric(server, name) >= value).then_some(()));
    assert_eq!(metric(server, name), value, "{name}");
}

/// Of the stored events, how many there are and how many ids they have.
fn stored(project: &Project) -> (u64, u64) {
    let count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM card_event";
    let told = project.query(count);
    let number = |name: &str| told[0][name].as_u64().unwrap();
    (number("n"), number("ids"))
}

#[test]
fn a_killed_server_brings_each_event_once() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(_nats) = NatsServer::start(port, folder.path()) else {
        return;
    };
    let mut publisher = Publisher::with_log(port);
    let published = thread::spawn(move || {
        for id in 0..1_000 {
            publisher.events(id..id + 1);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let project = project(&cards(&url(port)));
    for _ in 0..4 {
        let server = Server::start(&project);
        eventually(|| (metric(&server, "granary_consumed_events_total") > 20).then_some(()));
        server.stop("-KILL");
    }
    published.join().unwrap();
    let server = Server::start(&project);
    eventually(|| (stored(&project).0 >= 1_000).then_some(()));
    assert_eq!(stored(&project), (1_000, 1_000));
    assert_eq!(metric(&server, "granary_consumer_running"), 1);
    assert_eq!(metric(&server, "granary_bad_messages_total"), 0);
    let (code, told) = server.stop("-TERM");
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn a_log_may_be_away_and_hold_what_is_no_event() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    // Whether it is installed.
    if NatsServer::start(port, folder.path()).is_none() {
        return;
    }
    let project = project(&cards(&url(port)));
    let server = Server::start(&project);
    eventually(|| (metric(&server, "granary_consumer_failures_total") > 0).then_some(()));
    let nats = NatsServer::start(port, folder.path());
    let mut publisher = Publisher::with_log(port);
    publisher.events(0..30);
    publisher.publish("{\"event_id\": \"x\"}");
    publisher.events(30..50);
    waits_for(&server, "granary_consumed_messages_total", 51);
    drop(nats);
    let failures = metric(&server, "granary_consumer_failures_total");
    eventually(|| {
        let more = metric(&server, "granary_consumer_failures_total");
        (more > failures).then_some(())
    });
    let _nats = NatsServer::start(port, folder.path());
    let mut publisher = Publisher::with_log(port);
    publisher.events(50..80);
    waits_for(&server, "granary_consumed_messages_total", 81);
    assert_eq!(metric(&server, "granary_consumed_events_total"), 80);
    assert_eq!(metric(&server, "granary_bad_messages_total"), 1);
    assert_eq!(metric(&server, "granary_consumer_running"), 1);
    assert_eq!(stored(&project), (80, 80));
    let (code, told) = server.stop("-TERM");
    assert_eq!(code, Some(0), "{told}");
    for part in ["message 31 of CARDS", "is missing"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
}

#[test]
fn a_log_that_was_cut_ends_the_consumer_and_nothing_else() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(_nats) = NatsServer::start(port, folder.path()) else {
        return;
    };
    let mut publisher = Publisher::with_log(port);
    let project = project(&cards(&url(port)));
    let server = Server::start(&project);
    publisher.events(0..10);
    waits_for(&server, "granary_consumed_messages_total", 10);
    server.stop("-KILL");
    publisher.events(10..20);
    let purged = publisher.request("$JS.API.STREAM.PURGE.CARDS", r#"{"seq": 16}"#);
    assert!(purged.contains("\"purged\":15"), "{purged}");

    let server = Server::start(&project);
    eventually(|| (metric(&server, "granary_consumer_running") == 0).then_some(()));
    assert_eq!(stored(&project), (10, 10));
    publisher.events(20..25);
    let (code, told) = server.stop("-TERM");
    assert_eq!(code, Some(0), "{told}");
    for part in [
        "consumer cards of stream card_event",
        "message 10 of CARDS was read last, but the first message there is 16",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }

    let skipping = format!("{}truncated = 'skip'\n", cards(&url(port)));
    project.write("granary.toml", skipping);
    let server = Server::start(&project);
    waits_for(&server, "granary_consumed_messages_total", 10);
    assert_eq!(metric(&server, "granary_lost_messages_total"), 5);
    assert_eq!(stored(&project), (20, 20));
}
