//! Way 2: the case as training sets. Joins and windows are views, the rows of
//! the main table the spine; what is left (columns, scalar expressions, LIMIT) is
//! plain SQL over the training set.
//!
//! `lag(x, n)` is `last_value(x)` over the one row n PRECEDING. A window without
//! the current row is read strictly before: ROWS then rank from the row before,
//! so that bounds are one nearer. Tables of WINDOW UNION are in the view that a
//! window is over, MAXSIZE is MAX EVENTS.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use granary_engine::{Engine, Joins, Spine, TrainingOptions, TrainingRequest};
use granary_model::definitions::{BoundView, KeyBinding, KeySource, ServiceFeature};
use granary_model::{Definitions, SourceFile, parse_file};
use parquet::arrow::ArrowWriter;
use sqlparser::ast::{
    LimitClause, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor,
};

use super::case::Case;
use super::cells;
use super::relation::Relation;
use super::{Way, last_join, requests, sql, windows};

pub struct Training<'a> {
    pub engine: &'a Engine,
    folder: &'a Path,
    case: &'a Case,
    way: Way,
    /// Common table expressions.
    named: HashMap<String, (RecordBatch, Vec<String>)>,
    steps: usize,
}

/// Rows with the names of their columns.
type Output = (RecordBatch, Vec<String>);
type Future1<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + 'a>>;

/// One view, asked for as of a spine.
pub struct Asked<'a> {
    /// With `k0`, `k1`, .. and `event_time`; of several tables their union. The
    /// main table aside.
    pub events: Vec<RecordBatch>,
    /// With the same.
    pub spine: RecordBatch,
    /// Which of the spine's rows are events too.
    pub main: Main,
    /// Types of the keys, in SQL.
    pub keys: Vec<&'static str>,
    /// The view's query over `events`.
    pub query: String,
    pub features: &'a [String],
    pub strictly_before: bool,
    pub max_events: Option<u64>,
}

/// The rows of the main table as events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Main {
    /// Each for itself.
    pub request: bool,
    /// Each for those after it.
    pub pushed: bool,
}

impl Main {
    pub const NONE: Self = Self {
        request: false,
        pushed: false,
    };

    pub fn in_window(self) -> bool {
        self.request || self.pushed
    }
}

/// Runs the case; what it says where it does not fit.
pub async fn run(
    way: Way,
    engine: &Engine,
    folder: &Path,
    case: &Case,
) -> Result<Vec<RecordBatch>, String> {
    let query = sql::query_of(sql::parse(&sql::text(case))?)?;
    let mut training = Training {
        engine,
        folder,
        case,
        way,
        named: HashMap::new(),
        steps: 0,
    };
    let (rows, _) = training.query(&query).await?;
    Ok(vec![rows])
}

impl Training<'_> {
    pub fn way(&self) -> Way {
        self.way
    }

    fn query<'b>(&'b mut self, query: &'b Query) -> Future1<'b, Output> {
        Box::pin(async move {
            if let Some(with) = &query.with {
                for table in &with.cte_tables {
                    let output = self.query(&table.query).await?;
                    self.named.insert(sql::folded(&table.alias.name), output);
                }
            }
            let SetExpr::Select(select) = query.body.as_ref() else {
                return Err("no SELECT".into());
            };
            let limit = match &query.limit_clause {
                Some(LimitClause::LimitOffset {
                    limit: Some(limit), ..
                }) => format!("LIMIT {limit}"),
                _ => String::new(),
            };
            self.select(select, &limit).await
        })
    }

    async fn select(&mut self, select: &Select, limit: &str) -> Result<Output, String> {
        let [from] = select.from.as_slice() else {
            return Err("not one table in FROM".into());
        };
        if select.selection.is_some() {
            return Err("WHERE".into());
        }
        let mut relation = self.table(&from.relation).await?;
        for join in &from.joins {
            relation = last_join::join(self, relation, &join.relation).await?;
        }
        let mut items = select.projection.clone();
        let relation = windows::compute(self, self.case, relation, select, &mut items).await?;
        let mut columns = Vec::new();
        for item in &items {
            columns.extend(selected(&relation, item)?);
        }
        let (names, expressions): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
        let expressions: Vec<String> = expressions
            .iter()
            .enumerate()
            .map(|(place, expression)| format!("{expression} AS o{place}"))
            .collect();
        let text = format!("SELECT {} FROM rows {limit}", expressions.join(", "));
        Ok((self.plain(&relation.rows, &text).await?, names))
    }

    pub fn table<'b>(&'b mut self, factor: &'b TableFactor) -> Future1<'b, Relation> {
        Box::pin(async move {
            self.steps += 1;
            let prefix = format!("s{}", self.steps);
            let alias = |alias: &Option<sqlparser::ast::TableAlias>| {
                alias.as_ref().map(|alias| sql::folded(&alias.name))
            };
            match factor {
                TableFactor::Table {
                    name, alias: as_, ..
                } => {
                    let name = name.to_string().replace('"', "").to_lowercase();
                    let (rows, columns) = match self.named.get(&name) {
                        Some(output) => output.clone(),
                        None => self.source(&name)?,
                    };
                    let table = alias(as_).unwrap_or(name);
                    Ok(Relation::new(&rows, &table, &columns, &prefix))
                }
                TableFactor::Derived {
                    subquery,
                    alias: as_,
                    ..
                } => {
                    let (rows, columns) = self.query(subquery).await?;
                    let table = alias(as_).unwrap_or_default();
                    Ok(Relation::new(&rows, &table, &columns, &prefix))
                }
                other => Err(format!("FROM {other}")),
            }
        })
    }

    /// A table of the case.
    pub fn source(&self, name: &str) -> Result<Output, String> {
        let mut tables = self.case.tables.iter();
        let table = tables.find(|table| table.name.to_lowercase() == name);
        let table = table.ok_or_else(|| format!("no table {name}"))?;
        let columns = table.columns.iter().map(|c| c.name.to_lowercase());
        Ok((cells::batch(table), columns.collect()))
    }

    /// A query over `rows`.
    pub async fn plain(&self, rows: &RecordBatch, text: &str) -> Result<RecordBatch, String> {
        let context = self.engine.context(None, Joins::default());
        let told = |error: &dyn std::fmt::Display| format!("{error} in {text}");
        context
            .register_batch("rows", rows.clone())
            .map_err(|error| told(&error))?;
        let frame = context.sql(text).await.map_err(|error| told(&error))?;
        let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.map_err(|error| told(&error))?;
        arrow::compute::concat_batches(&schema, &batches).map_err(|error| told(&error))
    }

    /// The training set: the spine's columns without keys and time, then the
    /// features.
    pub async fn set(&mut self, asked: Asked<'_>) -> Result<RecordBatch, String> {
        self.steps += 1;
        if self.way == Way::Requests {
            let folder = self.folder.join(format!("requests{}", self.steps));
            return requests::answers(&folder, &asked).await;
        }
        let spine = format!("spine{}.parquet", self.steps);
        self.write(&spine, &asked.spine);
        let mut tables = Vec::new();
        let mut union = Vec::new();
        let main = asked.main.pushed.then_some(&asked.spine);
        for (i, events) in main.into_iter().chain(&asked.events).enumerate() {
            let file = format!("events{}_{i}.parquet", self.steps);
            self.write(&file, events);
            tables.push(format!(
                "CREATE EXTERNAL TABLE events{i} STORED AS PARQUET LOCATION '{file}';"
            ));
            union.push(format!("SELECT * FROM events{i}"));
        }
        let keys = asked.keys.iter().enumerate();
        let keys: Vec<String> = keys
            .map(|(i, data_type)| format!("k{i} {data_type}"))
            .collect();
        let max_events = asked.max_events.map(|n| format!("MAX EVENTS {n}"));
        let definitions = self
            .define(&format!(
                "CREATE ENTITY thing KEY ({});
                 {}
                 CREATE VIEW events AS {};
                 CREATE FEATURE VIEW asked ENTITY thing EVENT TIME event_time {} AS {};",
                keys.join(", "),
                tables.join("\n"),
                union.join(" UNION ALL "),
                max_events.unwrap_or_default(),
                asked.query
            ))
            .await?;
        let path = self.folder.join(spine).to_str().unwrap().to_owned();
        let (bound, features) = request(&definitions, asked.features);
        let request = TrainingRequest {
            spine: Spine::File(path),
            time: "event_time".into(),
            from: vec![bound],
            features,
            options: TrainingOptions {
                strictly_before: asked.strictly_before,
                ..TrainingOptions::default()
            },
            request_events: Vec::new(),
        };
        let told = |error: granary_engine::EngineError| error.to_string();
        let set = self
            .engine
            .training_set(&definitions, request)
            .await
            .map_err(told)?;
        let schema = set.schema();
        let rows = set.execute().map_err(told)?.try_collect::<Vec<_>>().await;
        let rows = rows.map_err(|error| error.to_string())?;
        let mut rows = arrow::compute::concat_batches(&schema, &rows).unwrap();
        let keys = (0..asked.keys.len()).map(|i| format!("k{i}"));
        for added in keys.chain(["event_time".to_owned()]) {
            let place = rows.schema().index_of(&added).unwrap();
            rows.remove_column(place);
        }
        Ok(rows)
    }

    fn write(&self, name: &str, rows: &RecordBatch) {
        let file = std::fs::File::create(self.folder.join(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
        writer.write(rows).unwrap();
        writer.close().unwrap();
    }

    async fn define(&self, text: &str) -> Result<Definitions, String> {
        let file = std::sync::Arc::new(SourceFile {
            path: "sql/case.sql".into(),
            text: text.into(),
        });
        let (statements, wrong) = parse_file(&file);
        if !wrong.0.is_empty() {
            return Err(wrong.to_string());
        }
        let checked = self.engine.check(&statements).await;
        let checked = checked.map_err(|wrong| wrong.to_string())?;
        let mut definitions = checked;
        for view in definitions.feature_views.values_mut() {
            view.version = 1;
        }
        Ok(definitions)
    }
}

fn request(definitions: &Definitions, names: &[String]) -> (BoundView, Vec<ServiceFeature>) {
    let view = &definitions.feature_views["asked"];
    let keys = view.keys.iter().map(|key| KeyBinding {
        key: key.clone(),
        source: KeySource::Request(key.name.clone()),
    });
    let bound = BoundView {
        alias: "asked".into(),
        view: "asked".into(),
        keys: keys.collect(),
    };
    let features = names.iter().map(|name| ServiceFeature {
        name: name.clone(),
        view_alias: "asked".into(),
        feature: name.clone(),
        aggregate: None,
    });
    (bound, features.collect())
}

/// Names and expressions over flat names of a SELECT item.
fn selected(relation: &Relation, item: &SelectItem) -> Result<Vec<(String, String)>, String> {
    let all = |table: Option<String>| {
        let names = relation.names.iter();
        let names = names.filter(move |name| table.as_ref().is_none_or(|t| *t == name.table));
        names
            .map(|name| (name.column.clone(), name.flat.clone()))
            .collect()
    };
    Ok(match item {
        SelectItem::Wildcard(_) => all(None),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), _) => {
            all(Some(table.to_string().to_lowercase()))
        }
        SelectItem::UnnamedExpr(expression) => {
            let name = sql::column_name(expression).unwrap_or_else(|| expression.to_string());
            vec![(name, relation.flattened(expression).to_string())]
        }
        SelectItem::ExprWithAlias { expr, alias } => {
            vec![(sql::folded(alias), relation.flattened(expr).to_string())]
        }
        other => return Err(format!("SELECT {other}")),
    })
}
