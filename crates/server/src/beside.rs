//! Threads for what a server does beside answering reads: materialisations,
//! training sets, sweeps. They give way to those that answer.
//!
//! On threads of their own, since a task that computes for milliseconds before it
//! lets others go on would hold up reads of the same thread; and of a lower
//! priority, since a core that both want is the reads'.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// As `nice` counts: a tenth of the core that reads want as well, all of one that
/// they leave alone.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// The threads; they end with it, and what is under way on them as well, but for work
/// that cannot be broken off.
#[derive(Debug)]
pub(crate) struct Beside {
    /// `None` when it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Beside {
    /// As many threads as the current runtime has.
    pub fn start() -> io::Result<Self> {
        let threads = Handle::current().metrics().num_workers();
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("granary-beside")
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Where one may not wait for the threads.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Not by so much more: threads have the priority of those that start them. On Linux
/// priorities are those of threads; elsewhere it would be the whole
/// process that gave way.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "background work has the priority of reads");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::task::{block_in_place, spawn_blocking};

    use super::*;

    fn priority() -> rustix::io::Result<i32> {
        rustix::process::getpriority_process(None)
    }

    #[tokio::test]
    async fn all_its_threads_give_way_alike() {
        let own = priority();
        let beside = Beside::start().unwrap();
        let work = async {
            let first = block_in_place(priority);
            let second = spawn_blocking(priority).await.unwrap();
            // On the thread that took this one's place.
            let third = tokio::spawn(async { block_in_place(priority) });
            [first, second, third.await.unwrap(), priority()]
        };
        let seen = beside.handle().spawn(work).await.unwrap();
        assert_eq!(seen, [Ok(NICE); 4]);
        assert_eq!(priority(), own);
    }
}
