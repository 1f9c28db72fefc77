//! Where a spine lies, and where a training set goes.

use std::io;
use std::path::{Path, PathBuf};

use url::Url;

/// The URL of a location: a path, relative to the current folder, or a URL.
pub(crate) fn url_of(location: &str) -> Result<Url, String> {
    if location.contains("://") {
        return Url::parse(location).map_err(|error| error.to_string());
    }
    let path = without_dots(Path::new(location)).map_err(|error| error.to_string())?;
    let url = match location.ends_with('/') {
        true => Url::from_directory_path(path),
        false => Url::from_file_path(path),
    };
    url.map_err(|()| "not a path".to_owned())
}

/// The path without "..", which an object store does not take. The last name
/// stays as it is, and so do names of folders that are not there yet.
fn without_dots(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut there = path.as_path();
    let mut names = Vec::new();
    while let (Some(parent), Some(name)) = (there.parent(), there.file_name()) {
        names.push(name);
        there = parent;
        if there.exists() {
            break;
        }
    }
    let there = there.canonicalize()?;
    Ok(names.iter().rev().fold(there, |path, name| path.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_resolved_and_last_names_kept() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        let url = |end: &str| url_of(root.join(end).to_str().unwrap()).unwrap();
        let expected = |end: &str| Url::from_file_path(root.join(end)).unwrap();
        assert_eq!(url("a/../x.csv"), expected("x.csv"));
        assert_eq!(url("a/../b/c/x.csv"), expected("b/c/x.csv"));
        assert_eq!(
            url("a/../b/x/").path(),
            format!("{}/", expected("b/x").path())
        );
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.join("a"), root.join("link.csv")).unwrap();
            assert_eq!(url("a/../link.csv"), expected("link.csv"));
        }
        assert!(url_of("http://[").is_err());
    }
}
