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
    pub exclude_current_row: bool,
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
