//! The bank, by brute force: what its files say that was known at T.

mod accounts;
mod customers;

use std::collections::BTreeMap;
use std::path::Path;

use chrono::Datelike;

use super::expected::Key;
use super::raw::{DAY, cents, date, days, number, records};

#[derive(Debug)]
struct Account {
    id: i64,
    owner: i64,
    district: i64,
    frequency: &'static str,
    at: i64,
}

#[derive(Debug)]
struct Movement {
    id: i64,
    account: i64,
    at: i64,
    cents: i128,
    channel: &'static str,
    purpose: Option<&'static str>,
    counterparty: Option<String>,
}

#[derive(Debug)]
struct Loan {
    id: i64,
    customer: i64,
    at: i64,
    cents: i128,
    months: i64,
    instalment: i128,
    /// When and how much of each instalment fell due and was paid, by T.
    instalments: Vec<Instalment>,
}

#[derive(Debug)]
struct Instalment {
    due_at: i64,
    paid: Option<(i64, i128)>,
}

/// What was known at T.
#[derive(Debug)]
pub struct Bank {
    t: i64,
    all_accounts: Vec<i64>,
    all_clients: Vec<i64>,
    all_loans: Vec<i64>,
    accounts: Vec<Account>,
    /// Of each client, birth number, district and first account.
    clients: BTreeMap<i64, (String, i64, i64)>,
    /// By account, in order of time.
    movements: BTreeMap<i64, Vec<Movement>>,
    loans: Vec<Loan>,
}

/// The end of the day of a YYMMDD number.
fn end_of_day(field: &str) -> i64 {
    let n: i32 = number(field);
    let day = days(1900 + n / 10_000, (n / 100 % 100) as u32, (n % 100) as u32);
    (i64::from(day) + 1) * DAY - 1
}

fn movement(fields: &[String]) -> Movement {
    let (kind, operation, symbol) = (fields[3].as_str(), fields[4].as_str(), fields[7].as_str());
    let amount = cents(&fields[5]);
    Movement {
        id: number(&fields[0]),
        account: number(&fields[1]),
        at: end_of_day(&fields[2]),
        cents: if kind == "PRIJEM" { amount } else { -amount },
        channel: match (operation, symbol) {
            (_, "SLUZBY" | "UROK" | "SANKC. UROK") | ("", _) => "bank",
            ("VKLAD" | "VYBER", _) => "cash",
            ("VYBER KARTOU", _) => "card",
            _ => "transfer",
        },
        purpose: match symbol {
            "" => None,
            "DUCHOD" => Some("pension"),
            "SIPO" => Some("household"),
            "POJISTNE" => Some("insurance"),
            "UVER" => Some("loan payment"),
            "UROK" => Some("interest"),
            "SANKC. UROK" => Some("penalty interest"),
            "SLUZBY" => Some("fee"),
            " " => Some("other"),
            unknown => panic!("k_symbol {unknown:?}"),
        },
        counterparty: (!fields[8].is_empty()).then(|| format!("{} {}", fields[8], fields[9])),
    }
}

impl Bank {
    pub fn read(folder: &Path, t: i64) -> Self {
        let file = |name: &str| records(&folder.join(name), ';');
        let disp = file("disp.asc.gz");
        let owners: BTreeMap<i64, i64> = disp
            .iter()
            .filter(|d| d[3] == "OWNER")
            .map(|d| (number(&d[2]), number(&d[1])))
            .collect();
        let mut accounts = Vec::new();
        let mut all_accounts = Vec::new();
        for fields in file("account.asc.gz") {
            let id = number(&fields[0]);
            all_accounts.push(id);
            let frequency = match fields[2].as_str() {
                "POPLATEK MESICNE" => "monthly",
                "POPLATEK TYDNE" => "weekly",
                _ => "after transaction",
            };
            let (district, at) = (number(&fields[1]), end_of_day(&fields[3]));
            accounts.push(Account {
                id,
                owner: owners[&id],
                district,
                frequency,
                at,
            });
        }
        accounts.retain(|a| a.at <= t);
        let opened: BTreeMap<i64, i64> = accounts.iter().map(|a| (a.id, a.at)).collect();
        let mut all_clients = Vec::new();
        let mut clients = BTreeMap::new();
        for fields in file("client.asc.gz") {
            all_clients.push(number(&fields[0]));
            let first = disp
                .iter()
                .filter(|d| d[1] == fields[0])
                .filter_map(|d| opened.get(&number(&d[2])))
                .min();
            if let Some(first) = first {
                clients.insert(
                    number(&fields[0]),
                    (fields[1].clone(), number(&fields[2]), *first),
                );
            }
        }
        let mut movements: BTreeMap<i64, Vec<Movement>> = BTreeMap::new();
        for fields in file("trans_prefix_1993-01_1994-03.asc.gz") {
            let m = movement(&fields);
            if m.at <= t {
                movements.entry(m.account).or_default().push(m);
            }
        }
        for of_account in movements.values_mut() {
            of_account.sort_by_key(|m| m.at);
        }
        let mut bank = Self {
            t,
            all_accounts,
            all_clients,
            all_loans: Vec::new(),
            accounts,
            clients,
            movements,
            loans: Vec::new(),
        };
        bank.read_loans(&file("loan.asc.gz"));
        bank
    }

    fn read_loans(&mut self, loans: &[Vec<String>]) {
        for fields in loans {
            let id = number(&fields[0]);
            self.all_loans.push(id);
            let account: i64 = number(&fields[1]);
            let at = end_of_day(&fields[2]);
            if at > self.t {
                continue;
            }
            let months: i64 = number(&fields[4]);
            let owner = self
                .accounts
                .iter()
                .find(|a| a.id == account)
                .unwrap()
                .owner;
            self.loans.push(Loan {
                id,
                customer: owner,
                at,
                cents: cents(&fields[3]),
                months,
                instalment: cents(&fields[5]),
                instalments: self.instalments(account, at, months),
            });
        }
    }

    /// The 12th of every month after the grant; the n-th payment pays the n-th.
    fn instalments(&self, account: i64, granted: i64, months: i64) -> Vec<Instalment> {
        let mut payments: Vec<(i64, i128, i64)> = self
            .of(account)
            .iter()
            .filter(|m| m.purpose == Some("loan payment"))
            .map(|m| (m.at, m.cents, m.id))
            .collect();
        payments.sort_unstable();
        let mut month = date(granted).with_day(12).unwrap();
        if date(granted).day() >= 12 {
            month = month + chrono::Months::new(1);
        }
        (0..months)
            .map(|n| {
                let due = month + chrono::Months::new(n as u32);
                let due_at = (i64::from(days(due.year(), due.month(), due.day())) + 1) * DAY - 1;
                Instalment {
                    due_at,
                    paid: payments.get(n as usize).map(|p| (p.0, -p.1)),
                }
            })
            .collect()
    }

    fn of(&self, account: i64) -> &[Movement] {
        self.movements.get(&account).map_or(&[], Vec::as_slice)
    }

    /// Of the last days, T included.
    fn last(&self, account: i64, days: i64) -> Vec<&Movement> {
        self.of(account)
            .iter()
            .filter(|m| m.at > self.t - days * DAY)
            .collect()
    }

    /// The balance after every time of movement.
    fn balances(&self, account: i64) -> Vec<(i64, i128)> {
        let mut balances: Vec<(i64, i128)> = Vec::new();
        let mut balance = 0;
        for m in self.of(account) {
            balance += m.cents;
            match balances.last_mut() {
                Some(last) if last.0 == m.at => last.1 = balance,
                _ => balances.push((m.at, balance)),
            }
        }
        balances
    }
}

fn keys(ids: &[i64]) -> Vec<Key> {
    ids.iter().copied().chain([-1]).map(Key::Int).collect()
}
