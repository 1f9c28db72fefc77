//! Fingerprints: which change of the files is a change of meaning.
//!
//! A text counts by its tokens, so that blanks, comments and the case of
//! keywords and unquoted names change nothing. An object's fingerprint holds
//! those of everything that it reads. Owner, comments, TTL and how a view is
//! served are no part of it.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use granary_model::definitions::{
    BoundView, Column, EventTime, KeySource, OnDemandView, SourceColumn,
};
use granary_model::fingerprint::Fingerprint;
use granary_model::{Definitions, FeatureView, ViewKind};

use super::Check;

/// Begins every hash: another form of it would be another number.
const FORM: &str = "granary fingerprint 1";

impl Check<'_> {
    pub(super) fn fingerprint(&mut self) {
        let mut done = BTreeMap::new();
        let names: Vec<String> = self.names.iter().map(|n| n.name.value.clone()).collect();
        for name in &names {
            of(&self.definitions, name, &mut done);
        }
        let all = &mut self.definitions;
        for (name, fingerprint) in done {
            let place = None
                .or(all.tables.get_mut(&name).map(|o| &mut o.fingerprint))
                .or(all.views.get_mut(&name).map(|o| &mut o.fingerprint))
                .or(all.streams.get_mut(&name).map(|o| &mut o.fingerprint))
                .or(all.feature_views.get_mut(&name).map(|o| &mut o.fingerprint))
                .or(all
                    .on_demand_views
                    .get_mut(&name)
                    .map(|o| &mut o.fingerprint));
            if let Some(place) = place {
                *place = fingerprint;
            }
        }
    }
}

/// The fingerprint of a name's object, made after those of what it reads.
/// There are no cycles by now, or there are errors and nobody will look at it.
fn of(all: &Definitions, name: &str, done: &mut BTreeMap<String, Fingerprint>) -> Fingerprint {
    if let Some(known) = done.get(name) {
        return known.clone();
    }
    done.insert(name.to_owned(), Fingerprint::default());
    let mut parts = vec![FORM.to_owned()];
    let mut reads: &[String] = &[];
    if let Some(table) = all.tables.get(name) {
        parts.push(normalised(&table.sql));
        parts.extend(table.columns.iter().map(source_column));
        parts.push(event_time(table.event_time.as_ref()));
    } else if let Some(view) = all.views.get(name) {
        parts.push(normalised(&view.sql));
        parts.push(event_time(view.event_time.as_ref()));
        reads = &view.depends_on;
    } else if let Some(stream) = all.streams.get(name) {
        parts.extend(stream.columns.iter().map(column));
        parts.push(stream.event_time.clone());
        parts.push(stream.deduplicate_by.join(","));
        parts.push(stream.then_by.join(","));
    } else if let Some(view) = all.feature_views.get(name) {
        parts.extend(feature_view(view));
        reads = &view.depends_on;
    } else if let Some(view) = all.on_demand_views.get(name) {
        parts.extend(on_demand_view(view));
        reads = &view.depends_on;
    }
    for read in reads {
        parts.push(of(all, read, done).0);
    }
    let fingerprint = Fingerprint::of(parts);
    done.insert(name.to_owned(), fingerprint.clone());
    fingerprint
}

fn feature_view(view: &FeatureView) -> Vec<String> {
    let mut parts = vec![
        normalised(&view.query),
        view.kind.as_str().to_owned(),
        format!("{:?}", view.event_time),
        format!("{:?}", view.created_time),
        format!("{:?}", view.max_events),
    ];
    if view.kind == ViewKind::Timestamped && !view.is_incremental() {
        parts.push("whole runs".to_owned());
    }
    for columns in [&view.keys, &view.then_by, &view.features] {
        parts.push(columns.len().to_string());
        parts.extend(columns.iter().map(column));
    }
    parts
}

fn on_demand_view(view: &OnDemandView) -> Vec<String> {
    let mut parts = vec![normalised(&view.select)];
    for columns in [&view.inputs, &view.features] {
        parts.push(columns.len().to_string());
        parts.extend(columns.iter().map(column));
    }
    for BoundView { alias, view, keys } in &view.from {
        parts.push(format!("{alias} {view} {}", keys.len()));
        parts.extend(keys.iter().map(|binding| {
            let source = match &binding.source {
                KeySource::Request(name) => format!("request {name}"),
                KeySource::Feature { alias, feature } => format!("feature {alias}.{feature}"),
                KeySource::Expression(sql) => format!("expression {}", normalised(sql)),
                KeySource::Each(sql) => format!("each {}", normalised(sql)),
            };
            format!("{} {source}", column(&binding.key))
        }));
    }
    parts
}

fn column(column: &Column) -> String {
    format!("{:?} {}", column.name, column.data_type)
}

fn source_column(column: &SourceColumn) -> String {
    format!("{:?} {}", column.name, column.data_type)
}

fn event_time(time: Option<&EventTime>) -> String {
    match time {
        Some(time) => format!("{:?} {:?}", time.event_time, time.created_time),
        None => "none".to_owned(),
    }
}

/// The tokens of a text, each on a line; words without quotes in lower case.
fn normalised(sql: &str) -> String {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return sql.to_owned();
    };
    let mut text = String::with_capacity(sql.len());
    for token in tokens {
        match token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::Word(word) if word.quote_style.is_none() => {
                text.push_str(&word.value.to_ascii_lowercase());
            }
            other => text.push_str(&other.to_string()),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::normalised;

    #[test]
    fn only_tokens_count() {
        let plain = normalised("SELECT a, \"B\" FROM t WHERE x = 'It''s' -- why\n");
        assert_eq!(
            plain,
            normalised("select A ,\n\t\"B\" from T /* here */ where x='It''s'")
        );
        assert_ne!(
            plain,
            normalised("SELECT a, \"b\" FROM t WHERE x = 'It''s'")
        );
        assert_ne!(
            plain,
            normalised("SELECT a, \"B\" FROM t WHERE x = 'it''s'")
        );
        assert_ne!(normalised("a b"), normalised("ab"));
    }
}
