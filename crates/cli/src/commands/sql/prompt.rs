//! The interactive prompt: statements over several lines, with history.

use anyhow::anyhow;
use granary_catalog::describe::summaries;
use granary_model::Definitions;
use rustyline::completion::Completer;
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};

use super::Runner;
use crate::failure::with_causes;
use crate::{environment, output};

const HISTORY_ENTRIES: usize = 1000;
const HELP: &str = "\
Statements end with ; and may go over several lines.
  help    this text
  tables  what there is to query
  exit    leave (or Ctrl-D)
Ctrl-C stops a query, or drops the line.";

/// Asks for statements until there are no more.
pub(super) async fn run(runner: &Runner, definitions: &Definitions) -> anyhow::Result<()> {
    let config = Config::builder()
        .max_history_size(HISTORY_ENTRIES)?
        .auto_add_history(true)
        .build();
    let mut editor: Editor<Statements, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Statements));
    let history = environment::history_file();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    eprintln!("granary sql: statements end with ;, `help` for help, Ctrl-D to leave");
    loop {
        let line;
        (editor, line) = read_line(editor).await?;
        match line {
            Ok(line) => match line.trim().trim_end_matches(';').trim() {
                "" => {}
                "exit" | "quit" | "\\q" => break,
                "help" | "\\?" => output::print(HELP)?,
                "tables" | "\\d" => list_tables(definitions)?,
                statement => answer(runner, statement).await,
            },
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        eprintln!(
            "warning: cannot keep the history in {}: {error}",
            path.display()
        );
    }
    Ok(())
}

type Line = Result<String, ReadlineError>;

/// Reading a line blocks; the runtime goes on meanwhile.
async fn read_line(
    mut editor: Editor<Statements, DefaultHistory>,
) -> anyhow::Result<(Editor<Statements, DefaultHistory>, Line)> {
    let read = tokio::task::spawn_blocking(move || {
        let line = editor.readline("granary> ");
        (editor, line)
    });
    read.await.map_err(|e| anyhow!("the prompt failed: {e}"))
}

/// Runs a statement; an error is told and the prompt goes on. Ctrl-C stops it.
async fn answer(runner: &Runner, statement: &str) {
    tokio::select! {
        result = runner.run(statement) => {
            if let Err(error) = result {
                eprintln!("error: {}", with_causes(&error));
            }
        }
        _ = tokio::signal::ctrl_c() => eprintln!("stopped"),
    }
}

fn list_tables(definitions: &Definitions) -> anyhow::Result<()> {
    use granary_catalog::ObjectKind::{FeatureView, Table, View};
    let mut listed = output::table::table(["name", "kind", "comment"]);
    for object in summaries(definitions) {
        if matches!(object.kind, FeatureView | Table | View) {
            let comment = object.comment.unwrap_or_default();
            listed.add_row([object.name, object.kind.as_str().to_owned(), comment]);
        }
    }
    output::print(listed.to_string())?;
    Ok(())
}

/// Tells whether a statement is complete.
struct Statements;

impl Helper for Statements {}
impl Highlighter for Statements {}
impl Completer for Statements {
    type Candidate = String;
}
impl Hinter for Statements {
    type Hint = String;
}

impl Validator for Statements {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

/// A command of the prompt, nothing, or a text that ends with a `;` outside of
/// quotes and comments.
fn is_complete(input: &str) -> bool {
    let trimmed = input.trim();
    if matches!(trimmed, "" | "exit" | "quit" | "help" | "tables") || trimmed.starts_with('\\') {
        return true;
    }
    let mut rest = trimmed.chars().peekable();
    let mut ended = false;
    while let Some(c) = rest.next() {
        match c {
            ';' => ended = true,
            '\'' | '"' => {
                ended = false;
                if !rest.by_ref().any(|inner| inner == c) {
                    return false;
                }
            }
            '-' if rest.next_if_eq(&'-').is_some() => {
                let _ = rest.by_ref().find(|inner| *inner == '\n');
            }
            c if c.is_whitespace() => {}
            _ => ended = false,
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_a_semicolon_outside_of_quotes() {
        for (input, complete) in [
            ("", true),
            ("exit", true),
            ("SELECT 1", false),
            ("SELECT 1;", true),
            ("SELECT 1; ", true),
            ("SELECT ';", false),
            ("SELECT ';'", false),
            ("SELECT 'it''s';", true),
            ("SELECT 1 -- ;", false),
            ("SELECT 1; -- done", true),
            ("SELECT 1; SELECT", false),
            ("SELECT 1 -\n-1;", true),
        ] {
            assert_eq!(is_complete(input), complete, "{input:?}");
        }
    }
}
