//! Rows of a query as they come, in any of the forms: nothing is held but the
//! batch at hand, except for a table, whose widths need all rows shown.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use clap::ValueEnum;
use granary_model::json;

use super::{human, table};

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RowFormat {
    /// A table for people, of the first rows.
    #[default]
    Table,
    /// An array of objects, one a row.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes batches of one schema to a stream of bytes.
pub struct RowWriter<W: Write> {
    schema: SchemaRef,
    rows_max: usize,
    rows: usize,
    form: Form<W>,
}

enum Form<W: Write> {
    Table { out: W, kept: Vec<RecordBatch> },
    Json { out: W },
    Csv { out: W },
    Arrow(Box<StreamWriter<W>>),
}

impl<W: Write> RowWriter<W> {
    /// A table shows `rows_max` rows; the other forms have no bound.
    pub fn new(
        format: RowFormat,
        schema: SchemaRef,
        rows_max: usize,
        out: W,
    ) -> anyhow::Result<Self> {
        let form = match format {
            RowFormat::Table => Form::Table {
                out,
                kept: Vec::new(),
            },
            RowFormat::Json => Form::Json { out },
            RowFormat::Csv => Form::Csv { out },
            RowFormat::Arrow => Form::Arrow(Box::new(StreamWriter::try_new(out, &schema)?)),
        };
        Ok(Self {
            schema,
            rows_max,
            rows: 0,
            form,
        })
    }

    /// Writes a batch; false once nothing more would be shown.
    pub fn write(&mut self, batch: &RecordBatch) -> anyhow::Result<bool> {
        if batch.num_rows() == 0 {
            return Ok(true);
        }
        let before = self.rows;
        self.rows += batch.num_rows();
        match &mut self.form {
            Form::Table { kept, .. } => {
                let room = self.rows_max.saturating_sub(before);
                kept.push(batch.slice(0, batch.num_rows().min(room)));
                return Ok(self.rows <= self.rows_max);
            }
            Form::Json { out } => write_objects(out, batch, before == 0)?,
            Form::Csv { out } => write_csv(out, batch, before == 0)?,
            Form::Arrow(writer) => writer.write(batch)?,
        }
        Ok(true)
    }

    /// Ends the result.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.form {
            Form::Table { mut out, kept } => {
                writeln!(out, "{}", table::of_batches(&self.schema, &kept))?;
                if self.rows > self.rows_max {
                    let shown = human::counted(self.rows_max as u64, "row");
                    writeln!(out, "(the first {shown}; --output csv or json gives all)")?;
                } else {
                    writeln!(out, "({})", human::counted(self.rows as u64, "row"))?;
                }
                out.flush()?;
            }
            Form::Json { mut out } => {
                writeln!(out, "{}]", if self.rows == 0 { "[" } else { "\n" })?;
                out.flush()?;
            }
            Form::Csv { mut out } => {
                // The header of an empty result too.
                if self.rows == 0 {
                    write_csv(&mut out, &RecordBatch::new_empty(self.schema), true)?;
                }
                out.flush()?;
            }
            Form::Arrow(mut writer) => {
                writer.finish()?;
                writer.into_inner()?.flush()?;
            }
        }
        Ok(())
    }
}

/// One object a row, its members in the order of the columns.
fn write_objects(out: &mut impl Write, batch: &RecordBatch, first: bool) -> io::Result<()> {
    let schema = batch.schema();
    let names = schema
        .fields()
        .iter()
        .map(|f| serde_json::to_string(f.name()));
    let names = names
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::from)?;
    for row in 0..batch.num_rows() {
        let separator = if first && row == 0 { "[\n" } else { ",\n" };
        write!(out, "{separator}{{")?;
        for (i, (name, column)) in names.iter().zip(batch.columns()).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(out, "{comma}{name}: {}", json::value(column, row))?;
        }
        write!(out, "}}")?;
    }
    Ok(())
}

/// Through a buffer: the CSV writer turns errors of the stream into text.
fn write_csv(out: &mut impl Write, batch: &RecordBatch, header: bool) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let mut writer = csv::WriterBuilder::new()
        .with_header(header)
        .build(&mut text);
    writer.write(&flat(batch)?)?;
    drop(writer);
    out.write_all(&text)?;
    Ok(())
}

/// The batch with the columns that CSV has no form for (lists, structs, bytes)
/// as text in their JSON form.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(batch.schema_ref().fields());
    let flat = columns.map(|(column, field)| {
        let nested = column.data_type().is_nested() || column.data_type().is_binary();
        let column: ArrayRef = if nested {
            let texts = (0..column.len()).map(|row| json::text(column, row));
            Arc::new(texts.collect::<StringArray>())
        } else {
            Arc::clone(column)
        };
        (field.name().clone(), column)
    });
    let (names, columns): (Vec<_>, Vec<_>) = flat.unzip();
    let fields = names.into_iter().zip(&columns);
    let fields = fields.map(|(name, c)| Field::new(name, c.data_type().clone(), true));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    #[track_caller]
    fn check(format: RowFormat, batches: &[RecordBatch], expected: &str) {
        let mut out = Vec::new();
        let schema = batch(&[]).schema();
        let mut writer = RowWriter::new(format, schema, 2, &mut out).unwrap();
        for batch in batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    fn batch(rows: &[(Option<&str>, f64)]) -> RecordBatch {
        let names: StringArray = rows.iter().map(|r| r.0).collect();
        let numbers: Float64Array = rows.iter().map(|r| Some(r.1)).collect();
        RecordBatch::try_from_iter([
            ("name", Arc::new(names) as ArrayRef),
            ("x", Arc::new(numbers)),
        ])
        .unwrap()
    }

    #[test]
    fn json_is_an_array_of_objects() {
        let batches = [
            batch(&[(Some("a"), 1.5), (None, f64::NAN)]),
            batch(&[(Some("b"), 2.0)]),
        ];
        check(
            RowFormat::Json,
            &batches,
            "[\n{\"name\": \"a\", \"x\": 1.5},\n{\"name\": null, \"x\": \"NaN\"},\n{\"name\": \"b\", \"x\": 2.0}\n]\n",
        );
        check(RowFormat::Json, &[batch(&[])], "[]\n");
        check(RowFormat::Json, &[], "[]\n");
    }

    #[test]
    fn csv_has_a_header_even_without_rows() {
        check(RowFormat::Csv, &[], "name,x\n");
        check(
            RowFormat::Csv,
            &[batch(&[(Some("a,b"), 1.0)])],
            "name,x\n\"a,b\",1.0\n",
        );
    }

    #[test]
    fn tables_are_cut() {
        let rows = batch(&[(Some("a"), 1.0), (Some("b"), 2.0), (Some("c"), 3.0)]);
        let expected = "\
┌──────┬─────┐
│ name ┆   x │
╞══════╪═════╡
│ a    ┆ 1.0 │
│ b    ┆ 2.0 │
└──────┴─────┘
(the first 2 rows; --output csv or json gives all)
";
        check(RowFormat::Table, &[rows], expected);
    }
}
