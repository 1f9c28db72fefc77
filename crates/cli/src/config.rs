//! `granary.toml`: the settings of a project.
//!
//! Every section is the settings type of the crate that it tunes; this module
//! adds where things are. Errors name the file, the line and the key.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use granary_engine::EngineSettings;
use granary_ingest::{ConsumeSettings, MaterializerSettings, StreamSettings};
use granary_server::ServerSettings;
use granary_serving::ServingSettings;
use granary_store::{EmbeddedEventSettings, EmbeddedSettings};
use serde::Deserialize;

/// The file's name in the project folder.
pub const FILE: &str = "granary.toml";

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the catalog and offline tables live: a folder, relative to the
    /// project's, or a URL (`s3://bucket/prefix`, `gs://`, `az://`, `file://`).
    pub root: String,
    pub engine: EngineSettings,
    pub online: OnlineConfig,
    pub streams: StreamsConfig,
    pub serve: ServeConfig,
    pub materialize: MaterializerSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: ".granary".into(),
            engine: EngineSettings::default(),
            online: OnlineConfig::default(),
            streams: StreamsConfig::default(),
            serve: ServeConfig::default(),
            materialize: MaterializerSettings::default(),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    /// The embedded store's folder on this machine, relative to the project's.
    /// Default: `online` in the root, where the root is a local folder.
    pub folder: Option<PathBuf>,
    pub embedded: EmbeddedSettings,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamsConfig {
    /// The folder of the events on this machine, relative to the project's.
    /// Default: `events` in the root, where the root is a local folder.
    pub folder: Option<PathBuf>,
    pub embedded: EmbeddedEventSettings,
    /// Message logs that a server reads into streams.
    pub consume: Vec<ConsumeSettings>,
    #[serde(flatten)]
    pub settings: StreamSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// Address and port of gRPC.
    pub grpc: String,
    /// Address and port of HTTP.
    pub http: String,
    /// Bounds of reads.
    pub limits: ServingSettings,
    /// Bounds of the server, and the roles of callers.
    pub server: ServerSettings,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            grpc: "127.0.0.1:7420".into(),
            http: "127.0.0.1:7421".into(),
            limits: ServingSettings::default(),
            server: ServerSettings::default(),
        }
    }
}

impl Config {
    /// Reads the file of a project folder.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let offset = e.utf8_error().valid_up_to();
            anyhow!("{} is not UTF-8 at byte {offset}", path.display())
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        toml::from_str(text).map_err(|error| {
            let path = path.display();
            let message = error.message();
            match error.span() {
                Some(span) => {
                    let (line, column) = place(text, span.start);
                    let quoted = text.lines().nth(line - 1).unwrap_or_default().trim();
                    anyhow!("{path}:{line}:{column}: {message} (`{quoted}`)")
                }
                None => anyhow!("{path}: {message}"),
            }
        })
    }
}

/// Line and column, both from 1, of a byte of a text.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new(FILE)).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = parse("").unwrap();
        assert_eq!(config.root, ".granary");
        assert_eq!(config.serve.grpc, "127.0.0.1:7420");
    }

    #[test]
    fn sizes_and_callers_are_read() {
        let config = parse(
            "root = 's3://features/lender'\n[engine]\nmemory_bytes_max = '1GiB'\n\
             [online]\nfolder = 'online'\n[online.embedded]\nmap_bytes_max = 1000000\n\
             [streams]\nfolder = 'e'\nfuture_seconds_max = 5\n[streams.embedded]\nbatch_bytes_max = 9\n\
             [serve.server.roles]\npricing = ['risk']\n[serve.limits]\nrequest_rows_max = 7\n",
        )
        .unwrap();
        assert_eq!(config.streams.settings.future_seconds_max, 5);
        assert_eq!(config.streams.embedded.batch_bytes_max, 9);
        assert_eq!(config.engine.memory_bytes_max, 1 << 30);
        assert_eq!(config.serve.server.roles["pricing"], ["risk"]);
        assert_eq!(config.serve.limits.request_rows_max, 7);
    }

    #[test]
    fn consumers_are_read() {
        let least = "[[streams.consume]]\nstream = 'e'\nconsumer = 'c'\nurl = 'nats://h'\n\
                     jetstream = 'E'\nformat = 'json'\n";
        let consume = &parse(least).unwrap().streams.consume[0];
        assert_eq!(
            (consume.batch_messages_max, consume.wait_millis),
            (1_000, 5_000)
        );
        for (wrong, told) in [
            ("bad = 'ignore'", "unknown variant `ignore`"),
            ("token = 's3cret'", "unknown field `token`"),
        ] {
            let error = parse(&format!("{least}{wrong}\n")).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, expected) in [
            ("rot = 'x'", "granary.toml:1:1: unknown field `rot`"),
            (
                "\n[engine]\nmemory_bytes_max = '2 gigs'",
                "granary.toml:3:20: \"2 gigs\" is not a size",
            ),
            (
                "[serve]\ngrpc = 7420",
                "granary.toml:2:8: invalid type: integer `7420`, expected a string (`grpc = 7420`)",
            ),
            (
                "[streams]\nfutur = 5",
                "granary.toml:1:1: unknown field `futur`",
            ),
            ("root = ", "granary.toml:1:"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
