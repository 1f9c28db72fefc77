//! `not_run.md`: the cases that are not run or give other rows, by reason. It
//! is held against what comes of the cases, so that it stays true.

use std::collections::BTreeMap;

use super::case::{Case, Tier};
use super::{Outcome, Way, expected};

const LIST: &str = include_str!("not_run.md");

/// Cases of one heading.
struct Reason<'a> {
    text: &'a str,
    /// As the heading has it.
    count: usize,
    /// Ids, or ``all of `tier` ``.
    listed: Vec<&'a str>,
}

fn reasons(way: Way) -> Vec<Reason<'static>> {
    let title = match way {
        Way::Plain => "## As plain SQL\n",
        Way::Training => "## As training sets\n",
        Way::Requests => "## As requests\n",
    };
    let (_, section) = LIST.split_once(title).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let reasons = section.split("\n### ").skip(1).map(|reason| {
        let (heading, lines) = reason.split_once('\n').unwrap();
        let (text, count) = heading.rsplit_once(" (").unwrap();
        Reason {
            text,
            count: count.trim_end_matches(')').parse().unwrap(),
            listed: lines.lines().filter_map(|l| l.strip_prefix("- ")).collect(),
        }
    });
    reasons.collect()
}

impl Reason<'_> {
    fn names(&self, case: &Case) -> bool {
        let id = format!("`{}`", case.id);
        let tier = format!("all of `{}`", case.tier.name());
        self.listed
            .iter()
            .any(|listed| *listed == id || *listed == tier)
    }
}

/// What is not true in the list, of one way and all cases of the suite.
pub fn wrong(way: Way, outcomes: &[(&Case, Outcome)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let reasons = reasons(way);
    for (case, outcome) in outcomes {
        let named = reasons.iter().filter(|reason| reason.names(case)).count();
        // Two cases of the suite bear one id; neither is listed if both pass.
        let listed = usize::from(*outcome != Outcome::Expected);
        if named != listed {
            wrong.push(format!("{} is listed {named} times: {outcome:?}", case.id));
        }
    }
    for reason in &reasons {
        let count = outcomes
            .iter()
            .filter(|(case, _)| reason.names(case))
            .count();
        if count != reason.count {
            wrong.push(format!(
                "{count} cases, not {}: {}",
                reason.count, reason.text
            ));
        }
    }
    wrong
}

/// What is not true in the table of numbers, in the column of a way.
pub fn wrong_numbers(way: Way, outcomes: &[(&Case, Outcome)]) -> Vec<String> {
    let column = match way {
        Way::Plain => 3,
        Way::Training => 4,
        Way::Requests => 5,
    };
    let mut cases = BTreeMap::<Tier, usize>::new();
    for (case, _) in outcomes {
        *cases.entry(case.tier).or_default() += 1;
    }
    let wrong = cases.into_iter().filter_map(|(tier, cases)| {
        let begins = format!("| `{}` | {cases} |", tier.name());
        let row = LIST.lines().find(|line| line.starts_with(&begins));
        let told = row.and_then(|row| row.split('|').nth(column));
        let told = told.map(str::trim).unwrap_or_default();
        let given = expected(outcomes, tier).to_string();
        (told != given).then(|| format!("{begins} .. {given} in column {column}, not {told:?}"))
    });
    wrong.collect()
}
