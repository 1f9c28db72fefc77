//! What differs between two states of the definitions, and what that costs.
//!
//! One function a sort of object. It knows which versions a view had, and
//! nothing of what has been materialised.

mod words;

use std::collections::BTreeMap;

use granary_model::definitions::{
    Definitions, Entity, ExternalTable, FeatureService, FeatureView, Grant, OnDemandView,
    PlainView, ServeMode, Stream,
};
use granary_model::fingerprint::Fingerprint;

use crate::plan::{Change, ChangeAction, ObjectKind};
use words::Words;

const NEEDS_BACKFILL: &str = "needs a backfill";
const NOTHING_TO_COMPUTE: &str = "nothing to compute";
const LIVE: &str = "live, nothing to materialise";
const AT_REQUEST_TIME: &str = "computed at request time, nothing to materialise";

/// Whether the catalog had a version of a view before.
pub(crate) type Known<'a> = &'a dyn Fn(&str, u32) -> bool;

/// All changes, in the order of [`Plan::changes`](crate::Plan).
pub(crate) fn changes(before: &Definitions, after: &Definitions, known: Known<'_>) -> Vec<Change> {
    use ObjectKind as Kind;
    let sources = ChangedSources::between(before, after);
    let mut all = Vec::new();
    compare(
        &mut all,
        Kind::Entity,
        &before.entities,
        &after.entities,
        entity,
    );
    compare(&mut all, Kind::Table, &before.tables, &after.tables, table);
    compare(
        &mut all,
        Kind::View,
        &before.views,
        &after.views,
        |old, new| plain_view(old, new, &sources),
    );
    compare(
        &mut all,
        Kind::Stream,
        &before.streams,
        &after.streams,
        stream,
    );
    compare(
        &mut all,
        Kind::FeatureView,
        &before.feature_views,
        &after.feature_views,
        |old, new| feature_view(old, new, &sources, known),
    );
    compare(
        &mut all,
        Kind::OnDemandView,
        &before.on_demand_views,
        &after.on_demand_views,
        |old, new| on_demand_view(old, new, &sources),
    );
    compare(
        &mut all,
        Kind::FeatureService,
        &before.services,
        &after.services,
        service,
    );
    let granted = after.grants.difference(&before.grants);
    all.extend(granted.map(|g| grant(g, ChangeAction::Create, "READ granted to role")));
    let revoked = before.grants.difference(&after.grants);
    all.extend(revoked.map(|g| grant(g, ChangeAction::Drop, "READ revoked from role")));
    order(&mut all);
    all
}

/// What is built on is made first; what builds on it is dropped first.
fn order(changes: &mut [Change]) {
    changes.sort_by(|a, b| {
        let dropped = |c: &Change| c.action == ChangeAction::Drop;
        let kinds = match dropped(a) {
            true => b.object.cmp(&a.object),
            false => a.object.cmp(&b.object),
        };
        dropped(a)
            .cmp(&dropped(b))
            .then(kinds)
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.details.cmp(&b.details))
    });
}

/// What a comparison found of one object.
struct Found {
    action: ChangeAction,
    details: Vec<String>,
    version: Option<u32>,
    cost: Option<String>,
}

impl From<Words> for Found {
    fn from(words: Words) -> Self {
        Self {
            action: ChangeAction::Alter,
            details: words.0,
            version: None,
            cost: None,
        }
    }
}

impl Found {
    fn created(detail: String) -> Self {
        Self {
            action: ChangeAction::Create,
            details: vec![detail],
            version: None,
            cost: None,
        }
    }
}

/// Compares the objects of one sort; `find` gets the old one, where there was
/// one, and the new one.
fn compare<T: PartialEq>(
    all: &mut Vec<Change>,
    object: ObjectKind,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    find: impl Fn(Option<&T>, &T) -> Found,
) {
    for (name, new) in after {
        let old = before.get(name);
        if old == Some(new) {
            continue;
        }
        let mut found = find(old, new);
        if found.details.is_empty() {
            found.details.push("definition changed".into());
        }
        all.push(Change {
            action: found.action,
            object,
            name: name.clone(),
            details: found.details,
            version: found.version,
            cost: found.cost,
        });
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        all.push(Change {
            action: ChangeAction::Drop,
            object,
            name: name.clone(),
            details: vec![format!("{} dropped", object.as_str())],
            version: None,
            cost: None,
        });
    }
}

/// The sources and views whose meaning is not what it was.
struct ChangedSources<'a> {
    before: BTreeMap<&'a str, &'a Fingerprint>,
    after: BTreeMap<&'a str, &'a Fingerprint>,
}

impl<'a> ChangedSources<'a> {
    fn between(before: &'a Definitions, after: &'a Definitions) -> Self {
        Self {
            before: fingerprints(before),
            after: fingerprints(after),
        }
    }

    /// Of the names read, those that were there before and are others now.
    fn among<'n>(&'n self, names: &'n [String]) -> impl Iterator<Item = &'n String> {
        names.iter().filter(|name| {
            let old = self.before.get(name.as_str());
            let new = self.after.get(name.as_str());
            matches!((old, new), (Some(old), Some(new)) if old != new)
        })
    }
}

fn fingerprints(of: &Definitions) -> BTreeMap<&str, &Fingerprint> {
    let tables = of
        .tables
        .values()
        .map(|t| (t.name.as_str(), &t.fingerprint));
    let views = of.views.values().map(|v| (v.name.as_str(), &v.fingerprint));
    let streams = of
        .streams
        .values()
        .map(|s| (s.name.as_str(), &s.fingerprint));
    let features = of
        .feature_views
        .values()
        .map(|v| (v.name.as_str(), &v.fingerprint));
    let on_demand = of
        .on_demand_views
        .values()
        .map(|v| (v.name.as_str(), &v.fingerprint));
    tables
        .chain(views)
        .chain(streams)
        .chain(features)
        .chain(on_demand)
        .collect()
}

fn entity(old: Option<&Entity>, new: &Entity) -> Found {
    let Some(old) = old else {
        return Found::created(format!("new entity ({})", words::columns(&new.keys)));
    };
    let mut words = Words::default();
    if old.keys != new.keys {
        words.changed("keys", words::columns(&old.keys), words::columns(&new.keys));
    }
    words.annotations(&old.annotations, &new.annotations);
    words.into()
}

fn table(old: Option<&ExternalTable>, new: &ExternalTable) -> Found {
    let Some(old) = old else {
        return Found::created(format!("new table ({} columns)", new.columns.len()));
    };
    let mut words = Words::default();
    words.text("statement", &old.sql, &new.sql);
    words.source_columns(&old.columns, &new.columns);
    words.event_time(old.event_time.as_ref(), new.event_time.as_ref());
    words.annotations(&old.annotations, &new.annotations);
    words.into()
}

fn plain_view(old: Option<&PlainView>, new: &PlainView, sources: &ChangedSources<'_>) -> Found {
    let Some(old) = old else {
        return Found::created(format!("new view ({} columns)", new.columns.len()));
    };
    let mut words = Words::default();
    words.text("query", &old.sql, &new.sql);
    words.source_columns(&old.columns, &new.columns);
    words.event_time(old.event_time.as_ref(), new.event_time.as_ref());
    words.reads_changed(sources.among(&new.depends_on));
    words.annotations(&old.annotations, &new.annotations);
    words.into()
}

fn stream(old: Option<&Stream>, new: &Stream) -> Found {
    let Some(old) = old else {
        return Found::created(format!("new stream ({} columns)", new.columns.len()));
    };
    let mut words = Words::default();
    words.columns("column", &old.columns, &new.columns);
    words.value("event time", Some(&old.event_time), Some(&new.event_time));
    words.names("DEDUPLICATE BY", &old.deduplicate_by, &new.deduplicate_by);
    words.names("THEN BY", &old.then_by, &new.then_by);
    words.value("HISTORY", old.history.as_ref(), new.history.as_ref());
    words.annotations(&old.annotations, &new.annotations);
    words.into()
}

fn feature_view(
    old: Option<&FeatureView>,
    new: &FeatureView,
    sources: &ChangedSources<'_>,
    known: Known<'_>,
) -> Found {
    let Some(old) = old else {
        let mut found = Found::created(format!(
            "new feature view ({} on {}, {})",
            new.kind.as_str(),
            new.entities.join(", "),
            words::count(new.features.len(), "feature"),
        ));
        found.version = Some(new.version);
        found.cost = Some(computing(new, known));
        return found;
    };
    let words = feature_view_words(old, new, sources);
    let replaced = old.fingerprint != new.fingerprint || old.kind != new.kind;
    let stored =
        |view: &FeatureView| !view.is_live() && !matches!(view.serve, ServeMode::Query { .. });
    let (stored_before, stored_now) = (stored(old), stored(new));
    let cost = match replaced {
        true => computing(new, known),
        false if stored_now && !stored_before => NEEDS_BACKFILL.into(),
        false if refills_online(old, new) => {
            "the next materialisation fills the online store".into()
        }
        false => NOTHING_TO_COMPUTE.into(),
    };
    Found {
        action: match replaced {
            true => ChangeAction::Replace,
            false => ChangeAction::Alter,
        },
        version: Some(new.version),
        cost: Some(cost),
        ..words.into()
    }
}

/// Whether rows that are not online now have to be brought there: the view was
/// not served from there, or its rows may live longer.
fn refills_online(old: &FeatureView, new: &FeatureView) -> bool {
    let shorter_before = match (old.ttl, new.ttl) {
        (Some(_), None) => true,
        (Some(old), Some(new)) => {
            let epoch = granary_model::UtcMicros::default();
            new.after(epoch) > old.after(epoch)
        }
        (None, _) => false,
    };
    new.serve == ServeMode::Online && (old.serve != ServeMode::Online || shorter_before)
}

/// What a version of a view costs that the catalog did not have just now.
fn computing(view: &FeatureView, known: Known<'_>) -> String {
    match view.serve {
        _ if view.is_live() => LIVE.into(),
        ServeMode::Query { .. } => AT_REQUEST_TIME.into(),
        _ if known(&view.name, view.version) => format!(
            "back to version {}: what it has materialised stays good, catch-up only",
            view.version
        ),
        _ => NEEDS_BACKFILL.into(),
    }
}

fn feature_view_words(old: &FeatureView, new: &FeatureView, sources: &ChangedSources<'_>) -> Words {
    let mut words = Words::default();
    words.text("query", &old.query, &new.query);
    if old.kind != new.kind {
        words.changed("kind", old.kind.as_str(), new.kind.as_str());
    }
    if old.entities != new.entities {
        words.changed("entity", old.entities.join(", "), new.entities.join(", "));
    }
    if old.keys != new.keys {
        words.changed("keys", words::columns(&old.keys), words::columns(&new.keys));
    }
    words.value(
        "event time",
        old.event_time.as_ref(),
        new.event_time.as_ref(),
    );
    words.value(
        "created time",
        old.created_time.as_ref(),
        new.created_time.as_ref(),
    );
    words.columns("THEN BY column", &old.then_by, &new.then_by);
    words.columns("feature", &old.features, &new.features);
    words.reads_changed(sources.among(&new.depends_on));
    words.value("TTL", old.ttl.as_ref(), new.ttl.as_ref());
    words.value(
        "MAX EVENTS",
        old.max_events.as_ref(),
        new.max_events.as_ref(),
    );
    words.value(
        "REFRESH EVERY",
        old.refresh_every.as_ref(),
        new.refresh_every.as_ref(),
    );
    if old.serve != new.serve {
        words.changed("SERVE", words::serve(old.serve), words::serve(new.serve));
    }
    words.annotations(&old.annotations, &new.annotations);
    words
}

fn on_demand_view(
    old: Option<&OnDemandView>,
    new: &OnDemandView,
    sources: &ChangedSources<'_>,
) -> Found {
    let found = match old {
        None => Found::created(format!(
            "new on-demand feature view ({})",
            words::count(new.features.len(), "feature")
        )),
        Some(old) => {
            let mut words = Words::default();
            words.text("query", &old.select, &new.select);
            words.columns("input", &old.inputs, &new.inputs);
            words.bindings(&old.from, &new.from);
            words.columns("feature", &old.features, &new.features);
            words.reads_changed(sources.among(&new.depends_on));
            words.annotations(&old.annotations, &new.annotations);
            Found {
                action: match old.fingerprint == new.fingerprint {
                    true => ChangeAction::Alter,
                    false => ChangeAction::Replace,
                },
                ..words.into()
            }
        }
    };
    Found {
        version: Some(new.version),
        cost: Some(NOTHING_TO_COMPUTE.into()),
        ..found
    }
}

fn service(old: Option<&FeatureService>, new: &FeatureService) -> Found {
    let Some(old) = old else {
        let features = words::count(new.features.len(), "feature");
        let mut found = Found::created(format!("new feature service ({features})"));
        let bound = new.from.iter().filter(|b| words::is_bound_to_features(b));
        found
            .details
            .extend(bound.map(|b| format!("reads {}", words::reading(b))));
        return found;
    };
    let mut words = Words::default();
    words.service_features(&old.features, &new.features);
    words.bindings(&old.from, &new.from);
    words.annotations(&old.annotations, &new.annotations);
    words.into()
}

fn grant(grant: &Grant, action: ChangeAction, what: &str) -> Change {
    Change {
        action,
        object: ObjectKind::Grant,
        name: grant.object.clone(),
        details: vec![format!("{what} {}", grant.role)],
        version: None,
        cost: None,
    }
}
