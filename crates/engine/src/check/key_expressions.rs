//! Keys that are computed: `KEY (cell => h3_cell(input.lat, input.lon, 8))`, or
//! each element of a list that is. The expression reads other views of the same
//! FROM and inputs of the request.

use std::collections::BTreeMap;

use granary_model::definitions::Column;
use granary_model::statement::{FromItem, Ident, KeyClause, KeyExpression, SqlText};
use granary_model::{Diagnostic, FeatureType};

use super::Check;
use super::on_demand::Scalars;
use super::outputs::type_name;
use super::service::Bound;
use crate::expression::{Argument, INPUT, PlannedOutput, Shapes, is_scalar, planned_outputs};

/// The aliases that the computed keys of an alias read.
pub(super) type KeyReads = BTreeMap<String, Vec<String>>;

/// The expression of a key that is computed.
pub(super) fn expression_of(clause: &KeyClause) -> Option<SqlText> {
    match &clause.source {
        KeyExpression::Sql(sql) => Some(sql.clone()),
        KeyExpression::Feature { alias, feature } if alias.value == INPUT => Some(SqlText {
            text: format!("{INPUT}.{}", quoted(feature)),
            span: alias.span.to(&feature.span),
        }),
        // A list of the request is an input.
        KeyExpression::Name(name) if clause.each => Some(SqlText {
            text: quoted(name),
            span: name.span.clone(),
        }),
        KeyExpression::Feature { .. } | KeyExpression::Name(_) => None,
    }
}

/// A name as SQL takes it back.
pub(super) fn quoted(name: &Ident) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts = name.value.starts_with(|c: char| !c.is_ascii_digit());
    match starts && name.value.chars().all(plain) {
        true => name.value.clone(),
        false => format!("\"{}\"", name.value.replace('"', "\"\"")),
    }
}

impl Check<'_> {
    /// Checks the computed keys of a FROM.
    pub(super) async fn key_expressions(
        &self,
        from: &[FromItem],
        inputs: Vec<Column>,
        bound: &mut Bound,
    ) -> KeyReads {
        let mut reads = KeyReads::new();
        if bound.broken {
            return reads;
        }
        let mut shapes = self.shapes(bound, inputs);
        let each = std::mem::take(&mut shapes.each);
        shapes.views.retain(|(alias, _)| !each.contains(alias));
        for item in from {
            let alias = item.alias.as_ref().unwrap_or(&item.view);
            for clause in &item.keys {
                let Some(sql) = expression_of(clause) else {
                    continue;
                };
                let keys = self.view_keys(&item.view.value).unwrap_or_default();
                let key = keys.into_iter().find(|key| key.name == clause.key.value);
                let Some(key) = key else { continue };
                let read = self.key_expression((&key, clause.each), &sql, &shapes, bound);
                let read = read.await;
                let of_alias = reads.entry(alias.value.clone()).or_default();
                of_alias.extend(read.unwrap_or_default());
            }
        }
        reads
    }

    /// What expressions over a FROM may read.
    pub(super) fn shapes(&self, bound: &Bound, inputs: Vec<Column>) -> Shapes {
        let views = bound.views.iter().map(|view| {
            let features = self.view_features(&view.view).unwrap_or_default();
            (view.alias.clone(), features)
        });
        let each = bound.views.iter().filter(|view| view.is_each());
        Shapes {
            views: views.collect(),
            each: each.map(|view| view.alias.clone()).collect(),
            inputs,
        }
    }

    /// Checks one key; the aliases that it reads, or `None` where it is wrong.
    async fn key_expression(
        &self,
        (key, each): (&Column, bool),
        sql: &SqlText,
        shapes: &Shapes,
        bound: &mut Bound,
    ) -> Option<Vec<String>> {
        let planned = self.plan_scalars(sql, shapes, &mut bound.errors);
        let Scalars { plan, state, .. } = planned.await?;
        if !is_scalar(shapes, &plan) {
            let message = "a key is one scalar expression: no aggregate, no window, no subquery";
            bound.errors.push(
                Diagnostic::new(&sql.span, message)
                    .help("compute it in a view, and take the key from that: view.feature"),
            );
            return None;
        }
        let given = plan.schema().field(0).data_type();
        let typed = FeatureType::from_arrow(given);
        let typed = match (typed, each) {
            (Some(FeatureType::List(item)), true) => Some(*item),
            (_, true) => {
                let message = format!("EACH takes a list, and this is {}", type_name(given));
                let error = Diagnostic::new(&sql.span, message);
                bound.errors.push(error.help("leave EACH out"));
                return None;
            }
            (typed, false) => typed,
        };
        if !typed.as_ref().is_some_and(|t| key.data_type.accepts_key(t)) {
            let given = match typed {
                Some(typed) => typed.to_string(),
                None => type_name(given),
            };
            let message = format!(
                "key {:?} is {}, and this is {given}",
                key.name, key.data_type
            );
            bound.errors.push(
                Diagnostic::new(&sql.span, message)
                    .help(format!("write CAST(.. AS {})", key.data_type)),
            );
            return None;
        }
        let outputs = planned_outputs(&state, shapes, &plan).ok()?;
        let arguments = outputs.iter().flat_map(PlannedOutput::arguments);
        let aliases = arguments.filter_map(|argument| match argument {
            Argument::Feature { alias, .. } => Some(alias.clone()),
            Argument::Input(_) | Argument::AsOf => None,
        });
        Some(aliases.collect())
    }
}
