//! A training set as a Delta table of its own: Parquet files, and one commit
//! that makes them a table, or puts them in the place of all that it held.
//!
//! Delta Lake has fewer types than Arrow. What has an equal is stored as that:
//! dictionaries and views as their values, unsigned integers as the next wider
//! signed one (UInt64 as DECIMAL(20, 0)), times with a zone as UTC microseconds
//! and those without one as TIMESTAMP_NTZ. Nanoseconds that are no whole
//! microseconds, and types without an equal, are refused by the column's name.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, MetadataExt, Protocol, StructType, new_metadata};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use futures::{Stream, StreamExt, TryStreamExt};
use granary_model::types::UTC;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;
use uuid::Uuid;

use super::encode::Encoder;
use super::file::{Upload, delete};
use super::{OutputTarget, Written};
use crate::engine::Stores;
use crate::error::EngineError;

/// A file is closed once it is this big.
const FILE_BYTES: u64 = 512 << 20;
const FILE_PREFIX: &str = "granary-";
const NTZ_FEATURE: &str = "timestampNtz";
/// Characters that no column's name may have without column mapping.
const NAMES_WITHOUT: [char; 9] = [' ', ',', ';', '{', '}', '(', ')', '=', '\n'];

/// A folder that is to be, or is, a Delta table.
struct Table<'a> {
    target: &'a OutputTarget,
    store: Arc<dyn ObjectStore>,
    folder: Path,
    log: LogStoreRef,
    /// What is replaced.
    base: Option<DeltaTableState>,
}

pub(super) async fn check(stores: &Stores, target: &OutputTarget) -> Result<(), EngineError> {
    Table::open(stores, target).await.map(drop)
}

pub(super) async fn write<E: From<EngineError>>(
    stores: &Stores,
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, E>> + Send,
    target: &OutputTarget,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Written, E> {
    let table = Table::open(stores, target).await?;
    let schema = table.stored(&schema)?;
    let mut files = Files {
        table: &table,
        schema: schema.clone(),
        open: None,
        closed: Vec::new(),
    };
    let written = files.fill(rows, progress).await;
    let started = Instant::now();
    let committed = match written {
        Ok(written) => match table.commit(&schema, &files.closed).await {
            Ok(()) => Ok(written),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    match committed {
        Ok((rows, write_time)) => Ok(Written {
            rows,
            bytes: files.closed.iter().map(|f| f.bytes).sum(),
            write_time: write_time + started.elapsed(),
        }),
        Err(error) => {
            files.discard().await;
            Err(error)
        }
    }
}

impl<'a> Table<'a> {
    async fn open(stores: &Stores, target: &'a OutputTarget) -> Result<Self, EngineError> {
        let url = folder_url(&target.url);
        let (store, folder) = stores.resolve(&url)?;
        if let Ok(path) = url.to_file_path()
            && path.is_file()
        {
            return Err(target.refused("it is a file, and a Delta table is a folder"));
        }
        let table = Self {
            target,
            store,
            folder,
            log: stores.log_store(&url)?,
            base: None,
        };
        let exists = table.log.is_delta_table_location().await;
        if !exists.map_err(|e| table.failed(e))? {
            table.check_empty().await?;
            return Ok(table);
        }
        if !target.overwrite {
            return Err(target.exists());
        }
        let state = DeltaTableState::try_new(&table.log, None).await;
        let state = state.map_err(|e| table.failed(e))?;
        table.check_features(state.protocol())?;
        Ok(Self {
            base: Some(state),
            ..table
        })
    }

    fn failed(&self, source: DeltaTableError) -> EngineError {
        EngineError::Delta {
            object: self.target.location.clone(),
            source: Box::new(source),
        }
    }

    /// What a killed run left behind does no harm; other files are not ours.
    async fn check_empty(&self) -> Result<(), EngineError> {
        let mut listed = self.store.list(Some(&self.folder));
        while let Some(file) = listed.try_next().await? {
            let name = file.location.filename().unwrap_or_default();
            if !name.starts_with(FILE_PREFIX) {
                return Err(self.target.refused(format!(
                    "a folder that holds other files ({name}) and no Delta table is not written to"
                )));
            }
        }
        Ok(())
    }

    /// A table that needs more than plain files of its writers is not replaced.
    fn check_features(&self, protocol: &Protocol) -> Result<(), EngineError> {
        let known = [NTZ_FEATURE, "appendOnly", "invariants"];
        let features = protocol.writer_features().unwrap_or_default();
        let unknown = features.iter().map(ToString::to_string);
        let unknown: Vec<String> = unknown.filter(|f| !known.contains(&f.as_str())).collect();
        let old = (3..7).contains(&protocol.min_writer_version());
        if unknown.is_empty() && !old {
            return Ok(());
        }
        Err(self.target.refused(format!(
            "the Delta table there has features that are not kept ({}): remove it first",
            match unknown.is_empty() {
                true => format!("writer version {}", protocol.min_writer_version()),
                false => unknown.join(", "),
            }
        )))
    }

    /// The schema as Delta Lake has it.
    fn stored(&self, schema: &Schema) -> Result<SchemaRef, EngineError> {
        let mut names = BTreeSet::new();
        let mut fields = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let name = field.name();
            if name.is_empty() || name.contains(NAMES_WITHOUT) || name.contains('\t') {
                return Err(self.target.refused(format!(
                    "a Delta table has no column {name:?}: names have none of ,;{{}}()= and no spaces"
                )));
            }
            if !names.insert(name.to_lowercase()) {
                return Err(self.target.refused(format!(
                    "column {name} differs from another in case only, which Delta Lake does not tell apart"
                )));
            }
            let stored = stored_type(field.data_type()).ok_or_else(|| {
                let given = field.data_type();
                self.target.refused(format!(
                    "column {name} is {given}, which Delta Lake has no form for"
                ))
            })?;
            fields.push(Field::new(name, stored, true));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    async fn commit(&self, schema: &Schema, files: &[DataFile]) -> Result<(), EngineError> {
        let mut actions = self.description(schema)?;
        if let Some(base) = &self.base {
            let files = base.log_data();
            let removed = files.iter().map(|f| Action::Remove(f.remove_action(true)));
            actions.extend(removed);
        }
        actions.extend(files.iter().map(|file| Action::Add(file.to_add())));
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let operation = DeltaOperation::Write {
            mode: match self.base {
                Some(_) => SaveMode::Overwrite,
                None => SaveMode::ErrorIfExists,
            },
            partition_by: None,
            predicate: None,
        };
        let table = self.base.as_ref().map(|base| base as _);
        let committed = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(table, self.log.clone(), operation)
            .await
            .map_err(|error| self.failed(error))?;
        let expected = self.base.as_ref().map_or(0, |base| base.version() + 1);
        match committed.version == expected {
            true => Ok(()),
            false => Err(self
                .target
                .refused("somebody else wrote to it at the same time")),
        }
    }

    /// Protocol and metadata, of a table that is replaced under its own id.
    fn description(&self, schema: &Schema) -> Result<Vec<Action>, EngineError> {
        let text = |error: String| self.failed(DeltaTableError::Generic(error));
        let kernel: StructType = schema
            .try_into_kernel()
            .map_err(|error: ArrowError| self.failed(error.into()))?;
        let mut actions = Vec::new();
        let without_zone = schema.fields().iter().any(|f| has_no_zone(f.data_type()));
        let of_base = self.base.as_ref().map(DeltaTableState::protocol);
        let known = of_base.is_some_and(|protocol| {
            let features = protocol.writer_features().unwrap_or_default();
            !without_zone || features.iter().any(|f| f.to_string() == NTZ_FEATURE)
        });
        if !known {
            let protocol = match without_zone {
                true => serde_json::json!({
                    "minReaderVersion": 3, "minWriterVersion": 7,
                    "readerFeatures": [NTZ_FEATURE],
                    "writerFeatures": [NTZ_FEATURE, "appendOnly", "invariants"],
                }),
                false => serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            };
            let protocol = serde_json::from_value(protocol).map_err(|e| text(e.to_string()))?;
            actions.push(Action::Protocol(protocol));
        }
        let mut metadata =
            new_metadata(&kernel, [""; 0], [("", ""); 0]).map_err(|e| text(e.to_string()))?;
        if let Some(base) = &self.base {
            let id = base.metadata().id().to_owned();
            metadata = metadata
                .with_table_id(id)
                .map_err(|e| text(e.to_string()))?;
        }
        actions.push(Action::Metadata(metadata));
        Ok(actions)
    }
}

/// With a slash at its end.
fn folder_url(url: &Url) -> Url {
    let mut folder = url.clone();
    if !folder.path().ends_with('/') {
        folder.set_path(&format!("{}/", url.path()));
    }
    folder
}

/// A file of the table.
struct DataFile {
    /// Within the folder.
    name: String,
    path: Path,
    rows: u64,
    bytes: u64,
    modified_millis: i64,
}

impl DataFile {
    fn to_add(&self) -> Add {
        Add {
            path: self.name.clone(),
            partition_values: HashMap::new(),
            size: self.bytes as i64,
            modification_time: self.modified_millis,
            data_change: true,
            stats: Some(serde_json::json!({"numRecords": self.rows}).to_string()),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        }
    }
}

/// The files of one run.
struct Files<'a> {
    table: &'a Table<'a>,
    schema: SchemaRef,
    open: Option<(DataFile, Upload, Encoder)>,
    closed: Vec<DataFile>,
}

impl Files<'_> {
    async fn fill<E: From<EngineError>>(
        &mut self,
        rows: impl Stream<Item = Result<RecordBatch, E>> + Send,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(u64, Duration), E> {
        let mut rows = pin!(rows);
        let mut written = 0;
        let mut write_time = Duration::ZERO;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            if batch.num_rows() > 0 {
                written += batch.num_rows() as u64;
                let started = Instant::now();
                self.write(&batch).await?;
                write_time += started.elapsed();
                progress(written);
            }
        }
        let started = Instant::now();
        self.close().await?;
        Ok((written, write_time + started.elapsed()))
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), EngineError> {
        let batch = self.stored(batch)?;
        if self.open.is_none() {
            let name = format!("{FILE_PREFIX}{}.parquet", Uuid::new_v4().simple());
            let path: Path = self.table.folder.clone().join(name.as_str());
            let upload = Upload::at(self.table.store.clone(), path.clone(), None);
            let encoder = Encoder::new(self.table.target, self.schema.clone())?;
            let file = DataFile {
                name,
                path,
                rows: 0,
                bytes: 0,
                modified_millis: 0,
            };
            self.open = Some((file, upload, encoder));
        }
        let Some((file, upload, encoder)) = &mut self.open else {
            return Ok(());
        };
        file.rows += batch.num_rows() as u64;
        let bytes = encoder.encode(batch).await;
        upload
            .put(bytes.map_err(|e| e.of(self.table.target))?)
            .await?;
        if upload.bytes() >= FILE_BYTES {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), EngineError> {
        let Some((file, upload, encoder)) = &mut self.open else {
            return Ok(());
        };
        let bytes = encoder.finish().await;
        upload
            .put(bytes.map_err(|e| e.of(self.table.target))?)
            .await?;
        upload.close().await?;
        file.bytes = upload.bytes();
        let stored = self.table.store.head(&file.path).await?;
        file.modified_millis = stored.last_modified.timestamp_millis();
        self.closed
            .extend(self.open.take().map(|(file, _, _)| file));
        Ok(())
    }

    /// Leaves nothing behind.
    async fn discard(self) {
        let store = self.table.store.as_ref();
        if let Some((file, upload, _)) = self.open {
            upload.discard().await;
            delete(store, &file.path).await;
        }
        for file in &self.closed {
            delete(store, &file.path).await;
        }
    }

    /// The batch in the types of the table.
    fn stored(&self, batch: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| {
            stored_column(column, field.data_type()).map_err(|reason| {
                let name = field.name();
                self.table
                    .target
                    .refused(format!("column {name}: {reason}"))
            })
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| self.table.failed(error.into()))
    }
}

fn stored_column(column: &ArrayRef, stored: &DataType) -> Result<ArrayRef, String> {
    if column.data_type() == stored {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let convert = |from: &ArrayRef, to: &DataType| {
        cast_with_options(from, to, &options).map_err(|error| error.to_string())
    };
    let converted = convert(column, stored)?;
    if holds_nanos(column.data_type()) && &convert(&converted, column.data_type())? != column {
        return Err(
            "it has nanoseconds that are no whole microseconds, which Delta Lake has no form for"
                .to_owned(),
        );
    }
    Ok(converted)
}

/// The type that Delta Lake stores values of a type as; `None` where it has no equal.
fn stored_type(given: &DataType) -> Option<DataType> {
    let item = |field: &FieldRef| -> Option<FieldRef> {
        Some(Arc::new(Field::new(
            "element",
            stored_type(field.data_type())?,
            true,
        )))
    };
    Some(match given {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64 => given.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => {
            let fits = (1..=38).contains(p) && *s >= 0;
            return fits.then_some(DataType::Decimal128(*p, *s));
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| UTC.into()))
        }
        DataType::Dictionary(_, values) => return stored_type(values),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => DataType::List(item(field)?),
        DataType::Struct(fields) => {
            let stored = fields.iter().map(|field| {
                let stored = stored_type(field.data_type())?;
                Some(Field::new(field.name(), stored, true))
            });
            DataType::Struct(stored.collect::<Option<Vec<_>>>()?.into())
        }
        _ => return None,
    })
}

fn inner(data_type: &DataType) -> Vec<&DataType> {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _) => vec![field.data_type()],
        DataType::Struct(fields) => fields.iter().map(|f| f.data_type()).collect(),
        DataType::Dictionary(_, values) => vec![values],
        _ => Vec::new(),
    }
}

fn holds_nanos(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(TimeUnit::Nanosecond, _))
        || inner(data_type).into_iter().any(holds_nanos)
}

fn has_no_zone(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, None))
        || inner(data_type).into_iter().any(has_no_zone)
}
