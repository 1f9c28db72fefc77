//! A second process on the same folder: this test binary, started again.
//!
//! The parent starts the one test [`obeys`] with `role=` and `folder=` among
//! the names of tests to run (which match none), and hears lines that begin
//! with `@`.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use granary_store::{EmbeddedStore, OnlineStore, RowSink, WriteMode};

use super::bundles;
use super::facts::{UPSERT, VIEW, fill, keys, merging, open, pinned, times};

/// A started child; killed when dropped.
pub struct Started {
    pub process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

pub fn start(role: &str, folder: &Path) -> Started {
    started(Command::new(std::env::current_exe().unwrap()), role, folder)
}

/// One whose files do not grow beyond so many bytes.
pub fn start_with_files_up_to(bytes: u64, role: &str, folder: &Path) -> Started {
    let mut shell = Command::new("sh");
    // The limit is told in blocks, and a signal that is not heeded is an error.
    let limited = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
        bytes / 512
    );
    shell.arg("-c").arg(limited);
    shell.arg(std::env::current_exe().unwrap());
    started(shell, role, folder)
}

fn started(mut command: Command, role: &str, folder: &Path) -> Started {
    let mut process = command
        .args(["child::obeys", "--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("role={role}"))
        .arg(format!("folder={}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    Started { process, lines }
}

impl Started {
    /// The next thing it says; `None` at its end.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            let line = self.lines.next()?.ok()?;
            // The harness prints the test's name before the first line.
            if let Some(at) = line.find('@') {
                return Some(line[at + 1..].to_owned());
            }
        }
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits for its end; panics when it failed.
    pub fn succeed(mut self) {
        while self.hear().is_some() {}
        assert!(self.process.wait().unwrap().success(), "the child failed");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn argument(name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    std::env::args().find_map(|arg| arg.strip_prefix(&prefix).map(str::to_owned))
}

fn say(what: &str) {
    println!("@{what}");
}

/// Does what the parent says. Started without a role, it starts itself with
/// one, to see that a role is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn obeys() {
    let Some(role) = argument("role") else {
        let folder = tempfile::tempdir().unwrap();
        let mut child = start("nothing", folder.path());
        assert_eq!(child.hear().as_deref(), Some("nothing to do"));
        return child.succeed();
    };
    let folder = argument("folder").unwrap();
    let folder = Path::new(&folder);
    match role.as_str() {
        "nothing" => say("nothing to do"),
        "publish" => drop(
            fill(&open(folder), WriteMode::Create, &[(1, 10), (2, 10)], 10, 1)
                .await
                .unwrap(),
        ),
        "upsert" => drop(
            fill(&open(folder), UPSERT, &[(2, 20), (3, 20)], 10, 2)
                .await
                .unwrap(),
        ),
        "drop" => open(folder).drop_version(VIEW, 1).await.unwrap(),
        "bundle" => match open(folder).bundle(&bundles::views(&["a", "b", "c"])).await {
            Ok(bundled) => assert!(bundled),
            Err(error) => say(&error.to_string()),
        },
        "bundle again and again" => bundle_again_and_again(&open(folder)).await,
        "hold a read" => hold_a_read(folder).await,
        "hold a writer" => {
            let store = open(folder);
            let _held = super::facts::writer(&store, WriteMode::Create)
                .await
                .unwrap();
            say("holding");
            std::thread::sleep(Duration::from_secs(60));
        }
        "watch" => watch(folder).await,
        "script" => script(open(folder)).await,
        "merging script" => script(merging(folder)).await,
        other => panic!("no role {other}"),
    }
}

/// Has always something to bundle, until it is killed.
async fn bundle_again_and_again(store: &EmbeddedStore) {
    for at in 100.. {
        for view in ["a", "b"] {
            let facts: Vec<_> = (0..2_000).map(|id| (id, at)).collect();
            bundles::fill(store, view, WriteMode::Create, &facts).await;
        }
        say("bundling");
        let bundled = store.bundle(&bundles::views(&["a", "b", "c"])).await;
        assert!(bundled.unwrap());
    }
}

/// Stops in the middle of a read, its transaction open, until it is killed.
async fn hold_a_read(folder: &Path) {
    struct Stuck;
    impl RowSink for Stuck {
        fn row(&mut self, _: usize, _: usize, _: &[u8]) {
            say("reading");
            std::thread::sleep(Duration::from_secs(60));
        }
    }
    let store = open(folder);
    let generation = pinned(&store).await.unwrap();
    store
        .read(&keys(&[1]), &[generation], &mut Stuck)
        .await
        .unwrap();
}

/// Reads until key 0 is at [`LAST`]; no key's time may fall.
async fn watch(folder: &Path) {
    let store = open(folder);
    let ids: Vec<i64> = (0..WATCHED).collect();
    let mut seen = vec![0; ids.len()];
    let mut said = false;
    while seen[0] < LAST {
        store.refresh().await.unwrap();
        let generation = pinned(&store).await.unwrap();
        for (id, time) in times(&store, &generation, &ids)
            .await
            .into_iter()
            .enumerate()
        {
            let time = time.unwrap_or_else(|| panic!("key {id} is gone"));
            assert!(
                time >= seen[id],
                "key {id} fell from {} to {time}",
                seen[id]
            );
            seen[id] = time;
        }
        if !said {
            say("watching");
            said = true;
        }
    }
}

pub const WATCHED: i64 = 200;
pub const LAST: i64 = 1_000;

/// What the killed writer was at: create, upsert, create anew, each in many
/// transactions. Run again from the start, it ends the same.
async fn script(store: EmbeddedStore) {
    for (step, (mode, facts)) in steps().into_iter().enumerate() {
        let mut writer = super::facts::writer(&store, mode).await.unwrap();
        for (index, batch) in facts.chunks(100).enumerate() {
            let (ids, times): (Vec<i64>, Vec<i64>) = batch.iter().copied().unzip();
            writer
                .write(&keys(&ids), &super::facts::rows(&times))
                .await
                .unwrap();
            if index % 4 == 0 {
                say("wrote");
            }
        }
        writer
            .publish(super::facts::coverage(step as u64 + 1))
            .await
            .unwrap();
        say("published");
    }
}

/// Mode and facts of each step of the script.
pub fn steps() -> Vec<(WriteMode, Vec<super::facts::Fact>)> {
    let n = 3_000;
    vec![
        (WriteMode::Create, (0..n).map(|i| (i, 1)).collect()),
        // Mixed keys, some of them new, some older than what is stored.
        (
            UPSERT,
            (0..n).map(|i| (i * 11 % (n + 500), i % 3)).collect(),
        ),
        (
            WriteMode::Create,
            (0..n).rev().map(|i| (i, 5 + i % 2)).collect(),
        ),
        (UPSERT, (0..n).map(|i| (i * 11 % n, 6)).collect()),
    ]
}
