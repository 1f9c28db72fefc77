//! Threads for what a server does beside answering reads: materialisations,
//! training sets, sweeps. They give way to those that answer.
//!
//! On threads of their own, since a task that computes for milliseconds before it
//! lets others go on would hold up reads of the same thread; and of a lower
//! priority, since a core that both want is the reads'.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::scheduling;

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

fn give_way() {
    if let Err(error) = scheduling::give_way() {
        tracing::warn!(%error, "background work has the priority of reads");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::task::{block_in_place, spawn_blocking};

    use super::*;
    use crate::scheduling::linux::{Asked, asked};

    fn seen(asked: &Asked) -> (i32, u64) {
        (asked.nice, asked.slice_nanos)
    }

    /// Of a thread that answers, which starts those beside.
    #[tokio::test]
    async fn all_its_threads_give_way_alike() {
        let usual = asked().unwrap();
        scheduling::answer_soon();
        let own = asked().unwrap();
        let beside = Beside::start().unwrap();
        let work = async {
            let first = block_in_place(asked);
            let second = spawn_blocking(asked).await.unwrap();
            // On the thread that took this one's place.
            let third = tokio::spawn(async { block_in_place(asked) });
            [first, second, third.await.unwrap(), asked()]
        };
        let all = beside.handle().spawn(work).await.unwrap();
        for one in all {
            assert_eq!(seen(&one.unwrap()), (10, usual.slice_nanos));
        }
        assert_eq!(asked().unwrap(), own);
        assert_eq!(own.nice, usual.nice);
    }
}
