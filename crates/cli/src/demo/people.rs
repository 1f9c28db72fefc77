//! Who there is: customers, their homes, phones, devices and accounts.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) const DAY: i64 = 86_400_000_000;
pub(crate) const HOUR: i64 = DAY / 24;
const ACCOUNT_BASE: i64 = 100_000_000;

/// Of which part of the population a customer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ordinary,
    /// Of the planted village: they apply together, for each other, and do not pay.
    Village,
    /// Of the planted farm: numbers that nobody calls, on a handful of emulators.
    Farm,
}

/// The whole made-up population.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) customers: i64,
    /// The end of the year that is told, UTC microseconds.
    pub(crate) end: i64,
}

/// What is fixed about a customer.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) id: i64,
    pub(crate) kind: Kind,
    pub(crate) place: i64,
    pub(crate) phone: String,
    pub(crate) device: String,
    pub(crate) account: i64,
    pub(crate) registered: i64,
    /// A month, in cents.
    pub(crate) income: i64,
    /// Between 0 and 1: how likely an instalment is late.
    pub(crate) risk: f64,
}

impl World {
    /// The number of villagers, the last customers but the farm's.
    pub(crate) fn villagers(&self) -> i64 {
        (self.customers / 500).max(12)
    }

    /// The number of the farm's numbers, the last customers.
    pub(crate) fn farmed(&self) -> i64 {
        (self.customers / 1000).max(8)
    }

    /// Places of ordinary people, from 1; the village is the next one.
    pub(crate) fn places(&self) -> i64 {
        (self.customers / 500).max(10)
    }

    pub(crate) fn village(&self) -> i64 {
        self.places() + 1
    }

    pub(crate) fn first_of(&self, kind: Kind) -> i64 {
        match kind {
            Kind::Ordinary => 1,
            Kind::Village => self.customers - self.farmed() - self.villagers() + 1,
            Kind::Farm => self.customers - self.farmed() + 1,
        }
    }

    pub(crate) fn ordinary(&self) -> i64 {
        self.first_of(Kind::Village) - 1
    }

    /// Randomness of one customer for one purpose, independent of all others.
    pub(crate) fn random(&self, purpose: u64, customer: i64) -> StdRng {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&purpose.to_le_bytes());
        bytes[16..24].copy_from_slice(&customer.to_le_bytes());
        StdRng::from_seed(bytes)
    }

    pub(crate) fn person(&self, id: i64) -> Person {
        let mut random = self.random(0, id);
        let kind = if id >= self.first_of(Kind::Farm) {
            Kind::Farm
        } else if id >= self.first_of(Kind::Village) {
            Kind::Village
        } else {
            Kind::Ordinary
        };
        // Small places are many, large ones few: the product of two draws leans to low numbers.
        let share: f64 = random.random::<f64>() * random.random::<f64>();
        let home = 1 + (share * self.places() as f64) as i64;
        let income = (120_000.0 + 380_000.0 * random.random::<f64>().powi(2)) as i64;
        let risk = 0.01 + 0.25 * random.random::<f64>().powi(4);
        let long_ago = random.random_range(60..365) * DAY;
        let lately = random.random_range(5..60) * DAY;
        let (place, device, registered, risk) = match kind {
            Kind::Ordinary => (home, format!("device-{id}"), self.end - long_ago, risk),
            Kind::Village => (
                self.village(),
                format!("device-village-{}", id % 6),
                self.end - long_ago,
                0.9,
            ),
            Kind::Farm => (
                home,
                format!("emulator-{}", id % 3),
                self.end - lately,
                risk,
            ),
        };
        Person {
            id,
            kind,
            place: place.min(self.village()),
            phone: phone(id),
            device,
            account: ACCOUNT_BASE + id,
            registered,
            income,
            risk,
        }
    }

    pub(crate) fn people(&self) -> impl Iterator<Item = Person> + '_ {
        (1..=self.customers).map(|id| self.person(id))
    }
}

/// Latitude and longitude in degrees: places lie on a grid of a tenth of one.
pub(crate) fn centre(place: i64) -> (f64, f64) {
    (
        45.0 + (place / 40) as f64 * 0.1,
        10.0 + (place % 40) as f64 * 0.1,
    )
}

/// +999 is a country code that nobody has.
pub(crate) fn phone(id: i64) -> String {
    format!("+999{id:09}")
}
