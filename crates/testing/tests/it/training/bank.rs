//! Each loan as of its grant, from the transactions of its account.

use std::path::Path;

use granary_engine::TrainingOptions;

use super::{Training, floats, integers};
use crate::lender::raw::{DAY, cents, days, folder, number, records};

const SQL: &str = "
CREATE ENTITY account KEY (account_id BIGINT);
CREATE EXTERNAL TABLE trans (trans_id BIGINT, account_id BIGINT, date BIGINT, type VARCHAR, operation VARCHAR,
  amount DECIMAL(14, 2), balance DECIMAL(14, 2), k_symbol VARCHAR, bank VARCHAR, account VARCHAR)
STORED AS CSV LOCATION 'data/trans_prefix_1993-01_1994-03.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');
CREATE EXTERNAL TABLE loan (loan_id BIGINT, account_id BIGINT, date BIGINT, amount BIGINT, duration INT,
  payments DECIMAL(10, 2), status VARCHAR)
STORED AS CSV LOCATION 'data/loan.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');
CREATE VIEW movements AS
SELECT trans_id, account_id, CASE type WHEN 'PRIJEM' THEN amount ELSE -amount END AS amount,
       arrow_cast(make_date(1900 + date / 10000, date / 100 % 100, date % 100), 'Timestamp(Microsecond, Some(\"UTC\"))')
         + INTERVAL '1 day' - INTERVAL '1 microsecond' AS at
FROM trans WHERE date <= CUTOFF;
EVENT TIME OF movements IS at;
CREATE FEATURE VIEW account_window ENTITY account EVENT TIME at
AS SELECT account_id,
          count(*)    OVER d90  AS movements_90d,
          sum(amount) OVER d30  AS net_30d,
          sum(amount) OVER ever AS balance,
          max(amount) FILTER (WHERE amount > 0) OVER d90 AS largest_credit_90d,
          count(DISTINCT amount) OVER d90 AS amounts_90d,
          max(trans_id) OVER last3 - min(trans_id) OVER last3 AS span_of_3
   FROM movements
   WINDOW d30 AS (PARTITION BY account_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
          d90 AS (PARTITION BY account_id ORDER BY at RANGE BETWEEN INTERVAL '90 days' PRECEDING AND CURRENT ROW),
          last3 AS (PARTITION BY account_id ORDER BY at ROWS BETWEEN 2 PRECEDING AND CURRENT ROW),
          ever AS (PARTITION BY account_id ORDER BY at);
CREATE FEATURE VIEW account_latest ENTITY account EVENT TIME at TTL INTERVAL '60 days'
AS SELECT account_id, at, amount AS last_amount, trans_id AS last_id FROM movements;
";

const SPINE: &str = "SELECT loan_id, account_id, status,
  arrow_cast(make_date(1900 + date / 10000, date / 100 % 100, date % 100), 'Timestamp(Microsecond, Some(\"UTC\"))') AS event_time
  FROM loan";

struct Movement {
    id: i64,
    account: i64,
    at: i64,
    cents: i128,
}

fn midnight(field: &str) -> i64 {
    let n: i32 = number(field);
    let (month, day) = ((n / 100 % 100) as u32, (n % 100) as u32);
    i64::from(days(1900 + n / 10_000, month, day)) * DAY
}

fn movements(data: &Path) -> Vec<Movement> {
    let trans = records(&data.join("trans_prefix_1993-01_1994-03.asc.gz"), ';');
    let movement = |fields: Vec<String>| Movement {
        id: number(&fields[0]),
        account: number(&fields[1]),
        at: midnight(&fields[2]) + DAY - 1,
        cents: if fields[3] == "PRIJEM" {
            cents(&fields[5])
        } else {
            -cents(&fields[5])
        },
    };
    trans.into_iter().map(movement).collect()
}

/// Of one loan: the features in the order of the view.
fn expected(movements: &[Movement], account: i64, t: i64) -> [Option<i128>; 8] {
    let mut seen: Vec<&Movement> = movements
        .iter()
        .filter(|m| m.account == account && m.at <= t)
        .collect();
    // Of one day the columns that the view reads decide, in the table's order.
    seen.sort_by_key(|m| (m.at, m.id));
    let since = |days: i64| seen.iter().filter(move |m| m.at >= t - days * DAY);
    let sum = |cents: Vec<i128>| (!cents.is_empty()).then(|| cents.iter().sum());
    let mut amounts: Vec<i128> = since(90).map(|m| m.cents).collect();
    amounts.sort_unstable();
    amounts.dedup();
    let last3 = &seen[seen.len().saturating_sub(3)..];
    let ids = || last3.iter().map(|m| i128::from(m.id));
    // Ties by created time, then by the values in SELECT order.
    let latest = seen.iter().max_by_key(|m| (m.at, m.cents, m.id));
    let latest = latest.filter(|m| m.at >= t - 60 * DAY);
    [
        Some(since(90).count() as i128),
        sum(since(30).map(|m| m.cents).collect()),
        sum(seen.iter().map(|m| m.cents).collect()),
        since(90).map(|m| m.cents).filter(|cents| *cents > 0).max(),
        Some(amounts.len() as i128),
        ids().max().zip(ids().min()).map(|(max, min)| max - min),
        latest.map(|m| m.cents),
        latest.map(|m| i128::from(m.id)),
    ]
}

const MONEY: [bool; 8] = [false, true, true, true, false, false, true, false];
const FEATURES: [&str; 8] = [
    "movements_90d",
    "net_30d",
    "balance",
    "largest_credit_90d",
    "amounts_90d",
    "span_of_3",
    "last_amount",
    "last_id",
];

async fn features(data: &Path, cutoff: &str) -> (Vec<[Option<i128>; 8]>, Vec<i64>, Vec<i64>) {
    let training = Training::new(data, &SQL.replace("CUTOFF", cutoff)).await;
    let views = ["account_window", "account_latest"];
    let rows = training
        .set(SPINE, &views, TrainingOptions::default())
        .await;
    let mut found = vec![[None; 8]; rows.num_rows()];
    for (place, name) in FEATURES.iter().enumerate() {
        if MONEY[place] {
            for (row, value) in floats(&rows, name).into_iter().enumerate() {
                found[row][place] = value.map(|money| (money * 100.0).round() as i128);
            }
        } else {
            for (row, value) in integers(&rows, name).into_iter().enumerate() {
                found[row][place] = value.map(i128::from);
            }
        }
    }
    let ids = integers(&rows, "account_id")
        .into_iter()
        .flatten()
        .collect();
    let times = integers(&rows, "event_time")
        .into_iter()
        .flatten()
        .collect();
    (found, ids, times)
}

#[tokio::test(flavor = "multi_thread")]
async fn loans_know_what_was_known_at_their_grant() {
    let Some(data) = folder("berka") else { return };
    let movements = movements(&data);
    let (found, accounts, times) = features(&data, "999999").await;
    let loans = records(&data.join("loan.asc.gz"), ';');
    assert_eq!(found.len(), loans.len());
    let mut with_history = 0;
    for (row, loan) in loans.iter().enumerate() {
        let (account, t) = (number::<i64>(&loan[1]), midnight(&loan[2]));
        assert_eq!(
            (accounts[row], times[row]),
            (account, t),
            "the order of the file"
        );
        let expected = expected(&movements, account, t);
        assert_eq!(found[row], expected, "loan {}", loan[0]);
        with_history += usize::from(expected[2].is_some());
    }
    assert!(with_history > 100, "{with_history} of {}", loans.len());

    // Appending what came later changes no value: without 1994 all loans of
    // 1993 are as they are with it.
    let (before, _, _) = features(&data, "931231").await;
    let end = midnight("940101");
    let of_1993 = (0..loans.len()).filter(|row| times[*row] < end);
    let of_1993: Vec<usize> = of_1993.collect();
    assert!(of_1993.len() > 10);
    for row in of_1993 {
        assert_eq!(before[row], found[row], "loan {}", loans[row][0]);
    }
}
