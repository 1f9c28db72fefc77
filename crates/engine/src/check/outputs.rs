//! The output columns of a feature view: which are keys, times and features,
//! and whether their names and types can be stored.

use std::collections::BTreeSet;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::sql::sqlparser::ast::{Expr, SelectItem, SetExpr, Spanned};
use granary_model::definitions::Column;
use granary_model::statement::CreateFeatureView;
use granary_model::{Diagnostic, FeatureType, Span};

use super::query::{Query, folded};
use super::translate::instead;
use crate::offline::{AS_OF_COLUMN, CREATED_COLUMN};

/// Characters that Delta Lake's writers refuse in column names; blanks too, but
/// every reader takes them, and real data has them.
const REFUSED_IN_NAMES: &[char] = &[',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The output of a query, with the place of each column in it.
pub(super) struct Outputs<'a> {
    query: &'a Query<'a>,
    pub(super) schema: &'a Schema,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(query: &'a Query<'a>, schema: &'a Schema) -> Self {
        Self { query, schema }
    }

    pub(super) fn field(&self, name: &str) -> Option<&'a Field> {
        self.schema.field_with_name(name).ok()
    }

    /// The SELECT item that gives a column, else the name's first place in the text.
    pub(super) fn span(&self, name: &str) -> Span {
        self.item(name)
            .or_else(|| self.query.text.find_name(name))
            .unwrap_or_else(|| self.query.text.span.clone())
    }

    fn item(&self, name: &str) -> Option<Span> {
        let SetExpr::Select(select) = self.query.ast()?.body.as_ref() else {
            return None;
        };
        // A wildcard gives any number of columns: places no longer count then.
        let wildcard = |item: &SelectItem| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        };
        let place = self.schema.index_of(name).ok()?;
        let item = if select.projection.iter().any(wildcard) {
            select.projection.iter().find(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => folded(alias) == name,
                SelectItem::UnnamedExpr(Expr::Identifier(ident)) => folded(ident) == name,
                _ => false,
            })
        } else {
            select.projection.get(place)
        };
        Some(self.query.span(item?.span()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
    }

    /// Names that are twice there, have no place in a stored table, or are reserved.
    pub(super) fn wrong_names(&self) -> Vec<Diagnostic> {
        let mut errors = duplicate_names(self.schema, |name| self.span(name));
        for name in self.names() {
            if [AS_OF_COLUMN, CREATED_COLUMN].contains(&name) {
                let message = format!("column name {name:?} is taken: offline tables have it");
                errors.push(
                    Diagnostic::new(&self.span(name), message).help("give it another name with AS"),
                );
            } else if name.contains(REFUSED_IN_NAMES) {
                let message = format!("{name:?} is no name that a table can store");
                errors.push(
                    Diagnostic::new(&self.span(name), message).help("give it a name with AS"),
                );
            }
        }
        errors
    }

    /// What is wrong with the output as a carrier of this key.
    pub(super) fn wrong_key(
        &self,
        create: &CreateFeatureView,
        entity: &str,
        entity_span: &Span,
        key: &Column,
    ) -> Option<Diagnostic> {
        let Some(field) = self.field(&key.name) else {
            let message = format!(
                "the query of {} has no column {:?}, the key of {entity}",
                create.name.value, key.name
            );
            let near = instead(&key.name, self.names());
            let help = near.filter(|near| near.starts_with("did")).map_or_else(
                || format!("select it, or name an expression so: .. AS {}", key.name),
                |near| format!("{near} Rename with AS {}", key.name),
            );
            return Some(Diagnostic::new(entity_span, message).help(help));
        };
        match FeatureType::from_arrow(field.data_type()) {
            Some(given) if key.data_type.accepts_key(&given) => None,
            _ => {
                let given = type_name(field.data_type());
                let message = format!(
                    "key {:?} is {given}, but {entity} has it as {}",
                    key.name, key.data_type
                );
                Some(
                    Diagnostic::new(&self.span(&key.name), message).help(format!(
                        "write CAST(.. AS {}) AS {}",
                        key.data_type, key.name
                    )),
                )
            }
        }
    }

    /// The columns that are not in `others`, as features.
    pub(super) fn features(&self, others: &BTreeSet<&str>) -> (Vec<Column>, Vec<Diagnostic>) {
        let mut features = Vec::new();
        let mut errors = Vec::new();
        for field in self.schema.fields() {
            if others.contains(field.name().as_str()) {
                continue;
            }
            match self.stored(field) {
                Ok(column) => features.push(column),
                Err(error) => errors.push(error),
            }
        }
        (features, errors)
    }

    /// A column as it is stored, or why it cannot be.
    pub(super) fn stored(&self, field: &Field) -> Result<Column, Diagnostic> {
        let data_type = field.data_type();
        FeatureType::from_arrow(data_type)
            .map(|stored| Column::new(field.name().clone(), stored))
            .ok_or_else(|| {
                let message = format!(
                    "feature {:?} is {}, which is no feature type",
                    field.name(),
                    type_name(data_type)
                );
                Diagnostic::new(&self.span(field.name()), message).help(remedy(data_type))
            })
    }
}

/// Columns of a schema that bear one name.
pub(super) fn duplicate_names(schema: &Schema, span: impl Fn(&str) -> Span) -> Vec<Diagnostic> {
    let mut seen = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut errors = Vec::new();
    for field in schema.fields() {
        let name = field.name().as_str();
        if !seen.insert(name) && told.insert(name) {
            let message = format!("two columns are named {name:?}");
            errors.push(
                Diagnostic::new(&span(name), message).help("give one of them another name with AS"),
            );
        }
    }
    errors
}

/// The SQL name of a type, as far as SQL has one.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Interval(_) | DataType::Duration(_) => "an INTERVAL".into(),
        DataType::Struct(_) => "a STRUCT".into(),
        DataType::Map(_, _) => "a MAP".into(),
        DataType::Time32(_) | DataType::Time64(_) => "a TIME".into(),
        DataType::Null => "always NULL, without a type".into(),
        other => {
            FeatureType::from_arrow(other).map_or_else(|| other.to_string(), |t| t.to_string())
        }
    }
}

fn remedy(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Interval(_) | DataType::Duration(_) => {
            "make a number of it, as with date_part('epoch', ..) for seconds"
        }
        DataType::Struct(_) => "select its fields, each as a feature of its own",
        DataType::Map(_, _) => "select the values that are needed, each as a feature",
        DataType::Time32(_) | DataType::Time64(_) => {
            "make a number of it, as with date_part('hour', ..)"
        }
        DataType::Null => "say which type: CAST(NULL AS BIGINT)",
        _ => {
            "features are BOOLEAN, SMALLINT, INT, BIGINT, REAL, DOUBLE, DECIMAL, VARCHAR, VARBINARY, \
             DATE, TIMESTAMP and lists of them"
        }
    }
}
