//! A server that reads a message log into a stream.

#[cfg(feature = "nats")]
mod nats;

use crate::project::Project;

const STREAM: &str = "\
CREATE STREAM card_event (event_id VARCHAR, amount DOUBLE, at TIMESTAMP) EVENT TIME at;
";

fn project(consume: &str) -> Project {
    let project = Project::empty();
    project.write("granary.toml", consume);
    project.write("sql/streams.sql", STREAM);
    project.applied()
}

fn cards(url: &str) -> String {
    format!(
        "[[streams.consume]]\nstream = 'card_event'\nconsumer = 'cards'\nurl = '{url}'\n\
         jetstream = 'CARDS'\nformat = 'json'\nbatch_messages_max = 7\nretry_millis_max = 200\n"
    )
}

#[test]
fn two_consumers_of_one_position_are_refused() {
    let twice = cards("nats://127.0.0.1:1").repeat(2);
    let run = project(&twice).granary(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    assert_ne!(run.code, 0);
    let expected = match cfg!(feature = "nats") {
        true => "stream card_event has two consumers cards",
        false => "build it with `--features nats`",
    };
    assert!(run.stderr.contains(expected), "{}", run.stderr);
}
