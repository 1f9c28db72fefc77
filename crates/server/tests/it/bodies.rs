//! Requests whose bodies are not what a client of ours sends. Single reads do not
//! go the way of other rpcs, and must be answered and refused as these are.

use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use granary_proto as pb;
use granary_proto::{columns, get_features_request};
use granary_testing::memory::*;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
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
    server_with(|_| {}).await
}

async fn server_with(tune: impl FnOnce(&mut granary_server::ServerSettings)) -> TestServer {
    let project = small_project().await;
    let components = components(&project, Arc::new(project.store.clone())).await;
    let mut settings = quick();
    settings.request_bytes_max = 100_000;
    tune(&mut settings);
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

/// Sends heads by hand, on a connection of its own.
async fn by_hand(server: &TestServer) -> h2::client::SendRequest<Bytes> {
    taking(server, 1 << 20).await
}

/// The same, and takes so much of an answer before it says that it has.
async fn taking(server: &TestServer, window_bytes: u32) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(&server.grpc).await.unwrap();
    let (send, connection) = h2::client::Builder::new()
        .initial_max_send_streams(100)
        .initial_window_size(window_bytes)
        .handshake(socket)
        .await
        .unwrap();
    tokio::spawn(connection);
    send
}

const CALLER: &str = "granary-client";
const TIMEOUT: &str = "grpc-timeout";

type Begun = (h2::client::ResponseFuture, h2::SendStream<Bytes>);

async fn begin(
    send: &h2::client::SendRequest<Bytes>,
    server: &TestServer,
    (path, header): (&str, (&str, &str)),
) -> Begun {
    let mut send = send.clone().ready().await.unwrap();
    let head = Request::post(format!("http://{}{path}", server.grpc))
        .header("content-type", "application/grpc")
        .header(header.0, header.1);
    send.send_request(head.body(()).unwrap(), false).unwrap()
}

async fn code(answer: h2::client::ResponseFuture) -> tonic::Code {
    let answer = answer.await.unwrap();
    Status::from_header_map(answer.headers()).map_or(tonic::Code::Ok, |status| status.code())
}

/// Reads the rest of an answer.
async fn all_of(mut answer: h2::RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(part) = answer.data().await {
        let part = part.unwrap();
        all.extend_from_slice(&part);
        answer.flow_control().release_capacity(part.len()).unwrap();
    }
    all
}

/// Their callers have sent a little, and nothing more for now.
#[tokio::test]
async fn requests_whose_bodies_do_not_come_hold_nobody_up() {
    let server = server_with(|settings| {
        settings.concurrent_requests_max = 4;
        settings.request_bytes_max = 1_000_000;
    })
    .await;
    let (one, many) = (whole(&read_of(1)), whole(&read_of(9_000)));
    let mut begun = Vec::new();
    for path in [READ, OTHER] {
        for caller in ["a", "b"] {
            let send = by_hand(&server).await;
            for n in 0..20 {
                let (answer, mut body) = begin(&send, &server, (path, (CALLER, caller))).await;
                let piece = if n % 2 == 0 {
                    &one[..12]
                } else {
                    &many[..12_000]
                };
                body.send_data(Bytes::copy_from_slice(piece), false)
                    .unwrap();
                begun.push((path, n, answer, body));
            }
        }
    }
    until(&server, "granary_requests_in_flight", 80).await;
    let channel = server.channel().await;
    let answer = ask(&channel, READ, (&[], from_ref(&one))).await;
    assert_eq!(entities(&answer.unwrap()), 1);
    let answer = ask(&channel, READ, (&[], from_ref(&many))).await;
    assert_eq!(entities(&answer.unwrap()), 9_000);
    // Whose rest comes is answered, and who goes away is the one who did.
    let (_, _, answer, mut body) = begun.remove(0);
    body.send_data(one.slice(12..), true).unwrap();
    assert_eq!(code(answer).await, tonic::Code::Ok);
    for (_, _, _, mut body) in begun {
        body.send_reset(h2::Reason::CANCEL);
    }
    until(&server, "granary_requests_in_flight", 0).await;
    let gone = "granary_requests_total{code=\"Cancelled\",rpc=";
    until(&server, &format!("{gone}\"GetFeatures\"}}"), 39).await;
    until(&server, &format!("{gone}\"ListStreams\"}}"), 40).await;
}

/// Of the longer ones only so many are on their way at a time.
#[tokio::test]
async fn long_bodies_wait_for_each_other_and_not_the_short_for_them() {
    let server = server_with(|settings| {
        settings.concurrent_requests_max = 16;
        settings.request_bytes_max = 10_000_000;
    })
    .await;
    let many = whole(&read_of(9_900));
    // Fields that nobody knows, behind the message's own.
    let mut longer = read_of(1);
    prost::encoding::bytes::encode(1_000, &vec![7_u8; 300_000], &mut longer);
    let longer = whole(&longer);
    let send = by_hand(&server).await;
    let (first, mut body) = begin(&send, &server, (READ, (CALLER, "a"))).await;
    body.send_data(longer.slice(..200_000), false).unwrap();
    until(&server, "granary_requests_in_flight", 1).await;
    tokio::task::yield_now().await;
    let channel = server.channel().await;
    // A client of tonic's would keep the deadline itself.
    let (second, mut rest) = begin(&send, &server, (READ, (TIMEOUT, "300m"))).await;
    rest.send_data(longer.clone(), true).unwrap();
    assert_eq!(code(second).await, tonic::Code::DeadlineExceeded);
    let short = ask(&channel, READ, (&[], &[many])).await;
    assert_eq!(entities(&short.unwrap()), 9_900);
    body.send_data(longer.slice(200_000..), true).unwrap();
    assert_eq!(code(first).await, tonic::Code::Ok);
    let second = ask(&channel, READ, (&[], &[longer])).await;
    assert_eq!(entities(&second.unwrap()), 1);
}

/// Sends a read, and gives the answer without its body.
async fn read(
    send: &h2::client::SendRequest<Bytes>,
    server: &TestServer,
    frame: &Bytes,
) -> Response<h2::RecvStream> {
    let (answer, mut body) = begin(send, server, (READ, (CALLER, "a"))).await;
    body.send_data(frame.clone(), true).unwrap();
    answer.await.unwrap()
}

const UNREAD: &str = "granary_unread_answer_bytes";

/// Who takes nothing is refused more of it, whichever way a read goes; others are not, who
/// have no more under way than is left.
#[tokio::test]
async fn answers_that_are_not_read_are_bounded() {
    let many = whole(&read_of(100));
    let server = server().await;
    let send = by_hand(&server).await;
    let bytes = all_of(read(&send, &server, &many).await.into_body())
        .await
        .len();
    let bytes_max = 40 * bytes as u64;
    let server = server_with(|settings| settings.unread_answer_bytes_max = bytes_max).await;
    let (slow, quick) = (taking(&server, 10).await, by_hand(&server).await);
    let twice = Bytes::from([&many[..], &many[..]].concat());
    let mut held = Vec::new();
    let refused = loop {
        let frame = if held.len() % 2 == 0 { &many } else { &twice };
        let answer = read(&slow, &server, frame).await;
        match Status::from_header_map(answer.headers()) {
            None => held.push(answer.into_body()),
            Some(refused) => break refused,
        }
    };
    assert_eq!(held.len(), 20);
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let message = refused.message();
    assert!(message.contains("read those before"), "{message}");
    let mut under_way = Vec::new();
    for _ in 0..10 {
        under_way.push(begin(&quick, &server, (READ, (CALLER, "a"))).await);
    }
    for (_, body) in &mut under_way {
        body.send_data(many.clone(), true).unwrap();
    }
    for (answer, _) in under_way {
        let answer = all_of(answer.await.unwrap().into_body()).await;
        assert_eq!(answer.len(), bytes);
    }
    for body in held.drain(1..) {
        assert_eq!(all_of(body).await.len(), bytes);
    }
    until(&server, UNREAD, bytes as u64).await;
    // Or goes away.
    drop(held);
    until(&server, UNREAD, 0).await;
}

/// As they would be for as long as the process lives that forgot them.
#[tokio::test]
async fn answers_that_are_never_read_do_not_stay() {
    let server = server_with(|settings| settings.request_seconds_max = 1).await;
    let (slow, quick) = (taking(&server, 10).await, taking(&server, 1_000).await);
    let many = whole(&read_of(9_000));
    let forgotten = read(&slow, &server, &many).await.into_body();
    // One that is read, though slowly, is no reason.
    let mut answer = read(&quick, &server, &many).await.into_body();
    let mut pieces = Vec::new();
    while let Some(piece) = answer.data().await {
        let piece = piece.unwrap();
        answer.flow_control().release_capacity(piece.len()).unwrap();
        pieces.push(piece);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(pieces.len() > 50, "{}", pieces.len());
    until(&server, UNREAD, 0).await;
    drop(forgotten);
}

/// As callers do whose time is over: after a pause all of it comes at once.
#[tokio::test]
async fn many_that_are_given_up_at_once_do_not_end_their_connection() {
    let server = server().await;
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut answers, mut requests) = TcpStream::connect(&server.grpc).await.unwrap().into_split();
    let (mut from_client, mut to_client) = tokio::io::split(theirs);
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to_client).await });
    let holds = Arc::new(AtomicBool::new(false));
    let is_held = Arc::clone(&holds);
    tokio::spawn(async move {
        let mut held = BytesMut::new();
        while from_client.read_buf(&mut held).await.unwrap() > 0 {
            if !is_held.load(Ordering::Relaxed) {
                requests.write_all(&held.split()).await.unwrap();
            }
        }
    });
    let (send, connection) = h2::client::handshake(ours).await.unwrap();
    tokio::spawn(connection);
    let ask = async || {
        let (answer, mut body) = begin(&send, &server, (READ, (CALLER, "a"))).await;
        body.send_data(whole(&read_of(1)), true).unwrap();
        code(answer).await
    };
    assert_eq!(ask().await, tonic::Code::Ok);
    holds.store(true, Ordering::Relaxed);
    let mut begun = Vec::new();
    for _ in 0..100 {
        begun.push(begin(&send, &server, (READ, (CALLER, "a"))).await);
    }
    // One that is reset before its head is out is never sent.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for (_, body) in &mut begun {
        body.send_reset(h2::Reason::CANCEL);
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    holds.store(false, Ordering::Relaxed);
    assert_eq!(ask().await, tonic::Code::Ok);
    until(&server, "granary_requests_in_flight", 0).await;
}

#[tokio::test]
async fn what_is_asked_for_is_named_in_few_words() {
    let server = server().await;
    let channel = server.channel().await;
    for path in [
        "/granary.v1.Features/Nope",
        "/Nope",
        "/granary.v1.Nope/GetFeatures",
    ] {
        let (code, message) = ask(&channel, path, (&[], &[])).await.unwrap_err();
        assert_eq!(code, tonic::Code::Unimplemented as i32);
        assert!(message.contains(path), "{message}");
    }
    let long = "é".repeat(40_000);
    let request = pb::GetFeaturesRequest {
        target: Some(get_features_request::Target::Service(long)),
        ..pb::GetFeaturesRequest::default()
    };
    let body = whole(&request.encode_to_vec());
    let (code, message) = ask(&channel, READ, (&[], &[body])).await.unwrap_err();
    assert_eq!(code, tonic::Code::NotFound as i32);
    assert!(
        message.starts_with("unknown feature service \"éé"),
        "{message}"
    );
    assert!(message.len() < 3_000, "{}", message.len());
}

/// It is over before anything can be done.
#[tokio::test]
async fn a_deadline_of_nothing_is_not_worked_on() {
    let server = server().await;
    let send = by_hand(&server).await;
    for time in ["0S", "0n", "1n"] {
        let (answer, mut body) = begin(&send, &server, (READ, (TIMEOUT, time))).await;
        body.send_data(whole(&read_of(1)), true).unwrap();
        assert_eq!(code(answer).await, tonic::Code::DeadlineExceeded);
    }
    until(&server, "granary_requests_in_flight", 0).await;
    let (_, metrics) = server.get("/metrics").await;
    let answered = "granary_requests_total{code=\"Ok\",rpc=\"GetFeatures\"} 0";
    assert!(metrics.lines().any(|line| line == answered), "{metrics}");
}
