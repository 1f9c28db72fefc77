//! Sources of files: their schema, checked against the recorded one.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::listing::{ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use futures::{StreamExt, TryStreamExt};
use granary_model::FeatureType;
use object_store::ObjectMeta;

use super::{Source, SourceFault, SourceFormat, headers};
use crate::error::EngineError;

/// Files whose schema is read at once.
pub(super) const FILES_AT_ONCE: usize = 8;

/// Sources kept; beyond it all are verified anew.
const SOURCES_MAX: usize = 10_000;

/// The sources whose files were found to have the recorded schema, so that a
/// source is verified once for each state of its files.
#[derive(Debug, Default)]
pub(crate) struct VerifiedSources(Mutex<HashMap<u64, Verified>>);

#[derive(Debug, Clone)]
struct Verified {
    /// Of the paths, sizes and times of the files.
    files: u64,
    table: Arc<ListingTable>,
}

impl VerifiedSources {
    fn get(&self, source: u64) -> Option<Verified> {
        let verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(&source).cloned()
    }

    fn put(&self, source: u64, entry: Verified) {
        let mut verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= SOURCES_MAX {
            verified.clear();
        }
        verified.insert(source, entry);
    }
}

/// The schema that the files have, after a look into each typed file.
pub(super) async fn infer(source: &Source, state: &SessionState) -> Result<SchemaRef, SourceFault> {
    let table = open(source, state).await?;
    let schema = TableProvider::schema(table.as_ref());
    if schema.fields().is_empty() {
        return Err(SourceFault::new(
            locations(source),
            "is empty: it has no columns",
        ));
    }
    if source.is_declared() {
        let actual = file_schemas(source, state, &table).await?;
        if let Some(difference) = missing_column(&schema, &table, &actual) {
            return Err(SourceFault::new(locations(source), difference));
        }
    }
    if let Some(difference) = headers::difference(source, state, &schema, &table).await? {
        return Err(SourceFault::new(locations(source), difference));
    }
    Ok(schema)
}

/// The table over the files as they are now, its schema the recorded one.
pub(super) async fn open_recorded(
    source: &Source,
    state: &SessionState,
    recorded: &SchemaRef,
) -> Result<Arc<ListingTable>, EngineError> {
    let key = hash_of(&(&source.name, &source.sql, recorded));
    let fault = |fault: SourceFault| fault.into_engine(&source.name);
    if let Some(verified) = source.verified.get(key) {
        let files = list(source, state, &verified.table).await.map_err(fault)?;
        if signature(&files) == verified.files {
            return Ok(verified.table);
        }
    }
    let found = open(source, state).await.map_err(fault)?;
    let files = list(source, state, &found).await.map_err(fault)?;
    if let Some(difference) = difference(source, state, recorded, &found)
        .await
        .map_err(fault)?
    {
        return Err(EngineError::SchemaChanged {
            object: source.name.clone(),
            difference,
        });
    }
    let table = with_schema(state, &found, recorded)
        .map_err(|error| EngineError::from_query(&source.name, error))?;
    let table = Arc::new(table);
    source.verified.put(
        key,
        Verified {
            files: signature(&files),
            table: table.clone(),
        },
    );
    Ok(table)
}

/// Runs the statement through DataFusion's own factory.
async fn open(source: &Source, state: &SessionState) -> Result<Arc<ListingTable>, SourceFault> {
    let factory = state
        .table_factories()
        .get(&source.command.file_type.to_uppercase())
        .ok_or_else(|| {
            let reason = format!("unknown format {}", source.command.file_type);
            SourceFault::new(locations(source), reason)
        })?;
    let table = match factory.create(state, &source.command).await {
        Ok(table) => table,
        Err(error) => return Err(blame(source, state, &error).await),
    };
    let table = table
        .downcast_ref::<ListingTable>()
        .cloned()
        .ok_or_else(|| SourceFault::new(locations(source), "is not made of files"))?;
    let files = list(source, state, &table).await?;
    if files.iter().all(|file| file.size == 0) {
        return Err(SourceFault::new(
            locations(source),
            "is empty: it has no bytes",
        ));
    }
    Ok(Arc::new(table))
}

/// The files of a table, an error where there are none.
async fn list(
    source: &Source,
    state: &SessionState,
    table: &ListingTable,
) -> Result<Vec<ObjectMeta>, SourceFault> {
    let mut all = Vec::new();
    for path in table.table_paths() {
        let files = list_path(state, path, &table.options().file_extension)
            .await
            .map_err(|error| SourceFault::of(written(path), &error))?;
        if files.is_empty() {
            return Err(missing(path));
        }
        all.extend(files);
    }
    if all.is_empty() {
        return Err(SourceFault::new(locations(source), "no such file"));
    }
    Ok(all)
}

pub(super) async fn list_path(
    state: &SessionState,
    path: &ListingTableUrl,
    extension: &str,
) -> Result<Vec<ObjectMeta>, DataFusionError> {
    let store = state.runtime_env().object_store(path)?;
    path.list_all_files(state, store.as_ref(), extension)
        .await?
        .try_collect()
        .await
}

fn missing(path: &ListingTableUrl) -> SourceFault {
    let reason = match path.get_glob() {
        Some(glob) => format!("no file there matches {glob}"),
        None if path.is_folder() => "the folder is missing or has no files".to_owned(),
        None => "no such file".to_owned(),
    };
    SourceFault::new(written(path), reason)
}

/// Finds the file that an error is about: the factory does not name it.
async fn blame(source: &Source, state: &SessionState, error: &DataFusionError) -> SourceFault {
    for location in &source.command.locations {
        let Ok(path) = ListingTableUrl::parse(location) else {
            return SourceFault::of(location, error);
        };
        let files = match list_path(state, &path, "").await {
            Ok(files) if files.is_empty() => return missing(&path),
            Ok(files) => files,
            Err(error) => return SourceFault::of(location, &error),
        };
        let Ok(store) = state.runtime_env().object_store(&path) else {
            continue;
        };
        let Some(Ok(format)) = state
            .get_file_format_factory(&source.command.file_type)
            .map(|factory| factory.create(state, &source.command.options))
        else {
            continue;
        };
        for file in files.into_iter().filter(|file| file.size > 0) {
            let of_file = format
                .infer_schema(state, &store, std::slice::from_ref(&file))
                .await;
            if let Err(error) = of_file {
                let fault = SourceFault::of(in_store(&path, &file), &error);
                return fault.not_readable_as(&source.command.file_type);
            }
        }
    }
    SourceFault::of(locations(source), error)
}

/// The schema of each file that tells its own, with the file's path.
async fn file_schemas(
    source: &Source,
    state: &SessionState,
    table: &ListingTable,
) -> Result<Vec<(String, SchemaRef)>, SourceFault> {
    if !matches!(source.format, SourceFormat::Files { typed: true, .. }) {
        return Ok(Vec::new());
    }
    let mut schemas = Vec::new();
    for path in table.table_paths() {
        let broken = |error: DataFusionError| SourceFault::of(written(path), &error);
        let store = state.runtime_env().object_store(path).map_err(broken)?;
        let extension = &table.options().file_extension;
        let files = list_path(state, path, extension).await.map_err(broken)?;
        let store = &store;
        let of_file = |file: ObjectMeta| async move {
            let named = in_store(path, &file);
            let schema = table
                .options()
                .format
                .infer_schema(state, store, &[file])
                .await;
            match schema {
                Ok(schema) => Ok((named, schema)),
                Err(error) => {
                    Err(SourceFault::of(named, &error).not_readable_as(&source.command.file_type))
                }
            }
        };
        let found: Vec<_> = futures::stream::iter(files.into_iter().filter(|f| f.size > 0))
            .map(of_file)
            .buffered(FILES_AT_ONCE)
            .try_collect()
            .await?;
        schemas.extend(found);
    }
    Ok(schemas)
}

/// How the files differ from the recorded schema; `None` where they fit.
///
/// Columns that were added are no difference, nor is a wider or narrower type
/// of the same sort. Of text formats only the names are compared: a value that
/// does not fit is an error of its own row.
async fn difference(
    source: &Source,
    state: &SessionState,
    recorded: &Schema,
    found: &ListingTable,
) -> Result<Option<String>, SourceFault> {
    if let Some(difference) = headers::difference(source, state, recorded, found).await? {
        return Ok(Some(difference));
    }
    if source.is_declared() {
        let actual = file_schemas(source, state, found).await?;
        return Ok(missing_column(recorded, found, &actual));
    }
    let actual = TableProvider::schema(found);
    if matches!(source.format, SourceFormat::Files { csv: true, .. }) {
        return Ok(positional_difference(recorded, &actual));
    }
    let typed = matches!(source.format, SourceFormat::Files { typed: true, .. });
    Ok(named_difference(recorded, &actual, typed))
}

/// The first recorded column that is gone, or of another type where types count.
pub(super) fn named_difference(recorded: &Schema, actual: &Schema, typed: bool) -> Option<String> {
    recorded.fields().iter().find_map(|was| {
        let Ok(is) = actual.field_with_name(was.name()) else {
            return Some(format!("column {} is gone", was.name()));
        };
        (typed && !same_sort(was.data_type(), is.data_type())).then(|| {
            format!(
                "column {} was {}, is {}",
                was.name(),
                type_name(was.data_type()),
                type_name(is.data_type())
            )
        })
    })
}

/// A CSV file is read by position, so that a moved column is as bad as a missing one.
fn positional_difference(recorded: &Schema, actual: &Schema) -> Option<String> {
    let was = recorded.fields();
    let is = actual.fields();
    for (place, column) in was.iter().enumerate() {
        match is.get(place) {
            Some(found) if found.name() == column.name() => {}
            Some(found) if actual.field_with_name(column.name()).is_ok() => {
                let (at, name, other) = (place + 1, column.name(), found.name());
                return Some(format!("column {at} was {name}, is {other}"));
            }
            _ => return Some(format!("column {} is gone", column.name())),
        }
    }
    is.get(was.len())
        .map(|added| format!("column {} is new", added.name()))
}

/// A column that the statement declares and no file has: it would be NULL everywhere.
fn missing_column(
    declared: &Schema,
    table: &ListingTable,
    actual: &[(String, SchemaRef)],
) -> Option<String> {
    let partitions = &table.options().table_partition_cols;
    let (path, _) = actual.first()?;
    declared
        .fields()
        .iter()
        .map(|field| field.name())
        .filter(|name| !partitions.iter().any(|(partition, _)| partition == *name))
        .find(|name| {
            !actual
                .iter()
                .any(|(_, file)| file.field_with_name(name).is_ok())
        })
        .map(|name| format!("column {name} is declared, and {path} has no such column"))
}

/// Whether values of both types are stored as one feature type, integers of any width.
fn same_sort(was: &DataType, is: &DataType) -> bool {
    if was == is {
        return true;
    }
    match (FeatureType::from_arrow(was), FeatureType::from_arrow(is)) {
        (Some(was), Some(is)) => was.accepts_key(&is) || is.accepts_key(&was),
        _ => was.equals_datatype(is),
    }
}

/// The SQL name where there is one.
fn type_name(data_type: &DataType) -> String {
    FeatureType::from_arrow(data_type).map_or_else(|| data_type.to_string(), |t| t.to_string())
}

/// `found` with the recorded schema in place of its own.
fn with_schema(
    state: &SessionState,
    found: &ListingTable,
    recorded: &Schema,
) -> Result<ListingTable, DataFusionError> {
    let partitions = &found.options().table_partition_cols;
    let fields: Vec<_> = recorded
        .fields()
        .iter()
        .filter(|field| !partitions.iter().any(|(name, _)| name == field.name()))
        .cloned()
        .collect();
    let config = ListingTableConfig::new_with_multi_paths(found.table_paths().clone())
        .with_listing_options(found.options().clone())
        .with_schema(Arc::new(Schema::new(fields)));
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    Ok(ListingTable::try_new(config)?
        .with_cache(cache)
        .with_constraints(
            TableProvider::constraints(found)
                .cloned()
                .unwrap_or_default(),
        ))
}

fn signature(files: &[ObjectMeta]) -> u64 {
    let mut parts: Vec<_> = files
        .iter()
        .map(|file| (&file.location, file.size, file.last_modified, &file.e_tag))
        .collect();
    parts.sort();
    hash_of(&parts)
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn locations(source: &Source) -> String {
    source.command.locations.join(", ")
}

/// A location as one would write it: local ones as a path.
pub(super) fn written(path: &ListingTableUrl) -> String {
    match path.get_url().to_file_path() {
        Ok(local) => local.to_string_lossy().into_owned(),
        Err(()) => path.get_url().to_string(),
    }
}

/// A file of a location as one would write it.
pub(super) fn in_store(path: &ListingTableUrl, file: &ObjectMeta) -> String {
    let store = path.object_store();
    if path.scheme() == "file" {
        format!("/{}", file.location)
    } else {
        format!("{}{}", store.as_str(), file.location)
    }
}
