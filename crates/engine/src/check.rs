//! From statements to checked definitions.
//!
//! The order is that of need: names first, then what has columns (tables,
//! streams, plain views and feature views, each after what it reads), then
//! on-demand views and services over them, then what is said of them all.
//! What depends on something wrong is left unchecked in silence, so that one
//! mistake is one message.

mod annotations;
mod blame;
mod each;
mod entities;
mod feature_view;
mod fingerprints;
mod key_expressions;
mod lineage;
mod names;
mod on_demand;
mod outputs;
mod query;
mod relations;
mod service;
mod translate;
mod windowed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;
use granary_model::statement::{EventTimeOf, Statement, StatementKind};
use granary_model::{Definitions, Diagnostic, Diagnostics};
use tracing::instrument;

use crate::engine::{Engine, Joins};
use names::Names;

pub(crate) use lineage::{calls_as_of, event_time_origins, has_subquery, is_row_wise};

impl Engine {
    /// Checks names, types, keys, times, kinds and cycles, and resolves all of it.
    /// Every error that can be told is told. Reads the schemas of the sources
    /// from their files.
    #[instrument(skip_all)]
    pub async fn check(&self, statements: &[Statement]) -> Result<Definitions, Diagnostics> {
        let mut check = Check::new(self, statements);
        check.entities();
        check.relations().await;
        check.on_demand_views().await;
        check.services().await;
        check.annotations();
        check.fingerprint();
        check.diagnostics.into_result()?;
        Ok(check.definitions)
    }
}

/// What is known half-way.
struct Check<'a> {
    engine: &'a Engine,
    /// Holds every relation checked so far, uncut.
    context: SessionContext,
    state: SessionState,
    statements: &'a [Statement],
    names: Names<'a>,
    /// By relation.
    times: BTreeMap<&'a str, &'a EventTimeOf>,
    definitions: Definitions,
    /// What each relation checked so far is read through.
    relations: BTreeMap<String, Arc<dyn TableProvider>>,
    /// Objects whose shape is unknown since something is wrong with them.
    broken: BTreeSet<String>,
    diagnostics: Diagnostics,
}

impl<'a> Check<'a> {
    fn new(engine: &'a Engine, statements: &'a [Statement]) -> Self {
        let context = engine.context(None, Joins::default());
        let mut diagnostics = Diagnostics::default();
        let names = Names::collect(statements, &mut diagnostics);
        let broken = names
            .iter()
            .filter(|named| named.sort.is_none())
            .map(|named| named.name.value.clone())
            .collect();
        let mut check = Self {
            engine,
            state: context.state(),
            context,
            statements,
            names,
            times: BTreeMap::new(),
            definitions: Definitions::default(),
            relations: BTreeMap::new(),
            broken,
            diagnostics,
        };
        check.collect_times();
        check
    }

    /// `EVENT TIME OF` statements by their relation.
    fn collect_times(&mut self) {
        use granary_model::statement::ObjectSort::{Table, View};
        for statement in self.statements {
            let StatementKind::EventTimeOf(of) = &statement.kind else {
                continue;
            };
            let relation = &of.relation;
            if let Some(wrong) = self.names.wrong(relation, &[Table, View], "table or view") {
                let help = "streams and feature views say their event time themselves";
                let wrong = match &wrong.help {
                    None if self.names.get(&relation.value).is_some() => wrong.help(help),
                    _ => wrong,
                };
                self.diagnostics.push(wrong);
            } else if let Some(first) = self.times.get(relation.value.as_str()) {
                let line = first.relation.span.start.line;
                let file = &first.relation.span.file.path;
                let message = format!("{:?} has an event time already", relation.value);
                let error = Diagnostic::new(&relation.span, message);
                self.diagnostics
                    .push(error.help(format!("see {file}:{line}; keep one of them")));
            } else {
                self.times.insert(&relation.value, of);
            }
        }
    }

    fn breaks(&mut self, name: &str) {
        self.broken.insert(name.to_owned());
    }

    /// Adds errors, leaving out what was said of the same place already.
    fn tell(&mut self, errors: impl IntoIterator<Item = Diagnostic>) {
        for error in errors {
            if !self.diagnostics.iter().any(|told| *told == error) {
                self.diagnostics.push(error);
            }
        }
    }
}
