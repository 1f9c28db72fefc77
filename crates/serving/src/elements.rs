//! Views that are read for each element of a list: from one row an entity to one
//! row an element, and back to a list an entity.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat, take};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use granary_model::FeatureStatus;

use crate::error::ServingError;
use crate::fetch::{Columns, Fetched, Found, earlier};
use crate::plan::{KeyColumn, KeyGroup};
use crate::read::AsOf;
use crate::reader::ReadTime;

/// Elements of all entities of one request together.
const TOTAL_MAX: usize = 1_000_000;

/// The elements of all entities, one after the other.
#[derive(Debug)]
pub(crate) struct Elements {
    pub values: ArrayRef,
    /// The entity of each.
    parents: UInt64Array,
    /// Where those of an entity end.
    offsets: OffsetBuffer<i32>,
}

impl Elements {
    /// The elements that a group is read for; `None` where it is read for the
    /// entities themselves. A list that is NULL has none.
    pub fn of(group: &KeyGroup, found: &Found, bound: usize) -> Result<Option<Self>, ServingError> {
        let each = group.sources.iter().find_map(|source| match *source {
            KeyColumn::Each { fetch, position } => Some((fetch, position)),
            _ => None,
        });
        let Some((fetch, position)) = each else {
            return Ok(None);
        };
        let values = earlier(found, fetch, position)?;
        let Some(lists) = values.as_list_opt::<i32>() else {
            let message = format!("{} is no list", values.data_type());
            return Err(ServingError::Invalid(message));
        };
        let lengths = (0..lists.len()).map(|row| match lists.is_valid(row) {
            true => lists.value(row).len(),
            false => 0,
        });
        let lengths: Vec<usize> = lengths.collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if longest > bound {
            return Err(over_bound(group, "a list", longest, bound));
        }
        let total = lengths.iter().sum();
        if total > TOTAL_MAX {
            return Err(over_bound(
                group,
                "the lists of all entities",
                total,
                TOTAL_MAX,
            ));
        }
        let parts: Vec<ArrayRef> = (0..lists.len())
            .filter(|row| lists.is_valid(*row))
            .map(|row| lists.value(row))
            .collect();
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let values = match parts.is_empty() {
            true => lists.values().slice(0, 0),
            false => concat(&parts).map_err(|e| wrong(&e))?,
        };
        let entities = lengths.iter().enumerate();
        let parents = entities.flat_map(|(entity, n)| std::iter::repeat_n(entity as u64, *n));
        Ok(Some(Self {
            values,
            parents: parents.collect(),
            offsets: OffsetBuffer::from_lengths(lengths),
        }))
    }

    /// What is one an entity as one an element.
    pub fn spread(&self, of_entities: &ArrayRef) -> Result<ArrayRef, ServingError> {
        take(of_entities, &self.parents, None).map_err(|e| wrong(&e))
    }

    /// What was fetched for each element as lists, one an entity.
    pub fn gather(&self, fetched: Fetched, time: ReadTime) -> Result<Fetched, ServingError> {
        let as_of = match &fetched.as_of {
            AsOf::Rows(_) => AsOf::All(time.as_of),
            AsOf::All(t) => AsOf::All(*t),
        };
        let mut arrays = fetched.into_arrays()?;
        for values in &mut arrays.values {
            let field = Field::new("element", values.data_type().clone(), true);
            let lists = ListArray::try_new(
                Arc::new(field),
                self.offsets.clone(),
                Arc::clone(values),
                None,
            );
            *values = Arc::new(lists.map_err(|e| wrong(&e))?);
        }
        let entities = self.offsets.len() - 1;
        let present = Arc::new(vec![FeatureStatus::Present; entities]);
        arrays.statuses.fill(present);
        arrays.event_times = None;
        Ok(Fetched {
            columns: Columns::Arrays(arrays),
            as_of,
        })
    }
}

fn over_bound(group: &KeyGroup, what: &str, given: usize, bound: usize) -> ServingError {
    let online = group.online.iter().map(|read| &*read.view);
    let queries = group.queries.iter().map(|read| read.view.name());
    let live = group.live.iter().map(|read| read.view.name());
    let views: Vec<&str> = online.chain(queries).chain(live).collect();
    ServingError::Invalid(format!(
        "{}: {what} that it is read for EACH element of has {given} elements, over the bound of {bound}",
        views.join(", ")
    ))
}

fn wrong(error: &ArrowError) -> ServingError {
    ServingError::Invalid(format!("elements of a list: {error}"))
}
