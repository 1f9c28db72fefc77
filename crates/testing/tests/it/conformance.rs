//! A conformance suite that others wrote: cases of OpenMLDB (4Paradigm, Apache
//! License 2.0), each with the rows that are expected, run as plain SQL, as
//! training sets and as requests.
//!
//! The suite lies beside the workspace; where it is absent the test says that
//! it was skipped. Every case that is not run or gives other rows stands in
//! `conformance/not_run.md` with its reason. A case that gives other rows and
//! does not stand there fails the test; so does one that stands there and gives
//! the expected rows.

mod case;
mod cells;
mod last_join;
mod not_run;
mod plain;
mod relation;
mod requests;
mod sql;
mod training;
mod windows;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use case::{Case, Tier};
use futures::FutureExt;
use granary_engine::EngineSettings;
use granary_model::ManualClock;
use granary_testing::TestProject;

/// How a case is run: as SQL over whole tables, as a training set, or row by
/// row as reads with request events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Training,
    Requests,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Expected,
    NotRun,
    Refused(String),
    Differs(String),
}

impl Way {
    fn tiers(self) -> &'static [Tier] {
        match self {
            Way::Plain => &[Tier::Std, Tier::Lastjoin, Tier::Scalar],
            Way::Training | Way::Requests => &[Tier::Std, Tier::StdExcl, Tier::Ext, Tier::Lastjoin],
        }
    }
}

/// Runs a case; a panic is a refusal too.
async fn outcome(way: Way, case: &Case) -> Outcome {
    if !way.tiers().contains(&case.tier) {
        return Outcome::NotRun;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new("2026-01-01".parse().unwrap()));
    let settings = EngineSettings {
        // Of more partitions LIMIT keeps now these rows, now those.
        target_partitions: match way {
            Way::Plain => 1,
            Way::Training | Way::Requests => 2,
        },
        ..EngineSettings::default()
    };
    let project = TestProject::open(folder.path(), settings, clock).unwrap();
    let folder = project.folder.clone();
    let run = async {
        match way {
            Way::Plain => plain::run(&project.engine, case).await,
            Way::Training | Way::Requests => {
                training::run(way, &project.engine, &folder, case).await
            }
        }
    };
    match AssertUnwindSafe(run).catch_unwind().await {
        Err(_) => Outcome::Refused("panicked".into()),
        Ok(Err(error)) => Outcome::Refused(error),
        Ok(Ok(rows)) => match cells::difference(&rows, &case.expected) {
            None => Outcome::Expected,
            Some(difference) => Outcome::Differs(difference),
        },
    }
}

async fn outcomes(cases: &[Case], way: Way) -> Vec<(&Case, Outcome)> {
    let mut outcomes = Vec::new();
    for case in cases {
        outcomes.push((case, outcome(way, case).await));
    }
    outcomes
}

fn expected(outcomes: &[(&Case, Outcome)], tier: Tier) -> usize {
    let of_tier = outcomes.iter().filter(|(case, _)| case.tier == tier);
    of_tier
        .filter(|(_, outcome)| *outcome == Outcome::Expected)
        .count()
}

/// What is not true in the list of a way, and of the least numbers of cases that
/// must give the expected rows.
async fn hold(way: Way, least: &[(Tier, usize)]) {
    let Some(cases) = case::load() else {
        return;
    };
    let outcomes = outcomes(&cases, way).await;
    let mut wrong = not_run::wrong(way, &outcomes);
    wrong.extend(not_run::wrong_numbers(way, &outcomes));
    assert!(wrong.is_empty(), "in not_run.md: {wrong:#?}");
    for (tier, least) in least {
        let given = expected(&outcomes, *tier);
        assert!(given >= *least, "{given} {tier:?} cases, {way:?}");
    }
}

#[tokio::test]
async fn plain_sql_gives_the_expected_rows_or_stands_in_the_list() {
    hold(Way::Plain, &[(Tier::Std, 170), (Tier::Scalar, 100)]).await;
}

/// Of 187, 20, 37 and 37.
#[tokio::test]
async fn training_sets_give_the_expected_rows_or_stand_in_the_list() {
    let least = [
        (Tier::Std, 170),
        (Tier::StdExcl, 20),
        (Tier::Ext, 21),
        (Tier::Lastjoin, 34),
    ];
    hold(Way::Training, &least).await;
}

#[tokio::test]
async fn requests_give_the_expected_rows_or_stand_in_the_list() {
    let least = [
        (Tier::Std, 170),
        (Tier::StdExcl, 20),
        (Tier::Ext, 30),
        (Tier::Lastjoin, 34),
    ];
    hold(Way::Requests, &least).await;
}
