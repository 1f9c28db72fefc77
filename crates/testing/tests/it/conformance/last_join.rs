//! LAST JOIN, which standard SQL says as LEFT JOIN LATERAL (.. ORDER BY .. LIMIT 1):
//! a timestamped view of the joined table, whose event time is what it is ordered by.

use sqlparser::ast::{BinaryOperator, Expr, OrderByKind, Query, Select, SetExpr, TableFactor};

use super::relation::{Relation, as_key, as_time};
use super::sql::folded;
use super::training::{Asked, Main, Training};

/// t of a join that looks at all of the joined table.
const EVER: &str = "arrow_cast('9999-01-01', 'Timestamp(Microsecond, None)')";

/// What ON says.
#[derive(Default)]
struct Conditions {
    /// Keys of the outer and of the joined table.
    keys: Vec<(Expr, Expr)>,
    /// The outer time, not before which the joined one may be, and whether
    /// equal times are left out.
    time: Option<(Expr, bool)>,
    of_outer: Vec<Expr>,
    of_joined: Vec<Expr>,
}

pub async fn join(
    training: &mut Training<'_>,
    outer: Relation,
    factor: &TableFactor,
) -> Result<Relation, String> {
    let TableFactor::Derived {
        lateral: true,
        subquery,
        alias,
        ..
    } = factor
    else {
        return Err(format!("JOIN {factor}"));
    };
    let (select, order) = parts(subquery)?;
    let [from] = select.from.as_slice() else {
        return Err("not one joined table".into());
    };
    let joined = training.table(&from.relation).await?;
    let conditions = conditions(select, order, &outer, &joined)?;
    if conditions.keys.is_empty() {
        return Err("a join without a key".into());
    }
    let (events, keys) = events(training, &joined, &conditions, order).await?;
    let spine = spine(training, &outer, &joined, &conditions).await?;
    let features: Vec<String> = joined.names.iter().map(|name| name.flat.clone()).collect();
    let key_names: Vec<String> = (0..keys.len()).map(|i| format!("k{i}")).collect();
    let query = format!(
        "SELECT {}, event_time, {} FROM events",
        key_names.join(", "),
        features.join(", ")
    );
    let rows = training
        .set(Asked {
            events: vec![events],
            spine,
            main: Main::NONE,
            keys,
            query,
            features: &features,
            strictly_before: conditions
                .time
                .as_ref()
                .is_some_and(|(_, strictly)| *strictly),
            max_events: None,
        })
        .await?;
    let table = alias.as_ref().map(|alias| folded(&alias.name));
    let mut names = outer.names;
    names.extend(joined.names.into_iter().map(|mut name| {
        name.table = table.clone().unwrap_or(name.table);
        name
    }));
    Ok(Relation { rows, names })
}

fn parts(query: &Query) -> Result<(&Select, Option<&Expr>), String> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Err("a joined table that is no SELECT".into());
    };
    let order = match query.order_by.as_ref().map(|order| &order.kind) {
        None => None,
        Some(OrderByKind::Expressions(orders)) => match orders.as_slice() {
            [order] if order.options.asc == Some(false) => Some(&order.expr),
            _ => return Err("a join with another order".into()),
        },
        Some(other) => return Err(format!("ORDER BY {other:?}")),
    };
    Ok((select, order))
}

fn conditions(
    select: &Select,
    order: Option<&Expr>,
    outer: &Relation,
    joined: &Relation,
) -> Result<Conditions, String> {
    let mut conditions = Conditions::default();
    let mut rest: Vec<&Expr> = select.selection.iter().collect();
    while let Some(condition) = rest.pop() {
        if let Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } = condition
        {
            rest.extend([left.as_ref(), right.as_ref()]);
            continue;
        }
        let of_joined = joined.is_read_by(condition);
        let of_outer = reads_outer(outer, joined, condition);
        match (of_joined, of_outer) {
            (true, false) => conditions.of_joined.push(joined.flattened(condition)),
            (false, _) => conditions.of_outer.push(outer.flattened(condition)),
            (true, true) => conditions.of_both(condition, order, outer, joined)?,
        }
    }
    Ok(conditions)
}

/// Unqualified names are of the joined table, where it has them.
fn reads_outer(outer: &Relation, joined: &Relation, condition: &Expr) -> bool {
    outer.is_read_by(&joined.flattened(condition))
}

impl Conditions {
    fn of_both(
        &mut self,
        condition: &Expr,
        order: Option<&Expr>,
        outer: &Relation,
        joined: &Relation,
    ) -> Result<(), String> {
        let refused = || Err(format!("{condition} is neither a key nor the time"));
        let Expr::BinaryOp { left, op, right } = condition else {
            return refused();
        };
        let (op, of_outer, of_joined) = match joined.is_read_by(left) {
            true => (turned(op), right, left),
            false => (Some(op.clone()), left, right),
        };
        if joined.is_read_by(of_outer) || reads_outer(outer, joined, of_joined) {
            return refused();
        }
        let ordered = order.is_some_and(|order| joined.flat(order) == joined.flat(of_joined));
        match op {
            Some(BinaryOperator::Eq) => {
                let pair = (outer.flattened(of_outer), joined.flattened(of_joined));
                self.keys.push(pair);
            }
            Some(BinaryOperator::GtEq) if ordered => {
                self.time = Some((outer.flattened(of_outer), false));
            }
            Some(BinaryOperator::Gt) if ordered => {
                self.time = Some((outer.flattened(of_outer), true));
            }
            _ => return refused(),
        }
        Ok(())
    }
}

fn turned(op: &BinaryOperator) -> Option<BinaryOperator> {
    match op {
        BinaryOperator::Eq => Some(BinaryOperator::Eq),
        BinaryOperator::LtEq => Some(BinaryOperator::GtEq),
        BinaryOperator::Lt => Some(BinaryOperator::Gt),
        _ => None,
    }
}

/// Rows of the joined table with keys and event time; types of the keys.
async fn events(
    training: &Training<'_>,
    joined: &Relation,
    conditions: &Conditions,
    order: Option<&Expr>,
) -> Result<(arrow::array::RecordBatch, Vec<&'static str>), String> {
    let mut columns = vec!["*".to_owned()];
    let mut types = Vec::new();
    for (place, (_, key)) in conditions.keys.iter().enumerate() {
        let (key, data_type) = as_key(&key.to_string(), &key_type(joined, key)?)?;
        columns.push(format!("{key} AS k{place}"));
        types.push(data_type);
    }
    let time = match order {
        Some(order) => {
            let flat = joined.flat(order).ok_or("an order that is no column")?;
            as_time(flat, &joined.type_of(flat))?
        }
        None => "arrow_cast('2000-01-01', 'Timestamp(Microsecond, None)')".into(),
    };
    columns.push(format!("{time} AS event_time"));
    let filter: Vec<String> = conditions
        .of_joined
        .iter()
        .map(ToString::to_string)
        .collect();
    let filter = match filter.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", filter.join(" AND ")),
    };
    let text = format!("SELECT {} FROM rows {filter}", columns.join(", "));
    Ok((training.plain(&joined.rows, &text).await?, types))
}

/// Rows of the outer table with keys and t. Where a condition of its own does
/// not hold, nothing is to be found: the key is NULL.
async fn spine(
    training: &Training<'_>,
    outer: &Relation,
    joined: &Relation,
    conditions: &Conditions,
) -> Result<arrow::array::RecordBatch, String> {
    let mut columns = vec!["*".to_owned()];
    for (place, (of_outer, of_joined)) in conditions.keys.iter().enumerate() {
        let (key, _) = as_key(&of_outer.to_string(), &key_type(joined, of_joined)?)?;
        let guards: Vec<String> = conditions
            .of_outer
            .iter()
            .map(ToString::to_string)
            .collect();
        let key = match guards.is_empty() {
            true => key,
            false => format!("CASE WHEN {} THEN {key} END", guards.join(" AND ")),
        };
        columns.push(format!("{key} AS k{place}"));
    }
    let time = match &conditions.time {
        Some((Expr::Identifier(time), _)) => as_time(&time.value, &outer.type_of(&time.value))?,
        Some((other, _)) => return Err(format!("a time that is no column: {other}")),
        None => EVER.into(),
    };
    columns.push(format!("{time} AS event_time"));
    let text = format!("SELECT {} FROM rows", columns.join(", "));
    training.plain(&outer.rows, &text).await
}

fn key_type(relation: &Relation, key: &Expr) -> Result<arrow::datatypes::DataType, String> {
    match key {
        Expr::Identifier(flat) => Ok(relation.type_of(&flat.value)),
        other => Err(format!("a key that is no column: {other}")),
    }
}
