//! A project in a temporary folder, and the binary run on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

pub struct Project {
    /// Removed with the project.
    _temporary: Arc<TempDir>,
    folder: PathBuf,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn empty() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self {
            folder: temporary.path().to_owned(),
            _temporary: Arc::new(temporary),
        }
    }

    /// The project of a folder inside.
    pub fn inner(&self, name: &str) -> Self {
        Self {
            folder: self.path(name),
            _temporary: Arc::clone(&self._temporary),
        }
    }

    /// The example of `granary init`.
    pub fn example() -> Self {
        let project = Self::empty();
        project.granary(&["init"]).succeeded();
        project
    }

    /// Three customers of a CSV file, and a view over them.
    pub fn small() -> Self {
        let project = Self::empty();
        project.write("granary.toml", "");
        project.write("data/balances.csv", BALANCES);
        project.write("sql/balances.sql", SMALL);
        project
    }

    pub fn applied(self) -> Self {
        self.granary(&["apply", "--yes"]).succeeded();
        self
    }

    pub fn materialized(self) -> Self {
        self.granary(&["materialize"]).succeeded();
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `granary -C <folder> <arguments>`, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_granary"));
        command.arg("-C").arg(self.folder()).args(arguments);
        command.stdin(Stdio::null());
        command.env_remove("GRANARY_LOG").env("USER", "tester");
        command
    }

    pub fn granary(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// A query's rows as JSON.
    pub fn query(&self, sql: &str) -> Value {
        self.granary(&["sql", sql, "--output", "json"]).json()
    }
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn succeeded(&self) -> &Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Ended with this code and a message on stderr that contains every part.
    #[track_caller]
    pub fn failed(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        self.succeeded();
        serde_json::from_str(&self.stdout).unwrap()
    }
}

pub const BALANCES: &str = "\
customer_id,at,balance,phone
1,2026-01-01T00:00:00Z,10.5,a
1,2026-02-01T00:00:00Z,20.5,b
2,2026-01-15T12:30:00Z,-3,
3,2026-03-01T00:00:00Z,0.25,c
";

pub const SMALL: &str = "\
CREATE ENTITY customer KEY (customer_id BIGINT);

CREATE EXTERNAL TABLE balances (customer_id BIGINT, at TIMESTAMP, balance DOUBLE, phone VARCHAR)
  STORED AS CSV LOCATION 'data/balances.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF balances IS at;

CREATE FEATURE VIEW customer_balance ENTITY customer EVENT TIME at OWNER 'risk'
AS SELECT customer_id, at, balance, phone FROM balances;

CREATE FEATURE VIEW customer_rows ENTITY customer
AS SELECT customer_id, count(*) AS rows_seen, sum(CAST(balance AS DECIMAL(12, 2))) AS total
   FROM balances GROUP BY customer_id;

CREATE FEATURE SERVICE limits
AS SELECT customer_balance.balance, customer_balance.phone AS number, customer_rows.*
   FROM customer_balance, customer_rows;
";
