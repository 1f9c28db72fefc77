//! Customers and loans: what they hold, what they owe, how late they pay.

use std::collections::BTreeSet;

use super::{Account, Bank, Loan, keys};
use crate::lender::expected::{Expected, Key, Reference, Row, Value, mean};
use crate::lender::raw::{DAY, days, number};

impl Bank {
    pub fn customers(&self) -> Reference {
        let borrowers: BTreeSet<i64> = self.loans.iter().map(|l| l.customer).collect();
        let loans_of =
            |id: i64| -> Vec<&Loan> { self.loans.iter().filter(|l| l.customer == id).collect() };
        Reference {
            key: "customer_id",
            keys: keys(&self.all_clients),
            views: vec![
                Expected {
                    view: "customer_profile",
                    rows: self
                        .clients
                        .iter()
                        .map(|(id, c)| (Key::Int(*id), profile(&c.0, c.1)))
                        .collect(),
                },
                Expected {
                    view: "customer_tenure",
                    rows: self
                        .clients
                        .iter()
                        .map(|(id, c)| (Key::Int(*id), self.tenure(&c.0, c.2)))
                        .collect(),
                },
                Expected {
                    view: "customer_holdings",
                    rows: self
                        .accounts
                        .iter()
                        .map(|a| (Key::Int(a.owner), self.holdings(a.owner)))
                        .collect(),
                },
                Expected {
                    view: "customer_debt",
                    rows: borrowers
                        .iter()
                        .map(|id| (Key::Int(*id), self.debt(&loans_of(*id))))
                        .collect(),
                },
                Expected {
                    view: "customer_repayment",
                    rows: borrowers
                        .iter()
                        .filter_map(|id| {
                            Some((Key::Int(*id), self.customer_repayment(&loans_of(*id))?))
                        })
                        .collect(),
                },
            ],
        }
    }

    fn tenure(&self, birth_number: &str, first: i64) -> Row {
        let age_days = self.t as f64 / DAY as f64 - f64::from(birth(birth_number));
        vec![
            ("age_years", Value::Int((age_days / 365.25).floor() as i64)),
            ("tenure_days", Value::days_between(first, self.t)),
        ]
    }

    fn holdings(&self, owner: i64) -> Row {
        let owned: Vec<&Account> = self.accounts.iter().filter(|a| a.owner == owner).collect();
        let booked: Vec<i64> = owned
            .iter()
            .map(|a| a.id)
            .filter(|id| !self.of(*id).is_empty())
            .collect();
        let balances: Vec<i128> = booked
            .iter()
            .map(|id| self.balances(*id).last().unwrap().1)
            .collect();
        let lowest = booked
            .iter()
            .flat_map(|id| self.balances(*id))
            .map(|b| b.1)
            .min();
        let known = (!booked.is_empty()).then_some(());
        vec![
            ("accounts", Value::count(owned.len())),
            (
                "days_since_first_account",
                Value::days_between(owned.iter().map(|a| a.at).min().unwrap(), self.t),
            ),
            (
                "balance_total",
                Value::or_null(known, |()| Value::Money(balances.iter().sum())),
            ),
            ("lowest_balance", Value::or_null(lowest, Value::Money)),
            (
                "transactions_total",
                Value::or_null(known, |()| {
                    Value::count(booked.iter().map(|id| self.of(*id).len()).sum())
                }),
            ),
        ]
    }

    fn debt(&self, loans: &[&Loan]) -> Row {
        let outstanding = |l: &Loan| -> i128 {
            let paid: i128 = l
                .instalments
                .iter()
                .filter_map(|i| i.paid)
                .map(|p| p.1)
                .sum();
            (l.instalment * i128::from(l.months) - paid).max(0)
        };
        let open: Vec<&&Loan> = loans.iter().filter(|l| outstanding(l) >= 100).collect();
        vec![
            ("loans", Value::count(loans.len())),
            ("loans_open", Value::count(open.len())),
            (
                "borrowed_total",
                Value::Money(loans.iter().map(|l| l.cents).sum()),
            ),
            (
                "outstanding",
                Value::Money(loans.iter().map(|l| outstanding(l)).sum()),
            ),
            (
                "instalments_monthly",
                Value::Money(open.iter().map(|l| l.instalment).sum()),
            ),
            (
                "days_since_loan",
                Value::days_between(loans.iter().map(|l| l.at).max().unwrap(), self.t),
            ),
        ]
    }

    fn late(&self, loan: &Loan) -> Vec<Late> {
        let due = loan.instalments.iter().filter(|i| i.due_at <= self.t);
        due.map(|i| {
            let settled_at = i.paid.filter(|p| p.1 > loan.instalment - 100).map(|p| p.0);
            let days = (settled_at.unwrap_or(self.t) - i.due_at)
                .div_euclid(DAY)
                .max(0);
            Late {
                due_at: i.due_at,
                settled_at,
                days,
                due: loan.instalment,
                paid: i.paid.map_or(0, |p| p.1),
            }
        })
        .collect()
    }

    fn customer_repayment(&self, loans: &[&Loan]) -> Option<Row> {
        let late: Vec<Late> = loans.iter().flat_map(|l| self.late(l)).collect();
        if late.is_empty() {
            return None;
        }
        let over = |days: i64| late.iter().filter(|l| l.days > days).count() as f64;
        let recent = late.iter().filter(|l| l.due_at > self.t - 180 * DAY);
        let settled = late.iter().filter_map(|l| l.settled_at).max();
        Some(vec![
            (
                "loans_due",
                Value::count(loans.iter().filter(|l| !self.late(l).is_empty()).count()),
            ),
            ("instalments_due", Value::count(late.len())),
            ("arrears", arrears(&late)),
            ("days_past_due", days_past_due(&late)),
            (
                "days_late_max",
                Value::Int(late.iter().map(|l| l.days).max()?),
            ),
            (
                "days_late_max_180d",
                Value::or_null(recent.map(|l| l.days).max(), Value::Int),
            ),
            ("late_share", Value::ratio(over(0), late.len() as f64)),
            ("roll_rate_1_to_30", Value::ratio(over(30), over(0))),
            ("roll_rate_30_to_60", Value::ratio(over(60), over(30))),
            ("roll_rate_60_to_90", Value::ratio(over(90), over(60))),
            (
                "days_since_settlement",
                Value::or_null(settled, |at| Value::days_between(at, self.t)),
            ),
        ])
    }

    pub fn loans(&self) -> Reference {
        let terms = |l: &Loan| {
            vec![
                ("borrower_id", Value::Int(l.customer)),
                ("guarantor_id", Value::Null),
                ("amount", Value::Money(l.cents)),
                ("term_months", Value::Int(l.months)),
                ("instalment", Value::Money(l.instalment)),
            ]
        };
        Reference {
            key: "loan_id",
            keys: keys(&self.all_loans),
            views: vec![
                Expected {
                    view: "loan_terms",
                    rows: self
                        .loans
                        .iter()
                        .map(|l| (Key::Int(l.id), terms(l)))
                        .collect(),
                },
                Expected {
                    view: "loan_repayment",
                    rows: self
                        .loans
                        .iter()
                        .filter_map(|l| Some((Key::Int(l.id), self.loan_repayment(l)?)))
                        .collect(),
                },
            ],
        }
    }

    fn loan_repayment(&self, loan: &Loan) -> Option<Row> {
        let late = self.late(loan);
        let days: Vec<f64> = late.iter().map(|l| l.days as f64).collect();
        let paid: i128 = late.iter().map(|l| l.paid).sum();
        let due: i128 = late.iter().map(|l| l.due).sum();
        Some(vec![
            ("instalments_due", Value::count(late.len())),
            (
                "instalments_late",
                Value::count(late.iter().filter(|l| l.days > 0).count()),
            ),
            ("arrears", arrears(&late)),
            ("days_past_due", days_past_due(&late)),
            (
                "days_late_max",
                Value::Int(late.iter().map(|l| l.days).max()?),
            ),
            ("days_late_mean", mean(&days)),
            ("paid_share", Value::float(paid as f64 / due as f64)),
        ])
    }
}

/// An instalment that has fallen due, and how late it was settled.
#[derive(Debug)]
struct Late {
    due_at: i64,
    settled_at: Option<i64>,
    days: i64,
    due: i128,
    paid: i128,
}

fn arrears(late: &[Late]) -> Value {
    Value::Money(
        late.iter()
            .filter(|l| l.settled_at.is_none())
            .map(|l| l.due - l.paid)
            .sum(),
    )
}

fn days_past_due(late: &[Late]) -> Value {
    Value::Int(
        late.iter()
            .filter(|l| l.settled_at.is_none())
            .map(|l| l.days)
            .max()
            .unwrap_or(0),
    )
}

/// The date of birth of a birth number: YYMMDD, month + 50 for women.
fn birth(number_text: &str) -> i32 {
    let n: i32 = number(number_text);
    days(1900 + n / 10_000, (n / 100 % 50) as u32, (n % 100) as u32)
}

fn profile(birth_number: &str, district: i64) -> Row {
    let is_woman = number::<i64>(birth_number) / 100 % 100 > 50;
    vec![
        ("birth_date", Value::Date(birth(birth_number))),
        ("gender", Value::text(if is_woman { "F" } else { "M" })),
        ("home_place_id", Value::Int(district)),
        ("phone_number", Value::Null),
        ("country", Value::text("Czech Republic")),
    ]
}
