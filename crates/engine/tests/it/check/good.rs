//! Right definitions: what they come out as, and what a session sees of them.

use granary_model::definitions::KeySource;
use granary_model::{Definitions, ViewKind};

use super::{check, engine, folder};
use crate::project::{at, lines};

fn base() -> String {
    std::fs::read_to_string(folder().join("base.sql")).unwrap()
}

async fn checked(more: &str) -> Definitions {
    let checked = check(&engine(&folder()), &[("base", &base()), ("more", more)]).await;
    checked.unwrap_or_else(|errors| panic!("{errors}"))
}

/// Rows of a query in a session over `definitions`, sorted.
async fn rows(definitions: &Definitions, as_of: Option<&str>, sql: &str) -> Vec<String> {
    let engine = engine(&folder());
    let context = engine.session(definitions, as_of.map(at)).await.unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = lines(&batches);
    rows.sort();
    rows
}

#[tokio::test]
async fn kinds_are_decided_by_form() {
    let more = "
        CREATE FEATURE VIEW windowed ENTITY customer EVENT TIME at MAX EVENTS 100 AS
        SELECT customer_id, count(*) OVER w AS n, coalesce(sum(amount) OVER w, 0) / 2 AS half,
               max(amount) FILTER (WHERE currency = 'CZK') OVER (PARTITION BY customer_id ORDER BY at
                 RANGE BETWEEN INTERVAL '30 days' PRECEDING AND INTERVAL '1 day' PRECEDING) AS most
        FROM payments p WHERE amount > 0
        WINDOW w AS (PARTITION BY p.customer_id ORDER BY at);
        CREATE FEATURE VIEW renamed ENTITY device EVENT TIME at AS
        SELECT upper(device_id) AS device_id, sum(amount) OVER (PARTITION BY upper(device_id) ORDER BY at) AS s FROM payments;";
    let definitions = checked(more).await;
    let kinds: Vec<_> = definitions
        .feature_views
        .values()
        .map(|view| (view.name.as_str(), view.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("customer_label", ViewKind::Snapshot),
            ("customer_profile", ViewKind::Timestamped),
            ("customer_spend", ViewKind::Snapshot),
            ("device_use", ViewKind::Timestamped),
            ("renamed", ViewKind::Windowed),
            ("windowed", ViewKind::Windowed),
        ]
    );
}

#[tokio::test]
async fn columns_are_keys_times_and_features() {
    let definitions = checked("").await;
    let profile = &definitions.feature_views["customer_profile"];
    let names = |columns: &[granary_model::definitions::Column]| {
        let named = columns
            .iter()
            .map(|c| format!("{} {}", c.name, c.data_type));
        named.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(names(&profile.keys), "customer_id BIGINT");
    assert_eq!(names(&profile.features), "income BIGINT, home VARCHAR");
    assert_eq!(profile.event_time.as_deref(), Some("at"));
    assert_eq!(profile.created_time.as_deref(), Some("written_at"));
    assert_eq!(profile.depends_on, ["clean_profiles"]);
    let service = &definitions.services["admission"];
    let features: Vec<_> = service.features.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(features, ["income", "home", "amount", "last_amount"]);
}

#[tokio::test]
async fn current_state_is_what_no_event_time_cuts() {
    let more = "
        CREATE VIEW enriched AS SELECT p.*, c.home FROM payments p JOIN clean_profiles c ON c.customer_id = p.customer_id;
        CREATE FEATURE VIEW snapshot ENTITY customer AS SELECT customer_id, count(*) AS n FROM enriched GROUP BY customer_id;
        CREATE FEATURE VIEW row_wise ENTITY customer EVENT TIME at AS
          SELECT \"Customer ID\" AS customer_id, CAST(at AS TIMESTAMP) AS at, income FROM profiles;
        CREATE FEATURE VIEW running ENTITY customer EVENT TIME at AS
          SELECT customer_id, at, sum(income) OVER (PARTITION BY customer_id ORDER BY at) AS s FROM clean_profiles;
        CREATE FEATURE VIEW joined ENTITY customer EVENT TIME at AS
          SELECT p.customer_id, p.at, c.home FROM payments p JOIN clean_profiles c ON c.customer_id = p.customer_id;";
    let definitions = checked(more).await;
    let of = |view: &str| definitions.feature_views[view].current_state.clone();
    assert_eq!(of("snapshot"), ["profiles"]);
    assert!(of("row_wise").is_empty());
    assert!(of("running").is_empty());
    assert_eq!(of("joined"), ["profiles"]);
    assert!(of("customer_spend").is_empty());
}

#[tokio::test]
async fn fingerprints_follow_meaning() {
    let spend = "CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id, sum(total) AS total FROM paid GROUP BY customer_id;";
    let paid = "CREATE VIEW paid AS SELECT customer_id, amount AS total FROM payments;";
    let of = async |text: String| {
        let definitions = checked(&text).await;
        definitions.feature_views["v"].fingerprint.clone()
    };
    let first = of(format!("{paid}{spend}")).await;
    let spaced = spend
        .replace("sum(total)", "-- all of it\n SUM( total )")
        .replace("FROM", "from");
    assert_eq!(first, of(format!("{spaced}\n{paid}")).await);
    let owned = spend.replace(
        " AS SELECT",
        " OWNER 'risk' TTL INTERVAL '1 day' COMMENT 'c' AS SELECT",
    );
    assert_eq!(first, of(format!("{paid}{owned}")).await);
    let query = spend.replace("sum(total)", "max(total)");
    assert_ne!(first, of(format!("{paid}{query}")).await);
    let upstream = paid.replace("amount AS", "2 * amount AS");
    assert_ne!(first, of(format!("{upstream}{spend}")).await);
    let time =
        format!("{paid}{spend}").replace("AS total FROM payments", "AS total, at FROM payments");
    assert_ne!(first, of(format!("{time} EVENT TIME OF paid IS at;")).await);
}

#[tokio::test]
async fn keys_of_a_service_are_renamed_or_taken_from_features() {
    let more = "
        CREATE FEATURE SERVICE two AS SELECT a.amount, b.amount AS guarantor_amount, device_use.last_amount
        FROM customer_spend AS a, customer_spend AS b KEY (customer_id => guarantor_id), device_use;
        CREATE FEATURE SERVICE chain AS SELECT last.amount
        FROM device_use, customer_spend AS last KEY (customer_id => device_use.last_customer_id);
        GRANT READ ON FEATURE SERVICE two TO ROLE risk;
        GRANT READ ON FEATURE SERVICE chain TO ROLE risk;
        REVOKE READ ON FEATURE SERVICE chain FROM ROLE risk;
        COMMENT ON FEATURE SERVICE two IS 'both';
        COMMENT ON COLUMN customer_spend.amount IS 'all payments';
        COMMENT ON COLUMN payments.note IS 'free text';";
    let engine = engine(&folder());
    let checked = check(&engine, &[("base", &base()), ("more", more)])
        .await
        .unwrap();
    let definitions = checked;
    let two = &definitions.services["two"];
    let sources: Vec<_> = two.from.iter().map(|b| b.keys[0].source.clone()).collect();
    let request = |name: &str| KeySource::Request(name.into());
    assert_eq!(
        sources,
        [
            request("customer_id"),
            request("guarantor_id"),
            request("device_id")
        ]
    );
    let chain = &definitions.services["chain"].from[1].keys[0].source;
    let feature = KeySource::Feature {
        alias: "device_use".into(),
        feature: "last_customer_id".into(),
    };
    assert_eq!(*chain, feature);
    let grants: Vec<_> = definitions
        .grants
        .iter()
        .map(|g| g.object.as_str())
        .collect();
    assert_eq!(grants, ["two"]);
    assert_eq!(two.annotations.comment.as_deref(), Some("both"));
    let spend = &definitions.feature_views["customer_spend"];
    assert_eq!(spend.features[0].comment.as_deref(), Some("all payments"));
    let note = definitions.tables["payments"].columns.last().unwrap();
    assert_eq!(note.comment.as_deref(), Some("free text"));
}

#[tokio::test]
async fn views_over_streams_are_live_where_they_work_row_by_row() {
    let more = "
        CREATE STREAM card_event (id VARCHAR, customer_id BIGINT, amount DOUBLE, at TIMESTAMP)
          EVENT TIME at DEDUPLICATE BY (id);
        CREATE VIEW large AS SELECT * FROM card_event WHERE amount > 10;
        CREATE VIEW daily AS SELECT customer_id, date_trunc('day', at) AS at, sum(amount) AS s FROM card_event GROUP BY 1, 2;
        CREATE FEATURE VIEW live ENTITY customer EVENT TIME at AS SELECT customer_id, at, amount FROM large;
        CREATE FEATURE VIEW runs ENTITY customer EVENT TIME at AS SELECT customer_id, at, s FROM daily;
        CREATE ON DEMAND FEATURE VIEW affordable INPUT (asked DOUBLE) AS
          SELECT asked / nullif(customer_profile.income, 0) AS share, input.asked > 5 AS much FROM customer_profile;
        CREATE FEATURE SERVICE s AS SELECT affordable.*, sum(customer_spend.amount) AS amount
          FROM affordable, customer_profile, customer_spend KEY (customer_id => EACH customer_profile.income);";
    let engine = engine(&folder());
    let error = check(&engine, &[("base", &base()), ("more", more)])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("EACH takes a list"), "{error}");
    let more = more.replace(
        "EACH customer_profile.income",
        "EACH make_array(1, asked::BIGINT)",
    );
    let checked = check(&engine, &[("base", &base()), ("more", &more)]).await;
    let checked = checked.unwrap_or_else(|errors| panic!("{errors}"));
    let definitions = checked;
    assert!(definitions.feature_views["live"].live);
    assert!(!definitions.feature_views["runs"].live);
    let features: Vec<_> = definitions.on_demand_views["affordable"]
        .features
        .iter()
        .map(|f| format!("{} {}", f.name, f.data_type))
        .collect();
    assert_eq!(features, ["share DOUBLE", "much BOOLEAN"]);
}

#[tokio::test]
async fn a_cut_holds_wherever_a_relation_stands() {
    let definitions = checked(
        "CREATE VIEW again AS SELECT payment_id, amount FROM payments WHERE amount > 1;
         CREATE VIEW dated AS SELECT *, CAST(at AS DATE) AS day FROM profiles;
         EVENT TIME OF dated IS day;",
    )
    .await;
    let t = Some("2025-02-01T00:00:00Z");
    for (sql, at_t, ever) in [
        ("SELECT payment_id FROM payments", "1 2", "1 2 3"),
        ("SELECT payment_id FROM again", "1 2", "1 2 3"),
        (
            "SELECT a.payment_id FROM again a JOIN payments p ON p.payment_id = a.payment_id",
            "1 2",
            "1 2 3",
        ),
        (
            "SELECT \"Customer ID\" FROM profiles WHERE \"Customer ID\" IN (SELECT customer_id FROM payments)",
            "1",
            "1 2",
        ),
        (
            "SELECT (SELECT max(payment_id) FROM payments) AS m",
            "2",
            "3",
        ),
        (
            "SELECT payment_id FROM payments UNION ALL SELECT 10 * payment_id FROM again",
            "1 10 2 20",
            "1 10 2 20 3 30",
        ),
        (
            "WITH c AS (SELECT payment_id FROM payments), d AS (SELECT * FROM c) SELECT * FROM d",
            "1 2",
            "1 2 3",
        ),
        (
            "SELECT \"Customer ID\" FROM profiles p WHERE EXISTS (SELECT 1 FROM payments q WHERE q.customer_id = p.\"Customer ID\")",
            "1",
            "1 2",
        ),
        (
            "SELECT x.payment_id FROM (SELECT * FROM payments ORDER BY payment_id DESC LIMIT 1) x",
            "2",
            "3",
        ),
        ("SELECT \"Customer ID\" FROM dated", "1 2", "1 2"),
    ] {
        assert_eq!(rows(&definitions, t, sql).await.join(" "), at_t, "{sql}");
        assert_eq!(rows(&definitions, None, sql).await.join(" "), ever, "{sql}");
    }
    // A date is its midnight, and the cut takes in T itself.
    let dated = "SELECT \"Customer ID\" FROM dated";
    assert_eq!(rows(&definitions, Some("2025-01-03"), dated).await.len(), 2);
    assert_eq!(
        rows(&definitions, Some("2025-01-02T23:59:59Z"), dated)
            .await
            .len(),
        1
    );
    let just_before = Some("2025-01-31T23:59:59.999999Z");
    assert_eq!(
        rows(&definitions, just_before, "SELECT * FROM payments")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn as_of_is_the_time_of_the_session() {
    let definitions = checked("").await;
    let t = Some("2025-02-01T00:00:00.000001Z");
    let sql = "SELECT count(*) FILTER (WHERE at > as_of() - INTERVAL '1 day') AS n, max(as_of()) AS t FROM payments";
    assert_eq!(
        rows(&definitions, t, sql).await,
        ["1|2025-02-01T00:00:00.000001Z"]
    );
    let now = rows(
        &definitions,
        None,
        "SELECT as_of() AS t, now() IS NOT NULL AS n",
    )
    .await;
    assert_eq!(now, ["2026-01-01T00:00:00Z|true"]);
}

#[tokio::test]
async fn the_own_event_time_of_a_view_cuts_what_it_is_a_column_of() {
    let definitions = checked(
        "CREATE FEATURE VIEW v ENTITY customer EVENT TIME at AS
         SELECT customer_id, at, sum(income) OVER (PARTITION BY home) AS s FROM clean_profiles;",
    )
    .await;
    let engine = engine(&folder());
    let view = &definitions.feature_views["v"];
    let context = engine
        .session_for(
            &definitions,
            view,
            at("2025-01-02"),
            granary_engine::Joins::Spilling,
        )
        .await
        .unwrap();
    let frame = context
        .sql("SELECT count(*) AS n FROM clean_profiles")
        .await
        .unwrap();
    assert_eq!(lines(&frame.collect().await.unwrap()), ["1"]);
}

#[tokio::test]
async fn texts_become_times() {
    let definitions = checked("").await;
    for (sql, expected) in [
        (
            "to_timestamp(at)",
            "2025-01-01T00:00:00Z 2025-01-03T00:00:00Z",
        ),
        (
            "to_timestamp_micros(at)",
            "2025-01-01T00:00:00Z 2025-01-03T00:00:00Z",
        ),
        (
            "to_timestamp(at, '%Y-%m-%d')",
            "2025-01-01T00:00:00Z 2025-01-03T00:00:00Z",
        ),
        (
            "to_timestamp('2025-02-03 10:00:00+02:00')",
            "2025-02-03T08:00:00Z 2025-02-03T08:00:00Z",
        ),
        ("to_date(at)", "2025-01-01 2025-01-03"),
        ("CAST(at AS TIMESTAMP) <= as_of()", "true true"),
        (
            "to_timestamp(at) < as_of() - INTERVAL '363 days'",
            "false true",
        ),
        (
            "CAST(at AS TIMESTAMP WITH TIME ZONE)",
            "2025-01-01T00:00:00Z 2025-01-03T00:00:00Z",
        ),
        (
            "to_timestamp(income)",
            "1970-01-01T00:16:40Z 1970-01-01T00:33:20Z",
        ),
    ] {
        let texts = "(SELECT CAST(at AS VARCHAR) AS at, income FROM profiles)";
        let found = rows(
            &definitions,
            None,
            &format!("SELECT {sql} AS t FROM {texts}"),
        )
        .await;
        assert_eq!(found.join(" "), expected, "{sql}");
    }
}

#[tokio::test]
async fn calls_of_as_of_are_found_wherever_they_stand() {
    let definitions = checked(
        "CREATE VIEW recent AS SELECT * FROM payments WHERE at > as_of() - INTERVAL '30 days';
         CREATE FEATURE VIEW itself ENTITY customer EVENT TIME at AS
           SELECT customer_id, at, as_of() > at AS is_past FROM payments;
         CREATE FEATURE VIEW since ENTITY customer EVENT TIME at AS
           SELECT customer_id, at, time_since(at, 'days') AS age FROM payments;
         CREATE FEATURE VIEW through ENTITY customer EVENT TIME at AS
           SELECT customer_id, at, amount FROM recent;
         CREATE FEATURE VIEW below ENTITY customer EVENT TIME at AS
           SELECT customer_id, at, amount FROM payments
           WHERE amount > (SELECT avg(amount) FROM payments WHERE at > as_of() - INTERVAL '1 day');
         CREATE FEATURE VIEW whole ENTITY customer AS
           SELECT customer_id, count(*) FILTER (WHERE at < as_of()) AS n FROM payments GROUP BY customer_id;",
    )
    .await;
    let of = |name: &str| {
        let view = &definitions.feature_views[name];
        (view.calls_as_of, view.is_incremental())
    };
    for name in ["itself", "since", "through", "below"] {
        assert_eq!(of(name), (true, false), "{name}");
    }
    assert_eq!(of("whole"), (true, false));
    assert_eq!(of("customer_profile"), (false, true));
    assert_eq!(of("customer_spend"), (false, false));
}

/// A computed view is read as a plain one: what it reads as it is now, its reader does.
#[tokio::test]
async fn a_view_over_a_computed_view_reads_what_that_reads() {
    let definitions = checked(
        "CREATE FEATURE VIEW newest ENTITY customer SERVE QUERY AS
           SELECT customer_id, max(income) AS income FROM clean_profiles GROUP BY customer_id;
         CREATE FEATURE VIEW above ENTITY customer AS
           SELECT n.customer_id, n.income - s.amount AS rest
           FROM newest n JOIN customer_spend s ON s.customer_id = n.customer_id;",
    )
    .await;
    let above = &definitions.feature_views["above"];
    assert_eq!(above.current_state, ["profiles"]);
    let runs: Vec<&str> = definitions.runs_read(above).into_iter().collect();
    assert_eq!(runs, ["customer_spend"]);
}
