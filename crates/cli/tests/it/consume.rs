//! A server that reads a message log into a stream.

use crate::project::Project;

const STREAM: &str = "\
CREATE STREAM card_event (event_id VARCHAR, amount DOUBLE, at TIMESTAMP) EVENT TIME at;
";

fn project(consume: &str) -> Project {
    let project = Project::empty();
    project.write("granary.toml", consume);
    project.write("sql/streams.sql", STREAM);
    project.applied()
}

fn cards(url: &str) -> String {
    format!(
        "[[streams.consume]]\nstream = 'card_event'\nconsumer = 'cards'\nurl = '{url}'\n\
         jetstream = 'CARDS'\nformat = 'json'\nbatch_messages_max = 7\nretry_millis_max = 200\n"
    )
}

#[test]
fn two_consumers_of_one_position_are_refused() {
    let twice = cards("nats://127.0.0.1:1").repeat(2);
    let run = project(&twice).granary(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    assert_ne!(run.code, 0);
    let expected = match cfg!(feature = "nats") {
        true => "stream card_event has two consumers cards",
        false => "build it with `--features nats`",
    };
    assert!(run.stderr.contains(expected), "{}", run.stderr);
}

#[cfg(feature = "nats")]
mod nats {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::serve::Server;

    struct NatsServer {
        child: Child,
        port: u16,
        _folder: tempfile::TempDir,
    }

    impl NatsServer {
        fn start() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let spawn = |binary: &&str| {
                let mut command = Command::new(binary);
                command.args(["--jetstream", "--addr", "127.0.0.1", "--port"]);
                command.arg(port.to_string());
                command.arg("--store_dir").arg(folder.path());
                let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
                quiet.spawn().ok()
            };
            let child = ["nats-server", "/usr/sbin/nats-server"];
            let Some(child) = child.iter().find_map(spawn) else {
                eprintln!("skipped: nats-server is not installed");
                return None;
            };
            Some(Self {
                child,
                port,
                _folder: folder,
            })
        }
    }

    impl Drop for NatsServer {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
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

        /// The answer to a request; JetStream answers each.
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

    fn consumed(server: &Server) -> u64 {
        let metrics = server.http("/metrics");
        let name = "granary_consumed_events_total{consumer=\"cards\",stream=\"card_event\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    #[test]
    fn a_killed_server_brings_each_event_once() {
        let Some(nats) = NatsServer::start() else {
            return;
        };
        let mut publisher = Publisher::new(nats.port);
        let stream =
            r#"{"name": "CARDS", "subjects": ["cards"], "storage": "file", "retention": "limits"}"#;
        let made = eventually(|| {
            let made = publisher.request("$JS.API.STREAM.CREATE.CARDS", stream);
            made.contains("\"created\"").then_some(made)
        });
        assert!(!made.contains("\"error\""), "{made}");
        let published = thread::spawn(move || {
            for n in 0..1_000 {
                let row =
                    format!(r#"{{"event_id": "{n}", "amount": 1, "at": "2026-01-01T00:00:00Z"}}"#);
                let answer = publisher.request("cards", &row);
                assert!(answer.contains("\"seq\""), "{answer}");
                thread::sleep(Duration::from_millis(2));
            }
        });
        let project = project(&cards(&format!("nats://127.0.0.1:{}", nats.port)));
        for _ in 0..4 {
            let server = Server::start(&project);
            eventually(|| (consumed(&server) > 20).then_some(()));
            server.stop("-KILL");
        }
        published.join().unwrap();
        let server = Server::start(&project);
        let count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM card_event";
        let sql = || {
            let run = project.granary(&["sql", count, "--output", "json"]);
            run.succeeded().stdout.clone()
        };
        let counted = eventually(|| {
            let told = sql();
            told.contains("1000").then_some(told)
        });
        assert_eq!(counted.matches("1000").count(), 2, "{counted}");
        let metrics = server.http("/metrics");
        for line in [
            "granary_consumer_running{consumer=\"cards\",stream=\"card_event\"} 1",
            "granary_bad_messages_total{consumer=\"cards\",stream=\"card_event\"} 0",
        ] {
            assert!(metrics.lines().any(|told| told == line), "{metrics}");
        }
        let (code, told) = server.stop("-TERM");
        assert_eq!(code, Some(0), "{told}");
    }
}
