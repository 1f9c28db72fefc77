//! Two at once: one wins, the other is told.

use std::process::Stdio;

use crate::project::Project;

#[test]
fn of_two_applies_at_once_one_wins() {
    let project = Project::small();
    // Both plan against the same snapshot only if they overlap: try until they do.
    for round in 0..20 {
        let sql = format!("COMMENT ON ENTITY customer IS 'round {round}';");
        project.write("sql/comment.sql", sql);
        let children: Vec<_> = (0..4)
            .map(|_| {
                let mut command = project.command(&["apply", "--yes"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let ended: Vec<_> = children
            .into_iter()
            .map(|c| c.wait_with_output().unwrap())
            .collect();
        let codes: Vec<i32> = ended.iter().map(|o| o.status.code().unwrap()).collect();
        assert!(codes.iter().all(|c| matches!(c, 0 | 4)), "{ended:?}");
        let applied = ended
            .iter()
            .filter(|o| String::from_utf8_lossy(&o.stdout).contains("Applied: the catalog"));
        assert_eq!(applied.count(), 1, "{ended:?}");
        if let Some(lost) = ended.iter().find(|o| o.status.code() == Some(4)) {
            let told = String::from_utf8_lossy(&lost.stderr);
            assert!(told.contains("plan again"), "{told}");
            return;
        }
    }
    panic!("no two applies overlapped in 20 rounds");
}

#[test]
fn materialisations_of_one_view_wait_or_are_refused() {
    let project = Project::small().applied();
    let run = |more: &[&str]| {
        let mut arguments = vec!["materialize", "customer_balance"];
        arguments.extend_from_slice(more);
        let mut command = project.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let waiting: Vec<_> = (0..3).map(|_| run(&["--wait"])).collect();
    for child in waiting {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
    let refused: Vec<_> = (0..3).map(|_| run(&[])).collect();
    for child in refused {
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        let is_refusal = ended.status.code() == Some(1) && told.contains("is being materialised");
        assert!(ended.status.success() || is_refusal, "{ended:?}");
    }
    let rows = project.query("SELECT customer_id, at FROM customer_balance");
    assert_eq!(rows.as_array().unwrap().len(), 4, "{rows}");
}
