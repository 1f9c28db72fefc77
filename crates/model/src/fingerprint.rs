//! Fingerprints: which version of a definition this is.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first 16 bytes of a SHA-256, in hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// Hashes the parts, each with its length, so that no two lists of parts collide by concatenation.
    pub fn of<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(
            hash.finalize()[..16]
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect(),
        )
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_start_of_a_sha_256_of_lengths_and_parts() {
        let none: [&str; 0] = [];
        // SHA-256 of nothing.
        assert_eq!(Fingerprint::of(none).0, "e3b0c44298fc1c149afbf4c8996fb924");
        assert_eq!(Fingerprint::of(["a"]).0.len(), 32);
        assert_eq!(Fingerprint::of(["a", "b"]), Fingerprint::of([b"a", b"b"]));
    }

    #[test]
    fn tells_lists_apart_that_join_to_the_same() {
        let lists = [
            vec!["ab", "c"],
            vec!["a", "bc"],
            vec!["abc"],
            vec!["abc", ""],
            vec!["", "abc"],
        ];
        for (i, a) in lists.iter().enumerate() {
            for b in &lists[..i] {
                assert_ne!(Fingerprint::of(a), Fingerprint::of(b), "{a:?} {b:?}");
            }
        }
    }
}
