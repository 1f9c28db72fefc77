//! Keys that are computed: `KEY (cell => h3_cell(input.lat, input.lon, 8))`. The
//! expression reads other views of the same FROM and inputs of the request.

use std::collections::BTreeMap;

use granary_model::definitions::Column;
use granary_model::statement::{FromItem, Ident, KeyClause, KeyExpression, SqlText};
use granary_model::{Diagnostic, FeatureType};

use super::Check;
use super::outputs::type_name;
use super::service::Bound;
use crate::expression::{Argument, INPUT, Shapes, is_scalar, planned_outputs};

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
        KeyExpression::Feature { .. } | KeyExpression::Name(_) => None,
    }
}

/// A name as SQL takes it back.
fn quoted(name: &Ident) -> String {
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
        let shapes = self.shapes(bound, inputs);
        for item in from {
            let alias = item.alias.as_ref().unwrap_or(&item.view);
            for clause in item.keys.iter().filter(|clause| !clause.each) {
                let Some(sql) = expression_of(clause) else {
                    continue;
                };
                let keys = self.view_keys(&item.view.value).unwrap_or_default();
                let key = keys.into_iter().find(|key| key.name == clause.key.value);
                let Some(key) = key else { continue };
                let read = self.key_expression(&key, &sql, &shapes, bound).await;
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
        Shapes {
            views: views.collect(),
            inputs,
        }
    }

    /// Checks one key; the aliases that it reads, or `None` where it is wrong.
    async fn key_expression(
        &self,
        key: &Column,
        sql: &SqlText,
        shapes: &Shapes,
        bound: &mut Bound,
    ) -> Option<Vec<String>> {
        let (_, plan) = self.plan_scalars(sql, shapes, &mut bound.errors).await?;
        if !is_scalar(&plan) {
            let message = "a key is one scalar expression: no aggregate, no window, no subquery";
            bound.errors.push(
                Diagnostic::new(&sql.span, message)
                    .help("compute it in a view, and take the key from that: view.feature"),
            );
            return None;
        }
        let given = plan.schema().field(0).data_type();
        let fits = FeatureType::from_arrow(given).is_some_and(|t| key.data_type.accepts_key(&t));
        if !fits {
            let given = type_name(given);
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
        let outputs = planned_outputs(&plan).ok()?;
        let arguments = outputs.iter().flat_map(|output| output.arguments());
        let aliases = arguments.filter_map(|argument| match argument {
            Argument::Feature { alias, .. } => Some(alias.clone()),
            Argument::Input(_) | Argument::AsOf => None,
        });
        Some(aliases.collect())
    }
}
