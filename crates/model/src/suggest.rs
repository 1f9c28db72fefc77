//! Which known name a wrong one was probably meant to be.

/// The candidate nearest to `name`, if it is near enough to be a slip of the
/// pen: at most a third of the letters differ. Ties go to the first.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= bound)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// [`closest`] over names of any owned or borrowed form.
pub fn suggest<S: AsRef<str>>(
    name: &str,
    candidates: impl IntoIterator<Item = S>,
) -> Option<String> {
    let candidates: Vec<S> = candidates.into_iter().collect();
    closest(name, candidates.iter().map(AsRef::as_ref)).map(str::to_owned)
}

/// `; did you mean "customer"?`, to end an error message with; empty where no
/// candidate is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(name, candidates).map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one
/// name into the other, letter case aside (optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        for (name, candidates, expected) in [
            ("custmer", &["account", "customer"][..], Some("customer")),
            ("cusotmer", &["customer"], Some("customer")),
            ("CUSTOMER", &["customer"], Some("customer")),
            ("ab", &["ax", "xy"], Some("ax")),
            ("balance", &["device", "phone"], None),
            ("x", &[], None),
        ] {
            let found = closest(name, candidates.iter().copied());
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(did_you_mean("riks", ["risk"]), "; did you mean \"risk\"?");
        assert_eq!(did_you_mean("riks", ["marketing"]), "");
    }
}
