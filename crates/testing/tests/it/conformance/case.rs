//! A case, as the suite's file has it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    pub id: String,
    pub tier: Tier,
    pub tables: Vec<Table>,
    pub sql_openmldb: String,
    /// None where standard SQL has no word for it.
    pub sql_std: Option<String>,
    /// By name; windows that are written inline have names of the suite's own.
    pub windows: BTreeMap<String, Window>,
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    Std,
    StdExcl,
    Ext,
    Lastjoin,
    Scalar,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: Type,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    String,
    /// Milliseconds since 1970.
    Timestamp,
    Date,
    Bool,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Window {
    pub partition_by: Vec<String>,
    pub order_by: Option<String>,
    pub unit: Unit,
    pub lo: Bound,
    pub hi: Bound,
    pub exclude_current_row: bool,
    pub exclude_current_time: bool,
    /// The main table's other rows are not in the window.
    pub instance_not_in_window: bool,
    /// Tables whose rows are in the window too, with commas between them.
    pub union: Option<String>,
    pub maxsize: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Unit {
    Rows,
    RowsRange,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Bound {
    Unbounded,
    /// Of an open bound the edge is left out.
    Preceding {
        n: u64,
        open: bool,
    },
    Current,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

impl Tier {
    /// As the suite has it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Std => "std",
            Tier::StdExcl => "std_excl",
            Tier::Ext => "ext",
            Tier::Lastjoin => "lastjoin",
            Tier::Scalar => "scalar",
        }
    }
}

/// The cases of the suite, which lies beside the workspace or beside one of its
/// parents. `None`, with a word, where it is absent.
pub fn load() -> Option<Vec<Case>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("shared/conformance/openmldb_cases.json"))
        .find(|file| file.is_file());
    let Some(file) = file else {
        // Not by a macro, whose output is captured.
        let mut seen = std::io::stderr();
        let _ = writeln!(
            seen,
            "skipped: there is no shared/conformance beside the workspace"
        );
        return None;
    };
    let text = fs::read_to_string(file).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}
