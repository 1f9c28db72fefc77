//! Entities and streams: what says its columns itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::datasource::empty::EmptyTable;
use granary_model::definitions::{Annotations, Column, Entity, Stream};
use granary_model::fingerprint::Fingerprint;
use granary_model::statement::{
    AnnotationClauses, ColumnDef, CreateEntity, CreateStream, Ident, StatementKind,
};
use granary_model::{Diagnostic, FeatureType};

use super::Check;
use super::translate::instead;

impl Check<'_> {
    pub(super) fn entities(&mut self) {
        for statement in self.statements {
            if let StatementKind::CreateEntity(create) = &statement.kind
                && self.names.is_first(&create.name)
            {
                self.entity(create);
            }
        }
    }

    fn entity(&mut self, create: &CreateEntity) {
        let mut errors = duplicate_columns(&create.keys);
        for key in create.keys.iter().filter(|key| !key.data_type.is_key()) {
            let message = format!("key {:?} cannot be {}", key.name.value, key.data_type);
            errors.push(
                Diagnostic::new(&key.type_span, message)
                    .help("keys are BIGINT, INT, SMALLINT, VARCHAR, VARBINARY or DATE"),
            );
        }
        if !errors.is_empty() {
            self.breaks(&create.name.value);
            self.tell(errors);
        }
        let entity = Entity {
            name: create.name.value.clone(),
            keys: columns(&create.keys),
            annotations: Annotations {
                comment: create.comment.clone(),
                ..Annotations::default()
            },
        };
        self.definitions
            .entities
            .insert(entity.name.clone(), entity);
    }

    pub(super) fn streams(&mut self) {
        for statement in self.statements {
            if let StatementKind::CreateStream(create) = &statement.kind
                && self.names.is_first(&create.name)
            {
                self.stream(create);
            }
        }
    }

    fn stream(&mut self, create: &CreateStream) {
        let name = &create.name.value;
        let mut errors = duplicate_columns(&create.columns);
        errors.extend(create.columns.iter().filter_map(reserved));
        let of_stream = |ident: &Ident| find(&create.columns, name, ident);
        match of_stream(&create.event_time) {
            Ok(column)
                if !matches!(column.data_type, FeatureType::Timestamp | FeatureType::Date) =>
            {
                let message = format!("event time {:?} is {}", column.name.value, column.data_type);
                errors.push(
                    Diagnostic::new(&create.event_time.span, message)
                        .help("an event time is a TIMESTAMP or a DATE"),
                );
            }
            found => errors.extend(found.err()),
        }
        let listed = create.deduplicate_by.iter().chain(&create.then_by);
        errors.extend(listed.filter_map(|ident| of_stream(ident).err()));
        if let Some(history) = &create.history {
            errors.extend(self.taken(name, history));
        }
        if !errors.is_empty() {
            self.breaks(name);
            self.tell(errors);
        }
        let stream = Stream {
            name: name.clone(),
            columns: columns(&create.columns),
            event_time: create.event_time.value.clone(),
            deduplicate_by: values(&create.deduplicate_by),
            history: create.history.as_ref().map(|history| history.value.clone()),
            then_by: values(&create.then_by),
            annotations: annotations(&create.annotations),
            fingerprint: Fingerprint::default(),
        };
        let table = Arc::new(EmptyTable::new(stream.row_schema()));
        self.register(&create.name, table);
        self.definitions.streams.insert(name.clone(), stream);
    }
}

impl<'a> Check<'a> {
    /// The error for the name of a history that something else has.
    fn taken(&self, stream: &str, history: &Ident) -> Option<Diagnostic> {
        let name = &history.value;
        let first = match self.names.get(name) {
            Some(named) => named.name,
            None => {
                let other = self.history_of(name)?;
                let first = other.history.as_ref();
                first.filter(|_| other.name.value != stream)?
            }
        };
        let (file, line) = (&first.span.file.path, first.span.start.line);
        let message = format!("{name:?} is taken: the history of a stream is a table of its own");
        Some(Diagnostic::new(&history.span, message).help(format!(
            "{name:?} stands at {file}:{line}; Granary makes and fills the history, nothing else \
             defines it"
        )))
    }

    /// The stream whose history has a name.
    pub(super) fn history_of(&self, name: &str) -> Option<&'a CreateStream> {
        let mut statements = self.statements.iter();
        statements.find_map(|statement| match &statement.kind {
            StatementKind::CreateStream(create) => {
                let history = create.history.as_ref()?;
                (history.value == name).then_some(create)
            }
            _ => None,
        })
    }
}

/// The error for a column that bears a name of Granary's own.
fn reserved(column: &ColumnDef) -> Option<Diagnostic> {
    let name = column.name.value.as_str();
    [Stream::CREATED_TIME, Stream::SEQUENCE]
        .contains(&name)
        .then(|| {
            let message = format!("a stream has a column {name:?} of its own");
            Diagnostic::new(&column.name.span, message).help("give this one another name")
        })
}

fn find<'c>(
    columns: &'c [ColumnDef],
    object: &str,
    ident: &Ident,
) -> Result<&'c ColumnDef, Diagnostic> {
    let names = columns.iter().map(|column| column.name.value.as_str());
    columns
        .iter()
        .find(|column| column.name.value == ident.value)
        .ok_or_else(|| {
            let message = format!("{object} has no column {:?}", ident.value);
            Diagnostic::new(&ident.span, message).help_if(instead(&ident.value, names))
        })
}

pub(super) fn duplicate_columns(columns: &[ColumnDef]) -> Vec<Diagnostic> {
    let mut seen = BTreeSet::new();
    columns
        .iter()
        .filter(|column| !seen.insert(column.name.value.as_str()))
        .map(|column| {
            let message = format!("two columns are named {:?}", column.name.value);
            Diagnostic::new(&column.name.span, message).help("give one of them another name")
        })
        .collect()
}

pub(super) fn columns(columns: &[ColumnDef]) -> Vec<Column> {
    columns
        .iter()
        .map(|column| Column::new(column.name.value.clone(), column.data_type.clone()))
        .collect()
}

pub(super) fn values(idents: &[Ident]) -> Vec<String> {
    idents.iter().map(|ident| ident.value.clone()).collect()
}

pub(super) fn annotations(clauses: &AnnotationClauses) -> Annotations {
    Annotations {
        owner: clauses.owner.clone(),
        tags: clauses.tags.clone(),
        comment: clauses.comment.clone(),
    }
}
