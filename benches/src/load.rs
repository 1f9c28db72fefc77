//! The load generator: closed loops for the greatest rate, and an open loop, in
//! which requests are due at fixed times, so that waiting for a slow answer is
//! counted and not left out.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::process::{cpu_time, own_cpu_time};
use crate::raw::{BytesCodec, PATH};

/// Where load is put, and for how long.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: String,
    /// The server's process.
    pub pid: u32,
    /// Taken in turn.
    pub requests: Arc<Vec<Bytes>>,
    pub connections: usize,
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
    /// Share of one core that the generator itself took.
    pub generator: f64,
}

impl Seen {
    /// Requests a second that one core of the server gives.
    pub fn of_a_core(&self) -> f64 {
        1.0 / self.server_cpu.as_secs_f64()
    }
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

/// CPU times and the clock at the beginning of a round.
struct Began {
    at: Instant,
    server: Duration,
    generator: Duration,
}

impl Began {
    fn now(pid: u32) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: cpu_time(pid)?,
            generator: own_cpu_time()?,
        })
    }

    fn seen(&self, pid: u32, latencies: &Histogram<u64>) -> io::Result<Seen> {
        let wall = self.at.elapsed();
        let server = cpu_time(pid)?.saturating_sub(self.server);
        let generator = own_cpu_time()?.saturating_sub(self.generator);
        let requests = latencies.len().max(1) as f64;
        Ok(Seen {
            requests_per_second: latencies.len() as f64 / wall.as_secs_f64(),
            p50: Duration::from_nanos(latencies.value_at_quantile(0.50)),
            p99: Duration::from_nanos(latencies.value_at_quantile(0.99)),
            server_cpu: server.div_f64(requests),
            generator: generator.as_secs_f64() / wall.as_secs_f64(),
        })
    }
}

impl Target {
    async fn channels(&self) -> Result<Vec<Channel>, BoxError> {
        let mut channels = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            channels.push(connect(&self.address).await?);
        }
        Ok(channels)
    }

    /// So many requests under way at once on each connection: the next goes out
    /// when one is answered. Any failed request fails the round.
    pub async fn closed(&self, in_flight: usize) -> Result<Seen, BoxError> {
        let channels = self.channels().await?;
        let began = Began::now(self.pid)?;
        let end = began.at + self.duration;
        let mut loops = JoinSet::new();
        for (connection, channel) in channels.iter().enumerate() {
            for lane in 0..in_flight {
                let (channel, requests) = (channel.clone(), Arc::clone(&self.requests));
                let mut next = (connection * in_flight + lane) * 7919;
                loops.spawn(async move {
                    let mut latencies = Histogram::<u64>::new(3)?;
                    while Instant::now() < end {
                        let sent = Instant::now();
                        call(&channel, requests[next % requests.len()].clone()).await?;
                        latencies.record(sent.elapsed().as_nanos() as u64)?;
                        next += 1;
                    }
                    Ok::<_, BoxError>(latencies)
                });
            }
        }
        let mut all = Histogram::<u64>::new(3)?;
        while let Some(one) = loops.join_next().await {
            all.add(one??)?;
        }
        Ok(began.seen(self.pid, &all)?)
    }

    /// So many requests a second, each due at its time whether or not those
    /// before it were answered; latencies are counted from when they were due.
    /// Any failed request fails the round.
    pub async fn open(&self, requests_per_second: f64) -> Result<Seen, BoxError> {
        let channels = self.channels().await?;
        let began = Began::now(self.pid)?;
        let mut all = Histogram::<u64>::new(3)?;
        let mut under_way = JoinSet::new();
        let count = (requests_per_second * self.duration.as_secs_f64()) as usize;
        for n in 0..count {
            let due = began.at + Duration::from_secs_f64(n as f64 / requests_per_second);
            // Not by the timer, which is as coarse as a millisecond.
            while Instant::now() < due {
                tokio::task::yield_now().await;
            }
            let channel = channels[n % channels.len()].clone();
            let request = self.requests[n % self.requests.len()].clone();
            under_way.spawn(async move {
                call(&channel, request).await?;
                Ok::<_, BoxError>(due.elapsed())
            });
            while let Some(done) = under_way.try_join_next() {
                all.record(done??.as_nanos() as u64)?;
            }
        }
        while let Some(done) = under_way.join_next().await {
            all.record(done??.as_nanos() as u64)?;
        }
        Ok(began.seen(self.pid, &all)?)
    }
}
