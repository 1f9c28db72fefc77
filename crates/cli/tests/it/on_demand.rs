//! On-demand views on the command line: the same expressions in reads and in
//! training sets.

use std::fs;

use serde_json::{Value, json};

use crate::project::{Project, Run};
use crate::serve::Server;

const SQL: &str = "\
CREATE ON DEMAND FEATURE VIEW affordability INPUT (requested_amount DOUBLE, term_months INT) COMMENT 'what is asked for'
AS SELECT requested_amount / nullif(customer_balance.balance, 0) AS asked_to_balance,
          round(input.requested_amount / term_months, 2) AS monthly,
          coalesce(customer_balance.phone, 'unknown') AS phone,
          date_part('epoch', as_of() - TIMESTAMP '2026-01-01T00:00:00Z') / 86400 AS days_of_2026
   FROM customer_balance;

CREATE ON DEMAND FEATURE VIEW decision
AS SELECT affordability.asked_to_balance < 50 AND customer_rows.rows_seen > 1 AS accept
   FROM affordability, customer_rows;

CREATE FEATURE SERVICE admission
AS SELECT decision.accept, affordability.monthly, affordability.asked_to_balance FROM decision, affordability;
";

fn project() -> Project {
    let project = Project::small();
    project.write("sql/on_demand.sql", SQL);
    project.applied()
}

fn get(project: &Project, more: &[&str]) -> Run {
    let fixed = ["get", "--as-of", "2026-04-01", "--output", "json"];
    project.granary(&[&fixed[..], more].concat())
}

/// The values of each column, by name.
fn values(run: &Run) -> Vec<(String, Value)> {
    let told = run.json();
    let columns = told["columns"].as_array().unwrap().iter();
    let column = |c: &Value| (c["name"].as_str().unwrap().to_owned(), c["values"].clone());
    columns.map(column).collect()
}

fn named(list: &[(&str, Value)]) -> Vec<(String, Value)> {
    let named = list.iter().map(|(name, v)| ((*name).to_owned(), v.clone()));
    named.collect()
}

#[test]
fn a_read_computes_of_features_and_inputs() {
    let project = project();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    // 9 is nobody: what is not found is NULL, and the expression decides.
    let keys = ["--service", "admission", "--key", "customer_id=1,3,9"];
    let run = get(
        &project,
        &[
            &keys[..],
            &[
                "--input",
                "requested_amount=1000",
                "--input",
                "term_months=12,10,8",
            ],
        ]
        .concat(),
    );
    assert_eq!(
        values(&run),
        named(&[
            ("customer_id", json!([1, 3, 9])),
            ("accept", json!([true, false, null])),
            ("monthly", json!([83.33, 100.0, 125.0])),
            ("asked_to_balance", json!([1000.0 / 20.5, 4000.0, null])),
        ]),
        "{run:?}"
    );
    let statuses: Vec<_> = run.json()["columns"].as_array().unwrap()[1..]
        .iter()
        .map(|c| c["statuses"].clone())
        .collect();
    assert_eq!(
        statuses[0],
        json!(["PRESENT", "PRESENT", "NULL_VALUE"]),
        "{run:?}"
    );
}

#[test]
fn a_list_needs_the_inputs_of_what_it_asks_for_alone() {
    let project = project();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    let list = [
        "--features",
        "affordability.phone,affordability.days_of_2026",
    ];
    let run = get(&project, &[&list[..], &["--key", "customer_id=2"]].concat());
    assert_eq!(
        values(&run),
        named(&[
            ("customer_id", json!([2])),
            ("phone", json!(["unknown"])),
            ("days_of_2026", json!([90.0])),
        ])
    );
    // Others do no harm.
    get(
        &project,
        &[
            &list[..],
            &["--key", "customer_id=2", "--input", "term_months=1"],
        ]
        .concat(),
    )
    .succeeded();
    // Without a key, too.
    let run = get(
        &project,
        &[
            "--features",
            "affordability.monthly",
            "--input",
            "requested_amount=10,20",
            "--input",
            "term_months=4",
        ],
    );
    assert_eq!(values(&run), named(&[("monthly", json!([2.5, 5.0]))]));
}

#[test]
fn wrong_inputs_are_told_by_name() {
    let project = project().materialized();
    let refused = |more: &[&str], told: &[&str]| {
        let fixed = ["--service", "admission", "--key", "customer_id=1,2"];
        get(&project, &[&fixed[..], more].concat()).failed(1, told);
    };
    refused(
        &[],
        &["missing inputs: requested_amount DOUBLE, term_months INT"],
    );
    refused(
        &["--input", "term_months=3"],
        &["missing input: requested_amount DOUBLE"],
    );
    let amount = ["--input", "requested_amount=5"];
    refused(
        &[&amount[..], &["--input", "term_months=soon"]].concat(),
        &["term_months expects INT, got \"soon\""],
    );
    refused(
        &[&amount[..], &["--input", "term_month=3"]].concat(),
        &[
            "unknown input \"term_month\"",
            "did you mean \"term_months\"",
            "requested_amount DOUBLE, term_months INT",
        ],
    );
    refused(
        &[&amount[..], &["--input", "term_months=1,2,3"]].concat(),
        &["the input term_months has 3 values, and there are 2 entities"],
    );
    get(
        &project,
        &[
            "--service",
            "limits",
            "--key",
            "customer_id=1",
            "--input",
            "x=1",
        ],
    )
    .failed(1, &["unknown input \"x\"", "takes no inputs"]);
}

const SPINE: &str = "\
customer_id,event_time,requested_amount,term_months
1,2026-04-01T00:00:00Z,1000,12
3,2026-04-01T00:00:00Z,1000,10
9,2026-04-01T00:00:00Z,1000,8
1,2026-01-20T00:00:00Z,21,
";

#[test]
fn a_training_set_takes_inputs_from_the_spine() {
    let project = project();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    project.write("spine.csv", SPINE);
    let historical = |more: &[&str]| {
        let fixed = [
            "get-historical",
            "--out",
            "set.csv",
            "--overwrite",
            "--spine",
        ];
        let mut command = project.command(&[&fixed[..], more].concat());
        command.current_dir(project.folder());
        Run::of(&mut command)
    };
    historical(&["spine.csv", "--service", "admission", "--statuses"]).succeeded();
    let read = || fs::read_to_string(project.path("set.csv")).unwrap();
    assert_eq!(
        read(),
        format!(
            "customer_id,event_time,requested_amount,term_months,accept,accept__status,monthly,monthly__status,asked_to_balance,asked_to_balance__status\n\
             1,2026-04-01T00:00:00Z,1000,12,true,PRESENT,83.33,PRESENT,{},PRESENT\n\
             3,2026-04-01T00:00:00Z,1000,10,false,PRESENT,100.0,PRESENT,4000.0,PRESENT\n\
             9,2026-04-01T00:00:00Z,1000,8,,NULL_VALUE,125.0,PRESENT,,NULL_VALUE\n\
             1,2026-01-20T00:00:00Z,21,,,NULL_VALUE,,NULL_VALUE,2.0,PRESENT\n",
            1000.0 / 20.5
        )
    );
    let list = [
        "--features",
        "affordability.days_of_2026,affordability.phone",
    ];
    historical(&[&["spine.csv"][..], &list].concat()).succeeded();
    assert!(
        read().ends_with("1,2026-01-20T00:00:00Z,21,,19.0,a\n"),
        "{}",
        read()
    );

    project.write(
        "short.csv",
        "customer_id,event_time,term_months\n1,2026-04-01T00:00:00Z,1\n",
    );
    historical(&["short.csv", "--service", "admission"])
        .failed(1, &["short.csv: no input column \"requested_amount\""]);
    project.write(
        "wrong.csv",
        "customer_id,event_time,requested_amount,term_months\n1,2026-04-01T00:00:00Z,much,1\n",
    );
    historical(&["wrong.csv", "--service", "admission"])
        .failed(1, &["requested_amount expects DOUBLE, got VARCHAR"]);
}

#[test]
fn plans_and_descriptions_show_them_as_served() {
    let project = Project::small();
    project.write("sql/on_demand.sql", SQL);
    let plan = project.granary(&["plan"]);
    let shown = &plan.succeeded().stdout;
    assert!(
        shown.contains("+ create on-demand feature view affordability")
            && shown.contains("+ create on-demand feature view decision"),
        "{shown}"
    );
    let project = project.applied();
    let view = project
        .granary(&["describe", "decision", "--output", "json"])
        .json();
    let columns: Vec<String> = view["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{} {} {}",
                c["role"].as_str().unwrap(),
                c["name"].as_str().unwrap(),
                c["type"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        columns,
        [
            "key customer_id BIGINT",
            "input requested_amount DOUBLE",
            "input term_months INT",
            "feature accept BOOLEAN",
        ]
    );
    assert_eq!(view["properties"]["values"], "live: computed in the read");
    assert_eq!(view["properties"]["kind"], "on demand");
}

#[test]
fn a_server_computes_the_same() {
    let project = project();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    let server = Server::start(&project);
    let endpoint = server.grpc.clone();
    let asked = ["--service", "admission", "--key", "customer_id=1,2"];
    let inputs = [
        "--input",
        "requested_amount=1000",
        "--input",
        "term_months=12,10",
    ];
    let here = get(&project, &[&asked[..], &inputs].concat());
    let there = get(
        &project,
        &[&asked[..], &inputs, &["--endpoint", &endpoint]].concat(),
    );
    assert_eq!(values(&there), values(&here));
    get(&project, &[&asked[..], &["--endpoint", &endpoint]].concat()).failed(
        1,
        &["missing inputs: requested_amount DOUBLE, term_months INT"],
    );

    project.write("spine.csv", SPINE);
    let historical = |out: &str, more: &[&str]| {
        let fixed = [
            "get-historical",
            "--spine",
            "spine.csv",
            "--service",
            "admission",
            "--out",
            out,
        ];
        let mut command = project.command(&[&fixed[..], more].concat());
        command.current_dir(project.folder());
        Run::of(&mut command).succeeded();
        fs::read_to_string(project.path(out)).unwrap()
    };
    assert_eq!(
        historical("there.csv", &["--endpoint", &endpoint]),
        historical("here.csv", &[])
    );
}

const COMPUTED_KEYS: &str = "\
CREATE ON DEMAND FEATURE VIEW other INPUT (code VARCHAR)
AS SELECT ahead.balance AS ahead_balance, coded.rows_seen AS coded_rows
   FROM customer_rows, customer_balance AS ahead KEY (customer_id => customer_rows.rows_seen + 1),
        customer_rows AS coded KEY (customer_id => CAST(substr(input.code, 2) AS BIGINT));

CREATE FEATURE SERVICE chain
AS SELECT other.*, again.total AS again_total
   FROM other, customer_rows AS again KEY (customer_id => CAST(other.coded_rows + length(code) - 1 AS BIGINT));
";

#[test]
fn keys_are_computed_in_reads_and_in_training_sets() {
    let project = Project::small();
    project.write("sql/computed_keys.sql", COMPUTED_KEYS);
    let project = project.applied();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    let asked = ["--service", "chain", "--key", "customer_id=1,2,9"];
    // Customer 1 has two rows, 2 and 3 have one each; of 9 there are none.
    let run = get(
        &project,
        &[&asked[..], &["--input", "code=c1,c2,c"]].concat(),
    );
    run.failed(1, &["coded.key", "Cannot cast string '' to value of Int64"]);
    let run = get(
        &project,
        &[&asked[..], &["--input", "code=c1,c2,c7"]].concat(),
    );
    assert_eq!(
        values(&run),
        named(&[
            ("customer_id", json!([1, 2, 9])),
            ("ahead_balance", json!([0.25, -3.0, null])),
            ("coded_rows", json!([2, 1, null])),
            ("again_total", json!(["0.25", "-3.00", null])),
        ]),
        "{run:?}"
    );
    project.write(
        "spine.csv",
        "customer_id,event_time,code\n\
         1,2026-04-01T00:00:00Z,c1\n2,2026-04-01T00:00:00Z,c2\n9,2026-04-01T00:00:00Z,c7\n",
    );
    let fixed = [
        "get-historical",
        "--spine",
        "spine.csv",
        "--service",
        "chain",
        "--out",
        "set.csv",
    ];
    let mut command = project.command(&fixed);
    command.current_dir(project.folder());
    Run::of(&mut command).succeeded();
    assert_eq!(
        fs::read_to_string(project.path("set.csv")).unwrap(),
        "customer_id,event_time,code,ahead_balance,coded_rows,again_total\n\
         1,2026-04-01T00:00:00Z,c1,0.25,2,0.25\n\
         2,2026-04-01T00:00:00Z,c2,-3.0,1,-3.00\n\
         9,2026-04-01T00:00:00Z,c7,,,\n"
    );
}

const CIRCLE: &str = "\
CREATE FEATURE VIEW customer_contacts ENTITY customer
AS SELECT DISTINCT customer_id,
          CASE customer_id WHEN 1 THEN make_array(2, 3, 9) WHEN 3 THEN make_array(1) END AS contact_ids
   FROM balances;

CREATE ON DEMAND FEATURE VIEW relation INPUT (a BIGINT, b BIGINT)
AS SELECT max(other.balance) FILTER (WHERE other.balance < customer_balance.balance) AS below,
          sum(other.balance) / nullif(customer_balance.balance, 0) AS ratio
   FROM customer_balance, customer_balance AS other KEY (customer_id => EACH make_array(input.a, input.b));

CREATE FEATURE SERVICE circle
AS SELECT customer_balance.balance, sum(contact.balance) AS contacts_balance, count(contact.balance) AS known,
          count(*) AS contacts, count(contact.balance) FILTER (WHERE contact.balance < 0) AS below_zero,
          sum(contact.balance) / count(*) AS per_contact, relation.*
   FROM customer_balance, customer_contacts, relation,
        customer_balance AS contact KEY (customer_id => EACH customer_contacts.contact_ids);
";

#[test]
fn each_element_of_a_list_is_read_and_folded() {
    let project = Project::small();
    project.write("sql/circle.sql", CIRCLE);
    let project = project.applied();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    let asked = ["--service", "circle", "--key", "customer_id=1,2,3,9"];
    let asked = [&asked[..], &["--input", "a=1", "--input", "b=3"]].concat();
    let run = get(&project, &asked);
    // Nobody is 9: it counts as a contact, and not as a known one. 2 has no list.
    assert_eq!(
        values(&run),
        named(&[
            ("customer_id", json!([1, 2, 3, 9])),
            ("balance", json!([20.5, -3.0, 0.25, null])),
            ("contacts_balance", json!([-2.75, null, 20.5, null])),
            ("known", json!([2, 0, 1, 0])),
            ("contacts", json!([3, 0, 1, 0])),
            ("below_zero", json!([1, 0, 0, 0])),
            ("per_contact", json!([-2.75 / 3.0, null, 20.5, null])),
            ("below", json!([0.25, null, null, null])),
            ("ratio", json!([20.75 / 20.5, 20.75 / -3.0, 83.0, null])),
        ]),
        "{run:?}"
    );
    project.write(
        "spine.csv",
        "customer_id,event_time,a,b\n\
         1,2026-04-01T00:00:00Z,1,3\n2,2026-04-01T00:00:00Z,1,3\n\
         3,2026-04-01T00:00:00Z,1,3\n9,2026-04-01T00:00:00Z,1,3\n3,2026-03-31T00:00:00Z,3,\n",
    );
    let historical = || {
        let fixed = [
            "get-historical",
            "--spine",
            "spine.csv",
            "--service",
            "circle",
            "--out",
            "set.csv",
        ];
        let mut command = project.command(&fixed);
        command.current_dir(project.folder());
        Run::of(&mut command)
    };
    historical().succeeded();
    assert_eq!(
        fs::read_to_string(project.path("set.csv")).unwrap(),
        format!(
            "customer_id,event_time,a,b,balance,contacts_balance,known,contacts,below_zero,per_contact,below,ratio\n\
             1,2026-04-01T00:00:00Z,1,3,20.5,-2.75,2,3,1,{},0.25,{}\n\
             2,2026-04-01T00:00:00Z,1,3,-3.0,,0,0,0,,,{}\n\
             3,2026-04-01T00:00:00Z,1,3,0.25,20.5,1,1,0,20.5,,83.0\n\
             9,2026-04-01T00:00:00Z,1,3,,,0,0,0,,,\n\
             3,2026-03-31T00:00:00Z,3,,0.25,20.5,1,1,0,20.5,,1.0\n",
            -2.75 / 3.0,
            20.75 / 20.5,
            20.75 / -3.0
        )
    );

    project.write("granary.toml", "[engine]\neach_elements_max = 2\n");
    let told = [
        "customer_balance: a list that it is read for EACH element of has 3 elements, over the bound of 2",
    ];
    get(&project, &asked).failed(1, &told);
    fs::remove_file(project.path("set.csv")).unwrap();
    historical().failed(1, &told);
}

#[test]
fn a_list_is_shown_where_it_binds_a_key() {
    let project = Project::small();
    project.write("sql/circle.sql", CIRCLE);
    let project = project.applied();
    let service = project
        .granary(&["describe", "circle", "--output", "json"])
        .json();
    assert_eq!(
        service["properties"]["from customer_balance as contact"],
        "KEY (customer_id => EACH customer_contacts.contact_ids)"
    );
    let columns = service["columns"].as_array().unwrap();
    let known = columns.iter().find(|c| c["name"] == "known").unwrap();
    assert_eq!(known["type"], "BIGINT");
    assert_eq!(known["source"], "count(contact.balance)");
}

#[test]
fn a_neighbourhood_is_read_by_its_cells() {
    let project = Project::small();
    project.write(
        "data/places.csv",
        "lat,lon,at\n52.5,13.4,2026-01-01T00:00:00Z\n52.5001,13.4001,2026-01-02T00:00:00Z\n\
         52.505,13.41,2026-01-03T00:00:00Z\n48.1,11.6,2026-01-04T00:00:00Z\n",
    );
    project.write(
        "sql/places.sql",
        "CREATE ENTITY place KEY (cell BIGINT);\n\
         CREATE EXTERNAL TABLE places (lat DOUBLE, lon DOUBLE, at TIMESTAMP)\n\
           STORED AS CSV LOCATION 'data/places.csv' OPTIONS ('format.has_header' 'true');\n\
         EVENT TIME OF places IS at;\n\
         CREATE FEATURE VIEW cell_heat ENTITY place\n\
         AS SELECT h3_cell(lat, lon, 8) AS cell, count(*) AS applications FROM places GROUP BY 1;\n\
         CREATE ON DEMAND FEATURE VIEW neighbourhood INPUT (lat DOUBLE, lon DOUBLE)\n\
         AS SELECT here.applications AS here, sum(near.applications) AS near\n\
            FROM cell_heat AS here KEY (cell => h3_cell(input.lat, input.lon, 8)),\n\
                 cell_heat AS near KEY (cell => EACH h3_ring(h3_cell(input.lat, input.lon, 8), 2));\n",
    );
    let project = project.applied();
    project
        .granary(&["materialize", "--as-of", "2026-03-31"])
        .succeeded();
    let inputs = ["--input", "lat=52.5,48.1,0", "--input", "lon=13.4,11.6,0"];
    let run = get(
        &project,
        &[&["--features", "neighbourhood.*"][..], &inputs].concat(),
    );
    assert_eq!(
        values(&run),
        named(&[("here", json!([2, 1, null])), ("near", json!([3, 1, null])),]),
        "{run:?}"
    );
}
