//! What a live view may not be, since its events could not be found or told in
//! time.

use std::collections::BTreeSet;

use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};
use granary_model::Definitions;
use granary_model::definitions::Stream;

use super::{EventIndex, LiveSource};
use crate::check::{calls_as_of, event_time_origins};

/// Rows are there whenever the read is, so they cannot depend on its time.
pub(super) fn check_rows(events: &LogicalPlan) -> Result<()> {
    if calls_as_of(events) {
        return plan_err!(
            "as_of() in the rows of a live view makes other rows for each read: call it inside an \
             aggregate or its FILTER, or in an on-demand view over this one"
        );
    }
    Ok(())
}

/// Events are filed by the event time of their stream, so the view's must be
/// that one.
pub(super) fn check_time(
    definitions: &Definitions,
    events: &LogicalPlan,
    event_time: &Expr,
    sources: &[LiveSource],
) -> Result<()> {
    let Expr::Column(column) = event_time else {
        return plan_err!("the event time {event_time} is no column");
    };
    let streams: BTreeSet<String> = definitions.streams.keys().cloned().collect();
    let origins = event_time_origins(events, &column.name, &streams);
    for stream in sources.iter().map(LiveSource::stream) {
        let own = definitions.streams.get(stream).map(|s| &s.event_time);
        if origins.get(stream) != own {
            return plan_err!(
                "the event time {} of a live view must be that of the stream {stream} ({}), handed \
                 through unchanged",
                column.name,
                own.map_or("", String::as_str)
            );
        }
    }
    Ok(())
}

/// Events are filed before they are acknowledged, so keys cannot depend on that.
pub(super) fn check_keys(definitions: &Definitions, index: &EventIndex) -> Result<()> {
    let stream = definitions.streams.get(index.stream());
    if stream.is_some_and(|stream| index.projection().contains(&stream.columns.len())) {
        return plan_err!(
            "the keys of a live view, or a WHERE below them, read {}, which is given only when an \
             event is acknowledged",
            Stream::CREATED_TIME
        );
    }
    Ok(())
}
