//! The load generator: closed loops over a few connections.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tonic::Request;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::process::cpu_time;
use crate::raw::{BytesCodec, PATH};

/// How much load, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub connections: usize,
    /// Requests under way at once on each connection.
    pub in_flight: usize,
    pub duration: Duration,
}

/// What the load generator saw of one round.
#[derive(Debug, Clone)]
pub struct Seen {
    pub requests_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// CPU time of the server's process, per request.
    pub server_cpu: Duration,
}

type BoxError = Box<dyn Error + Send + Sync>;

/// One connection.
pub async fn connect(address: &str) -> Result<Channel, BoxError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(endpoint.connect().await?)
}

/// One request, answered by the encoded response.
pub async fn call(channel: &Channel, request: Bytes) -> Result<Bytes, BoxError> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(PATH);
    Ok(grpc
        .unary(Request::new(request), path, BytesCodec)
        .await?
        .into_inner())
}

/// Puts load on a server: every loop sends its next request when the last one
/// was answered; requests are taken in turn. Any failed request fails the round.
pub async fn run(
    address: &str,
    pid: u32,
    requests: Arc<Vec<Bytes>>,
    load: Load,
) -> Result<Seen, BoxError> {
    let started = Instant::now();
    let end = started + load.duration;
    let cpu_before = cpu_time(pid)?;
    let mut loops = Vec::new();
    for connection in 0..load.connections {
        let channel = connect(address).await?;
        for lane in 0..load.in_flight {
            let (channel, requests) = (channel.clone(), requests.clone());
            let mut next = (connection * load.in_flight + lane) * 7919;
            loops.push(tokio::spawn(async move {
                let mut latencies = Histogram::<u64>::new(3)?;
                while Instant::now() < end {
                    let sent = Instant::now();
                    call(&channel, requests[next % requests.len()].clone()).await?;
                    latencies.record(sent.elapsed().as_nanos() as u64)?;
                    next += 1;
                }
                Ok::<_, BoxError>(latencies)
            }));
        }
    }
    let mut all = Histogram::<u64>::new(3)?;
    for one in loops {
        all.add(one.await??)?;
    }
    let wall = started.elapsed();
    let cpu = cpu_time(pid)?.saturating_sub(cpu_before);
    Ok(Seen {
        requests_per_second: all.len() as f64 / wall.as_secs_f64(),
        p50: Duration::from_nanos(all.value_at_quantile(0.50)),
        p99: Duration::from_nanos(all.value_at_quantile(0.99)),
        server_cpu: cpu.div_f64(all.len().max(1) as f64),
    })
}
