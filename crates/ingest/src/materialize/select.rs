//! Which views a materialisation is about, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use granary_model::definitions::{Definitions, FeatureView, ServeMode};
use granary_model::suggest::did_you_mean;

use crate::error::IngestError;

/// The views asked for, dependencies first and by name within; all that can be
/// materialised where none is named. A named view that cannot be is an error.
pub fn select<'a>(
    definitions: &'a Definitions,
    names: &[String],
) -> Result<Vec<&'a FeatureView>, IngestError> {
    let chosen: BTreeMap<&str, &FeatureView> = if names.is_empty() {
        let all = definitions.feature_views.values();
        all.filter(|view| why_not(view).is_none())
            .map(|view| (view.name.as_str(), view))
            .collect()
    } else {
        let found = names.iter().map(|name| named(definitions, name));
        found.collect::<Result<_, _>>()?
    };
    Ok(in_order(definitions, &chosen))
}

/// Why a view is never materialised; `None` if it is.
pub fn why_not(view: &FeatureView) -> Option<&'static str> {
    match view.serve {
        _ if view.is_live() => Some("it is live: answered from the events of its streams"),
        ServeMode::Query { .. } => {
            Some("it is computed at request time (SERVE QUERY), there is nothing to materialise")
        }
        ServeMode::Online | ServeMode::Offline => None,
    }
}

fn named<'a>(
    definitions: &'a Definitions,
    name: &str,
) -> Result<(&'a str, &'a FeatureView), IngestError> {
    if let Some(view) = definitions.feature_views.get(name) {
        return match why_not(view) {
            None => Ok((view.name.as_str(), view)),
            Some(reason) => Err(IngestError::Refused(format!("{name}: {reason}"))),
        };
    }
    let another = |what: &str| {
        Err(IngestError::Refused(format!(
            "{name} is {what}, not a feature view"
        )))
    };
    if definitions.on_demand_views.contains_key(name) {
        return another("an on-demand feature view: computed in the request");
    }
    if definitions.services.contains_key(name) {
        return another("a feature service");
    }
    if definitions.tables.contains_key(name) || definitions.views.contains_key(name) {
        return another("a source");
    }
    let known = definitions.feature_views.keys().map(String::as_str);
    Err(IngestError::UnknownView {
        name: name.to_owned(),
        suggestion: did_you_mean(name, known),
    })
}

/// Whoever is read stands before whoever reads it, over views in between that
/// are not chosen too.
fn in_order<'a>(
    definitions: &'a Definitions,
    chosen: &BTreeMap<&str, &'a FeatureView>,
) -> Vec<&'a FeatureView> {
    fn visit<'a>(
        definitions: &'a Definitions,
        view: &'a FeatureView,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a FeatureView>,
    ) {
        if seen.insert(&view.name) {
            for name in definitions.runs_read(view) {
                visit(definitions, &definitions.feature_views[name], seen, order);
            }
            order.push(view);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for view in chosen.values() {
        visit(definitions, view, &mut seen, &mut order);
    }
    order.retain(|view| chosen.contains_key(view.name.as_str()));
    order
}
