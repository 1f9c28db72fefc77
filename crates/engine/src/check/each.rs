//! What a service selects of views that are read for EACH element of a list:
//! aggregates of their features, and nothing else.

use std::collections::BTreeMap;

use granary_model::definitions::{Column, ServiceAggregate, ServiceFeature};
use granary_model::statement::{CreateService, FromItem, Ident, ServiceItem, SqlText};
use granary_model::{Diagnostic, Span};

use super::Check;
use super::on_demand::{Scalars, said};
use super::service::Bound;
use crate::expression::{Argument, Shapes, is_scalar, planned_outputs};

impl Check<'_> {
    /// The aggregates that are selected, by their place among the items.
    pub(super) async fn service_aggregates(
        &self,
        create: &CreateService,
        bound: &mut Bound,
    ) -> BTreeMap<usize, (ServiceFeature, Span)> {
        let mut aggregates = BTreeMap::new();
        let inputs = bound.inputs.iter();
        let inputs = inputs.map(|(name, (t, _))| Column::new(name.clone(), t.clone()));
        let shapes = self.shapes(bound, inputs.collect());
        for (place, item) in create.items.iter().enumerate() {
            let ServiceItem::Expression { sql, alias } = item else {
                continue;
            };
            if bound.broken {
                return aggregates;
            }
            if shapes.each.is_empty() {
                let message = "a service selects features as they are";
                let error = Diagnostic::new(&sql.span, message);
                bound.errors.push(error.help(
                    "compute it in a feature view or an on-demand feature view, and select that",
                ));
                continue;
            }
            let Some(alias) = alias else {
                let error = Diagnostic::new(&sql.span, "an aggregate needs a name");
                bound.errors.push(error.help("write .. AS name"));
                continue;
            };
            let feature = self.service_aggregate(sql, alias, &shapes, bound).await;
            aggregates.extend(feature.map(|f| (place, (f, alias.span.clone()))));
        }
        aggregates
    }

    async fn service_aggregate(
        &self,
        sql: &SqlText,
        alias: &Ident,
        shapes: &Shapes,
        bound: &mut Bound,
    ) -> Option<ServiceFeature> {
        let planned = self.plan_scalars(sql, shapes, &mut bound.errors);
        let Scalars { plan, state, .. } = planned.await?;
        let mut wrong = |message: String| {
            let error = Diagnostic::new(&sql.span, message);
            let help = "select an aggregate of features of one view that is read for EACH element";
            bound.errors.push(error.help(help));
        };
        if !is_scalar(shapes, &plan) {
            wrong("no window and no subquery has a place here".into());
            return None;
        }
        let outputs = match planned_outputs(&state, shapes, &plan) {
            Ok(outputs) => outputs,
            Err(error) => {
                wrong(said(&error));
                return None;
            }
        };
        let output = outputs.first()?;
        let of_each = output.arguments().find_map(|argument| match argument {
            Argument::Feature { alias, .. } if shapes.each.contains(alias) => Some(alias),
            _ => None,
        });
        let Some(of_each) = of_each else {
            wrong("this is no aggregate over EACH element of a list".into());
            return None;
        };
        Some(ServiceFeature {
            name: alias.value.clone(),
            view_alias: of_each.clone(),
            feature: alias.value.clone(),
            aggregate: Some(ServiceAggregate {
                sql: sql.text.clone(),
                data_type: output.column.data_type.clone(),
            }),
        })
    }
}

/// The start of an error where an alias is read for each element of a list.
pub(super) fn of_each_element(alias: &Ident, from: &[FromItem]) -> Option<Diagnostic> {
    let named = |item: &&FromItem| item.alias.as_ref().unwrap_or(&item.view).value == alias.value;
    let item = from.iter().find(named)?;
    let each = item.keys.iter().any(|clause| clause.each);
    let message = format!("{} is read for EACH element of a list", alias.value);
    each.then(|| Diagnostic::new(&alias.span, message))
}
