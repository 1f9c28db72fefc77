//! The demo from start to end: its commands work, and what it planted stands out.

use serde_json::Value;

use crate::project::{Project, Run};

/// The command that the demo says to try next for a service, as JSON.
fn try_next(demo: &Run, project: &Project, service: &str) -> Value {
    let service = format!("--service {service} ");
    let said = demo.stdout.lines().find(|line| line.contains(&service));
    let (_, arguments) = said.unwrap().split_once(" get ").unwrap();
    let mut all = vec!["get", "--output", "json"];
    all.extend(arguments.split(' '));
    project.granary(&all).json()
}

/// A feature of each entity of an answer; `None` where there is none.
fn feature<const N: usize>(answer: &Value, name: &str) -> [Option<f64>; N] {
    let columns = answer["columns"].as_array().unwrap();
    let column = columns.iter().find(|column| column["name"] == name);
    let values = column.unwrap()["values"].as_array().unwrap();
    let values: Vec<Option<f64>> = values.iter().map(Value::as_f64).collect();
    values.try_into().unwrap()
}

#[test]
fn what_is_planted_stands_out() {
    let above = Project::empty();
    let project = above.inner("demo");
    let folder = project.folder().to_str().unwrap();
    let size = ["demo", "--once", "--customers", "500", "--dir", folder];
    let addresses = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    let demo = above.granary(&[&size[..], &addresses[..]].concat());
    let counted = "device_velocity.applications_10m of device-1 is 1, it was 0";
    assert!(demo.succeeded().stdout.contains(counted), "{demo:#?}");

    // An ordinary customer, a villager, and one of the farm's numbers.
    let admission = try_next(&demo, &project, "fraud_admission");
    planted(&admission);
    affordable(&project);
    agrees_with_training_sets(&project);
}

/// Every service serves what a training set says.
fn agrees_with_training_sets(project: &Project) {
    for (service, left_out) in [
        ("marketing_targeting", 0),
        ("risk_admission", 0),
        ("fraud_admission", 8),
        ("collections_priority", 0),
    ] {
        let verify = ["verify", service, "--sample", "200", "--output", "json"];
        let report = project.granary(&verify).json();
        let features = report["features"].as_array().unwrap();
        assert_eq!(
            report["left_out"].as_array().unwrap().len(),
            left_out,
            "{report}"
        );
        let compared = 200 * features.len() as u64;
        assert_eq!(report["compared"], compared, "{service}: {report}");
        let present = features.iter().filter(|f| f["present"].as_u64() > Some(0));
        assert!(
            present.count() * 10 > features.len() * 9,
            "{service}: {report}"
        );
    }
}

fn planted(admission: &Value) {
    let three = |name: &str| -> [Option<f64>; 3] { feature(admission, name) };
    // The application that was pushed last; two villagers share a device; three
    // numbers are on one emulator, each of which applied twice today.
    assert_eq!(
        three("device_applications_1h"),
        [Some(1.0), Some(0.0), Some(3.0)]
    );
    assert_eq!(
        three("device_applications_1d"),
        [Some(1.0), Some(2.0), Some(6.0)]
    );
    assert_eq!(
        three("device_customers_7d"),
        [Some(1.0), Some(2.0), Some(3.0)]
    );
    let [ordinary, _, farmed] = three("phone_callers_28d");
    assert!(ordinary > Some(0.0));
    assert_eq!(farmed, Some(0.0));
    // Eight numbers name three of their own, none itself.
    let [ordinary, _, farmed] = three("contact_applicants_7d");
    assert!(ordinary <= Some(2.0));
    assert_eq!(farmed, Some(7.0));
    // All twelve of the village applied today, some before; an emulator has no place.
    let [ordinary, villager, farmed] = three("near_applications_1d");
    assert!(ordinary <= Some(2.0));
    assert_eq!((villager, farmed), (Some(12.0), None));
    let [ordinary, villager, _] = three("near_applications_7d");
    assert!(ordinary <= Some(4.0) && villager >= Some(12.0));
    let [ordinary, villager, farmed] = three("near_overdue_share");
    assert!(ordinary < Some(0.3) && villager > Some(0.9));
    assert_eq!(farmed, None);
}

/// An account with income, the same for no months, and one that nobody knows.
fn affordable(project: &Project) {
    let answer = project.granary(&[
        "get",
        "--output",
        "json",
        "--features",
        "affordability.*,account_income.income_monthly",
        "--key",
        "customer_id=1,1,-1",
        "--key",
        "account_id=100000001,100000001,-1",
        "--input",
        "requested_amount=1200",
        "--input",
        "term_months=12,0,12",
    ]);
    let answer = answer.json();
    let three = |name: &str| -> [Option<f64>; 3] { feature(&answer, name) };
    let income = three("income_monthly")[0].unwrap();
    let of_income = |share: Option<f64>, amount: f64| {
        let paid = share.unwrap() * income;
        assert!((paid - amount).abs() < 1e-6, "{paid} for {amount}");
    };
    let [first, second, unknown] = three("loan_to_income");
    of_income(first, 1200.0);
    of_income(second, 1200.0);
    assert_eq!(unknown, None);
    assert_eq!(three("instalment_asked"), [Some(100.0), None, Some(100.0)]);
    let [first, second, unknown] = three("instalment_share");
    of_income(first, 100.0);
    assert_eq!((second, unknown), (None, None));
    assert_eq!(three("income_left")[1..], [None, None]);
}
