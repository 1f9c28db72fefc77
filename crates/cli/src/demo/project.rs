//! The demo's project folder: settings and the lender's definitions.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config;

/// Tells a folder that `granary demo` made, and may make again, from any other.
const MARKER: &str = ".granary-demo";

/// The lender's definitions over the adapter of generated data, by path in `sql/`.
const DEFINITIONS: &[(&str, &str)] = &[
    (
        "canonical.sql",
        include_str!("../../../../sql/canonical.sql"),
    ),
    ("entities.sql", include_str!("../../../../sql/entities.sql")),
    (
        "features/account.sql",
        include_str!("../../../../sql/features/account.sql"),
    ),
    (
        "features/affordability.sql",
        include_str!("../../../../sql/features/affordability.sql"),
    ),
    (
        "features/credit.sql",
        include_str!("../../../../sql/features/credit.sql"),
    ),
    (
        "features/customer.sql",
        include_str!("../../../../sql/features/customer.sql"),
    ),
    (
        "features/neighbourhood.sql",
        include_str!("../../../../sql/features/neighbourhood.sql"),
    ),
    (
        "features/phone.sql",
        include_str!("../../../../sql/features/phone.sql"),
    ),
    (
        "features/place.sql",
        include_str!("../../../../sql/features/place.sql"),
    ),
    (
        "features/shopping.sql",
        include_str!("../../../../sql/features/shopping.sql"),
    ),
    (
        "features/velocity.sql",
        include_str!("../../../../sql/features/velocity.sql"),
    ),
    ("services.sql", include_str!("../../../../sql/services.sql")),
    (
        "sources.sql",
        include_str!("../../../../sql/adapters/generated/sources.sql"),
    ),
    ("streams.sql", include_str!("../../../../sql/streams.sql")),
];

const SETTINGS: &str = "# The project of `granary demo`.\n\
    \n\
    # Who is who: grants name roles, callers name themselves.\n\
    [serve.server.roles]\n\
    bidder = [\"marketing\"]\n\
    admission = [\"risk\"]\n\
    dialler = [\"collections\"]\n";

/// Lays the folder anew. Refuses one that holds anything but an earlier demo.
pub(crate) fn lay(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let is_empty = fs::read_dir(folder)?.next().is_none();
    if !is_empty && !folder.join(MARKER).is_file() {
        bail!(
            "{} is not empty and was not made by the demo; pass another --dir",
            folder.display()
        );
    }
    for made in ["sql", "data", ".granary"] {
        let made = folder.join(made);
        if made.exists() {
            fs::remove_dir_all(&made)
                .with_context(|| format!("cannot remove {}", made.display()))?;
        }
    }
    write(
        &folder.join(MARKER),
        "made by `granary demo`, which may replace this folder\n",
    )?;
    write(&folder.join(config::FILE), SETTINGS)?;
    for (path, text) in DEFINITIONS {
        write(&folder.join("sql").join(path), text)?;
    }
    fs::create_dir_all(folder.join("data"))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
