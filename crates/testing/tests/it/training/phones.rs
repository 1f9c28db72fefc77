//! Each phone of a study at each midnight, from its calls.

use std::collections::{BTreeMap, BTreeSet};

use granary_engine::TrainingOptions;

use super::{Training, floats, integers, near};
use crate::lender::raw::{DAY, folder, number, records};

const SQL: &str = "
CREATE ENTITY phone KEY (phone BIGINT);
CREATE EXTERNAL TABLE raw_calls (timestamp BIGINT, caller BIGINT, callee BIGINT, duration BIGINT)
STORED AS CSV LOCATION 'data/calls.csv.gz' OPTIONS ('format.has_header' 'true', 'format.compression' 'gzip');
CREATE VIEW calls AS
SELECT caller AS phone, callee AS other, duration, to_timestamp_seconds(timestamp) AS at FROM raw_calls;
EVENT TIME OF calls IS at;
CREATE FEATURE VIEW phone_window ENTITY phone EVENT TIME at
AS SELECT phone,
          count(*)              OVER d7   AS calls_7d,
          count(DISTINCT other) OVER ever AS partners,
          count(*) FILTER (WHERE duration = -1) OVER d7 / CAST(nullif(count(*) OVER d7, 0) AS DOUBLE) AS missed_share_7d,
          median(duration) FILTER (WHERE duration >= 0) OVER ever AS median_seconds,
          (date_part('epoch', as_of()) - date_part('epoch', max(at) OVER ever)) AS seconds_since
   FROM calls
   WINDOW d7 AS (PARTITION BY phone ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
          ever AS (PARTITION BY phone ORDER BY at);
";

const SPINE: &str = "SELECT phone, event_time
  FROM (SELECT DISTINCT phone FROM calls)
  CROSS JOIN (SELECT to_timestamp_seconds(value * 86400) AS event_time FROM generate_series(1, 28))
  ORDER BY phone, event_time";

#[tokio::test(flavor = "multi_thread")]
async fn phones_are_as_they_were_at_each_midnight() {
    let Some(data) = folder("cns_phone") else {
        return;
    };
    let mut calls: BTreeMap<i64, Vec<(i64, i64, i64)>> = BTreeMap::new();
    for fields in records(&data.join("calls.csv.gz"), ',') {
        let [second, caller, other, duration] = [0, 1, 2, 3].map(|at| number::<i64>(&fields[at]));
        let of_caller = calls.entry(caller).or_default();
        of_caller.push((second * 1_000_000, other, duration));
    }
    let training = Training::new(&data, SQL).await;
    let rows = training
        .set(SPINE, &["phone_window"], TrainingOptions::default())
        .await;
    assert_eq!(rows.num_rows(), calls.len() * 28);
    let (phones, times) = (integers(&rows, "phone"), integers(&rows, "event_time"));
    let (counts, partners) = (integers(&rows, "calls_7d"), integers(&rows, "partners"));
    let (shares, since) = (
        floats(&rows, "missed_share_7d"),
        floats(&rows, "seconds_since"),
    );
    let medians = integers(&rows, "median_seconds");
    for row in 0..rows.num_rows() {
        let (phone, t) = (phones[row].unwrap(), times[row].unwrap());
        let seen: Vec<_> = calls[&phone].iter().filter(|call| call.0 <= t).collect();
        let of_7: Vec<_> = seen.iter().filter(|call| call.0 >= t - 7 * DAY).collect();
        let told = format!("phone {phone} at {}", t / DAY);
        assert_eq!(counts[row], Some(of_7.len() as i64), "{told}");
        let others: BTreeSet<i64> = seen.iter().map(|call| call.1).collect();
        assert_eq!(partners[row], Some(others.len() as i64), "{told}");
        let missed = of_7.iter().filter(|call| call.2 == -1).count();
        let share = (!of_7.is_empty()).then(|| missed as f64 / of_7.len() as f64);
        assert!(near(shares[row], share, 1.0), "{told}");
        let mut talked: Vec<i64> = seen.iter().map(|call| call.2).filter(|s| *s >= 0).collect();
        talked.sort_unstable();
        let (low, high) = (talked.len().saturating_sub(1) / 2, talked.len() / 2);
        // Of an even number DataFusion gives the mean of the middle two, in whole seconds.
        let median = talked.get(high).map(|high| (talked[low] + high) / 2);
        assert_eq!(medians[row], median, "{told}");
        let last = seen.iter().map(|call| call.0).max();
        let ago = last.map(|last| (t - last) as f64 / 1e6);
        assert!(near(since[row], ago, t as f64 / 1e6), "{told}");
    }
}
