//! What the demo shows of streams: applications are pushed, the next read counts
//! them, and the planted frauds stand out in what is read.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use arrow::array::{AsArray, Float64Array, Int32Array, RecordBatch};
use arrow::datatypes::Int64Type;
use granary_client::{Client, GetFeatures, Push, Target};
use granary_model::UtcMicros;

use super::events;
use super::people::{Kind, Person, World};
use super::tour::{Stop, ints, latency, read, texts};
use crate::output::{human, print};

/// Of what the service answers, what the table shows.
const SHOWN: [&str; 9] = [
    "device_applications_10m",
    "device_applications_1d",
    "device_customers_7d",
    "phone_callers_28d",
    "contact_applicants_7d",
    "near_applications_1d",
    "near_applications_7d",
    "near_overdue_share",
    "instalment_share",
];

/// Rows of one push: what a request may hold, whatever the lender's size.
const PUSH_ROWS: usize = 5_000;

/// Pushes the recent applications to a server, and prints what it then answers.
pub(crate) async fn show(endpoint: &str, world: &World, now: UtcMicros) -> Result<()> {
    let stop = stop(world)?;
    let client = Client::connect(endpoint).await?.with_name(stop.caller);
    let recent = events::recent(world, now)?;
    let began = Instant::now();
    push(&client, &recent).await?;
    print(format!(
        "\nPushed {} of the last days to the stream {} in {:.2} s.",
        human::counted(recent.num_rows() as u64, "application"),
        events::STREAM,
        began.elapsed().as_secs_f64()
    ))?;

    let applicant = world.person(world.first_of(Kind::Ordinary));
    let before = device_count(&client, &applicant).await?;
    push(&client, &events::handed_in(world, &applicant, now)?).await?;
    let after = device_count(&client, &applicant).await?;
    print(format!(
        "Customer {} applies: in the next read device_velocity.applications_10m of {} is {after}, it was {before}.",
        applicant.id, applicant.device
    ))?;

    let (mut answer, _) = read(&client, &stop).await?;
    answer.features.retain(|f| SHOWN.contains(&f.name.as_str()));
    let who = ["an ordinary customer", "the village", "the phone farm"];
    answer.keys = RecordBatch::try_from_iter([(
        "an application from",
        texts(who.iter().map(|who| (*who).to_owned())),
    )])?;
    print(format!(
        "\n{} as {} reads it, in part; two frauds are planted:",
        stop.service, stop.caller
    ))?;
    print(answer.table().to_string())?;
    print(
        "The village borrows together: its people apply on the same days, from shared devices, and who borrowed before is overdue.\n\
         The phone farm is a program: nobody calls its numbers, which apply within minutes from a few emulators, from no place, and name the same contacts.",
    )?;
    print(latency(&client, &stop).await?)?;
    Ok(())
}

/// An ordinary applicant, one of the village and one of the farm, who all ask
/// for the same loan.
pub(super) fn stop(world: &World) -> Result<Stop> {
    let kinds = [Kind::Ordinary, Kind::Village, Kind::Farm];
    let people = kinds.map(|kind| world.person(world.first_of(kind)));
    let places = people.each_ref().map(events::place);
    let latitudes: Float64Array = places.iter().map(|at| Some((*at)?.0)).collect();
    let longitudes: Float64Array = places.iter().map(|at| Some((*at)?.1)).collect();
    let amounts = Float64Array::from_value(2000.0, people.len());
    let months = Int32Array::from_value(12, people.len());
    Ok(Stop {
        service: "fraud_admission",
        caller: "admission",
        entities: RecordBatch::try_from_iter([
            ("customer_id", ints(people.iter().map(|p| Some(p.id)))),
            ("account_id", ints(people.iter().map(|p| Some(p.account)))),
            ("device_id", texts(people.iter().map(|p| p.device.clone()))),
            (
                "phone_number",
                texts(people.iter().map(|p| p.phone.clone())),
            ),
        ])?,
        inputs: Some(RecordBatch::try_from_iter_with_nullable([
            ("lat", Arc::new(latitudes) as _, true),
            ("lon", Arc::new(longitudes) as _, true),
            ("requested_amount", Arc::new(amounts) as _, true),
            ("term_months", Arc::new(months) as _, true),
        ])?),
    })
}

async fn push(client: &Client, rows: &RecordBatch) -> Result<()> {
    for from in (0..rows.num_rows()).step_by(PUSH_ROWS) {
        let part = rows.slice(from, PUSH_ROWS.min(rows.num_rows() - from));
        let answer = client.push(&Push::new(events::STREAM, part)).await?;
        if let Some((row, reason)) = answer.refused.first() {
            bail!("row {} of what is pushed was refused: {reason}", from + row);
        }
    }
    Ok(())
}

/// Applications from the person's device within 10 minutes, as of now.
async fn device_count(client: &Client, person: &Person) -> Result<i64> {
    let device = texts([person.device.clone()].into_iter());
    let keys = RecordBatch::try_from_iter([("device_id", device)])?;
    let target = Target::Features(vec!["device_velocity.applications_10m".to_owned()]);
    let answer = client.get_features(&GetFeatures::new(target, keys)).await?;
    let counts = answer.features.first().map(|feature| &feature.values);
    let counts = counts.and_then(|values| values.as_primitive_opt::<Int64Type>());
    match counts {
        Some(counts) if counts.len() == 1 => Ok(counts.value(0)),
        _ => bail!("device_velocity.applications_10m is no count"),
    }
}
