//! The public conformance suite: what every [`OnlineStore`] must do.
//!
//! The properties are written against the trait alone. An implementation runs
//! them with [`online_store_conformance!`](crate::online_store_conformance),
//! one test a property, each on a new and empty store; a property panics where
//! it does not hold and gives the store's error where the store fails.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::StoreError;
use crate::online::OnlineStore;

mod bundles;
mod defaults;
pub mod events;
mod fixture;
mod lifecycle;
mod reads;
mod writes;

/// Takes an empty store.
pub type Property = fn(Arc<dyn OnlineStore>) -> BoxFuture<'static, Result<(), StoreError>>;

macro_rules! properties {
    ($($module:ident: $($name:ident),+ ;)+) => {
        /// Every property by name.
        pub const PROPERTIES: &[(&str, Property)] = &[
            $($((stringify!($name), |store| Box::pin($module::$name(store))),)+)+
        ];

        /// Makes one `#[tokio::test]` a property. `$make` is called for each: it
        /// gives an `Arc<dyn OnlineStore>` that is empty, and whatever must live
        /// as long as it (a temporary folder).
        #[macro_export]
        macro_rules! online_store_conformance {
            ($make:expr) => {
                $($(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let (store, _kept) = $make;
                        $crate::conformance::run(stringify!($name), store).await;
                    }
                )+)+
            };
        }
    };
}

properties! {
    reads:
        an_empty_store_has_nothing,
        what_is_published_is_read,
        several_generations_in_one_read,
        null_keys_have_no_row,
        composite_keys_stay_apart,
        keys_of_every_type,
        values_of_every_type,
        long_keys_are_whole,
        the_empty_string_is_a_key,
        a_large_batch;
    writes:
        writes_are_joins_in_any_order,
        duplicates_in_one_batch_are_joined,
        keys_out_of_order,
        summaries_count_every_row,
        a_null_key_is_refused_whole,
        a_foreign_row_is_refused_whole,
        a_second_writer_is_busy,
        upsert_wants_a_publication,
        upsert_wants_the_same_layout,
        a_dropped_writer_leaves_nothing;
    defaults:
        a_default_row_answers_keys_without_one,
        a_default_row_is_its_generation_s_own,
        an_upsert_keeps_the_default_row,
        a_foreign_default_row_is_refused;
    bundles:
        bundled_views_read_the_same,
        views_change_after_they_were_bundled;
    lifecycle:
        nothing_is_seen_before_publication,
        a_pinned_generation_stays_readable,
        a_pinned_generation_survives_its_version,
        publication_replaces_the_generation,
        coverage_and_counter_follow_writes,
        refresh_tells_of_changes,
        upserts_are_seen_by_those_who_pinned,
        an_upsert_tells_how_far_it_reaches,
        sweep_removes_what_is_older,
        sweep_beside_a_writer_is_busy,
        dropped_versions_are_gone,
        versions_and_views_stay_apart,
        readers_beside_a_writer_see_whole_rows;
}

/// Runs one property; panics where it does not hold.
pub async fn run(name: &str, store: Arc<dyn OnlineStore>) {
    let Some((_, property)) = PROPERTIES.iter().find(|(known, _)| *known == name) else {
        panic!("no property is named {name}");
    };
    if let Err(error) = property(store).await {
        panic!("{name}: {error}");
    }
}
