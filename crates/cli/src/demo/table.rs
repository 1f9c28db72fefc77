//! Rows into a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder,
    Int32Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use granary_model::FeatureType;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// One value of a row.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    /// DATE: days since 1970-01-01.
    Days(i32),
    /// TIMESTAMP: UTC microseconds.
    Time(i64),
    /// DECIMAL: the unscaled integer.
    Units(i64),
    Real(f64),
    Text(String),
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

const BATCH_ROWS: usize = 1 << 16;

/// A Parquet file under way.
pub(crate) struct TableWriter {
    schema: SchemaRef,
    types: Vec<FeatureType>,
    builders: Vec<Box<dyn ArrayBuilder>>,
    waiting: usize,
    writer: ArrowWriter<File>,
    pub(crate) rows: usize,
}

impl TableWriter {
    pub(crate) fn create(
        folder: &Path,
        name: &str,
        columns: &[(&str, FeatureType)],
    ) -> Result<Self> {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.to_arrow(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let path = folder.join(format!("{name}.parquet"));
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(1 << 18))
            .build();
        let types: Vec<FeatureType> = columns.iter().map(|(_, column)| column.clone()).collect();
        let builders = types.iter().map(builder).collect::<Result<_>>()?;
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        Ok(Self {
            schema,
            types,
            builders,
            waiting: 0,
            writer,
            rows: 0,
        })
    }

    pub(crate) fn push(&mut self, row: &[Cell]) -> Result<()> {
        for (builder, cell) in self.builders.iter_mut().zip(row) {
            append(builder.as_mut(), cell)?;
        }
        self.rows += 1;
        self.waiting += 1;
        if self.waiting == BATCH_ROWS {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(crate) fn finish(mut self) -> Result<usize> {
        self.flush()?;
        self.writer.close()?;
        Ok(self.rows)
    }

    fn flush(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = self
            .builders
            .iter_mut()
            .zip(&self.types)
            .map(|(builder, column)| {
                Ok(arrow::compute::cast(&builder.finish(), &column.to_arrow())?)
            })
            .collect::<Result<_>>()?;
        self.writer
            .write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        self.waiting = 0;
        Ok(())
    }
}

fn builder(column: &FeatureType) -> Result<Box<dyn ArrayBuilder>> {
    Ok(match column {
        FeatureType::Boolean => Box::new(BooleanBuilder::new()),
        FeatureType::Int => Box::new(Int32Builder::new()),
        FeatureType::BigInt => Box::new(Int64Builder::new()),
        FeatureType::Double => Box::new(Float64Builder::new()),
        FeatureType::Varchar => Box::new(StringBuilder::new()),
        FeatureType::Date => Box::new(Date32Builder::new()),
        FeatureType::Timestamp => Box::new(TimestampMicrosecondBuilder::new()),
        FeatureType::Decimal { precision, scale } => Box::new(
            Decimal128Builder::new().with_data_type(DataType::Decimal128(*precision, *scale)),
        ),
        other => bail!("the demo has no columns of {other}"),
    })
}

fn append(builder: &mut dyn ArrayBuilder, cell: &Cell) -> Result<()> {
    let any = builder.as_any_mut();
    macro_rules! put {
        ($builder:ty, $pattern:pat => $value:expr) => {
            if let Some(builder) = any.downcast_mut::<$builder>() {
                match cell {
                    Cell::Null => builder.append_null(),
                    $pattern => builder.append_value($value),
                    other => bail!("{other:?} does not fit its column"),
                }
                return Ok(());
            }
        };
    }
    put!(StringBuilder, Cell::Text(v) => v);
    put!(Int64Builder, Cell::Int(v) => *v);
    put!(TimestampMicrosecondBuilder, Cell::Time(v) => *v);
    put!(Decimal128Builder, Cell::Units(v) => i128::from(*v));
    put!(Float64Builder, Cell::Real(v) => *v);
    put!(BooleanBuilder, Cell::Bool(v) => *v);
    put!(Int32Builder, Cell::Int(v) => i32::try_from(*v)?);
    put!(Date32Builder, Cell::Days(v) => *v);
    bail!("no such column")
}
