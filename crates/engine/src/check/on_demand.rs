//! On-demand views: scalar SQL over features and inputs. Checked by planning
//! their expressions over empty tables of the views' shapes; not served yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::LogicalPlan;
use granary_model::Diagnostic;
use granary_model::definitions::{Column, OnDemandView};
use granary_model::fingerprint::Fingerprint;
use granary_model::statement::{CreateOnDemandView, StatementKind};

use super::Check;
use super::entities::{annotations, columns, duplicate_columns};
use super::outputs::Outputs;
use super::query::Query;
use super::service::Bound;
use super::translate::{syntax, translate};
use crate::engine::{Joins, plan_statement, register};

/// The name by which expressions may say that an input is meant.
const INPUT: &str = "input";

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
        let mut bound = self.bind(&create.from);
        bound.errors.extend(duplicate_columns(&create.inputs));
        for input in &create.inputs {
            if let Some((key, _)) = bound.request.get(&input.name.value)
                && *key != input.data_type
            {
                let message = format!(
                    "input {:?} is {}, and the key of that name is {key}",
                    input.name.value, input.data_type
                );
                bound.errors.push(
                    Diagnostic::new(&input.type_span, message)
                        .help("keys and inputs share one namespace: give the input another name"),
                );
            }
        }
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
        let message = "on-demand feature views are not served by this version";
        self.unserved
            .push(Diagnostic::new(&create.name.span, message));
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
        let context = self.engine.context(None, Joins::default());
        let mut tables = Vec::new();
        let inputs = columns(&create.inputs);
        let shapes = bound
            .views
            .iter()
            .map(|view| {
                (
                    view.alias.as_str(),
                    self.view_features(&view.view).unwrap_or_default(),
                )
            })
            .chain((!inputs.is_empty()).then_some((INPUT, inputs)));
        for (name, columns) in shapes {
            let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
            let table = Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))));
            register(&context, name, table).ok()?;
            tables.push(format!("\"{}\"", name.replace('"', "\"\"")));
        }
        let sql = format!("SELECT\n{}\nFROM {}", create.select.text, tables.join(", "));
        let state = context.state();
        let query = match Query::parse_within(&state, &create.select, &sql, 1) {
            Ok(query) => query,
            Err(error) => {
                bound.errors.push(syntax(&create.select, &error));
                return None;
            }
        };
        let refused = query.refused_calls(&state);
        if !refused.is_empty() {
            bound.errors.extend(refused);
            return None;
        }
        let plan = match plan_statement(&state, query.statement()).await {
            Ok(plan) => plan,
            Err(error) => {
                let told = translate(&query, &error, &create.select.span);
                bound.errors.extend(told);
                return None;
            }
        };
        if !is_scalar(&plan) {
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
        fine.then_some(features)
    }
}

fn is_scalar(plan: &LogicalPlan) -> bool {
    let mut scalar = true;
    let mut projections = 0;
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) => projections += 1,
            LogicalPlan::Join(_) | LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => {}
            _ => scalar = false,
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && scalar && projections <= 1
}
