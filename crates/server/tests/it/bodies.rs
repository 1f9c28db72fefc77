//! Requests whose bodies are not what a client of ours sends. Single reads do not
//! go the way of other rpcs, and must be answered and refused as these are.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use granary_proto as pb;
use granary_proto::{columns, get_features_request};
use granary_testing::memory::*;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use crate::server::*;

const READ: &str = "/granary.v1.Features/GetFeatures";
/// Which has the same bound for a message.
const OTHER: &str = "/granary.v1.Streams/ListStreams";

fn framed(compressed: u8, length: usize, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(compressed);
    frame.put_u32(length as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn whole(message: &[u8]) -> Bytes {
    framed(0, message.len(), message)
}

/// Sends data frames as they are; gives the answer's bytes, or the status.
async fn ask(
    channel: &Channel,
    path: &str,
    (headers, pieces): (&[(&'static str, &str)], &[Bytes]),
) -> Result<Bytes, (i32, String)> {
    let pieces: Vec<_> = pieces.iter().cloned().map(Frame::data).collect();
    // Not all at once, so that what follows comes in frames of its own.
    let pieces = stream::iter(pieces).then(async |piece| {
        tokio::task::yield_now().await;
        Ok::<_, Status>(piece)
    });
    let mut request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(StreamBody::new(pieces))).unwrap();
    let mut channel = channel.clone();
    let answer = channel.ready().await.unwrap().call(request).await.unwrap();
    let failed = |headers: &HeaderMap| {
        let status = Status::from_header_map(headers)?;
        (status.code() != tonic::Code::Ok)
            .then(|| (status.code() as i32, status.message().to_owned()))
    };
    if let Some(failed) = failed(answer.headers()) {
        return Err(failed);
    }
    let body = answer.into_body().collect().await.unwrap();
    match body.trailers() {
        Some(trailers) => assert_eq!(trailers["grpc-status"], "0"),
        None => panic!("an answer without a status"),
    }
    Ok(body.to_bytes())
}

fn read_of(customers: i64) -> Vec<u8> {
    let ids = ints(&(0..customers).map(Some).collect::<Vec<_>>());
    let request = pb::GetFeaturesRequest {
        target: Some(get_features_request::Target::Service(
            "admission".to_owned(),
        )),
        keys: vec![columns::encode_column("customer_id", &ids).unwrap()],
        ..pb::GetFeaturesRequest::default()
    };
    request.encode_to_vec()
}

fn entities(answer: &Bytes) -> u32 {
    let (head, message) = answer.split_at(5);
    assert_eq!(head, &framed(0, message.len(), b"")[..]);
    pb::GetFeaturesResponse::decode(message).unwrap().entities
}

async fn server() -> TestServer {
    let project = small_project().await;
    let components = components(&project, Arc::new(project.store.clone())).await;
    let mut settings = quick();
    settings.request_bytes_max = 100_000;
    TestServer::start(components, settings).await.ready().await
}

/// What is wrong with a body is said of a read as of any other request.
#[tokio::test]
async fn a_body_that_is_no_message_is_refused_as_everywhere() {
    let server = server().await;
    let channel = server.channel().await;
    let compressed = [("grpc-encoding", "gzip")];
    for of in [
        |_: &[u8]| vec![],
        |_: &[u8]| vec![Bytes::new()],
        |_: &[u8]| vec![Bytes::from_static(b"\0\0")],
        |m: &[u8]| vec![framed(1, m.len(), m)],
        |m: &[u8]| vec![framed(2, m.len(), m)],
        |m: &[u8]| vec![framed(0, m.len() + 1, m)],
        |m: &[u8]| vec![framed(0, 200_000, m)],
        |_: &[u8]| vec![whole(&[0xFF; 20])],
    ] {
        for headers in [&[][..], &compressed] {
            let read = ask(&channel, READ, (headers, &of(&read_of(1)))).await;
            let other = ask(&channel, OTHER, (headers, &of(b"anything"))).await;
            let (mut read, mut other) = (read.unwrap_err(), other.unwrap_err());
            // Which field of which message, differs.
            if read.1.starts_with("failed to decode") {
                read.1.truncate(40);
                other.1.truncate(40);
            }
            assert_eq!(read, other);
        }
    }
}

#[tokio::test]
async fn a_message_may_come_in_any_pieces() {
    let server = server().await;
    let channel = server.channel().await;
    let one = whole(&read_of(1));
    let many = whole(&read_of(9_000));
    assert!(many.len() > 16_384, "more than a frame: {}", many.len());
    for (pieces, expected) in [
        (vec![one.clone()], 1),
        (vec![one.clone(), Bytes::new()], 1),
        (vec![one.slice(..3), one.slice(3..)], 1),
        (vec![one.slice(..10), one.slice(10..)], 1),
        (vec![many], 9_000),
        // The first message is the request, as everywhere.
        (vec![one.clone(), whole(&read_of(2))], 1),
        (vec![[&one[..], &whole(&read_of(2))[..]].concat().into()], 1),
    ] {
        let answer = ask(&channel, READ, (&[], &pieces)).await;
        assert_eq!(entities(&answer.unwrap()), expected, "{}", pieces.len());
    }
    let identity = [("grpc-encoding", "identity")];
    let answer = ask(&channel, READ, (&identity, &[one])).await;
    assert_eq!(entities(&answer.unwrap()), 1);
}

/// Where they have tasks of their own, and where their connection answers them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_one_connection_are_answered_each_by_its_own_answer() {
    let server = server().await;
    let channel = server.channel().await;
    let reads = (0..2_000).map(async |n| {
        let customers = 1 + n % 50;
        let body = whole(&read_of(customers));
        let answer = ask(&channel, READ, (&[], &[body])).await;
        match answer {
            Ok(answer) => assert_eq!(i64::from(entities(&answer)), customers),
            // More than can be done, for a moment.
            Err((code, message)) => assert_eq!(code, 8, "{message}"),
        }
    });
    futures::future::join_all(reads).await;
}

/// hyper would let a connection have a thousand streams that ended before their requests
/// did, and then close it, with whatever else is under way there.
#[tokio::test]
async fn refused_reads_whose_bodies_come_late_do_not_end_their_connection() {
    let settings = granary_server::ServerSettings {
        concurrent_requests_max: 1,
        waiting_requests_max: 0,
        ..quick()
    };
    let project = small_project().await;
    let store = GatedStore::shut(Arc::new(project.store.clone()));
    let components = components(&project, store.clone()).await;
    let server = TestServer::start(components, settings).await.ready().await;
    let channel = server.channel().await;
    let frame = whole(&read_of(1));
    let first = tokio::spawn({
        let (channel, frame) = (channel.clone(), frame.clone());
        async move { ask(&channel, READ, (&[], &[frame])).await }
    });
    store.wait_for_reads(1).await;

    let socket = TcpStream::connect(&server.grpc).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..30 {
        let late = (0..100).map(async |_| {
            let mut send = send.clone().ready().await.unwrap();
            let head = Request::post(format!("http://{}{READ}", server.grpc));
            let head = head.header("content-type", "application/grpc");
            let (answer, mut body) = send.send_request(head.body(()).unwrap(), false).unwrap();
            // The head is on its way, and the body does not wait for what it leads to.
            tokio::task::yield_now().await;
            // Fails where the answer was quicker.
            let _ = body.send_data(frame.clone(), true);
            let answer = answer.await.unwrap();
            Status::from_header_map(answer.headers()).unwrap().code()
        });
        for code in futures::future::join_all(late).await {
            assert_eq!(code, tonic::Code::ResourceExhausted);
        }
    }
    assert!(!connection.is_finished());
    store.gate.add_permits(1);
    assert_eq!(entities(&first.await.unwrap().unwrap()), 1);
}
