//! Consumers of a real JetStream: `nats-server`, started by each test on a free
//! port with a folder of its own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::ipc::writer::StreamWriter;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, Context};
use granary_ingest::consumer::nats::{NatsLog, NatsSecrets};
use granary_ingest::consumer::{BadMessages, MessageFormat, TruncatedLog};
use granary_ingest::{ConsumeSettings, Consumer, ConsumerCounts, IngestError, Streams};
use granary_model::ErrorKind;

use super::{NOW, consumed, ids, json, open, run_until};

/// Where it is started from, besides the `PATH`.
const BINARIES: [&str; 2] = ["nats-server", "/usr/sbin/nats-server"];

struct NatsServer {
    child: Child,
    port: u16,
    folder: PathBuf,
    more: Vec<&'static str>,
    _temporary: tempfile::TempDir,
}

impl NatsServer {
    /// `None`, and a word of it, where the program is not there.
    fn start(more: &[&'static str]) -> Option<Self> {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("store");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let Some(child) = spawn(port, &folder, more) else {
            eprintln!("skipped: nats-server is not installed");
            return None;
        };
        let server = Self {
            child,
            port,
            folder,
            more: more.to_vec(),
            _temporary: temporary,
        };
        server.listens();
        Some(server)
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn listens(&self) {
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nats-server does not listen");
    }

    /// With SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.more).unwrap();
        self.listens();
    }

    async fn context(&self) -> Context {
        for _ in 0..100 {
            if let Ok(client) = async_nats::connect(self.url()).await {
                return jetstream::new(client);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no connection to {}", self.url());
    }

    /// With a stream for the subjects `cards.>`.
    async fn with_stream(&self) -> Context {
        let context = self.context().await;
        make_stream(&context).await;
        context
    }

    fn consumer(&self, streams: &Arc<Streams>, change: impl Fn(&mut ConsumeSettings)) -> Consumer {
        let mut settings = ConsumeSettings {
            url: self.url(),
            ..super::settings()
        };
        change(&mut settings);
        let log = NatsLog::new(&settings, NatsSecrets::default()).unwrap();
        Consumer::new(settings, Arc::clone(streams), Box::new(log))
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &Path, more: &[&str]) -> Option<Child> {
    BINARIES.iter().find_map(|binary| {
        Command::new(binary)
            .args(["--jetstream", "--addr", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .arg("--store_dir")
            .arg(folder)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
    })
}

async fn make_stream(context: &Context) {
    let config = Config {
        name: "CARDS".into(),
        subjects: vec!["cards.>".into()],
        storage: StorageType::File,
        ..Config::default()
    };
    // Not ready at once after its start.
    for _ in 0..100 {
        if context.create_stream(config.clone()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no stream can be made");
}

async fn publish_to(context: &Context, subject: &'static str, payload: impl Into<Vec<u8>>) {
    let payload: Vec<u8> = payload.into();
    // Again where the server is away: the log then has it once or twice.
    loop {
        if let Ok(sent) = context.publish(subject, payload.clone().into()).await
            && let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), sent).await
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn publish(context: &Context, ids: std::ops::Range<usize>) {
    for id in ids {
        publish_to(context, "cards.eu", json(&id.to_string())).await;
    }
}

/// The ids of what the log holds.
async fn logged(context: &Context) -> Vec<String> {
    let stream = context.get_stream("CARDS").await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut ids = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let row: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        ids.push(row["event_id"].as_str().unwrap().to_owned());
    }
    ids
}

fn numbers(ids: std::ops::Range<usize>) -> Vec<String> {
    ids.map(|id| id.to_string()).collect()
}

fn gone(counts: &ConsumerCounts) -> u64 {
    counts.gone.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_there_once_whoever_is_killed() {
    let Some(mut server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let publisher = tokio::spawn({
        let context = context.clone();
        async move {
            for id in 0..600 {
                publish(&context, id..id + 1).await;
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        }
    });
    for round in 0..8_u64 {
        let streams = open(folder.path()).await;
        let mut consumer = server.consumer(&streams, |settings| {
            settings.batch_messages_max = 7;
        });
        let killed = async {
            tokio::time::sleep(Duration::from_millis(60 + 37 * round)).await;
            if round % 3 == 1 {
                server.kill();
                tokio::time::sleep(Duration::from_millis(100)).await;
                server.start_again();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            ended = consumer.run() => panic!("{ended}"),
            () = killed => {}
        }
    }
    publisher.await.unwrap();
    let expected = logged(&context).await;
    let streams = open(folder.path()).await;
    let stored = ids(&streams).await.len() as u64;
    let rest = expected.len() as u64 - stored;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == rest).await;
    assert_eq!(ids(&streams).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_of_one_name_bring_each_event_once() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let small = |settings: &mut ConsumeSettings| settings.batch_messages_max = 5;
    let mut one = server.consumer(&streams, small);
    let mut other = server.consumer(&streams, small);
    let counts = [Arc::clone(one.counts()), Arc::clone(other.counts())];
    let all = async {
        publish(&context, 0..400).await;
        while counts.iter().map(|counts| consumed(counts)).sum::<u64>() < 400 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Time for whoever would bring one again.
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    tokio::select! {
        ended = one.run() => panic!("{ended}"),
        ended = other.run() => panic!("{ended}"),
        held = tokio::time::timeout(Duration::from_secs(60), all) => held.unwrap(),
    }
    assert_eq!(ids(&streams).await, numbers(0..400));
    let failures = counts
        .iter()
        .map(|counts| counts.failures.load(Ordering::Relaxed));
    assert!(failures.sum::<u64>() > 0, "they never met");
}

#[tokio::test]
async fn bad_messages_are_counted_and_left_out_or_end_the_consumer() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let at = "2023-11-14T22:00:00Z";
    let bad = [
        "soon".to_owned(),
        "[1]".to_owned(),
        String::new(),
        format!(r#"{{"event_id": "x", "amount": "much", "at": "{at}"}}"#),
        format!(r#"{{"event_id": "x", "amount": 1, "colour": 1, "at": "{at}"}}"#),
        format!(r#"{{"event_id": "x", "at": "{at}"}}"#),
        r#"{"event_id": "x", "amount": 1, "at": null}"#.to_owned(),
        r#"{"event_id": "x", "amount": 1, "at": "2099-01-01"}"#.to_owned(),
    ];
    for (n, bad) in bad.iter().enumerate() {
        publish(&context, n..n + 1).await;
        publish_to(&context, "cards.eu", bad.clone()).await;
    }
    let stop = |settings: &mut ConsumeSettings| settings.bad = BadMessages::Stop;
    for _ in 0..2 {
        let error = server.consumer(&streams, stop).run().await;
        let expected = "consumer cards of stream card_event: message 2 of CARDS is no event: not JSON: expected value at line 1 column 1; bad = 'skip' leaves it out";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(ids(&streams).await, ["0"]);
    }
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 15).await;
    assert_eq!(consumer.counts().bad.load(Ordering::Relaxed), 8);
    assert_eq!(ids(&streams).await, numbers(0..8));
    publish(&context, 8..9).await;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 1).await;
    assert_eq!(ids(&streams).await, numbers(0..9));
}

/// Runs a consumer that must end since messages are gone; gives what was found.
async fn ends_by_loss(server: &NatsServer, streams: &Arc<Streams>) -> (String, String) {
    match server.consumer(streams, |_| {}).run().await {
        IngestError::LogTruncated { stored, found, .. } => (stored, found),
        other => panic!("{other}"),
    }
}

fn skip(settings: &mut ConsumeSettings) {
    settings.truncated = TruncatedLog::Skip;
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_ends_the_consumer() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    publish(&context, 0..10).await;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 10).await;
    drop(consumer);
    // What was read may go.
    let stream = context.get_stream("CARDS").await.unwrap();
    stream.purge().sequence(11).await.unwrap();
    publish(&context, 10..20).await;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 10).await;
    drop(consumer);
    // What was not read may not, even if a consumer waits for more.
    let mut consumer = server.consumer(&streams, |settings| settings.wait_millis = 3_000);
    let purge = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&context, 20..30).await;
    };
    tokio::select! {
        ended = consumer.run() => panic!("{ended}"),
        () = purge => {}
    }
    // What it was appending is stored, or not, once the store is closed.
    drop((consumer, streams));
    let streams = open(folder.path()).await;
    let before = ids(&streams).await.len();
    publish(&context, 30..50).await;
    stream.purge().sequence(45).await.unwrap();
    let (stored, found) = ends_by_loss(&server, &streams).await;
    assert_eq!(stored, format!("message {before} of CARDS"));
    assert_eq!(found, "the first message there is 45");
    let mut consumer = server.consumer(&streams, skip);
    run_until(&mut consumer, |counts| consumed(counts) == 6).await;
    assert_eq!(gone(consumer.counts()), 44 - before as u64);
    let expected = [numbers(0..before), numbers(44..50)].concat();
    assert_eq!(ids(&streams).await, expected);
}

#[tokio::test]
async fn a_log_that_was_purged_while_it_is_read_ends_the_consumer() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    publish(&context, 0..400).await;
    let mut consumer = server.consumer(&streams, |settings| settings.batch_messages_max = 1);
    let counts = Arc::clone(consumer.counts());
    let purge = async {
        while consumed(&counts) < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let stream = context.get_stream("CARDS").await.unwrap();
        stream.purge().sequence(390).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
    };
    let ended = tokio::select! {
        ended = consumer.run() => ended,
        () = purge => panic!("it went on"),
    };
    let read = ids(&streams).await.len();
    assert!((10..390).contains(&read), "{read}");
    assert!(matches!(ended, IngestError::LogTruncated { .. }), "{ended}");
    assert_eq!(ended.kind(), ErrorKind::FailedPrecondition);
    let found =
        format!("message {read} of CARDS was read last, but the first message there is 390");
    assert!(ended.to_string().contains(&found), "{ended}");
}

#[tokio::test]
async fn a_log_that_was_made_anew_ends_the_consumer() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    publish(&context, 0..10).await;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 10).await;
    context.delete_stream("CARDS").await.unwrap();
    make_stream(&context).await;
    // More than there were: its sequences alone do not tell.
    publish(&context, 100..120).await;
    let (stored, found) = ends_by_loss(&server, &streams).await;
    assert_eq!(stored, "message 10 of CARDS");
    assert!(found.starts_with("the log was made anew at 20"), "{found}");
    assert!(found.ends_with("with messages 1 to 20"), "{found}");
    let mut consumer = server.consumer(&streams, skip);
    run_until(&mut consumer, |counts| consumed(counts) == 20).await;
    assert_eq!(
        ids(&streams).await,
        [numbers(0..10), numbers(100..120)].concat()
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_ends_the_consumer() {
    let Some(mut server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    publish(&context, 0..10).await;
    let saved = tempfile::tempdir().unwrap();
    copy(&server.folder, saved.path());
    publish(&context, 10..20).await;
    let mut consumer = server.consumer(&streams, |_| {});
    run_until(&mut consumer, |counts| consumed(counts) == 20).await;
    server.kill();
    std::fs::remove_dir_all(&server.folder).unwrap();
    copy(saved.path(), &server.folder);
    server.start_again();
    let (stored, found) = ends_by_loss(&server, &streams).await;
    assert_eq!(stored, "message 20 of CARDS");
    assert_eq!(found, "the last message there is 10");
    // It grows beyond what was read, with other messages.
    let context = server.context().await;
    publish(&context, 100..115).await;
    let (stored, found) = ends_by_loss(&server, &streams).await;
    assert_eq!(stored, "message 20 of CARDS");
    let another = "message 20 there is another one, published at 20";
    assert!(found.starts_with(another), "{found}");
    let mut consumer = server.consumer(&streams, skip);
    run_until(&mut consumer, |counts| consumed(counts) == 5).await;
    assert_eq!(
        ids(&streams).await,
        [numbers(0..20), numbers(110..115)].concat()
    );
}

#[tokio::test]
async fn messages_of_other_subjects_are_passed_and_may_go() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let eu = |settings: &mut ConsumeSettings| settings.subject = "cards.eu".into();
    publish(&context, 0..3).await;
    for _ in 0..5 {
        publish_to(&context, "cards.us", "not ours").await;
    }
    let mut consumer = server.consumer(&streams, eu);
    run_until(&mut consumer, |counts| consumed(counts) == 3).await;
    // Two waits: the position goes behind the others' messages.
    let ran = tokio::time::timeout(Duration::from_secs(1), consumer.run()).await;
    assert!(ran.is_err());
    let stream = context.get_stream("CARDS").await.unwrap();
    stream.purge().await.unwrap();
    publish_to(&context, "cards.us", "not ours").await;
    publish(&context, 3..5).await;
    let mut consumer = server.consumer(&streams, eu);
    run_until(&mut consumer, |counts| consumed(counts) == 2).await;
    assert_eq!(ids(&streams).await, numbers(0..5));
    assert_eq!(consumer.counts().pending.load(Ordering::Relaxed), 0);
}

fn rows(ids: &[&str]) -> Vec<u8> {
    let times = TimestampMicrosecondArray::from(vec![NOW; ids.len()]);
    let batch = RecordBatch::try_from_iter([
        ("at", Arc::new(times.with_timezone("UTC")) as ArrayRef),
        ("event_id", Arc::new(StringArray::from(ids.to_vec()))),
        ("amount", Arc::new(Float64Array::from(vec![1.5; ids.len()]))),
    ])
    .unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn messages_of_arrow_ipc_bring_many_rows() {
    let Some(server) = NatsServer::start(&[]) else {
        return;
    };
    let context = server.with_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let other = RecordBatch::try_from_iter([(
        "colour",
        Arc::new(StringArray::from(vec!["red"])) as ArrayRef,
    )])
    .unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &other.schema()).unwrap();
    writer.write(&other).unwrap();
    let payloads = [
        rows(&["a", "b"]),
        json("x").into_bytes(),
        rows(&[]),
        rows(&["c"])[..100].to_vec(),
        writer.into_inner().unwrap(),
        rows(&["d"]),
    ];
    for payload in payloads {
        publish_to(&context, "cards.eu", payload).await;
    }
    let mut consumer = server.consumer(&streams, |settings| {
        settings.format = MessageFormat::Arrow;
        // Less than one message has.
        settings.batch_bytes_max = 100;
    });
    run_until(&mut consumer, |counts| consumed(counts) == 6).await;
    assert_eq!(ids(&streams).await, ["a", "b", "d"]);
    assert_eq!(consumer.counts().bad.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn secrets_are_given_apart_from_the_url() {
    let Some(server) = NatsServer::start(&["--auth", "s3cret"]) else {
        return;
    };
    let url = server.url().replace("nats://", "nats://s3cret@");
    let settings = ConsumeSettings {
        url,
        ..super::settings()
    };
    let error = NatsLog::new(&settings, NatsSecrets::default()).unwrap_err();
    let expected = "consumer cards of stream card_event: url holds a secret";
    assert_eq!(error.to_string(), expected);

    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let mut without = server.consumer(&streams, |_| {});
    let failed = |counts: &ConsumerCounts| counts.failures.load(Ordering::Relaxed) > 1;
    run_until(&mut without, failed).await;

    let options = async_nats::ConnectOptions::with_token("s3cret".into());
    let context = jetstream::new(options.connect(server.url()).await.unwrap());
    make_stream(&context).await;
    publish(&context, 0..3).await;
    let settings = ConsumeSettings {
        url: server.url(),
        ..super::settings()
    };
    let secrets = NatsSecrets {
        token: Some("s3cret".into()),
        ..NatsSecrets::default()
    };
    let log = NatsLog::new(&settings, secrets).unwrap();
    let mut with = Consumer::new(settings, Arc::clone(&streams), Box::new(log));
    run_until(&mut with, |counts| consumed(counts) == 3).await;
}
