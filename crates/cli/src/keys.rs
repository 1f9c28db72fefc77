//! Keys and inputs as the command line writes them: `--key customer_id=1,2,3`,
//! `--input requested_amount=1000`.
//!
//! Values are separated by commas. `'..'` or `".."` around a value keeps commas
//! and spaces in it, a doubled quote is a quote. An unquoted `NULL` is NULL. A
//! value of nothing is the empty string for VARCHAR and VARBINARY (a shell makes
//! `name=` of `name=''`) and NULL for the other types. VARBINARY is written in base64, DATE as `2026-01-31`.
//! Several `--key` of one length are zipped: row i takes value i of each. An
//! `--input` has one value for all of them, or is zipped too.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::bail;
use arrow::array::{
    Array, ArrayRef, BinaryArray, Date32Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    RecordBatchOptions, StringArray, new_null_array,
};
use arrow::compute::{cast, concat};
use arrow::datatypes::Schema;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_model::definitions::Column;
use granary_model::interval::MICROS_PER_DAY;
use granary_model::{FeatureType, UtcMicros};

use crate::failure::usage;

/// One `--key` or `--input`, not typed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArgument {
    pub name: String,
    /// `None`: NULL.
    pub values: Vec<Option<String>>,
}

impl FromStr for KeyArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} is not of the form name=value,value (as in customer_id=1,2,3)")
        })?;
        if name.trim().is_empty() {
            return Err("there is no name before the =".into());
        }
        Ok(Self {
            name: name.trim().to_owned(),
            values: split(values)?,
        })
    }
}

/// Unquoted, in any position of a list of values.
const NULL: &str = "NULL";

fn split(text: &str) -> Result<Vec<Option<String>>, String> {
    let mut values = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quote = rest.next_if(|c| matches!(c, '\'' | '"'));
        let mut value = String::new();
        if let Some(quote) = quote {
            loop {
                match rest.next() {
                    None => return Err(format!("a {quote} is not closed in {text:?}")),
                    Some(c) if c == quote => {
                        if rest.next_if_eq(&quote).is_none() {
                            break;
                        }
                        value.push(quote);
                    }
                    Some(c) => value.push(c),
                }
            }
            while rest.next_if(|c| c.is_whitespace()).is_some() {}
        } else {
            while let Some(c) = rest.next_if(|c| *c != ',') {
                value.push(c);
            }
            value.truncate(value.trim_end().len());
        }
        values.push((quote.is_some() || value != NULL).then_some(value));
        match rest.next() {
            None => return Ok(values),
            Some(',') => {}
            Some(c) => return Err(format!("{c:?} follows a closing quote in {text:?}")),
        }
    }
}

/// The keys of a read as one batch. `expected` names the key columns and their
/// types; others are passed on as text, for the reader to refuse by name.
pub fn batch(arguments: &[KeyArgument], expected: &[Column]) -> anyhow::Result<RecordBatch> {
    if let Some(first) = arguments.first() {
        for other in &arguments[1..] {
            if other.values.len() != first.values.len() {
                bail!(usage(format!(
                    "--key {} has {} values and --key {} has {}: keys are zipped, so there must be as many of each",
                    first.name,
                    first.values.len(),
                    other.name,
                    other.values.len()
                )));
            }
        }
    }
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for argument in arguments {
        let column = find(expected, &argument.name);
        let name = column.map_or(&argument.name, |c| &c.name).clone();
        if columns.iter().any(|(known, _)| *known == name) {
            bail!(usage(format!("--key {name} is given twice")));
        }
        let data_type = column.map_or(&FeatureType::Varchar, |c| &c.data_type);
        columns.push((name, array(argument, data_type)?));
    }
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    match arguments.is_empty() {
        true => Ok(RecordBatch::new_empty(Arc::new(Schema::empty()))),
        false => Ok(RecordBatch::try_from_iter_with_nullable(nullable)?),
    }
}

/// Where a read takes no key, its inputs say how many entities there are.
pub fn of_entities(keys: RecordBatch, entities: usize) -> anyhow::Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(entities));
    let (schema, columns, _) = keys.into_parts();
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// The inputs of a read, each as a column. Others than the expected are passed on
/// as text, for the reader to refuse by name.
pub fn inputs(
    arguments: &[KeyArgument],
    expected: &[Column],
) -> anyhow::Result<Vec<(String, ArrayRef)>> {
    let typed = arguments.iter().map(|argument| {
        let column = find(expected, &argument.name);
        let data_type = column.map_or(&FeatureType::Varchar, |c| &c.data_type);
        let name = column.map_or(&argument.name, |c| &c.name).clone();
        Ok((name, array(argument, data_type)?))
    });
    typed.collect()
}

/// By the exact name, else folded to lower case as SQL does.
fn find<'a>(expected: &'a [Column], name: &str) -> Option<&'a Column> {
    let named = |wanted: &str| expected.iter().find(|c| c.name == wanted);
    named(name).or_else(|| named(&name.to_lowercase()))
}

fn array(argument: &KeyArgument, data_type: &FeatureType) -> anyhow::Result<ArrayRef> {
    Ok(match data_type {
        FeatureType::SmallInt => Arc::new(Int16Array::from(parsed::<i16>(argument, data_type)?)),
        FeatureType::Int => Arc::new(Int32Array::from(parsed::<i32>(argument, data_type)?)),
        FeatureType::BigInt => Arc::new(Int64Array::from(parsed::<i64>(argument, data_type)?)),
        FeatureType::Date => Arc::new(Date32Array::from(each(argument, data_type, date)?)),
        FeatureType::Varbinary => {
            let bytes = each(argument, data_type, |text| STANDARD.decode(text).ok())?;
            Arc::new(bytes.into_iter().collect::<BinaryArray>())
        }
        FeatureType::Varchar => Arc::new(argument.values.iter().collect::<StringArray>()),
        FeatureType::List(_) => bail!(
            "{} is {data_type}, which a command line cannot write: ask over gRPC",
            argument.name
        ),
        other => converted(argument, other)?,
    })
}

/// By Arrow's own reading of text.
fn converted(argument: &KeyArgument, data_type: &FeatureType) -> anyhow::Result<ArrayRef> {
    let one = |text: &str| {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![text]));
        let value = cast(&texts, &data_type.to_arrow()).ok()?;
        value.is_valid(0).then_some(value)
    };
    let values = each(argument, data_type, one)?;
    let null = new_null_array(&data_type.to_arrow(), 1);
    let values: Vec<&dyn Array> = values
        .iter()
        .map(|value| value.as_ref().unwrap_or(&null).as_ref())
        .collect();
    Ok(concat(&values)?)
}

fn parsed<T: FromStr>(
    argument: &KeyArgument,
    data_type: &FeatureType,
) -> anyhow::Result<Vec<Option<T>>> {
    each(argument, data_type, |text| text.parse().ok())
}

fn each<T>(
    argument: &KeyArgument,
    data_type: &FeatureType,
    parse: impl Fn(&str) -> Option<T>,
) -> anyhow::Result<Vec<Option<T>>> {
    let one = |value: &Option<String>| match value {
        None => Ok(None),
        Some(text) if text.is_empty() && *data_type != FeatureType::Varbinary => Ok(None),
        Some(text) => match parse(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => bail!("{} expects {data_type}, got {text:?}", argument.name),
        },
    };
    argument.values.iter().map(one).collect()
}

/// Days since 1970-01-01 of a date without a time of day.
fn date(text: &str) -> Option<i32> {
    let time: UtcMicros = text.parse().ok()?;
    let midnight = time.0.rem_euclid(MICROS_PER_DAY) == 0;
    let days = time.0.div_euclid(MICROS_PER_DAY);
    midnight.then(|| i32::try_from(days).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use granary_model::json;

    use super::*;

    #[test]
    fn values_split_at_commas_outside_of_quotes() {
        for (text, expected) in [
            ("k=1,2", Ok(vec![Some("1"), Some("2")])),
            ("k= 1 , 2 ", Ok(vec![Some("1"), Some("2")])),
            ("k=", Ok(vec![Some("")])),
            ("k=a,,b", Ok(vec![Some("a"), Some(""), Some("b")])),
            (
                "k=NULL,'NULL',null",
                Ok(vec![None, Some("NULL"), Some("null")]),
            ),
            ("k='a,b',\"c\"\"d\"", Ok(vec![Some("a,b"), Some("c\"d")])),
            ("k='',x=y", Ok(vec![Some(""), Some("x=y")])),
            ("k=it's", Ok(vec![Some("it's")])),
            ("k='a", Err("is not closed")),
            ("k='a'b", Err("follows a closing quote")),
            ("k", Err("not of the form")),
            ("=1", Err("no name")),
        ] {
            match (KeyArgument::from_str(text), expected) {
                (Ok(got), Ok(values)) => {
                    let values: Vec<_> = values.into_iter().map(|v| v.map(str::to_owned)).collect();
                    assert_eq!(got.values, values, "{text}");
                }
                (Err(got), Err(part)) => assert!(got.contains(part), "{got}"),
                (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
            }
        }
    }

    fn columns() -> Vec<Column> {
        vec![
            Column::new("customer_id", FeatureType::BigInt),
            Column::new("day", FeatureType::Date),
            Column::new("hash", FeatureType::Varbinary),
            Column::new("device", FeatureType::Varchar),
        ]
    }

    #[test]
    fn keys_take_the_type_of_their_column() {
        let arguments = [
            "Customer_ID=7,",
            "day=2026-01-31,NULL",
            "hash=AP8=,",
            "device=,NULL",
        ];
        let arguments = arguments.map(|text| text.parse().unwrap());
        let batch = batch(&arguments, &columns()).unwrap();
        assert_eq!(batch.schema().field(0).name(), "customer_id");
        let customers = batch.column(0).as_primitive::<Int64Type>();
        assert_eq!(customers.iter().collect::<Vec<_>>(), [Some(7), None]);
        assert_eq!(json::value(batch.column(1), 0), "2026-01-31");
        assert_eq!(json::value(batch.column(2), 0), "AP8=");
        assert_eq!(json::value(batch.column(2), 1), "");
        let devices = batch.column(3).as_string::<i32>();
        assert_eq!(devices.iter().collect::<Vec<_>>(), [Some(""), None]);
    }

    #[test]
    fn inputs_take_any_type_that_can_be_written() {
        let expected = [
            Column::new("amount", FeatureType::Double),
            Column::new("urgent", FeatureType::Boolean),
            Column::new(
                "limit",
                FeatureType::Decimal {
                    precision: 8,
                    scale: 2,
                },
            ),
            Column::new("since", FeatureType::Timestamp),
        ];
        for (text, shown) in [
            ("amount=1000", vec!["1000.0"]),
            ("Amount=1.5,,NULL", vec!["1.5", "NULL", "NULL"]),
            ("urgent=true,false", vec!["true", "false"]),
            ("limit=12.5", vec!["12.50"]),
            ("since=2026-01-31", vec!["2026-01-31T00:00:00Z"]),
            ("unknown=x", vec!["x"]),
        ] {
            let inputs = inputs(&[text.parse().unwrap()], &expected).unwrap();
            let values = &inputs[0].1;
            let rows = 0..values.len();
            let got = rows.map(|row| json::text(values, row).unwrap_or("NULL".into()));
            assert_eq!(got.collect::<Vec<_>>(), shown, "{text}");
        }
        for (text, told) in [
            ("amount=many", "amount expects DOUBLE, got \"many\""),
            ("urgent=perhaps", "urgent expects BOOLEAN, got \"perhaps\""),
            ("since=soon", "since expects TIMESTAMP, got \"soon\""),
        ] {
            let error = inputs(&[text.parse().unwrap()], &expected).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_name() {
        for (arguments, expected) in [
            (
                vec!["customer_id=x"],
                "customer_id expects BIGINT, got \"x\"",
            ),
            (
                vec!["customer_id=1.0"],
                "customer_id expects BIGINT, got \"1.0\"",
            ),
            (vec!["day=2026-01-31T01:00:00"], "day expects DATE"),
            (vec!["customer_id=1", "day=,"], "keys are zipped"),
            (vec!["customer_id=1", "CUSTOMER_ID=1"], "given twice"),
        ] {
            let arguments: Vec<_> = arguments.iter().map(|a| a.parse().unwrap()).collect();
            let error = batch(&arguments, &columns()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
