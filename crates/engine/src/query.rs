//! SQL as a person types it, over the sources, views and offline tables of
//! some definitions. Nothing here writes into a source or changes a definition.

use std::fmt;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use granary_model::{Definitions, UtcMicros};

use crate::engine::Engine;
use crate::error::EngineError;

/// Where statements run.
pub struct Session {
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
        Ok(Session { context })
    }
}

impl Session {
    /// Parses and plans every statement of a text, so that a mistake in the
    /// last is told before the first runs. Statements that write into tables or
    /// define objects are `EngineError::Refused`; `COPY query TO 'file'` is not.
    pub async fn queries(&self, text: &str) -> Result<Vec<Query>, EngineError> {
        let mut queries = Vec::new();
        for statement in parse(&self.context, text)? {
            let state = self.context.state();
            let plan = state.statement_to_plan(statement).await.map_err(failed)?;
            refuse_writes(&plan)?;
            let frame = DataFrame::new(state, plan);
            queries.push(Query { frame });
        }
        Ok(queries)
    }
}

impl Query {
    /// Runs it. Rows come as they are computed.
    pub async fn rows(self) -> Result<SendableRecordBatchStream, EngineError> {
        self.frame.execute_stream().await.map_err(failed)
    }
}

fn failed(source: datafusion::error::DataFusionError) -> EngineError {
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
    let what = match plan {
        LogicalPlan::Ddl(_) => {
            "definitions are made in the project's sql files, by `granary apply`"
        }
        LogicalPlan::Dml(_) => "sources and feature tables are not written to",
        _ => return Ok(()),
    };
    let name = plan.display().to_string();
    let name = name.split([':', ' ']).next().unwrap_or_default();
    Err(EngineError::Refused(format!(
        "{name} is refused here: {what}"
    )))
}
