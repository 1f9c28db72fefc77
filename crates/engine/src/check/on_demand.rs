//! On-demand views: scalar SQL over features and inputs. Checked by planning
//! their expressions as reads do.

use std::collections::BTreeMap;

use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use granary_model::Diagnostic;
use granary_model::definitions::{Column, OnDemandView};
use granary_model::fingerprint::Fingerprint;
use granary_model::statement::{CreateOnDemandView, SqlText, StatementKind};

use super::Check;
use super::entities::{annotations, columns, duplicate_columns};
use super::outputs::Outputs;
use super::query::Query;
use super::service::Bound;
use super::translate::{syntax, translate};
use crate::engine::plan_statement;
use crate::expression::{INPUT, Shapes, is_scalar, planned_outputs};

/// What our own planning of expressions refused, as it was said.
pub(super) fn said(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::Plan(message) => message.clone(),
        other => other.strip_backtrace(),
    }
}

/// A SELECT of expressions, planned.
pub(super) struct Scalars<'t> {
    pub(super) query: Query<'t>,
    pub(super) plan: LogicalPlan,
    pub(super) state: SessionState,
}

impl<'a> Check<'a> {
    pub(super) async fn on_demand_views(&mut self) {
        let mut waiting: BTreeMap<&str, &'a CreateOnDemandView> = BTreeMap::new();
        for statement in self.statements {
            if let StatementKind::CreateOnDemandView(create) = &statement.kind
                && self.names.is_first(&create.name)
            {
                waiting.insert(&create.name.value, create);
            }
        }
        // Each after the on-demand views that it reads.
        while !waiting.is_empty() {
            let ready = waiting.values().copied().find(|create| {
                let mut reads = create.from.iter().map(|item| item.view.value.as_str());
                !reads.any(|read| waiting.contains_key(read))
            });
            let Some(create) = ready else {
                self.tell_cycle(waiting.into_values());
                return;
            };
            waiting.remove(create.name.value.as_str());
            self.on_demand_view(create).await;
        }
    }

    fn tell_cycle(&mut self, cycle: impl Iterator<Item = &'a CreateOnDemandView>) {
        for create in cycle {
            let message = format!("{:?} depends on itself", create.name.value);
            self.tell([Diagnostic::new(&create.name.span, message)
                .help("let one of them read feature views alone")]);
            self.breaks(&create.name.value);
        }
    }

    async fn on_demand_view(&mut self, create: &CreateOnDemandView) {
        let mut bound = self.bind(&create.from, Some(&create.inputs)).await;
        bound.errors.extend(duplicate_columns(&create.inputs));
        let features = if bound.broken {
            None
        } else {
            self.on_demand_features(create, &mut bound).await
        };
        let failed = bound.broken || !bound.errors.is_empty() || features.is_none();
        self.tell(bound.errors);
        if failed {
            self.breaks(&create.name.value);
        }
        let mut depends_on: Vec<String> = bound.views.iter().map(|v| v.view.clone()).collect();
        depends_on.sort();
        depends_on.dedup();
        let view = OnDemandView {
            name: create.name.value.clone(),
            version: 0,
            fingerprint: Fingerprint::default(),
            inputs: columns(&create.inputs),
            select: create.select.text.clone(),
            from: bound.views,
            features: features.unwrap_or_default(),
            depends_on,
            annotations: annotations(&create.annotations),
        };
        self.definitions
            .on_demand_views
            .insert(view.name.clone(), view);
    }

    /// Plans the expressions; `None` where something is wrong, which is added to `bound`.
    async fn on_demand_features(
        &self,
        create: &CreateOnDemandView,
        bound: &mut Bound,
    ) -> Option<Vec<Column>> {
        let shapes = self.shapes(bound, columns(&create.inputs));
        let planned = self.plan_scalars(&create.select, &shapes, &mut bound.errors);
        let Scalars { query, plan, state } = planned.await?;
        if !is_scalar(&shapes, &plan) {
            let message = "an on-demand view has scalar expressions only: no aggregate, no window, no subquery";
            let error = Diagnostic::new(&create.select.span, message);
            bound
                .errors
                .push(error.help("aggregate in a feature view, and read that"));
            return None;
        }
        let schema = plan.schema().as_arrow().clone();
        let outputs = Outputs::new(&query, &schema);
        bound.errors.extend(outputs.wrong_names());
        let (features, errors) = outputs.features(&std::collections::BTreeSet::new());
        let fine = errors.is_empty();
        bound.errors.extend(errors);
        if fine && let Err(error) = planned_outputs(&state, &shapes, &plan) {
            let message = said(&error);
            bound
                .errors
                .push(Diagnostic::new(&create.select.span, message));
            return None;
        }
        fine.then_some(features)
    }

    /// Plans `SELECT <text>` over views and inputs, as reads do; what is wrong
    /// is added to the errors.
    pub(super) async fn plan_scalars<'t>(
        &self,
        text: &'t SqlText,
        shapes: &Shapes,
        errors: &mut Vec<Diagnostic>,
    ) -> Option<Scalars<'t>> {
        let (context, from) = shapes.session(self.engine).ok()?;
        let sql = format!("SELECT\n{}\nFROM {from}", text.text);
        let state = context.state();
        let query = match Query::parse_within(&state, text, &sql, 1) {
            Ok(query) => query,
            Err(error) => {
                errors.push(syntax(text, &error));
                return None;
            }
        };
        let refused = query.refused_calls(&state);
        if !refused.is_empty() {
            errors.extend(refused);
            return None;
        }
        match plan_statement(&state, query.statement()).await {
            Ok(plan) => Some(Scalars { query, plan, state }),
            Err(error) => {
                match text.find_name(INPUT).filter(|_| shapes.inputs.is_empty()) {
                    Some(span) => errors.push(
                        Diagnostic::new(&span, "there are no inputs here")
                            .help("an on-demand view declares them: INPUT (name type)"),
                    ),
                    None => errors.extend(translate(&query, &error, &text.span)),
                }
                None
            }
        }
    }
}
