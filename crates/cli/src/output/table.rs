//! Tables for people: as wide as the terminal on a terminal, as wide as their
//! content elsewhere.

use std::io::{self, IsTerminal};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use granary_model::json;

/// How NULL is shown.
pub const NULL: &str = "NULL";

/// What a column needs to be read, its border included.
const COLUMN_WIDTH_MIN: usize = 12;

/// An empty table with these column names.
pub fn table<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Table {
    let header: Vec<Cell> = header
        .into_iter()
        .map(|name| Cell::new(name.into()))
        .collect();
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    // Squeezed into columns of a few letters a table is worse than broken lines.
    let readable = header.len() * COLUMN_WIDTH_MIN;
    let fits = table.width().is_some_and(|w| usize::from(w) >= readable);
    table.set_content_arrangement(if io::stdout().is_terminal() && fits {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(header);
    table
}

/// Aligns columns to the right, by position: numbers.
pub fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Rows of one schema as a table.
pub fn of_batches(schema: &arrow::datatypes::Schema, batches: &[RecordBatch]) -> Table {
    let mut shown = table(schema.fields().iter().map(|f| f.name().clone()));
    for batch in batches {
        for row in 0..batch.num_rows() {
            shown.add_row(batch.columns().iter().map(|c| Cell::new(cell(c, row))));
        }
    }
    let numbers = schema.fields().iter().enumerate();
    let numbers = numbers.filter(|(_, f)| is_number(f.data_type()));
    align_right(&mut shown, numbers.map(|(i, _)| i).collect::<Vec<_>>());
    shown
}

/// One value as a cell shows it.
pub fn cell(array: &dyn Array, row: usize) -> String {
    json::text(array, row).unwrap_or_else(|| NULL.to_owned())
}

/// Whether values of a type are read by their digits.
pub fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}
