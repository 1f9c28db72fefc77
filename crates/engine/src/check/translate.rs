//! DataFusion's errors in our words, each with the best place that can be found.

use datafusion::common::{Column, SchemaError, TableReference};
use datafusion::error::DataFusionError;
use granary_model::suggest::closest;
use granary_model::{Diagnostic, Span};

use super::query::Query;

/// Column names listed where none is near.
const NAMES_LISTED: usize = 12;

/// Says what is wrong with a query. `near`: the smallest part of it that is
/// known to be wrong, for errors without a place.
pub(super) fn translate(
    query: &Query<'_>,
    error: &DataFusionError,
    near: &Span,
) -> Vec<Diagnostic> {
    if let DataFusionError::Collection(errors) = error {
        return errors
            .iter()
            .flat_map(|error| translate(query, error, near))
            .collect();
    }
    let place = place_of(error).map(|span| {
        query.span_between(
            (span.start.line, span.start.column),
            (span.end.line, span.end.column),
        )
    });
    let root = root_of(error);
    let named = |name: &str| {
        place
            .clone()
            .or_else(|| query.text.find_name(name))
            .unwrap_or_else(|| near.clone())
    };
    let diagnostic = match root {
        DataFusionError::SchemaError(schema, _) => of_schema(schema, named),
        DataFusionError::SQL(parser, _) => of_parser(query, &parser.to_string()),
        other => of_text(&other.strip_backtrace(), named, place.as_ref(), near),
    };
    vec![diagnostic]
}

/// What a syntax error says, for text that did not parse into a [`Query`].
pub(super) fn syntax(
    text: &granary_model::statement::SqlText,
    error: &DataFusionError,
) -> Diagnostic {
    let message = match root_of(error) {
        DataFusionError::SQL(parser, _) => parser.to_string(),
        other => other.strip_backtrace(),
    };
    let (message, place) = split_place(&message);
    let span = match place {
        Some((line, column)) => text.span_between((line, column), (line, column + 1)),
        None if message.ends_with("EOF") => text.span_of(last_character(&text.text)),
        None => text.span.clone(),
    };
    Diagnostic::new(&span, expected(&clean(&message)))
}

fn last_character(text: &str) -> std::ops::Range<usize> {
    let start = text
        .char_indices()
        .next_back()
        .map_or(0, |(start, _)| start);
    start..text.len()
}

fn of_parser(query: &Query<'_>, text: &str) -> Diagnostic {
    let (message, place) = split_place(text);
    let span = match place {
        Some((line, column)) => query.span_between((line, column), (line, column + 1)),
        None => query.text.span.clone(),
    };
    Diagnostic::new(&span, expected(&clean(&message)))
}

/// sqlparser's `Expected: x, found: EOF`, less stiff.
fn expected(message: &str) -> String {
    message
        .replace("Expected: ", "expected ")
        .replace(", found: ", ", found ")
        .replace("found EOF", "found the end")
}

fn of_schema(error: &SchemaError, named: impl Fn(&str) -> Span) -> Diagnostic {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => no_column(field, valid_fields, named),
        SchemaError::AmbiguousReference { field } => {
            let message = format!("column {:?} stands in more than one table", field.name);
            Diagnostic::new(&named(&field.name), message).help(format!(
                "write table.{} with the table that is meant",
                field.name
            ))
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            Diagnostic::new(&named(name), format!("two columns are named {name:?}"))
                .help("give one of them another name with AS")
        }
    }
}

fn no_column(field: &Column, valid: &[Column], named: impl Fn(&str) -> Span) -> Diagnostic {
    let span = named(&field.name);
    let Some(relation) = &field.relation else {
        let names = valid.iter().map(Column::name);
        return Diagnostic::new(&span, format!("no column {:?} here", field.name))
            .help_if(instead(&field.name, names));
    };
    let of_relation = |column: &&Column| column.relation.as_ref() == Some(relation);
    if valid.iter().any(|column| of_relation(&column)) {
        let message = format!("{} has no column {:?}", relation.table(), field.name);
        let names = valid.iter().filter(of_relation).map(Column::name);
        return Diagnostic::new(&span, message).help_if(instead(&field.name, names));
    }
    let tables = valid.iter().filter_map(|column| column.relation.as_ref());
    let mut tables: Vec<&str> = tables.map(TableReference::table).collect();
    tables.sort_unstable();
    tables.dedup();
    let message = format!("no table or alias {:?} in FROM", relation.table());
    Diagnostic::new(&span, message).help_if(instead(relation.table(), tables.into_iter()))
}

/// What was probably meant, else what there is to choose from.
pub(super) fn instead<'a>(
    wrong: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for name in candidates {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let begun = |name: &&str| {
        let name = name.to_lowercase();
        name == wrong || name.starts_with(&format!("{wrong} "))
    };
    let begun = names.iter().copied().find(begun);
    if let Some(near) = begun.or_else(|| closest(wrong, names.iter().copied())) {
        let hint = if begun.is_some() && near != wrong {
            " (names with capitals or blanks need the double quotes)"
        } else {
            ""
        };
        return Some(format!("did you mean {near:?}?{hint}"));
    }
    match names.len() {
        0 => None,
        1 => Some(format!("there is only {}", names[0])),
        n if n <= NAMES_LISTED => Some(format!("there are {}", names.join(", "))),
        n => Some(format!(
            "there are {} and {} more",
            names[..NAMES_LISTED].join(", "),
            n - NAMES_LISTED
        )),
    }
}

/// Errors that DataFusion tells by text only.
fn of_text(
    text: &str,
    named: impl Fn(&str) -> Span,
    place: Option<&Span>,
    near: &Span,
) -> Diagnostic {
    let text = clean(text);
    let here = place.unwrap_or(near);
    if let Some(rest) = text.strip_prefix("Invalid function '") {
        let (name, rest) = rest.split_once('\'').unwrap_or((rest, ""));
        let error = Diagnostic::new(&named(name), format!("no function {name:?}"));
        let meant = rest.split('\'').nth(1);
        return error.help_if(meant.map(|meant| format!("did you mean {meant:?}?")));
    }
    if let Some(name) = between(&text, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(name);
        return Diagnostic::new(&named(name), format!("unknown table or view {name:?}"));
    }
    if text.contains("must appear in the GROUP BY clause") {
        let column = between(&text, "column \"", "\"").unwrap_or("a column");
        let name = column
            .rsplit('.')
            .next()
            .unwrap_or(column)
            .trim_matches('"');
        let message = format!("column {name:?} is neither grouped by nor inside an aggregate");
        let help = format!("add it to GROUP BY, or pick one value, as with max({name})");
        return Diagnostic::new(here, message).help(help);
    }
    if let Some(names) = between(
        &text,
        "Projections require unique expression names but the expression \"",
        "\" at position",
    ) {
        let name = names.rsplit(" AS ").next().unwrap_or(names);
        let name = name.rsplit('.').next().unwrap_or(name);
        return Diagnostic::new(&named(name), format!("two columns are named {name:?}"))
            .help("give one of them another name with AS");
    }
    of_types(&in_sql_words(&text), here)
}

/// Errors of types that do not go together.
fn of_types(text: &str, here: &Span) -> Diagnostic {
    let cast = "convert one side, as with CAST(.. AS BIGINT)";
    let operation = between(
        text,
        "Cannot coerce arithmetic expression ",
        " to valid types",
    )
    .or_else(|| text.strip_prefix("Cannot infer common argument type for comparison operation "))
    .or_else(|| {
        text.strip_prefix("Cannot infer common argument type for logical boolean operation ")
    });
    if let Some(operation) = operation {
        return Diagnostic::new(here, format!("there is no {operation}")).help(cast);
    }
    if let Some(call) = between(
        text,
        "No function matches the given name and argument types '",
        "'",
    ) {
        return Diagnostic::new(here, format!("there is no {call}"))
            .help("give it other arguments, or convert them, as with CAST(.. AS DOUBLE)");
    }
    if text.contains("queries have different number of columns") {
        return Diagnostic::new(
            here,
            "the parts of a UNION have different numbers of columns",
        )
        .help("select the same columns in each part");
    }
    Diagnostic::new(here, text)
}

/// The first telling line, without the layers that DataFusion wraps around it.
fn clean(text: &str) -> String {
    let line = text
        .lines()
        .rev()
        .find(|line| line.contains("Error") || line.contains("error:"))
        .or_else(|| text.lines().next())
        .unwrap_or(text);
    let mut line = if line.starts_with("Did you mean") {
        text
    } else {
        line
    };
    const LAYERS: [&str; 9] = [
        "Error during planning: ",
        "Execution error: ",
        "Schema error: ",
        "SQL error: ",
        "Arrow error: ",
        "External error: ",
        "This feature is not implemented: ",
        "Invalid or Unsupported Configuration: ",
        "sql parser error: ",
    ];
    while let Some(rest) = LAYERS.iter().find_map(|layer| line.strip_prefix(layer)) {
        line = rest;
    }
    if let Some(rest) = between(line, "ParserError(\"", "\")") {
        line = rest;
    }
    line.trim().trim_end_matches('.').to_owned()
}

/// Arrow's names of the common types as SQL has them.
fn in_sql_words(text: &str) -> String {
    const WORDS: [(&str, &str); 12] = [
        ("Utf8View", "VARCHAR"),
        ("LargeUtf8", "VARCHAR"),
        ("Utf8", "VARCHAR"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Int16", "SMALLINT"),
        ("Float64", "DOUBLE"),
        ("Float32", "REAL"),
        ("Decimal128", "DECIMAL"),
        ("Date32", "DATE"),
        ("Interval(MonthDayNano)", "INTERVAL"),
        ("BinaryView", "VARBINARY"),
    ];
    // Lists of candidate signatures tell nobody anything.
    let text = text.split("\n\tCandidate functions").next().unwrap_or(text);
    let text = text.split(" Candidate functions").next().unwrap_or(text);
    let mut text = text.replace("UInt64", "UNSIGNED BIGINT");
    for (arrow, sql) in WORDS {
        text = text.replace(arrow, sql);
    }
    for unit in ["s", "ms", "µs", "ns"] {
        for zone in ["", ", \"UTC\"", ", \"+00:00\""] {
            text = text.replace(&format!("Timestamp({unit}{zone})"), "TIMESTAMP");
        }
    }
    for unit in ["Second", "Millisecond", "Microsecond", "Nanosecond"] {
        text = text.replace(&format!("Timestamp({unit}, None)"), "TIMESTAMP");
    }
    text
}

/// `.. at Line: 3, Column: 7`, as sqlparser ends its messages.
fn split_place(text: &str) -> (String, Option<(u64, u64)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return (text.to_owned(), None);
    };
    let numbers = place.split_once(", Column: ").and_then(|(line, column)| {
        let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some((line.trim().parse().ok()?, digits.parse().ok()?))
    });
    (message.to_owned(), numbers)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The place that DataFusion gives, if any.
fn place_of(error: &DataFusionError) -> Option<datafusion::common::Span> {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            diagnostic.span.or_else(|| place_of(inner))
        }
        DataFusionError::Context(_, inner) => place_of(inner),
        DataFusionError::Shared(inner) => place_of(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(place_of),
        _ => None,
    }
}

fn root_of(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            root_of(inner)
        }
        DataFusionError::Shared(inner) => root_of(inner),
        other => other,
    }
}
