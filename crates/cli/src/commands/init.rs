//! `granary init`: a project that works at once, with data of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use granary_model::interval::MICROS_PER_DAY;
use granary_model::{Clock, SystemClock, UtcMicros};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::failure::Outcome;
use crate::{config, output};

const CONFIG: &str = include_str!("init/granary.toml");
const DEFINITIONS: &str = include_str!("init/example.sql");
const IGNORED: &str = "/.granary/\n";

const CUSTOMERS: i64 = 20;
const ORDERS: i64 = 400;
const DAYS: i64 = 90;
const SEED: u64 = 7420;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  granary init my-features\n  granary init --force        # in this folder, beside what is there"
)]
pub struct Args {
    /// The folder to make the project in [default: that of -C, else this one]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,

    /// Write into a folder that is not empty; files of the same name are replaced
    #[arg(long)]
    pub force: bool,
}

/// `folder`: that of `-C`.
pub fn run(folder: Option<&Path>, args: &Args) -> Outcome {
    let folder = match (&args.folder, folder) {
        // As all paths of a command that is run with -C: relative to that.
        (Some(inner), Some(folder)) => folder.join(inner),
        (Some(folder), None) => folder.clone(),
        (None, Some(folder)) => folder.to_path_buf(),
        (None, None) => std::env::current_dir().context("cannot tell the current folder")?,
    };
    if !args.force {
        refuse_what_is_there(&folder)?;
    }
    let now = SystemClock.now();
    let files = [
        (config::FILE, CONFIG.to_owned()),
        ("sql/example.sql", DEFINITIONS.to_owned()),
        ("data/profiles.csv", profiles(now)),
        ("data/orders.csv", orders(now)),
    ];
    for (name, text) in &files {
        write(&folder.join(name), text)?;
    }
    let ignored = folder.join(".gitignore");
    if !ignored.exists() {
        write(&ignored, IGNORED)?;
    }
    output::print(next_steps(&folder))?;
    Ok(ExitCode::SUCCESS)
}

/// Hidden files (`.git`) may be there.
fn refuse_what_is_there(folder: &Path) -> anyhow::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let cannot = || format!("cannot look into {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let name = entry.with_context(cannot)?.file_name();
        let name = name.to_string_lossy();
        if name == config::FILE {
            bail!(
                "{} is a project already; --force replaces its {name} and the example",
                folder.display()
            );
        }
        if !name.starts_with('.') {
            bail!(
                "{} is not empty (there is {name}); --force writes beside it",
                folder.display()
            );
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn next_steps(folder: &Path) -> String {
    let here = std::env::current_dir().ok();
    let there = fs::canonicalize(folder).unwrap_or_else(|_| PathBuf::from(folder));
    let enter = if here.is_some_and(|here| here == there) {
        String::new()
    } else {
        format!("  cd {}\n", folder.display())
    };
    format!(
        "Made a project in {}. Next:\n{enter}\
         \x20 granary plan                                            # what apply would change\n\
         \x20 granary apply                                           # commit the definitions\n\
         \x20 granary materialize                                     # compute the features\n\
         \x20 granary get --service shop_overview --key customer_id=1,2,3\n\
         \x20 granary sql \"SELECT * FROM customer_orders LIMIT 5\"\n\
         \x20 granary serve                                           # gRPC and HTTP",
        folder.display()
    )
}

/// Two rows a customer: the second one some weeks ago.
fn profiles(now: UtcMicros) -> String {
    const CITIES: [&str; 5] = ["Almaty", "Astana", "Shymkent", "Karaganda", "Aktobe"];
    let mut random = StdRng::seed_from_u64(SEED);
    let mut text = String::from("customer_id,at,city,monthly_income\n");
    for customer in 1..=CUSTOMERS {
        let city = CITIES[random.random_range(0..CITIES.len())];
        let income: i64 = random.random_range(200..900) * 1000;
        for (days, income) in [
            (DAYS, income),
            (random.random_range(5..50), income * 11 / 10),
        ] {
            let at = time_of_day(now, days, &mut random);
            let _ = writeln!(text, "{customer},{at},{city},{income}");
        }
    }
    text
}

/// Orders of the last [`DAYS`] days up to yesterday, a few of them returns.
fn orders(now: UtcMicros) -> String {
    const CATEGORIES: [&str; 4] = ["groceries", "medicines", "electronics", "books"];
    let mut random = StdRng::seed_from_u64(SEED + 1);
    let mut text = String::from("order_id,customer_id,at,amount,category\n");
    for order in 1..=ORDERS {
        // Squared: some customers buy far more often than others.
        let share: f64 = random.random();
        let customer = 1 + (share * share * CUSTOMERS as f64) as i64;
        let at = time_of_day(now, random.random_range(1..DAYS), &mut random);
        let returned = random.random_ratio(1, 25);
        let cents: i64 = random.random_range(500..50_000) * if returned { -1 } else { 1 };
        let category = CATEGORIES[random.random_range(0..CATEGORIES.len())];
        let amount = cents as f64 / 100.0;
        let _ = writeln!(text, "{order},{customer},{at},{amount:.2},{category}");
    }
    text
}

/// Some second of the day that was so many days ago.
fn time_of_day(now: UtcMicros, days_ago: i64, random: &mut StdRng) -> UtcMicros {
    let midnight = now.0 - now.0.rem_euclid(MICROS_PER_DAY) - days_ago * MICROS_PER_DAY;
    UtcMicros(midnight + random.random_range(0..86_400) * 1_000_000)
}
