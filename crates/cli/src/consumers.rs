//! The consumers that `[[streams.consume]]` describes, with the secrets of the
//! environment.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use granary_ingest::consumer::log::MessageLog;
use granary_ingest::{ConsumeSettings, Consumer, Streams};

use crate::config;
use crate::project::Project;

pub fn of_project(project: &Project, streams: &Arc<Streams>) -> anyhow::Result<Vec<Consumer>> {
    let mut names = BTreeSet::new();
    let mut consumers = Vec::new();
    for settings in &project.config.streams.consume {
        let (stream, consumer) = (&settings.stream, &settings.consumer);
        if !names.insert((stream, consumer)) {
            let file = project.folder.join(config::FILE);
            bail!(
                "{}: stream {stream} has two consumers {consumer}: they would share one position",
                file.display()
            );
        }
        let mut settings = settings.clone();
        if let Some(file) = &mut settings.ca_file {
            *file = project.folder.join(&file);
        }
        let log = log_of(&settings)?;
        consumers.push(Consumer::new(settings, Arc::clone(streams), log));
    }
    Ok(consumers)
}

#[cfg(feature = "nats")]
fn log_of(settings: &ConsumeSettings) -> anyhow::Result<Box<dyn MessageLog>> {
    use anyhow::Context;
    use granary_ingest::consumer::nats::{NatsLog, NatsSecrets};

    use crate::environment;

    let credentials = match environment::nats_credentials() {
        Some(path) => {
            let text = std::fs::read_to_string(&path);
            Some(text.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => None,
    };
    let secrets = NatsSecrets {
        token: environment::nats_token(),
        user_and_password: environment::nats_user_and_password(),
        credentials,
    };
    Ok(Box::new(NatsLog::new(settings, secrets)?))
}

#[cfg(not(feature = "nats"))]
fn log_of(settings: &ConsumeSettings) -> anyhow::Result<Box<dyn MessageLog>> {
    bail!(
        "stream {} has a consumer {}, which this granary was built without: build it with `--features nats`",
        settings.stream,
        settings.consumer
    )
}
