//! Differences of single properties, put into words.

use std::collections::BTreeSet;
use std::fmt::Display;

use granary_model::definitions::{
    Annotations, BoundView, Column, EventTime, KeySource, ServeMode, ServiceFeature, SourceColumn,
};

/// What differs, one item a property.
#[derive(Debug, Default)]
pub(super) struct Words(pub Vec<String>);

impl Words {
    pub(super) fn changed(&mut self, what: &str, old: impl Display, new: impl Display) {
        self.0.push(format!("{what} {old} -> {new}"));
    }

    /// A property that may be absent.
    pub(super) fn value<T: PartialEq + Display>(
        &mut self,
        what: &str,
        old: Option<&T>,
        new: Option<&T>,
    ) {
        match (old, new) {
            (Some(old), Some(new)) if old != new => self.changed(what, old, new),
            (None, Some(new)) => self.0.push(format!("{what} {new} added")),
            (Some(old), None) => self.0.push(format!("{what} {old} removed")),
            _ => {}
        }
    }

    /// SQL: too long to quote.
    pub(super) fn text(&mut self, what: &str, old: &str, new: &str) {
        if old != new {
            let same = old.split_whitespace().eq(new.split_whitespace());
            let how = if same { "laid out anew" } else { "changed" };
            self.0.push(format!("{what} {how}"));
        }
    }

    pub(super) fn names(&mut self, what: &str, old: &[String], new: &[String]) {
        if old != new {
            self.changed(
                what,
                format!("({})", old.join(", ")),
                format!("({})", new.join(", ")),
            );
        }
    }

    pub(super) fn columns(&mut self, what: &str, old: &[Column], new: &[Column]) {
        let describe = |c: &Column| (c.name.clone(), c.data_type.to_string(), c.comment.clone());
        let old: Vec<_> = old.iter().map(describe).collect();
        let new: Vec<_> = new.iter().map(describe).collect();
        self.typed_names(what, &old, &new);
    }

    pub(super) fn source_columns(&mut self, old: &[SourceColumn], new: &[SourceColumn]) {
        let describe = |c: &SourceColumn| (c.name.clone(), c.data_type.clone(), c.comment.clone());
        let old: Vec<_> = old.iter().map(describe).collect();
        let new: Vec<_> = new.iter().map(describe).collect();
        self.typed_names("column", &old, &new);
    }

    /// Name, type and comment of each column.
    fn typed_names(
        &mut self,
        what: &str,
        old: &[(String, String, Option<String>)],
        new: &[(String, String, Option<String>)],
    ) {
        for (name, data_type, comment) in new {
            match old.iter().find(|(n, ..)| n == name) {
                None => self.0.push(format!("{what} {name} added")),
                Some((_, was, _)) if was != data_type => {
                    self.changed(&format!("{what} {name}"), was, data_type);
                }
                Some((.., was)) if was != comment => {
                    self.0.push(format!("{what} {name}: comment changed"));
                }
                Some(_) => {}
            }
        }
        let names = |of: &[(String, String, Option<String>)]| -> Vec<String> {
            of.iter().map(|(name, ..)| name.clone()).collect()
        };
        self.removed_or_reordered(what, &names(old), &names(new));
    }

    fn removed_or_reordered(&mut self, what: &str, old: &[String], new: &[String]) {
        let gone: Vec<_> = old.iter().filter(|name| !new.contains(name)).collect();
        for name in &gone {
            self.0.push(format!("{what} {name} removed"));
        }
        let kept_before = old.iter().filter(|name| new.contains(name));
        let kept_now = new.iter().filter(|name| old.contains(name));
        if !kept_before.eq(kept_now) {
            self.0.push(format!("{what}s in another order"));
        }
    }

    pub(super) fn event_time(&mut self, old: Option<&EventTime>, new: Option<&EventTime>) {
        self.value(
            "event time",
            old.map(|e| &e.event_time),
            new.map(|e| &e.event_time),
        );
        self.value(
            "created time",
            old.and_then(|e| e.created_time.as_ref()),
            new.and_then(|e| e.created_time.as_ref()),
        );
    }

    pub(super) fn reads_changed<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        self.0
            .extend(names.map(|name| format!("reads changed {name}")));
    }

    pub(super) fn bindings(&mut self, old: &[BoundView], new: &[BoundView]) {
        let words = |b: &BoundView| format!("{} AS {} KEY ({})", b.view, b.alias, sources(b));
        for b in new {
            match old.iter().find(|o| o.alias == b.alias) {
                None => self.0.push(format!("reads {} added", reading(b))),
                Some(o) if o != b => self.changed("reads", words(o), words(b)),
                Some(_) => {}
            }
        }
        for b in old
            .iter()
            .filter(|b| new.iter().all(|n| n.alias != b.alias))
        {
            self.0.push(format!("reads {} removed", reading(b)));
        }
    }

    pub(super) fn service_features(&mut self, old: &[ServiceFeature], new: &[ServiceFeature]) {
        let source = |f: &ServiceFeature| match &f.aggregate {
            Some(aggregate) => aggregate.sql.clone(),
            None => format!("{}.{}", f.view_alias, f.feature),
        };
        for f in new {
            match old.iter().find(|o| o.name == f.name) {
                None => self.0.push(format!("feature {} added", f.name)),
                Some(o) if o != f => {
                    self.changed(&format!("feature {}", f.name), source(o), source(f));
                }
                Some(_) => {}
            }
        }
        let names =
            |of: &[ServiceFeature]| -> Vec<String> { of.iter().map(|f| f.name.clone()).collect() };
        self.removed_or_reordered("feature", &names(old), &names(new));
    }

    pub(super) fn annotations(&mut self, old: &Annotations, new: &Annotations) {
        self.value("owner", old.owner.as_ref(), new.owner.as_ref());
        if old.comment != new.comment {
            self.0.push("comment changed".into());
        }
        let keys: BTreeSet<_> = old.tags.keys().chain(new.tags.keys()).collect();
        for key in keys {
            self.value(&format!("tag {key}"), old.tags.get(key), new.tags.get(key));
        }
    }
}

/// `customer_id BIGINT, at TIMESTAMP`
pub(super) fn columns(columns: &[Column]) -> String {
    let parts: Vec<String> = columns
        .iter()
        .map(|c| format!("{} {}", c.name, c.data_type))
        .collect();
    parts.join(", ")
}

/// `1 feature`, `5 features`
pub(super) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

pub(super) fn serve(mode: ServeMode) -> String {
    match mode {
        ServeMode::Online => "ONLINE".into(),
        ServeMode::Offline => "OFFLINE".into(),
        ServeMode::Query { cache_for: None } => "QUERY".into(),
        ServeMode::Query {
            cache_for: Some(interval),
        } => format!("QUERY CACHE FOR {interval}"),
    }
}

/// Whether a key does not come from the request as it is.
pub(super) fn is_bound_to_features(bound: &BoundView) -> bool {
    let mut keys = bound.keys.iter();
    keys.any(|key| !matches!(key.source, KeySource::Request(_)))
}

/// `device_risk`, `customer_spend AS guarantor`, with keys that do not come from the request.
pub(super) fn reading(bound: &BoundView) -> String {
    let mut words = bound.view.clone();
    if bound.alias != bound.view {
        words += &format!(" AS {}", bound.alias);
    }
    if is_bound_to_features(bound) {
        words += &format!(" KEY ({})", sources(bound));
    }
    words
}

fn sources(bound: &BoundView) -> String {
    let parts: Vec<String> = bound
        .keys
        .iter()
        .map(|k| {
            let source = match &k.source {
                KeySource::Request(name) => name.clone(),
                KeySource::Feature { alias, feature } => format!("{alias}.{feature}"),
                KeySource::Expression(sql) => sql.clone(),
                KeySource::Each(sql) => format!("EACH {sql}"),
            };
            format!("{} => {source}", k.key.name)
        })
        .collect();
    parts.join(", ")
}
