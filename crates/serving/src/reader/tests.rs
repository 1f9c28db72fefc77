//! Reads as a server makes them.

use super::*;

/// A server spawns reads: their futures must be `Send` for any lifetime.
#[test]
fn reads_can_be_spawned() {
    #[allow(clippy::manual_async_fn, reason = "Send is what is tested")]
    fn spawned(reader: Arc<Reader>, request: ReadRequest) -> impl Future<Output = ()> + Send {
        async move {
            let _ = reader.refresh().await;
            let _ = reader.read(request).await;
        }
    }
    let _ = spawned;
}
