//! SQL as a person types it, over the sources, views and offline tables of
//! some definitions. Nothing here writes into a source or changes a definition.

mod copy;

use std::collections::BTreeMap;
use std::fmt;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use granary_model::{Definitions, UtcMicros};

use self::copy::Protected;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::stream_table::LostEvents;

/// Where statements run.
pub struct Session {
    engine: Engine,
    definitions: Definitions,
    context: SessionContext,
}

/// A statement that was planned and has not run.
pub struct Query {
    frame: DataFrame,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.frame.logical_plan();
        f.debug_struct("Query").field("plan", plan).finish()
    }
}

impl Engine {
    /// A session to explore in: see [`Engine::session`].
    pub async fn query_session(
        &self,
        definitions: &Definitions,
        as_of: Option<UtcMicros>,
    ) -> Result<Session, EngineError> {
        let context = self.session(definitions, as_of).await?;
        Ok(Session {
            engine: self.clone(),
            definitions: definitions.clone(),
            context,
        })
    }
}

impl Session {
    /// Streams that were read so far and lost events, and before which time some
    /// of their events are gone.
    pub fn trimmed(&self) -> BTreeMap<String, UtcMicros> {
        LostEvents::times_of(self.context.state().config())
    }

    /// Parses and plans every statement of a text, so that a mistake in the
    /// last is told before the first runs. Statements that write into tables or
    /// define objects are `EngineError::Refused`; `COPY query TO 'file'` is not,
    /// unless it would write over a source or into the root.
    pub async fn queries(&self, text: &str) -> Result<Vec<Query>, EngineError> {
        let mut queries = Vec::new();
        for statement in parse(&self.context, text)? {
            let state = self.context.state();
            let plan = state.statement_to_plan(statement).await.map_err(failed)?;
            let plan = self.admit(plan).await?;
            let frame = DataFrame::new(state, plan);
            queries.push(Query { frame });
        }
        Ok(queries)
    }

    /// Refuses what writes where it must not, within `EXPLAIN ANALYZE` too.
    async fn admit(&self, plan: LogicalPlan) -> Result<LogicalPlan, EngineError> {
        refuse_writes(&plan)?;
        let is_copy = |node: &LogicalPlan| Ok(matches!(node, LogicalPlan::Copy(_)));
        if !plan.exists(is_copy).map_err(failed)? {
            return Ok(plan);
        }
        let state = self.context.state();
        let protected = Protected::of(&self.engine, &self.definitions, &state).await?;
        let admitted = plan.transform_down(|node| match node {
            LogicalPlan::Copy(mut copy) => {
                protected
                    .admit(&self.engine, &mut copy)
                    .map_err(|error| DataFusionError::External(Box::new(error)))?;
                Ok(Transformed::yes(LogicalPlan::Copy(copy)))
            }
            node => Ok(Transformed::no(node)),
        });
        Ok(admitted.map_err(failed)?.data)
    }
}

impl Query {
    /// Runs it. Rows come as they are computed.
    pub async fn rows(self) -> Result<SendableRecordBatchStream, EngineError> {
        self.frame.execute_stream().await.map_err(failed)
    }
}

fn failed(source: DataFusionError) -> EngineError {
    EngineError::from_query("query", source)
}

fn parse(context: &SessionContext, text: &str) -> Result<Vec<Statement>, EngineError> {
    let state = context.state();
    let options = &state.config().options().sql_parser;
    let parsed = DFParserBuilder::new(text)
        .with_recursion_limit(options.recursion_limit.get())
        .build()
        .and_then(|mut parser| parser.parse_statements());
    Ok(parsed.map_err(failed)?.into())
}

fn refuse_writes(plan: &LogicalPlan) -> Result<(), EngineError> {
    let refused = |node: &LogicalPlan| match node {
        LogicalPlan::Ddl(_) => {
            Some("definitions are made in the project's sql files, by `granary apply`")
        }
        LogicalPlan::Dml(_) => Some("sources and feature tables are not written to"),
        _ => None,
    };
    let mut found = None;
    plan.apply(|node| {
        found = refused(node).map(|what| (node.display().to_string(), what));
        Ok(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })
    .map_err(failed)?;
    let Some((name, what)) = found else {
        return Ok(());
    };
    let name = name.split([':', ' ']).next().unwrap_or_default();
    Err(EngineError::Refused(format!(
        "{name} is refused here: {what}"
    )))
}
