//! The headers of CSV files: their columns are read by place, whatever the
//! header says, so a file whose header has another order would swap values in
//! silence.

use datafusion::arrow::datatypes::Schema;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::listing::ListingTable;
use datafusion::execution::SessionState;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;

use super::files::{FILES_AT_ONCE, in_store, list_path, written};
use super::{Source, SourceFault};

/// How the header of some file differs from the columns that it is read as;
/// `None` where all fit, or have no header.
pub(super) async fn difference(
    source: &Source,
    state: &SessionState,
    columns: &Schema,
    table: &ListingTable,
) -> Result<Option<String>, SourceFault> {
    let Some(csv) = table.options().format.downcast_ref::<CsvFormat>() else {
        return Ok(None);
    };
    let by_default = state.config_options().catalog.has_header;
    if !csv.has_header().unwrap_or(by_default) {
        return Ok(None);
    }
    let partitions = &table.options().table_partition_cols;
    let is_partition = |name: &String| partitions.iter().any(|(partition, _)| partition == name);
    let names = columns.fields().iter().map(|field| field.name());
    let names: Vec<&String> = names.filter(|name| !is_partition(name)).collect();
    let wanted = Wanted {
        names: &names,
        declared: source.is_declared(),
        may_be_short: csv.options().truncated_rows.unwrap_or(false),
    };
    let header_only = &CsvFormat::default()
        .with_options(csv.options().clone())
        .with_schema_infer_max_rec(0);
    for path in table.table_paths() {
        let broken = |error| SourceFault::of(written(path), &error);
        let store = &state.runtime_env().object_store(path).map_err(broken)?;
        let extension = &table.options().file_extension;
        let files = list_path(state, path, extension).await.map_err(broken)?;
        let of_file = |file: ObjectMeta| async move {
            let named = in_store(path, &file);
            match header_only.infer_schema(state, store, &[file]).await {
                Ok(header) => Ok((named, header)),
                Err(error) => Err(SourceFault::of(named, &error)),
            }
        };
        let mut headers = futures::stream::iter(files.into_iter().filter(|f| f.size > 0))
            .map(of_file)
            .buffered(FILES_AT_ONCE);
        while let Some((file, header)) = headers.try_next().await? {
            let given: Vec<&String> = header.fields().iter().map(|f| f.name()).collect();
            if let Some(difference) = wanted.differs(&given) {
                return Ok(Some(format!("{difference} ({file})")));
            }
        }
    }
    Ok(None)
}

/// The names that columns are read as.
struct Wanted<'a> {
    names: &'a [&'a String],
    /// By the statement, which may give a column another name than the header.
    declared: bool,
    /// Whether rows may end early.
    may_be_short: bool,
}

impl Wanted<'_> {
    fn differs(&self, given: &[&String]) -> Option<String> {
        if given.is_empty() {
            return None;
        }
        if self.declared {
            return self.moved(given);
        }
        for (place, name) in self.names.iter().enumerate() {
            match given.get(place) {
                Some(found) if found == name => {}
                None if self.may_be_short => break,
                Some(found) if given.contains(name) => {
                    return Some(format!("column {} was {name}, is {found}", place + 1));
                }
                _ => return Some(format!("column {name} is gone")),
            }
        }
        let added = given.get(self.names.len())?;
        Some(format!("column {added} is new"))
    }

    /// A declared column whose name the header has in another place.
    fn moved(&self, given: &[&String]) -> Option<String> {
        self.names.iter().enumerate().find_map(|(place, name)| {
            let is_named = |header: &&String| header.eq_ignore_ascii_case(name);
            if given.get(place).is_none_or(is_named) {
                return None;
            }
            let at = given.iter().position(is_named)?;
            Some(format!(
                "column {} is declared as {name}, which is column {} of the header",
                place + 1,
                at + 1
            ))
        })
    }
}
