//! Sessions: DataFusion contexts in which the names of the definitions stand.
//!
//! A session does no IO when it is made: tables carry the schema that was
//! recorded at `apply` and open their files when they are read.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{DdlStatement, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::prelude::{SessionConfig, SessionContext, ident};
use datafusion::sql::parser::Statement;
use granary_model::definitions::{EventTime, ExternalTable, PlainView, ServeMode};
use granary_model::{Definitions, FeatureView, UtcMicros, ViewKind};
use tracing::instrument;

use super::count_distinct::CountDistinctTexts;
use super::functions::{self, CallPlanner, TakeTimeSinceApart};
use super::planner::GranaryPlanner;
use super::{Engine, no_later_than};
use crate::check::{event_time_origins, is_row_wise};
use crate::error::EngineError;
use crate::history::HistoryRelation;
use crate::lookup::QueryViewTable;
use crate::offline::table::FeatureViewTable;
use crate::preceding::TakePrecedingWindows;
use crate::source::{DeltaTables, NameBadRows, Source, recorded_schema};
use crate::stream_table::LostEvents;

/// How equi-joins are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Joins {
    /// By hash where that is faster: the build side must fit into memory.
    #[default]
    Fast,
    /// By sorting and merging, which spills: memory stays bounded whatever the sizes.
    Spilling,
}

/// What a session sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// What `as_of()` is.
    pub t: UtcMicros,
    /// Event times before t only, not t itself.
    pub strictly_before: bool,
    /// Nothing that was created after this, of what says when it was.
    pub known_at: Option<UtcMicros>,
}

impl From<UtcMicros> for AsOf {
    fn from(t: UtcMicros) -> Self {
        Self {
            t,
            strictly_before: false,
            known_at: None,
        }
    }
}

impl AsOf {
    /// The greatest event time that is seen.
    pub fn last(self) -> UtcMicros {
        match self.strictly_before {
            true => UtcMicros(self.t.0.saturating_sub(1)),
            false => self.t,
        }
    }
}

impl Engine {
    /// A session over all sources and plain views of `definitions`. With `as_of`,
    /// everything that has an event time is cut there. A feature view's name is
    /// its offline table, with `as_of` its values as of that time, one row a key;
    /// to scan one that was never run is an error. A view that is computed at
    /// request time is computed as of `as_of`, else of now.
    pub async fn session(
        &self,
        definitions: &Definitions,
        as_of: Option<UtcMicros>,
    ) -> Result<SessionContext, EngineError> {
        self.session_with(definitions, as_of.map(AsOf::from), Joins::default())
            .await
    }

    /// [`Self::session`] with a choice of joins.
    #[instrument(skip_all, err)]
    pub async fn session_with(
        &self,
        definitions: &Definitions,
        as_of: Option<AsOf>,
        joins: Joins,
    ) -> Result<SessionContext, EngineError> {
        let context = self.context(as_of.map(|as_of| as_of.t), joins);
        for table in definitions.tables.values() {
            let provider = self.table(&context, table).await?;
            register(&context, &table.name, provider)?;
            cut(&context, &table.name, table.event_time.as_ref(), as_of)?;
        }
        for stream in definitions.streams.values() {
            register(&context, &stream.name, self.stream_table(stream))?;
            cut(&context, &stream.name, Some(&stream.times()), as_of)?;
            if let Some(history) = &stream.history {
                register(
                    &context,
                    history,
                    Arc::new(HistoryRelation::new(self, stream)),
                )?;
                cut(&context, history, Some(&stream.times()), as_of)?;
            }
        }
        self.feature_views(&context, definitions, as_of, joins)?;
        for view in in_order(definitions) {
            let plan = plan_sql(&context.state(), &view.sql)
                .await
                .map_err(|error| EngineError::from_query(&view.name, error))?;
            let provider = Arc::new(ViewTable::new(plan, Some(view.sql.clone())));
            register(&context, &view.name, provider)?;
            cut(&context, &view.name, view.event_time.as_ref(), as_of)?;
        }
        Ok(context)
    }

    /// [`Self::session_with`] in which the view's own event time cuts too: the
    /// relation that it is a plain column of, of a windowed view the one in FROM,
    /// needs no `EVENT TIME OF`.
    pub async fn session_for(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        as_of: impl Into<AsOf>,
        joins: Joins,
    ) -> Result<SessionContext, EngineError> {
        let as_of = as_of.into();
        let Some(event_time) = &view.event_time else {
            return self.session_with(definitions, Some(as_of), joins).await;
        };
        let uncut = self.session(definitions, None).await?.state();
        let failed = |error| EngineError::from_query(&view.name, error);
        let dialect = uncut.config_options().sql_parser.dialect;
        let statement = uncut
            .sql_to_statement(&view.query, &dialect)
            .map_err(failed)?;
        let reads = uncut.resolve_table_references(&statement).map_err(failed)?;
        let reads: BTreeSet<String> = reads.iter().map(|r| r.table().to_owned()).collect();
        let (origins, row_wise) = if view.kind == ViewKind::Windowed {
            let origins = reads.into_iter().map(|r| (r, event_time.clone()));
            (origins.collect(), false)
        } else {
            let plan = plan_statement(&uncut, statement).await.map_err(failed)?;
            let origins = event_time_origins(&plan, event_time, &reads);
            let row_wise = reads.len() == 1 && is_row_wise(&plan);
            (origins, row_wise)
        };
        let mut cut = definitions.clone();
        for (relation, event_time) in origins {
            let table = cut.tables.get_mut(&relation).map(|t| &mut t.event_time);
            let of_view = cut.views.get_mut(&relation).map(|v| &mut v.event_time);
            let Some(time) = table.or(of_view) else {
                continue;
            };
            if row_wise {
                // The run cuts the rows that come out, which is the same, and
                // counts those whose event time is NULL.
                time.take_if(|time| time.event_time == event_time);
            } else if time.is_none() {
                let created_time = view.created_time.clone();
                *time = Some(EventTime {
                    event_time,
                    // Of any other view it is a column of the query.
                    created_time: created_time.filter(|_| view.kind == ViewKind::Windowed),
                });
            }
        }
        self.session_with(&cut, Some(as_of), joins).await
    }

    /// A session without any names but functions; `as_of()` is T, else the time now.
    pub fn context(&self, as_of: Option<UtcMicros>, joins: Joins) -> SessionContext {
        let t = as_of.unwrap_or_else(|| self.clock().now());
        let as_of = functions::as_of(t);
        let mut analyzer = Analyzer::new();
        analyzer.add_function_rewrite(Arc::new(TakeTimeSinceApart::new(as_of.clone())));
        let mut state = SessionStateBuilder::new()
            .with_config(self.config(joins))
            .with_runtime_env(self.runtime().clone())
            // Before DataFusion's own.
            .with_expr_planners(vec![Arc::new(CallPlanner::new(as_of.clone()))])
            .with_default_features()
            .with_table_factory(
                "DELTATABLE".into(),
                Arc::new(DeltaTables {
                    stores: self.stores().clone(),
                }),
            )
            .with_optimizer_rule(Arc::new(TakePrecedingWindows))
            .with_optimizer_rule(Arc::new(CountDistinctTexts))
            .with_physical_optimizer_rule(Arc::new(NameBadRows))
            .with_query_planner(Arc::new(GranaryPlanner));
        *state.analyzer() = Some(analyzer);
        let context = SessionContext::new_with_state(state.build());
        for scalar in functions::scalars(self.salt()).into_iter().chain([as_of]) {
            context.register_udf(Arc::unwrap_or_clone(scalar));
        }
        for aggregate in functions::aggregates() {
            context.register_udaf(Arc::unwrap_or_clone(aggregate));
        }
        context
    }

    fn config(&self, joins: Joins) -> SessionConfig {
        let settings = self.settings();
        let mut config = SessionConfig::new()
            .with_batch_size(settings.batch_rows)
            .with_extension(Arc::new(LostEvents::default()))
            .with_information_schema(true);
        if settings.target_partitions > 0 {
            config = config.with_target_partitions(settings.target_partitions);
        }
        let partitions = config.target_partitions();
        let options = config.options_mut();
        // No time zone is set: a timestamp without one is UTC anyway, and with
        // one DataFusion 55 fails on to_timestamp() over a column of text.
        options.sql_parser.collect_spans = true;
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        options.execution.parquet.enable_page_index = true;
        options.execution.parquet.bloom_filter_on_read = true;
        // Each sort keeps this aside for its merge: of a small pool a small part.
        let share = settings.memory_bytes_max / (16 * partitions as u64);
        options.execution.sort_spill_reservation_bytes = options
            .execution
            .sort_spill_reservation_bytes
            .min(usize::try_from(share).unwrap_or(usize::MAX));
        if joins == Joins::Spilling {
            options.optimizer.prefer_hash_join = false;
            // With one partition DataFusion would hash all the same.
            config = config.with_target_partitions(partitions.max(2));
        }
        config
    }

    fn feature_views(
        &self,
        context: &SessionContext,
        definitions: &Definitions,
        as_of: Option<AsOf>,
        joins: Joins,
    ) -> Result<(), EngineError> {
        let mut shared: Option<Arc<Definitions>> = None;
        for view in definitions.feature_views.values() {
            let table: Arc<dyn TableProvider> = if matches!(view.serve, ServeMode::Query { .. }) {
                let definitions = shared.get_or_insert_with(|| Arc::new(definitions.clone()));
                let t = as_of.unwrap_or_else(|| self.clock().now().into());
                let definitions = Arc::clone(definitions);
                Arc::new(QueryViewTable::new(self, definitions, view, t, joins))
            } else {
                Arc::new(FeatureViewTable::new(self, view, as_of.map(AsOf::last)))
            };
            register(context, &view.name, table)?;
        }
        Ok(())
    }

    async fn table(
        &self,
        context: &SessionContext,
        table: &ExternalTable,
    ) -> Result<Arc<dyn TableProvider>, EngineError> {
        let schema = recorded_schema(&table.name, &table.columns)?;
        let source = Source::parse(&context.state(), self, &table.name, &table.sql)
            .await
            .map_err(|error| EngineError::from_query(&table.name, error))?;
        Ok(Arc::new(source.with_recorded(schema)))
    }
}

/// Makes `name` stand for `provider`, in place of what it stood for.
pub(crate) fn register(
    context: &SessionContext,
    name: &str,
    provider: Arc<dyn TableProvider>,
) -> Result<(), EngineError> {
    context
        .register_table(TableReference::bare(name), provider)
        .map(drop)
        .map_err(|error| EngineError::from_query(name, error))
}

/// Makes `name` stand for its rows that are seen as of `as_of`.
fn cut(
    context: &SessionContext,
    name: &str,
    time: Option<&EventTime>,
    as_of: Option<AsOf>,
) -> Result<(), EngineError> {
    let (Some(time), Some(as_of)) = (time, as_of) else {
        return Ok(());
    };
    let failed = |error| EngineError::from_query(name, error);
    let table = TableReference::bare(name);
    let provider = context
        .deregister_table(table.clone())
        .map_err(failed)?
        .ok_or_else(|| EngineError::Settings(format!("{name} is not registered")))?;
    let schema = provider.schema();
    let no_later = |column: &str, t| {
        let field = schema.field_with_name(column).ok();
        let filter = field.and_then(|field| no_later_than(column, field.data_type(), t));
        filter.ok_or_else(|| EngineError::SchemaChanged {
            object: name.to_owned(),
            difference: format!("{column} is no longer a column with a time"),
        })
    };
    let mut filter = no_later(&time.event_time, as_of.last())?;
    if let (Some(known_at), Some(created)) = (as_of.known_at, &time.created_time) {
        let known = no_later(created, known_at)?.or(ident(created).is_null());
        filter = filter.and(known);
    }
    let plan = LogicalPlanBuilder::scan(table, provider_as_source(provider), None)
        .and_then(|scan| scan.filter(filter)?.build())
        .map_err(failed)?;
    register(context, name, Arc::new(ViewTable::new(plan, None)))
}

/// The plan of a query, or of the query of a `CREATE VIEW`, with its types settled.
pub(crate) async fn plan_sql(
    state: &SessionState,
    sql: &str,
) -> Result<LogicalPlan, DataFusionError> {
    let dialect = state.config_options().sql_parser.dialect;
    plan_statement(state, state.sql_to_statement(sql, &dialect)?).await
}

/// [`plan_sql`] of a parsed statement.
pub(crate) async fn plan_statement(
    state: &SessionState,
    statement: Statement,
) -> Result<LogicalPlan, DataFusionError> {
    let plan = match state.statement_to_plan(statement).await? {
        LogicalPlan::Ddl(DdlStatement::CreateView(view)) => Arc::unwrap_or_clone(view.input),
        query => query,
    };
    settle_types(state, plan)
}

/// Adds the casts that make the operands of a plan fit, so that its schema is
/// that of the rows that it will give. Calls that the session takes apart are.
pub(crate) fn settle_types(
    state: &SessionState,
    plan: LogicalPlan,
) -> Result<LogicalPlan, DataFusionError> {
    let mut analyzer = Analyzer::with_rules(vec![Arc::new(TypeCoercion::new())]);
    for rewrite in state.analyzer().function_rewrites() {
        analyzer.add_function_rewrite(rewrite.clone());
    }
    analyzer.execute_and_check(plan, state.config_options(), |_, _| {})
}

/// Plain views, each after those that it reads.
fn in_order(definitions: &Definitions) -> Vec<&PlainView> {
    fn visit<'a>(
        definitions: &'a Definitions,
        name: &str,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a PlainView>,
    ) {
        let Some((name, view)) = definitions.views.get_key_value(name) else {
            return;
        };
        if seen.insert(name) {
            for dependency in &view.depends_on {
                visit(definitions, dependency, seen, order);
            }
            order.push(view);
        }
    }
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for name in definitions.views.keys() {
        visit(definitions, name, &mut seen, &mut order);
    }
    order
}
