//! The bodies of requests, which come before the requests ask for their turn: one that
//! waits for the rest of its body then holds nobody up, and one that is refused leaves
//! nothing behind on its way.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tonic::body::Body;

use crate::answer::FRAME_HEAD_BYTES;

/// Any request may have so much of its body here.
const SHORT_BYTES: usize = 64 << 10;
/// Of the requests that may be under way, those whose bodies may be longer: one in so many.
const LONG_SHARE: usize = 16;

/// What the bodies of a server have in common.
#[derive(Debug)]
pub(crate) struct Bodies {
    bytes_max: usize,
    /// Of bodies that are longer than most, on their way.
    long: Semaphore,
}

/// What came of a body.
pub(crate) enum Gathered {
    Whole(Bytes),
    /// It is longer than a message may be, and not all of it was read.
    TooLong(Body),
}

impl Gathered {
    pub fn into_body(self) -> Body {
        match self {
            Self::Whole(body) => Body::new(Full::new(body)),
            Self::TooLong(body) => body,
        }
    }
}

/// The caller went away.
#[derive(Debug)]
pub(crate) struct Gone;

impl Bodies {
    pub fn new(message_bytes_max: usize, requests_max: usize) -> Self {
        Self {
            bytes_max: message_bytes_max.saturating_add(FRAME_HEAD_BYTES),
            long: Semaphore::new(requests_max.div_ceil(LONG_SHARE).max(1)),
        }
    }

    /// Waits for all of a body.
    pub async fn gather(&self, mut body: Incoming) -> Result<Gathered, Gone> {
        // Most are one piece, which is not copied.
        let first = next(&mut body).await?.unwrap_or_default();
        let mut another = match body.is_end_stream() {
            true => None,
            false => next(&mut body).await?,
        };
        if another.is_none() {
            return Ok(Gathered::Whole(first));
        }
        let mut gathered = BytesMut::from(first);
        let mut is_long = None;
        while let Some(piece) = another {
            gathered.extend_from_slice(&piece);
            if gathered.len() > self.bytes_max {
                // Refused whatever follows.
                return Ok(Gathered::TooLong(before(gathered.freeze(), body)));
            }
            if gathered.len() > SHORT_BYTES && is_long.is_none() {
                // Nobody closes it.
                is_long = self.long.acquire().await.ok();
            }
            another = next(&mut body).await?;
        }
        Ok(Gathered::Whole(gathered.freeze()))
    }
}

/// The next data; trailers say nothing in a request.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Gone> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Gone)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body of which some was read already.
fn before(read: Bytes, rest: Incoming) -> Body {
    let read = stream::iter([Ok(Frame::data(read))]);
    Body::new(StreamBody::new(read.chain(BodyStream::new(rest))))
}
