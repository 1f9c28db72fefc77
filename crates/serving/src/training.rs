//! What a training set is made of: a service, or a list of features, of the
//! newest snapshot, and whether a caller may have it.
//!
//! Nothing need be materialised or published: a training set is computed from
//! the sources.

use std::collections::BTreeMap;

use granary_catalog::Snapshot;
use granary_engine::training::WithoutRun;
use granary_model::definitions::{BoundView, Definitions, ServiceFeature};
use granary_model::{Caller, Interval, UtcMicros, did_you_mean};

use crate::error::ServingError;
use crate::plan::list_as_service;
use crate::read::ReadTarget;
use crate::reader::{Reader, check_grants, within};

/// The views and features of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub from: Vec<BoundView>,
    pub features: Vec<ServiceFeature>,
}

/// What a target names. Two features of one short name are refused unless
/// their full names are asked for.
pub fn select(
    snapshot: &Snapshot,
    target: &ReadTarget,
    full_names: bool,
) -> Result<Selected, ServingError> {
    let selected = match target {
        ReadTarget::Service(name) => {
            let services = &snapshot.definitions.services;
            let service = services.get(name).ok_or_else(|| ServingError::Unknown {
                what: "feature service",
                name: name.clone(),
                suggestion: did_you_mean(name, services.keys().map(String::as_str)),
            })?;
            Selected {
                from: service.from.clone(),
                features: service.features.clone(),
            }
        }
        ReadTarget::Features(list) if list.is_empty() => {
            let message = "name a feature service, or at least one feature as view.feature";
            return Err(ServingError::Invalid(message.to_owned()));
        }
        ReadTarget::Features(list) => {
            let (from, features) = list_as_service(snapshot, list)?;
            Selected { from, features }
        }
    };
    match clash(&selected.features) {
        Some(clash) if !full_names => Err(ServingError::Invalid(format!(
            "{clash}: ask for full names (--full-names, view__feature)"
        ))),
        _ => Ok(selected),
    }
}

/// What two features of one short name are, in words.
fn clash(features: &[ServiceFeature]) -> Option<String> {
    let mut seen: BTreeMap<&str, &ServiceFeature> = BTreeMap::new();
    features.iter().find_map(|feature| {
        let other = seen.insert(&feature.name, feature)?;
        Some(format!(
            "{} and {} are both named {}",
            other.full_name(),
            feature.full_name(),
            feature.name
        ))
    })
}

/// More runs than this are not what somebody wants who has a row of long ago.
const BACKFILL_RUNS_MAX: i64 = 10_000;

/// The command that makes the runs that rows of a training set had none of:
/// from the multiple of the view's interval before the first such row on. Empty
/// where no run that is made now would do, or too many had to be made.
pub fn backfill(definitions: &Definitions, without: &WithoutRun) -> String {
    let view = definitions.feature_views.get(&without.view);
    let every = view
        .and_then(|view| view.refresh_every)
        .unwrap_or(Interval {
            days: 1,
            ..Interval::ZERO
        });
    let span = without.to.0.saturating_sub(without.from.0);
    if !without.fillable || span / every.after(UtcMicros(0)).0.max(1) > BACKFILL_RUNS_MAX {
        return String::new();
    }
    let from = every.newest_multiple(without.from).unwrap_or(without.from);
    let now = match view.is_some_and(|view| !view.current_state.is_empty()) {
        true => " --current-state",
        false => "",
    };
    let (view, to) = (&without.view, without.to);
    let next = every.newest_multiple(to).unwrap_or(to);
    if next == from {
        return format!("granary materialize {view} --as-of {from}{now}");
    }
    format!("granary materialize {view} --from {from} --to {to} --every '{every}'{now}")
}

impl Reader {
    /// [`select`] for a caller, within the bounds and grants of reads.
    pub fn select(
        &self,
        snapshot: &Snapshot,
        caller: &Caller,
        target: &ReadTarget,
        full_names: bool,
    ) -> Result<Selected, ServingError> {
        if let ReadTarget::Features(list) = target {
            let bound = self.settings().request_features_max;
            within("the number of features", list.len(), bound)?;
        }
        if self.settings().enforce_grants {
            check_grants(snapshot, caller, target)?;
        }
        let selected = select(snapshot, target, full_names)?;
        let bound = self.settings().request_features_max;
        within("the number of features", selected.features.len(), bound)?;
        Ok(selected)
    }
}

#[cfg(test)]
mod tests {
    use granary_catalog::Plan;
    use granary_testing::memory::*;

    use super::*;

    async fn snapshot() -> std::sync::Arc<Snapshot> {
        let (account, profile) = (account("1"), profile());
        let from = vec![bound("a", &account, &[]), bound("b", &profile, &[])];
        let named = [("x", "a", "balance"), ("y", "b", "balance")];
        let both = service("both", from, &named);
        let definitions = definitions(&[account, profile], &[both]);
        assert!(!Plan::new(None, definitions.clone()).is_empty());
        MemoryProject::new().commit(definitions).await
    }

    fn list(list: &[&str]) -> ReadTarget {
        ReadTarget::Features(list.iter().map(|f| (*f).to_owned()).collect())
    }

    #[tokio::test]
    async fn a_list_and_a_service_select_alike() {
        let snapshot = snapshot().await;
        let service = select(&snapshot, &ReadTarget::Service("both".into()), false).unwrap();
        let names = |s: &Selected| {
            s.features
                .iter()
                .map(|f| f.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&service), ["x", "y"]);
        let listed = select(&snapshot, &list(&["profile.*", "account.balance"]), true).unwrap();
        assert_eq!(names(&listed), ["segment", "balance", "balance"]);
        assert_eq!(listed.from.len(), 2);
    }

    #[test]
    fn a_backfill_begins_before_the_first_row() {
        let mut daily = profile();
        daily.refresh_every = None;
        let mut weekly = account("1");
        weekly.refresh_every = Some(days(7));
        weekly.current_state = vec!["cities".into()];
        let definitions = definitions(&[daily, weekly], &[]);
        let without = |view: &str, from: &str, to: &str| WithoutRun {
            view: view.into(),
            rows: 1,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            fillable: true,
        };
        for (without, expected) in [
            (
                without("profile", "2026-01-01T10:00:00Z", "2026-02-01T09:00:00Z"),
                "granary materialize profile --from 2026-01-01T00:00:00Z --to 2026-02-01T09:00:00Z \
                 --every '1 day'",
            ),
            (
                without("profile", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"),
                "granary materialize profile --as-of 2026-01-01T00:00:00Z",
            ),
            (
                without("account", "2026-01-02T10:00:00Z", "2026-02-01T09:00:00Z"),
                "granary materialize account --from 2026-01-01T00:00:00Z --to 2026-02-01T09:00:00Z \
                 --every '7 days' --current-state",
            ),
        ] {
            assert_eq!(backfill(&definitions, &without), expected);
        }
        let long_ago = without("profile", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        assert_eq!(backfill(&definitions, &long_ago), "");
        let too_late = WithoutRun {
            fillable: false,
            ..without("profile", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z")
        };
        assert_eq!(backfill(&definitions, &too_late), "");
    }

    #[tokio::test]
    async fn what_cannot_be_selected_is_told_by_name() {
        let snapshot = snapshot().await;
        for (target, expected) in [
            (list(&[]), "name a feature service"),
            (list(&["account.balanc"]), "did you mean \"balance\""),
            (
                ReadTarget::Service("bot".into()),
                "unknown feature service \"bot\"; did you mean \"both\"?",
            ),
            (
                list(&["account.balance", "profile.balance"]),
                "account__balance and profile__balance are both named balance: ask for full names \
                 (--full-names",
            ),
        ] {
            let error = select(&snapshot, &target, false).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
