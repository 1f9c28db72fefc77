//! Which views' online rows are laid together: those that a read asks for under
//! the same keys. Whether it is worth it the store knows.

use granary_model::FeatureType;
use granary_model::definitions::{Definitions, ServeMode};

use super::Sink;
use crate::materialize::why_not;

/// Views and their versions.
type Views = Vec<(String, u32)>;

impl Sink {
    /// Has the rows of all views that are online laid together, entity by entity.
    /// Reads do without, so a failure is a warning.
    pub(crate) async fn bundle(&self, definitions: &Definitions) {
        for views in keyed_alike(definitions) {
            if let Err(error) = self.store.bundle(&views).await {
                tracing::warn!(?views, %error, "online rows are not bundled");
            }
        }
    }
}

/// Views that are served online, those of the same key columns together; of one
/// alone nothing is said.
fn keyed_alike(definitions: &Definitions) -> Vec<Views> {
    let mut found: Vec<(Vec<(&str, &FeatureType)>, Views)> = Vec::new();
    let all = definitions.feature_views.values();
    for view in all.filter(|v| v.serve == ServeMode::Online && why_not(v).is_none()) {
        let keys = view.keys.iter().map(|key| (&*key.name, &key.data_type));
        let keys: Vec<_> = keys.collect();
        let named = (view.name.clone(), view.version);
        match found.iter_mut().find(|(known, _)| *known == keys) {
            Some((_, views)) => views.push(named),
            None => found.push((keys, vec![named])),
        }
    }
    let views = found.into_iter().map(|(_, views)| views);
    views.filter(|views| views.len() >= 2).collect()
}
