//! The Redis peer: a tonic service such as one would write over a local Redis,
//! with one value an entity, GET for one and MGET for many over one multiplexed
//! connection to a Unix socket. The service and redis-server share the core that
//! Granary has alone, since Granary's core does the store's work too, and their
//! CPU times are counted together.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{BoxStream, FuturesUnordered, TryStreamExt};
use granary_model::{Clock, SystemClock};
use granary_proto::features_server::Features;
use granary_proto::values::Values as Packed;
use granary_proto::{GetFeaturesRequest, GetFeaturesResponse, StreamFeaturesResponse};
use granary_testing::project::BoxError;
use prost::Message;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tonic::{Request, Response, Status, Streaming};

use super::client::{Client, frame};
use super::project::{self, Service};
use super::stored::Layout;
use crate::process::{cpu_time, pin_to_core};

/// How long redis-server may take to start.
const START: Duration = Duration::from_secs(10);
/// Entities that are loaded at once.
const LOADED_AT_ONCE: usize = 500;

/// A redis-server that persists nothing, stopped when dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    pub socket: PathBuf,
}

impl RedisServer {
    /// `None` where the program is not there.
    pub async fn start(
        program: &Path,
        folder: &Path,
        core: usize,
    ) -> Result<Option<Self>, BoxError> {
        let socket = folder.join("redis.sock");
        let mut command = Command::new(program);
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // A process is born on the cores of the thread that starts it.
        let spawned = std::thread::spawn(move || {
            pin_to_core(core)?;
            command.spawn()
        });
        let spawned = spawned.join().map_err(|_| "redis-server was not started")?;
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let server = Self { child, socket };
        let patience = Instant::now() + START;
        while let Err(error) = connect(&server.socket).await {
            if Instant::now() > patience {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(server))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(socket: &Path) -> Result<MultiplexedConnection, BoxError> {
    let client = redis::Client::open(format!("redis+unix://{}", socket.display()))?;
    // A closed loop waits for its answers, and a timer for each would cost.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    Ok(connection.await?)
}

fn key(id: i64) -> [u8; 8] {
    id.to_be_bytes()
}

/// Brings every customer's values from Granary to Redis; an answer of one customer
/// is the layout's template.
pub async fn load(granary: &Client, socket: &Path, customers: usize) -> Result<Vec<u8>, BoxError> {
    let mut connection = connect(socket).await?;
    let mut template = None;
    let all: Vec<i64> = (0..customers as i64).collect();
    for ids in all.chunks(LOADED_AT_ONCE) {
        let mut request = project::request(Service::Wide, ids.to_vec());
        request.include_event_times = true;
        let answer = GetFeaturesResponse::decode(granary.ask(frame(&request)).await?)?;
        let layout = Layout::of(&answer);
        let values = layout.values(&answer)?;
        let mut set = redis::cmd("MSET");
        for (id, value) in ids.iter().zip(&values) {
            set.arg(&key(*id)[..]).arg(&value[..]);
        }
        set.exec_async(&mut connection).await?;
        template.get_or_insert_with(|| answer.encode_to_vec());
    }
    Ok(template.unwrap_or_default())
}

async fn fetch(
    connection: &mut MultiplexedConnection,
    ids: &[i64],
) -> redis::RedisResult<Vec<Option<Vec<u8>>>> {
    match ids {
        [id] => {
            let get = redis::cmd("GET").arg(&key(*id)[..]).to_owned();
            Ok(vec![get.query_async(connection).await?])
        }
        ids => {
            let mut get = redis::cmd("MGET");
            for id in ids {
                get.arg(&key(*id)[..]);
            }
            get.query_async(connection).await
        }
    }
}

/// The service over Redis.
pub struct RedisService {
    connection: MultiplexedConnection,
    layout: Layout,
}

impl RedisService {
    pub async fn open(socket: &Path, template: &[u8]) -> Result<Self, BoxError> {
        let template = GetFeaturesResponse::decode(template)?;
        Ok(Self {
            connection: connect(socket).await?,
            layout: Layout::of(&template),
        })
    }
}

#[tonic::async_trait]
impl Features for RedisService {
    type StreamFeaturesStream = BoxStream<'static, Result<StreamFeaturesResponse, Status>>;

    async fn get_features(
        &self,
        request: Request<GetFeaturesRequest>,
    ) -> Result<Response<GetFeaturesResponse>, Status> {
        let request = request.into_inner();
        let keys = request.keys.first().and_then(|keys| keys.values.as_ref());
        let Some(Packed::Int64s(ids)) = keys.and_then(|keys| keys.values.as_ref()) else {
            return Err(Status::invalid_argument("customer_id expects BIGINT"));
        };
        let found = fetch(&mut self.connection.clone(), &ids.values).await;
        let found = found.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = self.layout.answer(&found, SystemClock.now().0);
        answer
            .map(Response::new)
            .map_err(|error| Status::data_loss(error.to_string()))
    }

    async fn stream_features(
        &self,
        _: Request<Streaming<GetFeaturesRequest>>,
    ) -> Result<Response<Self::StreamFeaturesStream>, Status> {
        Err(Status::unimplemented("the benchmark asks one by one"))
    }
}

/// What the client does alone, without a service before it.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    pub requests_per_second: f64,
    /// CPU time of redis-server, per request.
    pub server_micros: f64,
}

/// So many requests under way at once, over one multiplexed connection.
pub async fn alone(
    server: &RedisServer,
    ids: &[i64],
    entities: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<Alone, BoxError> {
    let connection = connect(&server.socket).await?;
    let keys: Arc<[&[i64]]> = ids.chunks_exact(entities).collect();
    let (began, cpu) = (Instant::now(), cpu_time(server.pid())?);
    let lanes = (0..in_flight).map(|lane| {
        let (mut connection, keys) = (connection.clone(), Arc::clone(&keys));
        async move {
            let mut asked = 0;
            while began.elapsed() < duration {
                let ids = keys[(lane * 7919 + asked) % keys.len()];
                std::hint::black_box(fetch(&mut connection, ids).await?);
                asked += 1;
            }
            Ok::<_, redis::RedisError>(asked)
        }
    });
    let lanes: FuturesUnordered<_> = lanes.collect();
    let asked: usize = lanes
        .try_fold(0, |sum, asked| async move { Ok(sum + asked) })
        .await?;
    let cpu = cpu_time(server.pid())?.saturating_sub(cpu);
    Ok(Alone {
        requests_per_second: asked as f64 / began.elapsed().as_secs_f64(),
        server_micros: cpu.as_secs_f64() * 1e6 / asked.max(1) as f64,
    })
}
