//! What happened: one function a table of the canonical schema.

use std::path::Path;

use anyhow::{Result, anyhow};
use granary_model::FeatureType::{self, BigInt, Boolean, Date, Double, Int, Timestamp, Varchar};
use rand::Rng;
use rand::rngs::StdRng;

use super::people::{DAY, HOUR, Kind, Person, World, centre, phone};
use super::table::{Cell, TableWriter};

const MONEY: FeatureType = FeatureType::Decimal {
    precision: 14,
    scale: 2,
};
const PRICE: FeatureType = FeatureType::Decimal {
    precision: 14,
    scale: 4,
};
const MONTH: i64 = 30 * DAY;

type Columns = &'static [(&'static str, FeatureType)];
type Teller = fn(&World, &Person, &mut TableWriter) -> Result<()>;

/// Every table: its name, its columns and who tells a customer's rows of it.
const TABLES: &[(&str, Columns, Teller)] = &[
    (
        "transactions",
        &[
            ("transaction_id", BigInt),
            ("account_id", BigInt),
            ("at", Timestamp),
            ("amount", MONEY),
            ("channel", Varchar),
            ("purpose", Varchar),
            ("counterparty", Varchar),
        ],
        transactions,
    ),
    (
        "purchases",
        &[
            ("invoice_id", Varchar),
            ("customer_id", BigInt),
            ("at", Timestamp),
            ("item_id", Varchar),
            ("quantity", BigInt),
            ("unit_price", PRICE),
            ("amount", MONEY),
            ("is_return", Boolean),
        ],
        purchases,
    ),
    (
        "calls",
        &[
            ("caller", Varchar),
            ("callee", Varchar),
            ("at", Timestamp),
            ("seconds", BigInt),
            ("is_missed", Boolean),
        ],
        calls,
    ),
    (
        "messages",
        &[
            ("sender", Varchar),
            ("recipient", Varchar),
            ("at", Timestamp),
        ],
        messages,
    ),
    (
        "places",
        &[
            ("customer_id", BigInt),
            ("place_id", BigInt),
            ("at", Timestamp),
            ("latitude", Double),
            ("longitude", Double),
        ],
        places,
    ),
    (
        "contacts",
        &[
            ("phone_number", Varchar),
            ("contact_number", Varchar),
            ("at", Timestamp),
        ],
        contacts,
    ),
    (
        "devices",
        &[
            ("device_id", Varchar),
            ("customer_id", BigInt),
            ("phone_number", Varchar),
            ("at", Timestamp),
            ("platform", Varchar),
        ],
        devices,
    ),
    (
        "repayments",
        &[
            ("loan_id", BigInt),
            ("customer_id", BigInt),
            ("instalment_no", Int),
            ("at", Timestamp),
            ("event", Varchar),
            ("due_at", Timestamp),
            ("amount", MONEY),
        ],
        repayments,
    ),
    (
        "customers",
        &[
            ("customer_id", BigInt),
            ("at", Timestamp),
            ("birth_date", Date),
            ("gender", Varchar),
            ("place_id", BigInt),
            ("phone_number", Varchar),
            ("country", Varchar),
        ],
        customers,
    ),
    (
        "accounts",
        &[
            ("account_id", BigInt),
            ("customer_id", BigInt),
            ("at", Timestamp),
            ("place_id", BigInt),
            ("statement_frequency", Varchar),
        ],
        accounts,
    ),
    (
        "applications",
        &[
            ("application_id", BigInt),
            ("customer_id", BigInt),
            ("at", Timestamp),
            ("guarantor_id", BigInt),
            ("phone_number", Varchar),
            ("device_id", Varchar),
            ("place_id", BigInt),
            ("amount", MONEY),
            ("term_months", Int),
        ],
        applications,
    ),
    (
        "loans",
        &[
            ("loan_id", BigInt),
            ("application_id", BigInt),
            ("customer_id", BigInt),
            ("account_id", BigInt),
            ("guarantor_id", BigInt),
            ("at", Timestamp),
            ("amount", MONEY),
            ("term_months", Int),
            ("instalment", MONEY),
        ],
        loans,
    ),
];

/// Writes every table as `<folder>/<name>.parquet`, two at a time; gives the rows of each.
pub(crate) fn write_tables(world: &World, folder: &Path) -> Result<Vec<(&'static str, usize)>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<Vec<(&'static str, usize)>> {
        let mut written = Vec::new();
        while let Some((name, columns, tell)) =
            TABLES.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            let mut table = TableWriter::create(folder, name, columns)?;
            for person in world.people() {
                tell(world, &person, &mut table)?;
            }
            written.push((*name, table.finish()?));
        }
        Ok(written)
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        let mut all = Vec::new();
        for worker in workers {
            all.extend(
                worker
                    .join()
                    .map_err(|_| anyhow!("a generator thread panicked"))??,
            );
        }
        all.sort_unstable();
        Ok(all)
    })
}

/// A loan application, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    pub(crate) id: i64,
    pub(crate) at: i64,
    guarantor: Option<i64>,
    /// In cents.
    pub(crate) amount: i64,
    pub(crate) months: i64,
    /// When it was granted, if it was.
    granted: Option<i64>,
}

impl Application {
    pub(crate) fn loan_id(&self) -> Option<i64> {
        self.granted.map(|_| 500_000_000 + self.id)
    }

    pub(crate) fn guarantor(&self) -> Option<i64> {
        self.guarantor
    }
}

impl Person {
    /// A customer's applications, oldest first.
    pub(crate) fn applications(&self, world: &World) -> Vec<Application> {
        let mut random = world.random(1, self.id);
        let count = match self.kind {
            Kind::Ordinary => u8::from(random.random_bool(0.25)),
            // The first wave is repaid badly, the second follows all the same.
            Kind::Village => 2,
            Kind::Farm => 1,
        };
        (0..count)
            .map(|no| self.application(world, &mut random, i64::from(no)))
            .collect()
    }

    fn application(&self, world: &World, random: &mut StdRng, no: i64) -> Application {
        let age = match (self.kind, no) {
            (Kind::Ordinary, _) => random.random_range(DAY..(world.end - self.registered)),
            (Kind::Village, 0) => 200 * DAY + random.random_range(0..10 * DAY),
            (Kind::Village, _) => random.random_range(DAY..12 * DAY),
            (Kind::Farm, _) => random.random_range(DAY..5 * DAY),
        };
        let at = (world.end - age).max(self.registered);
        let guarantor = match self.kind {
            Kind::Village => {
                let first = world.first_of(Kind::Village);
                Some(first + (self.id - first + 1) % world.villagers())
            }
            _ if random.random_bool(0.2) => Some(random.random_range(1..=world.ordinary())),
            _ => None,
        };
        let decided = at + random.random_range(HOUR..3 * DAY);
        let is_granted = random.random_bool(0.6) || (self.kind == Kind::Village && no == 0);
        Application {
            id: self.id * 10 + no,
            at,
            guarantor: guarantor.filter(|id| *id != self.id),
            amount: random.random_range(5..80) * 10_000,
            months: random.random_range(1..=4) * 6,
            granted: (is_granted && decided < world.end).then_some(decided),
        }
    }
}

fn whole_life(world: &World, person: &Person, random: &mut StdRng) -> i64 {
    random.random_range(person.registered..world.end)
}

fn customers(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(2, person.id);
    table.push(&[
        Cell::Int(person.id),
        Cell::Time(person.registered),
        // Between 1950 and 2005.
        Cell::Days(random.random_range(-7300..12_800)),
        Cell::text(if random.random_bool(0.5) { "F" } else { "M" }),
        Cell::Int(person.place),
        Cell::Text(person.phone.clone()),
        Cell::text("Freedonia"),
    ])
}

fn accounts(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(3, person.id);
    let frequency =
        ["monthly", "monthly", "weekly", "after transaction"][random.random_range(0..4)];
    table.push(&[
        Cell::Int(person.account),
        Cell::Int(person.id),
        Cell::Time(person.registered),
        Cell::Int(person.place),
        Cell::text(frequency),
    ])
}

fn transactions(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(4, person.id);
    let mut number = person.id * 1000;
    let mut put =
        |at: i64, cents: i64, channel: &str, purpose: Option<&str>, other: Option<String>| {
            number += 1;
            table.push(&[
                Cell::Int(number),
                Cell::Int(person.account),
                Cell::Time(at),
                Cell::Units(cents),
                Cell::text(channel),
                purpose.map_or(Cell::Null, Cell::text),
                other.map_or(Cell::Null, Cell::Text),
            ])
        };
    let is_pensioner = random.random_bool(0.15);
    let payer = format!("employer-{}", random.random_range(0..5000));
    let mut month = person.registered + random.random_range(0..MONTH);
    while month < world.end {
        let wages = person.income + random.random_range(-person.income / 20..=person.income / 20);
        let purpose = if is_pensioner { "pension" } else { "salary" };
        put(month, wages, "transfer", Some(purpose), Some(payer.clone()))?;
        let rent_at = month + random.random_range(0..3 * DAY);
        if rent_at < world.end {
            put(
                rent_at,
                -person.income / 3,
                "transfer",
                Some("household"),
                Some(format!("landlord-{}", person.place)),
            )?;
        }
        if random.random_bool(0.1 + person.risk / 2.0) && month + 5 * DAY < world.end {
            put(
                month + 5 * DAY,
                -random.random_range(100..3000),
                "bank",
                Some("penalty interest"),
                None,
            )?;
        }
        month += MONTH + random.random_range(-DAY..=DAY);
    }
    for _ in 0..random.random_range(4..14) {
        let cents = -random.random_range(500..person.income / 10);
        let (channel, other) = if random.random_bool(0.3) {
            ("cash", None)
        } else {
            (
                "card",
                Some(format!("shop-{}", random.random_range(0..2000))),
            )
        };
        put(
            whole_life(world, person, &mut random),
            cents,
            channel,
            None,
            other,
        )?;
    }
    Ok(())
}

fn applications(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    for application in person.applications(world) {
        table.push(&[
            Cell::Int(application.id),
            Cell::Int(person.id),
            Cell::Time(application.at),
            application.guarantor.map_or(Cell::Null, Cell::Int),
            Cell::Text(person.phone.clone()),
            Cell::Text(person.device.clone()),
            Cell::Int(person.place),
            Cell::Units(application.amount),
            Cell::Int(application.months),
        ])?;
    }
    Ok(())
}

fn loans(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    for application in person.applications(world) {
        if let (Some(loan), Some(granted)) = (application.loan_id(), application.granted) {
            table.push(&[
                Cell::Int(loan),
                Cell::Int(application.id),
                Cell::Int(person.id),
                Cell::Int(person.account),
                application.guarantor.map_or(Cell::Null, Cell::Int),
                Cell::Time(granted),
                Cell::Units(application.amount),
                Cell::Int(application.months),
                Cell::Units(application.amount / application.months),
            ])?;
        }
    }
    Ok(())
}

fn repayments(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(5, person.id);
    for application in person.applications(world) {
        let (Some(loan), Some(granted)) = (application.loan_id(), application.granted) else {
            continue;
        };
        for no in 1..=application.months {
            let due = granted + no * MONTH;
            if due >= world.end {
                break;
            }
            let mut put = |at: i64, event: &str| {
                table.push(&[
                    Cell::Int(loan),
                    Cell::Int(person.id),
                    Cell::Int(no),
                    Cell::Time(at),
                    Cell::text(event),
                    Cell::Time(due),
                    Cell::Units(application.amount / application.months),
                ])
            };
            put(due, "due")?;
            let is_late = random.random_bool(person.risk);
            let delay = if is_late {
                random.random_range(DAY..120 * DAY)
            } else {
                -random.random_range(0..3 * DAY)
            };
            let never = is_late
                && random.random_bool(if person.kind == Kind::Village {
                    0.7
                } else {
                    0.1
                });
            if !never && due + delay < world.end {
                put((due + delay).max(granted + HOUR), "paid")?;
            }
        }
    }
    Ok(())
}

fn purchases(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(6, person.id);
    for no in 0..random.random_range(1..5) {
        let at = whole_life(world, person, &mut random);
        let is_return = random.random_bool(0.04);
        let sign = if is_return { -1 } else { 1 };
        for _ in 0..random.random_range(1..4) {
            let quantity = random.random_range(1..5);
            let cents = random.random_range(200..20_000);
            table.push(&[
                Cell::Text(format!(
                    "{}{}-{no}",
                    if is_return { "C" } else { "" },
                    person.id
                )),
                Cell::Int(person.id),
                Cell::Time(at),
                Cell::Text(format!("item-{}", random.random_range(0..3000))),
                Cell::Int(sign * quantity),
                Cell::Units(cents * 100),
                Cell::Units(sign * quantity * cents),
                Cell::Bool(is_return),
            ])?;
        }
    }
    Ok(())
}

/// The people whom an ordinary customer or villager knows.
pub(crate) fn circle(world: &World, person: &Person) -> Vec<i64> {
    let mut random = world.random(7, person.id);
    let (first, count) = match person.kind {
        Kind::Village => (world.first_of(Kind::Village), world.villagers()),
        Kind::Ordinary | Kind::Farm => (1, world.ordinary()),
    };
    (0..4)
        .map(|_| first + (person.id - first + random.random_range(1..20)).rem_euclid(count))
        .filter(|id| *id != person.id)
        .collect()
}

fn contacts(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    if person.kind == Kind::Farm {
        return Ok(());
    }
    for other in circle(world, person) {
        let at = Cell::Time(person.registered);
        table.push(&[
            Cell::Text(person.phone.clone()),
            Cell::Text(phone(other)),
            at,
        ])?;
    }
    Ok(())
}

/// A time in the last two months, of which one in eight lies in the night.
fn lately(world: &World, person: &Person, random: &mut StdRng) -> i64 {
    let day = world.end - random.random_range(1..=60) * DAY;
    let hour = if random.random_bool(0.125) {
        random.random_range(0..6)
    } else {
        random.random_range(7..23)
    };
    (day + hour * HOUR + random.random_range(0..HOUR)).max(person.registered)
}

fn calls(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(8, person.id);
    let circle = circle(world, person);
    // The farm's numbers call many strangers; nobody calls them back.
    let count = if person.kind == Kind::Farm {
        40
    } else {
        random.random_range(2..12)
    };
    for _ in 0..count {
        let callee = match person.kind {
            Kind::Farm => random.random_range(1..=world.ordinary()),
            _ => circle[random.random_range(0..circle.len())],
        };
        let is_missed = random.random_bool(0.2);
        table.push(&[
            Cell::Text(person.phone.clone()),
            Cell::Text(phone(callee)),
            Cell::Time(lately(world, person, &mut random)),
            if is_missed {
                Cell::Null
            } else {
                Cell::Int(random.random_range(5..1200))
            },
            Cell::Bool(is_missed),
        ])?;
    }
    Ok(())
}

fn messages(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    if person.kind == Kind::Farm {
        return Ok(());
    }
    let mut random = world.random(9, person.id);
    let circle = circle(world, person);
    for _ in 0..random.random_range(0..8) {
        let recipient = circle[random.random_range(0..circle.len())];
        let at = lately(world, person, &mut random);
        table.push(&[
            Cell::Text(person.phone.clone()),
            Cell::Text(phone(recipient)),
            Cell::Time(at),
        ])?;
    }
    Ok(())
}

fn devices(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(10, person.id);
    let platform = match person.kind {
        Kind::Farm => "emulator",
        _ if random.random_bool(0.7) => "android",
        _ => "ios",
    };
    for _ in 0..3 {
        table.push(&[
            Cell::Text(person.device.clone()),
            Cell::Int(person.id),
            Cell::Text(person.phone.clone()),
            Cell::Time(lately(world, person, &mut random)),
            Cell::text(platform),
        ])?;
    }
    Ok(())
}

fn places(world: &World, person: &Person, table: &mut TableWriter) -> Result<()> {
    let mut random = world.random(11, person.id);
    for _ in 0..random.random_range(3..8) {
        let is_away = random.random_bool(0.2);
        let place = if is_away {
            random.random_range(1..=world.places())
        } else {
            person.place
        };
        // Sightings lie within two kilometres.
        let (latitude, longitude) = centre(place);
        let jitter = |random: &mut StdRng| random.random_range(-0.02..0.02);
        table.push(&[
            Cell::Int(person.id),
            Cell::Int(place),
            Cell::Time(lately(world, person, &mut random)),
            Cell::Real(latitude + jitter(&mut random)),
            Cell::Real(longitude + jitter(&mut random)),
        ])?;
    }
    Ok(())
}
