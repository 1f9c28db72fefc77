//! What FROM gives: rows, and which name of the query each column answers to.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use sqlparser::ast::{
    Expr, Function, FunctionArguments, Ident, visit_expressions, visit_expressions_mut,
};

use super::sql::folded;

#[derive(Debug, Clone)]
pub struct Relation {
    pub rows: RecordBatch,
    /// Of the columns that the query sees, in their order.
    pub names: Vec<Name>,
}

#[derive(Debug, Clone)]
pub struct Name {
    /// The table's, or its alias.
    pub table: String,
    pub column: String,
    /// In `rows`, where every name is there once.
    pub flat: String,
}

impl Relation {
    /// Rows whose columns are called `columns`, as a table of this name. Flat
    /// names begin with `prefix`.
    pub fn new(rows: &RecordBatch, table: &str, columns: &[String], prefix: &str) -> Self {
        let names: Vec<Name> = columns
            .iter()
            .enumerate()
            .map(|(place, column)| Name {
                table: table.into(),
                column: column.clone(),
                flat: format!("{prefix}_{place}"),
            })
            .collect();
        let fields = rows.schema();
        let fields = fields.fields().iter().zip(&names);
        let fields: Vec<_> = fields
            .map(|(field, name)| field.as_ref().clone().with_name(&name.flat))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns().to_vec();
        let schema = Arc::new(Schema::new(fields));
        let rows = RecordBatch::try_new_with_options(schema, columns, &options).unwrap();
        Self { rows, names }
    }

    fn find(&self, table: Option<&str>, column: &str) -> Option<&str> {
        let fits =
            |name: &&Name| name.column == column && table.is_none_or(|table| name.table == table);
        self.names.iter().find(fits).map(|name| name.flat.as_str())
    }

    /// The flat name of a column, if the expression is one of this relation.
    pub fn flat(&self, expression: &Expr) -> Option<&str> {
        match expression {
            Expr::Identifier(column) => self.find(None, &folded(column)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] => self.find(Some(&folded(table)), &folded(column)),
                _ => None,
            },
            // A column may be called USER, which is parsed as a function.
            Expr::Function(Function {
                name,
                args: FunctionArguments::None,
                ..
            }) => match name.0.as_slice() {
                [column] => self.find(None, &folded(column.as_ident()?)),
                [table, column] => {
                    let table = folded(table.as_ident()?);
                    self.find(Some(&table), &folded(column.as_ident()?))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an expression reads a column of this relation.
    pub fn is_read_by(&self, expression: &Expr) -> bool {
        visit_expressions(expression, |e| match self.flat(e) {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        })
        .is_break()
    }

    /// The expression over flat names.
    pub fn flattened(&self, expression: &Expr) -> Expr {
        let mut flattened = expression.clone();
        let _ = visit_expressions_mut(&mut flattened, |e| {
            if let Some(flat) = self.flat(e) {
                *e = Expr::Identifier(Ident::new(flat));
            }
            ControlFlow::<()>::Continue(())
        });
        flattened
    }

    pub fn type_of(&self, flat: &str) -> DataType {
        let schema = self.rows.schema();
        schema.field_with_name(flat).unwrap().data_type().clone()
    }
}

/// A time that milliseconds of the suite become, for an expression of a type.
pub fn as_time(expression: &str, data_type: &DataType) -> Result<String, String> {
    let time = match data_type {
        DataType::Timestamp(..) | DataType::Date32 => expression.to_owned(),
        integer if integer.is_integer() => {
            format!("to_timestamp_millis(CAST({expression} AS BIGINT))")
        }
        other => return Err(format!("{other} is no time")),
    };
    Ok(format!(
        "arrow_cast({time}, 'Timestamp(Microsecond, None)')"
    ))
}

/// A key that Granary takes, with its type in SQL.
pub fn as_key(expression: &str, data_type: &DataType) -> Result<(String, &'static str), String> {
    let cast = |to| Ok((format!("CAST({expression} AS {to})"), to));
    match data_type {
        DataType::Utf8 | DataType::Utf8View => cast("VARCHAR"),
        DataType::Date32 => cast("DATE"),
        DataType::Boolean => cast("INT"),
        integer if integer.is_integer() => cast("BIGINT"),
        DataType::Timestamp(..) => cast("BIGINT"),
        other => Err(format!("{other} is no type of a key")),
    }
}
