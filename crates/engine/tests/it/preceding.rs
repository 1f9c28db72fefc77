//! Windows that end at or before their row: ours against DataFusion's own, and
//! against frames looked up row by row.

mod codec;
mod frames;
mod memory;
mod stock;

use datafusion::prelude::SessionContext;
use granary_engine::{EngineSettings, Joins};

use crate::project::Project;

pub(crate) use crate::aggregates::rows;

/// A session of ours, in which these statements have run.
async fn ours(statements: &str) -> SessionContext {
    let project = Project::new();
    prepared(project.engine.context(None, Joins::default()), statements).await
}

async fn ours_with(settings: EngineSettings, statements: &str) -> SessionContext {
    let project = Project::with_settings(settings);
    prepared(project.engine.context(None, Joins::default()), statements).await
}

/// A session as DataFusion has it.
async fn stock(statements: &str) -> SessionContext {
    prepared(SessionContext::new(), statements).await
}

async fn prepared(context: SessionContext, statements: &str) -> SessionContext {
    for statement in statements.split(';').filter(|s| !s.trim().is_empty()) {
        context
            .sql(statement)
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
    }
    context
}

/// What a query that cannot be run says.
async fn refusal(context: &SessionContext, sql: &str) -> Option<String> {
    let ended = match context.sql(sql).await {
        Ok(frame) => frame.collect().await.map(|_| ()),
        Err(error) => Err(error),
    };
    ended.err().map(|error| error.strip_backtrace())
}
