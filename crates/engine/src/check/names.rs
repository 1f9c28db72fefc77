//! The one namespace of a project's objects.

use std::collections::BTreeMap;

use granary_model::statement::{Ident, ObjectSort, Statement, StatementKind};
use granary_model::{Diagnostic, Diagnostics};

use super::translate::instead;

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// `None` where the statement did not parse: it may be of any sort.
    pub(super) sort: Option<ObjectSort>,
    pub(super) name: &'a Ident,
}

/// Every name that the statements define; of duplicates the first.
#[derive(Debug, Default)]
pub(super) struct Names<'a>(BTreeMap<&'a str, Named<'a>>);

impl<'a> Names<'a> {
    pub(super) fn collect(statements: &'a [Statement], diagnostics: &mut Diagnostics) -> Self {
        let mut names: BTreeMap<&str, Named<'_>> = BTreeMap::new();
        for statement in statements {
            let Some((sort, name)) = defined(&statement.kind) else {
                continue;
            };
            let named = Named { sort, name };
            if let Some(first) = names.get(name.value.as_str()) {
                diagnostics.push(duplicate(name, first.name));
            } else {
                names.insert(&name.value, named);
            }
        }
        Self(names)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Named<'a>> {
        self.0.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Named<'a>> {
        self.0.values()
    }

    /// Whether this statement is the one that its name stands for.
    pub(super) fn is_first(&self, name: &Ident) -> bool {
        self.0
            .get(name.value.as_str())
            .is_some_and(|named| named.name.span == name.span)
    }

    /// Names of the given sorts.
    pub(super) fn of(&self, sorts: &[ObjectSort]) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(|(name, named)| {
            let sort = named.sort?;
            sorts.contains(&sort).then_some(*name)
        })
    }

    /// The error for a name that is none of the given sorts; `None` where it
    /// is one, or where its statement has told its own errors.
    pub(super) fn wrong(
        &self,
        ident: &Ident,
        sorts: &[ObjectSort],
        wanted: &str,
    ) -> Option<Diagnostic> {
        let name = ident.value.as_str();
        match self.get(name) {
            None => Some(
                Diagnostic::new(&ident.span, format!("unknown {wanted} {name:?}"))
                    .help_if(instead(name, self.of(sorts))),
            ),
            Some(Named { sort: None, .. }) => None,
            Some(Named {
                sort: Some(sort), ..
            }) if sorts.contains(sort) => None,
            Some(Named {
                sort: Some(sort), ..
            }) => Some(
                Diagnostic::new(
                    &ident.span,
                    format!("{name:?} is {}, not {}", said(*sort), article(wanted)),
                )
                .help_if(instead(name, self.of(sorts))),
            ),
        }
    }
}

fn duplicate(name: &Ident, first: &Ident) -> Diagnostic {
    let message = format!("{:?} is defined twice", name.value);
    let (file, line) = (&first.span.file.path, first.span.start.line);
    Diagnostic::new(&name.span, message).help(format!(
        "it is defined at {file}:{line} already; all objects share one namespace"
    ))
}

fn defined(kind: &StatementKind) -> Option<(Option<ObjectSort>, &Ident)> {
    Some(match kind {
        StatementKind::CreateEntity(s) => (Some(ObjectSort::Entity), &s.name),
        StatementKind::CreateExternalTable(s) => (Some(ObjectSort::Table), &s.name),
        StatementKind::CreateView(s) => (Some(ObjectSort::View), &s.name),
        StatementKind::CreateStream(s) => (Some(ObjectSort::Stream), &s.name),
        StatementKind::CreateFeatureView(s) => (Some(ObjectSort::FeatureView), &s.name),
        StatementKind::CreateOnDemandView(s) => (Some(ObjectSort::OnDemandView), &s.name),
        StatementKind::CreateService(s) => (Some(ObjectSort::FeatureService), &s.name),
        StatementKind::Broken(name) => (None, name),
        StatementKind::EventTimeOf(_) | StatementKind::Grant(_) | StatementKind::Comment(_) => {
            return None;
        }
    })
}

/// `a feature view`
pub(super) fn said(sort: ObjectSort) -> String {
    article(&sort.to_string().to_lowercase())
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
