//! What is said of objects: comments and grants.

use granary_model::Diagnostic;
use granary_model::definitions::{Annotations, Column, Grant, SourceColumn};
use granary_model::statement::{CommentOn, GrantStatement, Ident, ObjectSort, StatementKind};

use super::Check;
use super::names::said;
use super::translate::instead;

/// What can bear a comment.
const SORTS: [ObjectSort; 7] = [
    ObjectSort::Entity,
    ObjectSort::Table,
    ObjectSort::View,
    ObjectSort::Stream,
    ObjectSort::FeatureView,
    ObjectSort::OnDemandView,
    ObjectSort::FeatureService,
];

impl Check<'_> {
    /// Comments and grants, in the order in which they are written.
    pub(super) fn annotations(&mut self) {
        for statement in self.statements {
            match &statement.kind {
                StatementKind::Comment(comment) => self.comment(comment),
                StatementKind::Grant(grant) => self.grant(grant),
                _ => {}
            }
        }
    }

    fn grant(&mut self, grant: &GrantStatement) {
        let (sorts, wanted): (&[ObjectSort], _) = if grant.on_service {
            (&[ObjectSort::FeatureService], "feature service")
        } else {
            let views = &[ObjectSort::FeatureView, ObjectSort::OnDemandView];
            (views, "feature view")
        };
        if let Some(wrong) = self.names.wrong(&grant.object, sorts, wanted) {
            self.tell([wrong]);
            return;
        }
        let granted = Grant {
            object: grant.object.value.clone(),
            role: grant.role.value.clone(),
        };
        if grant.revoke {
            self.definitions.grants.remove(&granted);
        } else {
            self.definitions.grants.insert(granted);
        }
    }

    fn comment(&mut self, comment: &CommentOn) {
        let object = &comment.object;
        let wanted = comment.sort.map(|sort| sort.to_string().to_lowercase());
        if let Some(wrong) = self
            .names
            .wrong(object, &SORTS, wanted.as_deref().unwrap_or("object"))
        {
            self.tell([wrong]);
            return;
        }
        let is = self.names.get(&object.value).and_then(|named| named.sort);
        if let (Some(said_sort), Some(is)) = (comment.sort, is)
            && said_sort != is
        {
            let message = format!("{:?} is {}", object.value, said(is));
            self.tell([Diagnostic::new(&object.span, message)
                .help(format!("write COMMENT ON {is} {}", object.value))]);
            return;
        }
        match &comment.column {
            Some(column) => self.comment_column(object, column, comment.comment.as_deref()),
            None => {
                if let Some(annotations) = self.annotations_of(&object.value) {
                    annotations.comment.clone_from(&comment.comment);
                }
            }
        }
    }

    fn annotations_of(&mut self, name: &str) -> Option<&mut Annotations> {
        let all = &mut self.definitions;
        let entity = all.entities.get_mut(name).map(|o| &mut o.annotations);
        let table = all.tables.get_mut(name).map(|o| &mut o.annotations);
        let view = all.views.get_mut(name).map(|o| &mut o.annotations);
        let stream = all.streams.get_mut(name).map(|o| &mut o.annotations);
        let feature_view = all.feature_views.get_mut(name).map(|o| &mut o.annotations);
        let on_demand = all
            .on_demand_views
            .get_mut(name)
            .map(|o| &mut o.annotations);
        let service = all.services.get_mut(name).map(|o| &mut o.annotations);
        entity
            .or(table)
            .or(view)
            .or(stream)
            .or(feature_view)
            .or(on_demand)
            .or(service)
    }

    fn comment_column(&mut self, object: &Ident, column: &Ident, comment: Option<&str>) {
        if self.broken.contains(&object.value) {
            return;
        }
        let all = &mut self.definitions;
        let name = object.value.as_str();
        let mut columns: Vec<Commented<'_>> = Vec::new();
        if let Some(entity) = all.entities.get_mut(name) {
            columns.extend(entity.keys.iter_mut().map(Commented::from));
        }
        if let Some(table) = all.tables.get_mut(name) {
            columns.extend(table.columns.iter_mut().map(Commented::from));
        }
        if let Some(view) = all.views.get_mut(name) {
            columns.extend(view.columns.iter_mut().map(Commented::from));
        }
        if let Some(stream) = all.streams.get_mut(name) {
            columns.extend(stream.columns.iter_mut().map(Commented::from));
        }
        if let Some(view) = all.feature_views.get_mut(name) {
            let listed = view.keys.iter_mut().chain(&mut view.then_by);
            columns.extend(listed.chain(&mut view.features).map(Commented::from));
        }
        if let Some(view) = all.on_demand_views.get_mut(name) {
            let listed = view.inputs.iter_mut().chain(&mut view.features);
            columns.extend(listed.map(Commented::from));
        }
        let mut found = false;
        let mut names = Vec::new();
        for commented in columns {
            if commented.name == column.value {
                *commented.comment = comment.map(str::to_owned);
                found = true;
            } else {
                names.push(commented.name.to_owned());
            }
        }
        if !found {
            let message = format!("{name} has no column {:?}", column.value);
            let near = match self.is_sort(name, ObjectSort::FeatureService) {
                true => Some("comment on the column of the view that it comes from".to_owned()),
                false => instead(&column.value, names.iter().map(String::as_str)),
            };
            self.tell([Diagnostic::new(&column.span, message).help_if(near)]);
        }
    }
}

/// A column that bears a comment.
struct Commented<'c> {
    name: &'c str,
    comment: &'c mut Option<String>,
}

impl<'c> From<&'c mut Column> for Commented<'c> {
    fn from(column: &'c mut Column) -> Self {
        Self {
            name: &column.name,
            comment: &mut column.comment,
        }
    }
}

impl<'c> From<&'c mut SourceColumn> for Commented<'c> {
    fn from(column: &'c mut SourceColumn) -> Self {
        Self {
            name: &column.name,
            comment: &mut column.comment,
        }
    }
}
