//! What the demo shows once it serves: the services of the lender read over
//! gRPC, and the latency that was seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use granary_client::{Client, GetFeatures, Target};
use granary_model::json;

use super::facts::Application;
use super::frauds;
use super::people::{Kind, Person, World};
use crate::output::answer::Answer;
use crate::output::print;

/// Reads whose latency is told, of one entity each.
const TIMED_READS: usize = 500;

/// A service, its caller, and for whom the demo reads it.
pub(super) struct Stop {
    pub(super) service: &'static str,
    pub(super) caller: &'static str,
    pub(super) entities: RecordBatch,
    /// A column an input, one row an entity.
    pub(super) inputs: Option<RecordBatch>,
}

impl Stop {
    fn one(&self, row: usize) -> Self {
        Self {
            service: self.service,
            caller: self.caller,
            entities: self.entities.slice(row, 1),
            inputs: self.inputs.as_ref().map(|inputs| inputs.slice(row, 1)),
        }
    }
}

/// Reads the services of the lender from a server and prints what it saw.
pub(crate) async fn show(endpoint: &str, world: &World) -> Result<()> {
    for stop in stops(world)? {
        let client = Client::connect(endpoint).await?.with_name(stop.caller);
        let (answer, _) = read(&client, &stop).await?;
        print(format!("\n{} as {} reads it:", stop.service, stop.caller))?;
        print(answer.table().to_string())?;
        print(latency(&client, &stop).await?)?;
    }
    Ok(())
}

/// The keys and inputs on the command line that read the same entities again.
pub(crate) fn key_arguments(world: &World) -> Result<Vec<(&'static str, String)>> {
    let stops = stops(world)?.into_iter().chain([frauds::stop(world)?]);
    let shown = stops.map(|stop| {
        let mut written = arguments("--key", &stop.entities);
        if let Some(inputs) = &stop.inputs {
            written.extend(arguments("--input", inputs));
        }
        (stop.service, written.join(" "))
    });
    Ok(shown.collect())
}

/// `<option> name=value,value,..` of each column.
fn arguments(option: &str, columns: &RecordBatch) -> Vec<String> {
    let schema = columns.schema();
    let named = schema.fields().iter().zip(columns.columns());
    let written = named.map(|(field, values)| {
        let text = |row| json::text(values, row).unwrap_or_else(|| "NULL".to_owned());
        let values: Vec<String> = (0..values.len()).map(text).collect();
        format!("{option} {}={}", field.name(), values.join(","))
    });
    written.collect()
}

fn stops(world: &World) -> Result<Vec<Stop>> {
    Ok(vec![marketing(world)?, risk(world)?, collections(world)?])
}

fn marketing(world: &World) -> Result<Stop> {
    let people = (1..=3).map(|id| Some(world.person(id).id));
    Ok(Stop {
        service: "marketing_targeting",
        caller: "bidder",
        entities: RecordBatch::try_from_iter([("customer_id", ints(people))])?,
        inputs: None,
    })
}

/// An ordinary applicant, one of the village and one of the farm.
fn risk(world: &World) -> Result<Stop> {
    let kinds = [Kind::Ordinary, Kind::Village, Kind::Farm];
    let people = kinds.map(|kind| world.person(world.first_of(kind)));
    let guarantor = |person: &Person| {
        let applications = person.applications(world);
        applications.iter().find_map(Application::guarantor)
    };
    let entities = RecordBatch::try_from_iter_with_nullable([
        ("customer_id", ints(people.iter().map(|p| Some(p.id))), true),
        (
            "account_id",
            ints(people.iter().map(|p| Some(p.account))),
            true,
        ),
        (
            "phone_number",
            texts(people.iter().map(|p| p.phone.clone())),
            true,
        ),
        (
            "device_id",
            texts(people.iter().map(|p| p.device.clone())),
            true,
        ),
        ("place_id", ints(people.iter().map(|p| Some(p.place))), true),
        ("guarantor_id", ints(people.iter().map(guarantor)), true),
    ])?;
    Ok(Stop {
        service: "risk_admission",
        caller: "admission",
        entities,
        inputs: None,
    })
}

/// The first borrowers that there are.
fn collections(world: &World) -> Result<Stop> {
    let borrowed = |person: Person| {
        let mut loans = person.applications(world).into_iter();
        let loan = loans.find_map(|application| application.loan_id())?;
        Some((person, loan))
    };
    let borrowers: Vec<(Person, i64)> = world.people().filter_map(borrowed).take(3).collect();
    let people = || borrowers.iter().map(|(person, _)| person);
    let entities = RecordBatch::try_from_iter([
        (
            "loan_id",
            ints(borrowers.iter().map(|(_, loan)| Some(*loan))),
        ),
        ("customer_id", ints(people().map(|p| Some(p.id)))),
        ("account_id", ints(people().map(|p| Some(p.account)))),
        ("phone_number", texts(people().map(|p| p.phone.clone()))),
    ])?;
    Ok(Stop {
        service: "collections_priority",
        caller: "dialler",
        entities,
        inputs: None,
    })
}

pub(super) fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

pub(super) fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// The answer for all entities, and how long it took.
pub(super) async fn read(client: &Client, stop: &Stop) -> Result<(Answer, Duration)> {
    let target = Target::Service(stop.service.to_owned());
    let mut request = GetFeatures::new(target, stop.entities.clone());
    if let Some(inputs) = &stop.inputs {
        let schema = inputs.schema();
        let named = schema.fields().iter().zip(inputs.columns());
        request.inputs = named
            .map(|(field, values)| (field.name().clone(), Arc::clone(values)))
            .collect();
    }
    let sent = Instant::now();
    let answer = client.get_features(&request).await?;
    let took = sent.elapsed();
    Ok((Answer::received(stop.entities.clone(), answer), took))
}

/// Reads one entity at a time, one read after the other, on one connection.
pub(super) async fn latency(client: &Client, stop: &Stop) -> Result<String> {
    let rows = 0..stop.entities.num_rows();
    let single: Vec<Stop> = rows.map(|row| stop.one(row)).collect();
    let mut seen = Vec::with_capacity(TIMED_READS);
    let mut features = 0;
    for one in single.iter().cycle().take(TIMED_READS) {
        let (answer, took) = read(client, one).await?;
        features = answer.features.len();
        seen.push(took);
    }
    seen.sort_unstable();
    let micros = |share: f64| seen[((seen.len() - 1) as f64 * share) as usize].as_micros();
    Ok(format!(
        "{TIMED_READS} reads over gRPC, one entity × {features} features each: p50 {} µs, p99 {} µs",
        micros(0.50),
        micros(0.99),
    ))
}
