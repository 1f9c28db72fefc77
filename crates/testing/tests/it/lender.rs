//! The lender's definitions on real data: every account, customer and phone is
//! read over gRPC and compared with a computation by brute force over the raw
//! files, first after one run, then after a second, incremental one.
//!
//! The references know nothing of DataFusion and of the SQL files. Data sets
//! lie beside the workspace (see [`raw::folder`]); a test whose data is absent
//! says that it was skipped.

mod berka;
mod compare;
mod copenhagen;
mod expected;
mod gowalla;
pub(crate) mod project;
pub(crate) mod raw;
mod retail;
mod village;

use std::path::Path;

use compare::{Answer, Counts};
use expected::{Key, Reference, Row, Rows, Value, difference};
use granary_model::FeatureStatus;
use project::{Lender, adapter};

/// A data set, its adapter, and what it must answer.
#[derive(Debug)]
struct DataSet {
    adapter: &'static str,
    folder: &'static str,
    /// T of the first run and of the second, which adds to it.
    times: [&'static str; 2],
    reference: fn(&Path, i64) -> Vec<Reference>,
    /// Features that the references hold, so that none is lost unnoticed.
    features: usize,
    /// Whether every view is materialised, those without data too, or only
    /// those that the references speak of and what they read.
    every_view: bool,
}

async fn verify(set: &DataSet) -> Option<Lender> {
    let data = raw::folder(set.folder)?;
    let lender = Lender::begin(
        adapter(set.adapter),
        Some(&data),
        raw::instant(set.times[0]),
    )
    .await;
    for time in set.times {
        let t = raw::instant(time);
        let references = (set.reference)(&data, t);
        let views = references.iter().flat_map(|reference| &reference.views);
        let views = views
            .map(|expected| expected.view.to_owned())
            .filter(|_| !set.every_view);
        lender.materialize(t, views.collect()).await;
        let counts = compare(&lender, &references).await;
        let some = &counts.differences[..counts.differences.len().min(20)];
        assert!(
            some.is_empty(),
            "{} as of {time}: {} differences: {some:#?}",
            set.adapter,
            counts.differences.len()
        );
        assert_eq!(
            counts.features, set.features,
            "{}: features compared",
            set.adapter
        );
        assert!(
            counts.keys > 40,
            "{}: only {} keys",
            set.adapter,
            counts.keys
        );
        assert!(
            counts.present > 5 * counts.features,
            "{}: only {} values",
            set.adapter,
            counts.present
        );
        assert!(
            counts.not_found > 0,
            "{}: no key was without a row",
            set.adapter
        );
    }
    Some(lender)
}

async fn compare(lender: &Lender, references: &[Reference]) -> Counts {
    let mut counts = Counts::default();
    for reference in references {
        counts.keys += reference.keys.len();
        for expected in &reference.views {
            let answers = lender.read(reference, expected.view).await;
            counts.compare(reference, expected, &answers);
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn bank() {
    let lender = verify(&DataSet {
        adapter: "berka",
        folder: "berka",
        // The first lies within a day, whose facts are not known before its end.
        times: ["1993-12-31T12:00:00Z", "1994-04-01T00:00:00Z"],
        reference: |data, t| {
            let bank = berka::Bank::read(data, t);
            vec![bank.accounts(), bank.customers(), bank.loans()]
        },
        features: 89,
        every_view: true,
    })
    .await;
    if let Some(lender) = lender {
        let data = raw::folder("berka").unwrap();
        let bank = berka::Bank::read(&data, raw::instant("1994-04-01T00:00:00Z"));
        services(&lender, &bank).await;
        lender.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shop() {
    let lender = verify(&DataSet {
        adapter: "online_retail",
        folder: "online_retail_ii",
        times: ["2010-06-30T12:00:00Z", "2010-12-10T00:00:00Z"],
        reference: |data, t| vec![retail::Shop::read(data, t).customers()],
        features: 31,
        every_view: false,
    })
    .await;
    if let Some(lender) = lender {
        lender.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones() {
    let lender = verify(&DataSet {
        adapter: "copenhagen",
        folder: "cns_phone",
        times: ["2015-01-15T00:00:00Z", "2015-01-29T00:00:00Z"],
        reference: |data, t| vec![copenhagen::Study::read(data, t).users()],
        features: 34,
        every_view: false,
    })
    .await;
    if let Some(lender) = lender {
        lender.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkins() {
    let lender = verify(&DataSet {
        adapter: "gowalla",
        folder: "gowalla",
        times: ["2010-09-15T00:00:00Z", "2010-10-20T00:00:00Z"],
        reference: |data, t| vec![gowalla::Checkins::read(data, t).customers()],
        features: 14,
        every_view: false,
    })
    .await;
    if let Some(lender) = lender {
        lender.end().await;
    }
}

/// What no public data set has, made up and reckoned by hand.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_village() {
    let adapter = include_str!("lender/village.sql").to_owned();
    let lender = Lender::begin(adapter, None, village::as_of()).await;
    lender.materialize(village::as_of(), Vec::new()).await;
    let counts = compare(&lender, &village::references()).await;
    assert_eq!(counts.differences, Vec::<String>::new());
    assert_eq!(counts.features, 69, "features compared");
    lender.end().await;
}

/// The three services for every borrower of the bank, each with the next one
/// for a guarantor: the guarantor's column is the other's own, by a new name.
async fn services(lender: &Lender, bank: &berka::Bank) {
    let (customers, accounts, loans) = (bank.customers(), bank.accounts(), bank.loans());
    let debts = rows(&customers, "customer_debt");
    let terms = rows(&loans, "loan_terms");
    let borrowers: Vec<Key> = debts.keys().cloned().collect();
    let mut guarantors = borrowers.clone();
    guarantors.rotate_left(1);
    let loans: Vec<Key> = terms.keys().cloned().collect();
    let accounts = rows(&accounts, "account_profile").keys();
    let accounts: Vec<Key> = accounts.take(borrowers.len()).cloned().collect();
    let nobody = vec![Key::Text("nobody".to_owned()); borrowers.len()];
    assert_eq!(loans.len(), borrowers.len(), "one loan a borrower");

    let keys = [("customer_id", &borrowers)];
    let marketing = lender.serve("marketing_targeting", &keys).await;
    let profiles = rows(&customers, "customer_profile");
    agree(&marketing["country"], &borrowers, |id| {
        named(&profiles[id], "country")
    });

    let keys = [
        ("customer_id", &borrowers),
        ("guarantor_id", &guarantors),
        ("account_id", &accounts),
        ("phone_number", &nobody),
        ("device_id", &nobody),
        ("place_id", &borrowers),
    ];
    let risk = lender.serve("risk_admission", &keys).await;
    agree(&risk["outstanding"], &borrowers, |id| {
        named(&debts[id], "outstanding")
    });
    agree(&risk["guarantor_outstanding"], &guarantors, |id| {
        named(&debts[id], "outstanding")
    });
    let unknown = &risk["contacts_28d"].statuses;
    assert!(
        unknown
            .iter()
            .all(|status| *status == FeatureStatus::NotFound)
    );

    let keys = [
        ("customer_id", &borrowers),
        ("account_id", &accounts),
        ("loan_id", &loans),
        ("phone_number", &nobody),
    ];
    let collections = lender.serve("collections_priority", &keys).await;
    agree(&collections["loan_amount"], &loans, |id| {
        named(&terms[id], "amount")
    });
}

fn rows<'a>(reference: &'a Reference, view: &str) -> &'a Rows {
    let found = reference
        .views
        .iter()
        .find(|expected| expected.view == view);
    &found.unwrap().rows
}

fn named<'a>(row: &'a Row, feature: &str) -> &'a Value {
    &row.iter().find(|(name, _)| *name == feature).unwrap().1
}

fn agree<'a>(answer: &Answer, keys: &'a [Key], expected: impl Fn(&'a Key) -> &'a Value) {
    for (row, key) in keys.iter().enumerate() {
        assert_eq!(
            difference(expected(key), &answer.values, row),
            None,
            "{key:?}"
        );
    }
}
