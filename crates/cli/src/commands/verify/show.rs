//! A report of a verification, for people and for programs.

use std::fmt::Write;

use arrow::array::RecordBatch;
use granary_model::{FeatureStatus, json};
use granary_serving::verify::{Example, FeatureReport, Report};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::Listing;
use crate::output::{self, human, table};

/// A feature that is not compared.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    pub feature: String,
    pub reason: String,
}

/// What came of a verification.
pub struct Summary<'a> {
    pub service: &'a str,
    /// Entities or logged reads of one.
    pub rows: usize,
    pub report: &'a Report,
    pub left_out: &'a [LeftOut],
}

#[derive(Serialize)]
struct SummaryJson<'a> {
    service: &'a str,
    rows: usize,
    compared: u64,
    different: u64,
    features: Vec<FeatureJson<'a>>,
    left_out: &'a [LeftOut],
}

#[derive(Serialize)]
struct FeatureJson<'a> {
    feature: &'a str,
    compared: u64,
    present: u64,
    equal: u64,
    different: u64,
    left_out: u64,
    worst_difference: Option<f64>,
    examples: Vec<ExampleJson>,
}

#[derive(Serialize)]
struct ExampleJson {
    request: Map<String, Value>,
    read_at: String,
    as_of: String,
    online: ValueJson,
    training: ValueJson,
}

#[derive(Serialize)]
struct ValueJson {
    value: Value,
    status: String,
}

impl Summary<'_> {
    pub fn print(&self, form: Listing) -> anyhow::Result<()> {
        match form {
            Listing::Json => output::print_json(&self.json()),
            Listing::Table => Ok(output::print(self.text())?),
        }
    }

    fn json(&self) -> SummaryJson<'_> {
        SummaryJson {
            service: self.service,
            rows: self.rows,
            compared: self.report.compared(),
            different: self.report.different(),
            features: self.report.features.iter().map(feature_json).collect(),
            left_out: self.left_out,
        }
    }

    fn text(&self) -> String {
        let header = [
            "feature",
            "compared",
            "present",
            "equal",
            "different",
            "worst difference",
        ];
        let mut listed = table::table(header);
        for feature in &self.report.features {
            let count = human::count;
            listed.add_row([
                feature.name.clone(),
                count(feature.compared),
                count(feature.present),
                count(feature.equal),
                count(feature.different),
                feature
                    .worst
                    .map(|worst| worst.to_string())
                    .unwrap_or_default(),
            ]);
        }
        table::align_right(&mut listed, 1..header.len());
        let mut text = format!("{listed}\n");
        for feature in &self.report.features {
            for example in &feature.examples {
                let _ = writeln!(text, "{}: {}", feature.name, in_words(example));
            }
        }
        for feature in self.report.features.iter().filter(|f| f.left_out > 0) {
            let _ = writeln!(
                text,
                "left out: {}: in {}: it is over a stream that lost events, and those that it was made of may be among them",
                feature.name,
                human::counted(feature.left_out, "row"),
            );
        }
        for LeftOut { feature, reason } in self.left_out {
            let _ = writeln!(text, "left out: {feature}: {reason}");
        }
        let (compared, different) = (self.report.compared(), self.report.different());
        let _ = write!(
            text,
            "{} of {}: {} equal, {} different",
            human::counted(compared, "value"),
            human::counted(self.rows as u64, "row"),
            human::count(compared - different),
            human::count(different)
        );
        text
    }
}

/// `customer_id=7 as of 2026-01-31T00:00:00Z: online 3, training 4`.
fn in_words(example: &Example) -> String {
    let of = example.request.schema();
    let of = of.fields().iter().zip(example.request.columns());
    let of = of.map(|(field, values)| format!("{}={}", field.name(), table::cell(values, 0)));
    let of: Vec<String> = of.collect();
    let shown = |status: &str, value| match status == FeatureStatus::Present.as_str() {
        true => value,
        false => format!("({status})"),
    };
    format!(
        "{} as of {}: online {}, training {}",
        of.join(", "),
        example.as_of,
        shown(example.online.0.as_str(), table::cell(&example.online.1, 0)),
        shown(&example.training.0, table::cell(&example.training.1, 0)),
    )
}

fn feature_json(feature: &FeatureReport) -> FeatureJson<'_> {
    FeatureJson {
        feature: &feature.name,
        compared: feature.compared,
        present: feature.present,
        equal: feature.equal,
        different: feature.different,
        left_out: feature.left_out,
        worst_difference: feature.worst,
        examples: feature.examples.iter().map(example_json).collect(),
    }
}

fn example_json(example: &Example) -> ExampleJson {
    ExampleJson {
        request: object(&example.request),
        read_at: example.read_at.to_string(),
        as_of: example.as_of.to_string(),
        online: ValueJson {
            value: json::value(&example.online.1, 0),
            status: example.online.0.as_str().to_owned(),
        },
        training: ValueJson {
            value: json::value(&example.training.1, 0),
            status: example.training.0.clone(),
        },
    }
}

fn object(row: &RecordBatch) -> Map<String, Value> {
    let schema = row.schema();
    let values = schema.fields().iter().zip(row.columns());
    let values = values.map(|(field, values)| (field.name().clone(), json::value(values, 0)));
    values.collect()
}
