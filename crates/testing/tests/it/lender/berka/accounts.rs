//! Accounts: balances, flow, income and obligations, each from the movements alone.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Datelike;

use super::{Account, Bank, Movement, keys};
use crate::lender::expected::{Expected, Key, Reference, Row, Rows, Value, absolute, mean, stddev};
use crate::lender::raw::{DAY, date};

impl Bank {
    pub fn accounts(&self) -> Reference {
        let with_movements = |row: &dyn Fn(i64) -> Option<Row>| -> Rows {
            self.movements
                .keys()
                .filter_map(|id| Some((Key::Int(*id), row(*id)?)))
                .collect()
        };
        Reference {
            key: "account_id",
            keys: keys(&self.all_accounts),
            views: vec![
                self.account_profile(),
                Expected {
                    view: "account_balance",
                    rows: with_movements(&|id| Some(self.account_balance(id))),
                },
                Expected {
                    view: "account_latest_credit",
                    rows: with_movements(&|id| self.account_latest_credit(id)),
                },
                Expected {
                    view: "account_flow",
                    rows: with_movements(&|id| Some(self.account_flow(id))),
                },
                Expected {
                    view: "account_balance_90d",
                    rows: with_movements(&|id| self.account_balance_90d(id)),
                },
                Expected {
                    view: "account_income",
                    rows: with_movements(&|id| self.account_income(id)),
                },
                Expected {
                    view: "account_obligations",
                    rows: with_movements(&|id| self.account_obligations(id)),
                },
            ],
        }
    }

    fn account_profile(&self) -> Expected {
        let row = |a: &Account| {
            vec![
                ("owner_id", Value::Int(a.owner)),
                ("branch_place_id", Value::Int(a.district)),
                ("statement_frequency", Value::text(a.frequency)),
                ("opened_at", Value::Time(a.at)),
            ]
        };
        Expected {
            view: "account_profile",
            rows: self
                .accounts
                .iter()
                .map(|a| (Key::Int(a.id), row(a)))
                .collect(),
        }
    }

    fn account_balance(&self, id: i64) -> Row {
        let balances: Vec<i128> = self.balances(id).iter().map(|b| b.1).collect();
        let amounts: Vec<i128> = self.of(id).iter().map(|m| m.cents).collect();
        vec![
            ("balance", Value::Money(*balances.last().unwrap())),
            (
                "lowest_balance",
                Value::Money(*balances.iter().min().unwrap()),
            ),
            (
                "credits_total",
                Value::Money(amounts.iter().filter(|a| **a > 0).sum()),
            ),
            (
                "debits_total",
                Value::Money(-amounts.iter().filter(|a| **a < 0).sum::<i128>()),
            ),
            ("transactions_total", Value::count(amounts.len())),
        ]
    }

    fn account_latest_credit(&self, id: i64) -> Option<Row> {
        let credits = self
            .of(id)
            .iter()
            .filter(|m| m.cents > 0 && m.channel != "bank");
        let latest = credits.max_by_key(|m| (m.at, m.cents, m.purpose, m.channel))?;
        (latest.at >= self.t - 180 * DAY).then(|| {
            vec![
                ("amount", Value::Money(latest.cents)),
                ("purpose", Value::or_null(latest.purpose, Value::text)),
                ("channel", Value::text(latest.channel)),
            ]
        })
    }

    fn account_flow(&self, id: i64) -> Row {
        let month = self.last(id, 30);
        let quarter = self.last(id, 90);
        let credits = |of: &[&Movement]| of.iter().map(|m| m.cents.max(0)).sum::<i128>();
        let debits = |of: &[&Movement]| of.iter().map(|m| (-m.cents).max(0)).sum::<i128>();
        let out: Vec<&Movement> = quarter.iter().copied().filter(|m| m.cents < 0).collect();
        let cash: i128 = out
            .iter()
            .filter(|m| m.channel == "cash")
            .map(|m| -m.cents)
            .sum();
        let parties: BTreeSet<&str> = quarter
            .iter()
            .filter_map(|m| m.counterparty.as_deref())
            .collect();
        vec![
            (
                "days_since_transaction",
                Value::days_between(self.of(id).last().unwrap().at, self.t),
            ),
            ("transactions_30d", Value::count(month.len())),
            ("transactions_90d", Value::count(quarter.len())),
            ("credits_30d", Value::Money(credits(&month))),
            ("credits_90d", Value::Money(credits(&quarter))),
            ("debits_30d", Value::Money(debits(&month))),
            ("debits_90d", Value::Money(debits(&quarter))),
            (
                "largest_debit_90d",
                Value::or_null(out.iter().map(|m| -m.cents).max(), Value::Money),
            ),
            (
                "debit_mean_90d",
                Value::ratio(debits(&quarter) as f64 / 100.0, out.len() as f64),
            ),
            (
                "cash_share_90d",
                Value::ratio(cash as f64, debits(&quarter) as f64),
            ),
            ("counterparties_90d", Value::count(parties.len())),
        ]
    }

    fn account_balance_90d(&self, id: i64) -> Option<Row> {
        let from = self.t - 90 * DAY;
        let balances = self.balances(id);
        let (mut held, mut recent, mut overdrawn) = (Vec::new(), Vec::new(), 0.0);
        for (i, (at, balance)) in balances.iter().enumerate() {
            let until = balances.get(i + 1).map_or(self.t, |next| next.0);
            let balance = *balance as f64 / 100.0;
            let days = (until - from.max(*at)) as f64 / DAY as f64;
            if *at > from {
                recent.push(((*at - self.t) as f64 / DAY as f64, balance));
            }
            if until > from || *at > from {
                held.push((balance, days));
                overdrawn += if balance < 0.0 { days } else { 0.0 };
            }
        }
        if recent.is_empty() {
            return None;
        }
        let total: f64 = held.iter().map(|h| h.1).sum();
        let area: Vec<f64> = held.iter().map(|h| h.0 * h.1).collect();
        let levels: Vec<f64> = recent.iter().map(|r| r.1).collect();
        Some(vec![
            (
                "balance_mean_90d",
                if total == 0.0 {
                    Value::Null
                } else {
                    Value::Float {
                        value: area.iter().sum::<f64>() / total,
                        inputs: absolute(&area) / total,
                    }
                },
            ),
            (
                "balance_min_90d",
                Value::float(held.iter().map(|h| h.0).fold(f64::INFINITY, f64::min)),
            ),
            (
                "balance_max_90d",
                Value::float(held.iter().map(|h| h.0).fold(f64::NEG_INFINITY, f64::max)),
            ),
            ("balance_stddev_90d", stddev(&levels)),
            ("balance_trend_90d", slope(&recent)),
            ("days_overdrawn_90d", Value::float(overdrawn)),
        ])
    }

    fn account_income(&self, id: i64) -> Option<Row> {
        let income: Vec<&Movement> = self
            .last(id, 180)
            .into_iter()
            .filter(|m| m.cents > 0 && m.channel != "bank")
            .collect();
        let last = income.last()?;
        let sum = |of: &dyn Fn(&Movement) -> bool| -> i128 {
            income.iter().filter(|m| of(m)).map(|m| m.cents).sum()
        };
        let total = sum(&|_| true);
        let recent = sum(&|m| m.at > self.t - 30 * DAY);
        let months: BTreeSet<(i32, u32)> = income
            .iter()
            .map(|m| (date(m.at).year(), date(m.at).month()))
            .collect();
        let mut by_time: BTreeMap<i64, i128> = BTreeMap::new();
        for m in &income {
            *by_time.entry(m.at).or_default() += m.cents;
        }
        let amounts: Vec<f64> = by_time.values().map(|c| *c as f64 / 100.0).collect();
        let times: Vec<i64> = by_time.keys().copied().collect();
        let gaps: Vec<f64> = times
            .windows(2)
            .map(|w| (w[1] - w[0]) as f64 / DAY as f64)
            .collect();
        Some(vec![
            ("income_180d", Value::Money(total)),
            ("income_monthly", Value::float(total as f64 / 600.0)),
            (
                "income_trend",
                if recent == 0 {
                    Value::Null
                } else {
                    Value::float(recent as f64 / (total as f64 / 6.0))
                },
            ),
            ("income_months_180d", Value::count(months.len())),
            (
                "regular_income_share_180d",
                Value::float(
                    sum(&|m| matches!(m.purpose, Some("salary" | "pension"))) as f64 / total as f64,
                ),
            ),
            (
                "cash_income_share_180d",
                Value::float(sum(&|m| m.channel == "cash") as f64 / total as f64),
            ),
            (
                "income_variation_180d",
                match (stddev(&amounts), mean(&amounts)) {
                    (
                        Value::Float {
                            value: deviation, ..
                        },
                        Value::Float { value: mean, .. },
                    ) => Value::Float {
                        value: deviation / mean,
                        inputs: absolute(&amounts) / mean,
                    },
                    _ => Value::Null,
                },
            ),
            ("income_gap_mean_days", mean(&gaps)),
            ("income_gap_stddev_days", stddev(&gaps)),
            ("days_since_income", Value::days_between(last.at, self.t)),
        ])
    }

    fn account_obligations(&self, id: i64) -> Option<Row> {
        let recent = self.last(id, 180);
        if recent.is_empty() {
            return None;
        }
        let out = |purpose: &str| -> i128 {
            -recent
                .iter()
                .filter(|m| m.purpose == Some(purpose))
                .map(|m| m.cents)
                .sum::<i128>()
        };
        let penalties: Vec<i64> = recent
            .iter()
            .filter(|m| m.purpose == Some("penalty interest"))
            .map(|m| m.at)
            .collect();
        let income: i128 = recent
            .iter()
            .filter(|m| m.cents > 0 && m.channel != "bank")
            .map(|m| m.cents)
            .sum();
        let (loan, household, insurance) =
            (out("loan payment"), out("household"), out("insurance"));
        Some(vec![
            ("loan_payments_180d", Value::Money(loan)),
            ("household_180d", Value::Money(household)),
            ("insurance_180d", Value::Money(insurance)),
            ("fees_180d", Value::Money(out("fee"))),
            (
                "penalty_interest_180d",
                Value::Money(out("penalty interest")),
            ),
            ("penalty_interest_count_180d", Value::count(penalties.len())),
            (
                "days_since_penalty_interest",
                Value::or_null(penalties.iter().max(), |at| {
                    Value::days_between(*at, self.t)
                }),
            ),
            (
                "instalment_burden_180d",
                Value::ratio(loan as f64, income as f64),
            ),
            (
                "obligation_burden_180d",
                Value::ratio((loan + household + insurance) as f64, income as f64),
            ),
        ])
    }
}

/// Least squares; NULL of fewer than two points.
fn slope(points: &[(f64, f64)]) -> Value {
    let n = points.len() as f64;
    let (mx, my) = (
        points.iter().map(|p| p.0).sum::<f64>() / n,
        points.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let xx: f64 = points.iter().map(|p| (p.0 - mx) * (p.0 - mx)).sum();
    let xy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    if points.len() < 2 || xx == 0.0 {
        return Value::Null;
    }
    let levels: Vec<f64> = points.iter().map(|p| p.1).collect();
    Value::Float {
        value: xy / xx,
        inputs: absolute(&levels),
    }
}
