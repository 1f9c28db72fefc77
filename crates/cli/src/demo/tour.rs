//! What the demo shows once it serves: the three services read over gRPC, the
//! latency that was seen, and the planted frauds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use granary_client::{Client, GetFeatures, Target};

use super::facts::Application;
use super::people::{Kind, Person, World};
use crate::output::answer::Answer;
use crate::output::print;

/// Reads whose latency is told, of one entity each.
const TIMED_READS: usize = 500;

/// A service, its caller, and for whom the demo reads it.
struct Stop {
    service: &'static str,
    caller: &'static str,
    entities: RecordBatch,
}

/// Reads the services of the lender from a server and prints what it saw.
pub(crate) async fn show(endpoint: &str, world: &World) -> Result<()> {
    for stop in stops(world)? {
        let client = Client::connect(endpoint).await?.with_name(stop.caller);
        let (answer, _) = read(&client, &stop, stop.entities.clone()).await?;
        print(format!("\n{} as {} reads it:", stop.service, stop.caller))?;
        print(answer.table().to_string())?;
        print(latency(&client, &stop).await?)?;
    }
    planted(endpoint, world).await
}

/// The keys on the command line that read the same entities again.
pub(crate) fn key_arguments(world: &World) -> Result<Vec<(&'static str, String)>> {
    let shown = stops(world)?.into_iter().map(|stop| {
        let schema = stop.entities.schema();
        let columns = schema.fields().iter().zip(stop.entities.columns());
        let keys: Vec<String> = columns
            .map(|(field, values)| {
                let values: Vec<String> = (0..values.len())
                    .map(|row| {
                        granary_model::json::text(values, row).unwrap_or_else(|| "NULL".to_owned())
                    })
                    .collect();
                format!("--key {}={}", field.name(), values.join(","))
            })
            .collect();
        (stop.service, keys.join(" "))
    });
    Ok(shown.collect())
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
    })
}

fn ints(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

async fn read(client: &Client, stop: &Stop, keys: RecordBatch) -> Result<(Answer, Duration)> {
    let request = GetFeatures::new(Target::Service(stop.service.to_owned()), keys.clone());
    let sent = Instant::now();
    let answer = client.get_features(&request).await?;
    let took = sent.elapsed();
    Ok((Answer::received(keys, answer), took))
}

/// Reads one entity at a time, one read after the other, on one connection.
async fn latency(client: &Client, stop: &Stop) -> Result<String> {
    let mut seen = Vec::with_capacity(TIMED_READS);
    let mut features = 0;
    for turn in 0..TIMED_READS {
        let one = stop.entities.slice(turn % stop.entities.num_rows(), 1);
        let (answer, took) = read(client, stop, one).await?;
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

/// Shows that the planted frauds stand out.
async fn planted(endpoint: &str, world: &World) -> Result<()> {
    let client = Client::connect(endpoint).await?.with_name("admission");
    print("\nPlanted: a village that borrows together, beside the largest ordinary place.")?;
    let places = RecordBatch::try_from_iter([(
        "place_id",
        ints([Some(1), Some(world.village())].into_iter()),
    )])?;
    let heat = [
        "applications_30d",
        "application_surge",
        "overdue_share",
        "fellow_guarantor_share",
    ];
    print_features(&client, "place_heat", &heat, places).await?;

    print("\nPlanted: a farm of phone numbers that nobody calls, beside an ordinary customer's.")?;
    let numbers = [world.person(1), world.person(world.first_of(Kind::Farm))];
    let phones = RecordBatch::try_from_iter([(
        "phone_number",
        texts(numbers.iter().map(|p| p.phone.clone())),
    )])?;
    print_features(&client, "phone_circle", &["*"], phones).await
}

async fn print_features(
    client: &Client,
    view: &str,
    features: &[&str],
    keys: RecordBatch,
) -> Result<()> {
    let list = features
        .iter()
        .map(|feature| format!("{view}.{feature}"))
        .collect();
    let request = GetFeatures::new(Target::Features(list), keys.clone());
    let answer = client.get_features(&request).await?;
    print(Answer::received(keys, answer).table().to_string())?;
    Ok(())
}
