//! The shop, by brute force: recency, frequency, monetary value, returned goods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use chrono::{Datelike, Months, NaiveDate, Weekday};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::expected::{Expected, Key, Reference, Row, Value, mean, stddev};
use super::raw::{DAY, date, instant};

/// The countries that were known of a customer, each with when it was seen.
type Known<'a> = &'a [(i64, &'a str)];

#[derive(Debug)]
struct Line {
    invoice: String,
    at: i64,
    item: String,
    quantity: i64,
    /// Ten-thousandths.
    price: i128,
    cents: i128,
    is_return: bool,
}

/// What was known at T.
#[derive(Debug)]
pub struct Shop {
    t: i64,
    all_customers: BTreeSet<i64>,
    /// Of each customer, lines bought and returned, in the order of the file.
    lines: BTreeMap<i64, Vec<Line>>,
    /// Of each customer, the first line of any kind in each country.
    countries: BTreeMap<i64, BTreeMap<String, i64>>,
}

/// A product of a quantity and ten-thousandths in hundredths, half away from zero.
fn product_cents(quantity: i64, price: i128) -> i128 {
    let exact = i128::from(quantity) * price;
    (exact.abs() + 50) / 100 * exact.signum()
}

impl Shop {
    pub fn read(folder: &Path, t: i64) -> Self {
        let file = File::open(folder.join("year_2009_2010.parquet")).unwrap();
        let mut shop = Self {
            t,
            all_customers: BTreeSet::new(),
            lines: BTreeMap::new(),
            countries: BTreeMap::new(),
        };
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap()
        {
            shop.add(&batch.unwrap());
        }
        shop
    }

    fn add(&mut self, batch: &RecordBatch) {
        let text = |name: &str| cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
        let (invoices, items, times, countries) = (
            text("Invoice"),
            text("StockCode"),
            text("InvoiceDate"),
            text("Country"),
        );
        let at = |column: &ArrayRef, row: usize| column.as_string::<i32>().value(row).to_owned();
        let quantities = batch
            .column_by_name("Quantity")
            .unwrap()
            .as_primitive::<Int64Type>();
        let prices = batch
            .column_by_name("Price")
            .unwrap()
            .as_primitive::<Float64Type>();
        let customers = batch
            .column_by_name("Customer ID")
            .unwrap()
            .as_primitive::<Float64Type>();
        for row in (0..batch.num_rows()).filter(|row| customers.is_valid(*row)) {
            let customer = customers.value(row) as i64;
            self.all_customers.insert(customer);
            let time = instant(&at(&times, row));
            let first = self
                .countries
                .entry(customer)
                .or_default()
                .entry(at(&countries, row))
                .or_insert(time);
            *first = time.min(*first);
            let invoice = at(&invoices, row);
            let is_return = invoice.starts_with('C');
            let (quantity, price) = (quantities.value(row), prices.value(row));
            let is_goods = price > 0.0
                && if is_return {
                    quantity < 0
                } else {
                    quantity > 0
                };
            if is_goods && time <= self.t {
                let price = (price * 10_000.0).round() as i128;
                let cents = product_cents(quantity, price);
                let line = Line {
                    invoice,
                    at: time,
                    item: at(&items, row),
                    quantity,
                    price,
                    cents,
                    is_return,
                };
                self.lines.entry(customer).or_default().push(line);
            }
        }
    }

    pub fn customers(&self) -> Reference {
        let of_lines = |row: &dyn Fn(&[Line]) -> Option<Row>| {
            self.lines
                .iter()
                .filter_map(|(id, lines)| Some((Key::Int(*id), row(lines)?)))
                .collect()
        };
        let of_countries = |row: &dyn Fn(Known<'_>) -> Row| {
            self.countries
                .iter()
                .filter_map(|(id, countries)| {
                    let known: Vec<_> = countries
                        .iter()
                        .filter(|c| *c.1 <= self.t)
                        .map(|(country, at)| (*at, country.as_str()))
                        .collect();
                    (!known.is_empty()).then(|| (Key::Int(*id), row(&known)))
                })
                .collect()
        };
        Reference {
            key: "customer_id",
            keys: self
                .all_customers
                .iter()
                .copied()
                .chain([-1])
                .map(Key::Int)
                .collect(),
            views: vec![
                Expected {
                    view: "customer_profile",
                    rows: of_countries(&|known| {
                        let country = Value::text(known.iter().max().unwrap().1);
                        vec![
                            ("birth_date", Value::Null),
                            ("gender", Value::Null),
                            ("home_place_id", Value::Null),
                            ("phone_number", Value::Null),
                            ("country", country),
                        ]
                    }),
                },
                Expected {
                    view: "customer_tenure",
                    rows: of_countries(&|known| {
                        vec![
                            ("age_years", Value::Null),
                            (
                                "tenure_days",
                                Value::days_between(known.iter().min().unwrap().0, self.t),
                            ),
                        ]
                    }),
                },
                Expected {
                    view: "customer_latest_invoice",
                    rows: of_lines(&|lines| self.latest_invoice(lines)),
                },
                Expected {
                    view: "customer_shopping",
                    rows: of_lines(&|lines| Some(self.shopping(lines))),
                },
                Expected {
                    view: "customer_shopping_rhythm",
                    rows: of_lines(&rhythm),
                },
            ],
        }
    }

    fn latest_invoice(&self, lines: &[Line]) -> Option<Row> {
        let mut invoices: BTreeMap<(i64, &str), (i128, i64, i64)> = BTreeMap::new();
        for line in lines.iter().filter(|l| !l.is_return) {
            let sums = invoices.entry((line.at, &line.invoice)).or_default();
            *sums = (sums.0 + line.cents, sums.1 + 1, sums.2 + line.quantity);
        }
        let ((at, id), (cents, count, quantity)) = invoices
            .into_iter()
            .max_by_key(|((at, id), sums)| (*at, *sums, *id))?;
        let a_year_ago = date(self.t).checked_sub_months(Months::new(12))?;
        let oldest = self.t - (date(self.t) - a_year_ago).num_days() * DAY;
        (at >= oldest).then(|| {
            vec![
                ("amount", Value::Money(cents)),
                ("lines", Value::Int(count)),
                ("quantity", Value::Int(quantity)),
                ("invoice_id", Value::text(id)),
            ]
        })
    }

    #[allow(clippy::too_many_lines, reason = "a table: one row a feature")]
    fn shopping(&self, lines: &[Line]) -> Row {
        let within = |days: i64, is_return: bool| -> Vec<&Line> {
            lines
                .iter()
                .filter(|l| l.is_return == is_return && l.at > self.t - days * DAY)
                .collect()
        };
        let invoices = |of: &[&Line]| {
            of.iter()
                .map(|l| l.invoice.as_str())
                .collect::<BTreeSet<_>>()
                .len()
        };
        let spent = |of: &[&Line]| of.iter().map(|l| l.cents).sum::<i128>();
        let (quarter, year, returned) = (within(90, false), within(365, false), within(365, true));
        let items: BTreeSet<&str> = year.iter().map(|l| l.item.as_str()).collect();
        let months: BTreeSet<(i32, u32)> = year
            .iter()
            .map(|l| (date(l.at).year(), date(l.at).month()))
            .collect();
        let weekend = year
            .iter()
            .filter(|l| matches!(date(l.at).weekday(), Weekday::Sat | Weekday::Sun))
            .count();
        let bought = || lines.iter().filter(|l| !l.is_return).map(|l| l.at);
        let prices: i128 = year.iter().map(|l| l.price).sum();
        vec![
            (
                "days_since_purchase",
                Value::or_null(bought().max(), |at| Value::days_between(at, self.t)),
            ),
            (
                "days_since_first_purchase",
                Value::or_null(bought().min(), |at| Value::days_between(at, self.t)),
            ),
            ("invoices_90d", Value::count(invoices(&quarter))),
            ("invoices_365d", Value::count(invoices(&year))),
            ("spent_90d", Value::Money(spent(&quarter))),
            ("spent_365d", Value::Money(spent(&year))),
            ("items_365d", Value::count(items.len())),
            ("active_months_365d", Value::count(months.len())),
            (
                "invoice_mean_365d",
                Value::ratio(spent(&year) as f64 / 100.0, invoices(&year) as f64),
            ),
            (
                "dearest_line_365d",
                Value::or_null(year.iter().map(|l| l.cents).max(), Value::Money),
            ),
            (
                "unit_price_mean_365d",
                Value::ratio(prices as f64 / 10_000.0, year.len() as f64),
            ),
            (
                "spending_trend",
                if quarter.is_empty() {
                    Value::Null
                } else {
                    Value::ratio(spent(&quarter) as f64 / 90.0, spent(&year) as f64 / 365.0)
                },
            ),
            ("return_invoices_365d", Value::count(invoices(&returned))),
            ("returned_365d", Value::Money(-spent(&returned))),
            (
                "returned_share_365d",
                Value::ratio(-spent(&returned) as f64, spent(&year) as f64),
            ),
            (
                "weekend_share_365d",
                Value::ratio(weekend as f64, year.len() as f64),
            ),
        ]
    }
}

fn rhythm(lines: &[Line]) -> Option<Row> {
    let days: BTreeSet<NaiveDate> = lines
        .iter()
        .filter(|l| !l.is_return)
        .map(|l| date(l.at))
        .collect();
    let days: Vec<NaiveDate> = days.into_iter().collect();
    let gaps: Vec<f64> = days
        .windows(2)
        .map(|w| (w[1] - w[0]).num_days() as f64)
        .collect();
    let longest = gaps.iter().copied().reduce(f64::max);
    (!days.is_empty()).then(|| {
        vec![
            ("shopping_days", Value::count(days.len())),
            ("gap_mean_days", mean(&gaps)),
            ("gap_stddev_days", stddev(&gaps)),
            ("gap_max_days", Value::or_null(longest, Value::float)),
        ]
    })
}
