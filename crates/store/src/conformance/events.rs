//! The public conformance suite of event stores: what every [`EventStore`]
//! must do.
//!
//! As for online stores, the properties are written against the traits alone;
//! an implementation runs them with
//! [`event_store_conformance!`](crate::event_store_conformance), each on a new
//! and empty [`EventHome`].

use std::sync::Arc;

use futures::future::BoxFuture;
use granary_model::Clock;

use crate::error::StoreError;
use crate::events::EventStore;

mod appends;
mod fixture;
mod keys;
mod lifecycle;
mod reads;
mod restores;
mod shapes;
mod tiles;

/// Where a store keeps its events: what stays when the store is closed.
pub trait EventHome: Send + Sync {
    /// Opens the store; one that was opened before is dropped by then.
    fn open(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn EventStore>, StoreError>;
}

/// Takes an empty home.
pub type EventProperty = fn(Arc<dyn EventHome>) -> BoxFuture<'static, Result<(), StoreError>>;

macro_rules! properties {
    ($($module:ident: $($name:ident),+ ;)+) => {
        /// Every property by name.
        pub const EVENT_PROPERTIES: &[(&str, EventProperty)] = &[
            $($((stringify!($name), |home| Box::pin($module::$name(home))),)+)+
        ];

        /// Makes one `#[tokio::test]` a property. `$make` is called for each: it
        /// gives an `Arc<dyn EventHome>` that is empty, and whatever must live
        /// as long as it (a temporary folder).
        #[macro_export]
        macro_rules! event_store_conformance {
            ($make:expr) => {
                $($(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let (home, _kept) = $make;
                        $crate::conformance::events::run(stringify!($name), home).await;
                    }
                )+)+
            };
        }
    };
}

properties! {
    appends:
        an_empty_stream_has_nothing,
        what_is_appended_is_read,
        created_times_increase,
        duplicates_in_a_batch_are_one,
        duplicates_of_earlier_batches_are_told,
        duplicates_are_known_after_a_restart,
        appenders_side_by_side_store_each_event_once,
        events_without_a_dedup_key_are_all_stored,
        a_batch_with_a_key_too_few_is_refused_whole,
        offsets_move_with_their_events,
        offsets_and_streams_stay_apart;
    reads:
        ranges_are_closed_at_both_ends,
        both_orders_are_mirrors,
        limits_and_breaks_end_a_range,
        many_keys_in_one_scan,
        keys_that_begin_alike_stay_apart,
        long_keys_are_whole,
        times_before_1970_and_the_extremes,
        the_log_is_read_by_sequence,
        a_snapshot_stays_as_it_was,
        stored_dedup_keys_are_found;
    keys:
        an_event_is_found_under_each_of_its_keys,
        a_key_that_is_given_twice_counts_once,
        an_event_of_several_keys_removes_the_tiles_of_each,
        tiles_of_each_key_from_before_an_event_are_left_out,
        a_trim_removes_every_key_of_an_event,
        a_trim_keeps_what_is_new_to_one_key,
        an_added_index_is_filled_under_each_key;
    lifecycle:
        a_restart_keeps_everything,
        the_flushed_mark_only_rises,
        a_trim_removes_what_is_old,
        trimmed_events_may_come_again,
        a_trim_keeps_what_is_not_flushed,
        a_trim_keeps_the_newest_of_each_key,
        a_trim_beside_appends,
        a_dropped_stream_is_gone;
    restores:
        sequences_set_aside_are_given_to_no_event,
        a_restored_event_is_as_it_was,
        what_is_kept_of_each_key_is_known,
        a_restore_may_be_repeated,
        an_event_that_was_not_flushed_is_not_restored,
        a_restored_event_leaves_its_dedup_key_to_another,
        a_restore_removes_the_tiles_over_it,
        tiles_from_before_a_restore_are_left_out;
    shapes:
        other_columns_are_refused_while_events_are_stored,
        an_index_that_is_added_later_is_filled,
        an_index_is_filled_beside_appends,
        a_dropped_index_comes_back_whole,
        events_of_an_added_index_are_trimmed,
        handles_of_another_spec_are_refused,
        the_same_spec_keeps_handles,
        contradicting_specs_are_refused,
        positions_that_are_not_there_are_refused;
    tiles:
        tiles_are_read_as_they_were_put,
        an_event_removes_the_tiles_over_it,
        tiles_from_before_an_event_are_left_out,
        a_trim_removes_the_tiles_over_it,
        tiles_from_before_a_trim_are_left_out,
        another_version_has_no_tiles,
        dropped_tiles_can_be_put_again,
        tiles_are_right_after_a_restart;
}

/// Runs one property; panics where it does not hold.
pub async fn run(name: &str, home: Arc<dyn EventHome>) {
    let mut known = EVENT_PROPERTIES.iter();
    let Some((_, property)) = known.find(|(known, _)| *known == name) else {
        panic!("no property is named {name}");
    };
    if let Err(error) = property(home).await {
        panic!("{name}: {error}");
    }
}
