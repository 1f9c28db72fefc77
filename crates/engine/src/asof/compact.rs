//! Arrays that hold on to nothing but their own rows.
//!
//! `take` and `interleave` share the data buffers of view arrays with what was
//! taken from, and IPC writes such buffers whole.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait, StructArray};
use arrow::datatypes::DataType;

/// The array without the buffers that its views share with others.
pub(super) fn compact(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        DataType::List(_) => compact_list(array.as_list::<i32>()),
        DataType::LargeList(_) => compact_list(array.as_list::<i64>()),
        DataType::Struct(_) if array.as_struct().num_columns() > 0 => {
            let (fields, columns, nulls) = array.as_struct().clone().into_parts();
            let columns = columns.into_iter().map(compact).collect();
            Arc::new(StructArray::new(fields, columns, nulls))
        }
        _ => array,
    }
}

fn compact_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> ArrayRef {
    let (field, offsets, values, nulls) = list.clone().into_parts();
    Arc::new(GenericListArray::new(
        field,
        offsets,
        compact(values),
        nulls,
    ))
}

/// Bytes of the rows of an array, which may be a part of a larger one.
pub(super) fn row_bytes(array: &ArrayRef) -> usize {
    let data = array.to_data();
    let views = match array.data_type() {
        DataType::Utf8View => array.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => array.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    };
    views
        + data
            .get_slice_memory_size()
            .unwrap_or_else(|_| array.get_array_memory_size())
}
