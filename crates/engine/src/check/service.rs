//! Feature services: what is selected from which views, under which names, by
//! which keys of the request.

use std::collections::{BTreeMap, BTreeSet};

use granary_model::definitions::{
    BoundView, Column, FeatureService, KeyBinding, KeySource, ServeMode, ServiceFeature,
};
use granary_model::statement::{
    ColumnDef, CreateService, FromItem, Ident, KeyClause, KeyExpression, ObjectSort, ServiceItem,
    StatementKind,
};
use granary_model::{Diagnostic, FeatureType, Span};

use super::Check;
use super::each::of_each_element;
use super::entities::{annotations, columns};
use super::key_expressions::{KeyReads, expression_of, quoted};
use super::translate::instead;
use crate::expression::INPUT;

/// A FROM whose views are known.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) views: Vec<BoundView>,
    /// Whether something in it is wrong or unknown.
    pub(super) broken: bool,
    pub(super) errors: Vec<Diagnostic>,
    /// Key columns of the request with the place that first asked for them.
    pub(super) request: BTreeMap<String, (FeatureType, Span)>,
    /// Inputs of the request, in the same way.
    pub(super) inputs: BTreeMap<String, (FeatureType, Span)>,
}

impl Bound {
    fn add_request(&mut self, name: &str, data_type: &FeatureType, span: &Span) {
        self.one_type(name, data_type, span);
        let asked = || (data_type.clone(), span.clone());
        self.request.entry(name.to_owned()).or_insert_with(asked);
    }

    pub(super) fn add_input(&mut self, name: &str, data_type: &FeatureType, span: &Span) {
        self.one_type(name, data_type, span);
        let asked = || (data_type.clone(), span.clone());
        self.inputs.entry(name.to_owned()).or_insert_with(asked);
    }

    /// Keys and inputs share one namespace, and a name is of one type.
    fn one_type(&mut self, name: &str, data_type: &FeatureType, span: &Span) {
        let known = self.request.get(name).or(self.inputs.get(name));
        if let Some((other, _)) = known
            && other != data_type
        {
            let message = format!("the request's {name:?} would be {other} and {data_type}");
            let help = match self.request.contains_key(name) {
                true => format!(
                    "one name is one column of one type: rename one, as with KEY ({name} => other_{name})"
                ),
                false => "one name is one column of one type: give one input another name".into(),
            };
            self.errors.push(Diagnostic::new(span, message).help(help));
        }
    }

    /// `input.x` is an input.
    pub(super) fn refuse_input_as_alias(&mut self, from: &[FromItem]) {
        let aliases = from
            .iter()
            .map(|item| item.alias.as_ref().unwrap_or(&item.view));
        for alias in aliases.filter(|alias| alias.value == INPUT) {
            let message = "\"input\" in FROM would hide the inputs of the request";
            let help = "give it another name: view AS name";
            self.errors
                .push(Diagnostic::new(&alias.span, message).help(help));
        }
    }
}

impl Check<'_> {
    pub(super) async fn services(&mut self) {
        for statement in self.statements {
            if let StatementKind::CreateService(create) = &statement.kind
                && self.names.is_first(&create.name)
            {
                self.service(create).await;
            }
        }
    }

    async fn service(&mut self, create: &CreateService) {
        let mut bound = self.bind(&create.from, None).await;
        for item in &create.from {
            self.refuse_offline(item, &mut bound);
        }
        let aggregates = self.service_aggregates(create, &mut bound).await;
        let features = self.service_features(create, aggregates, &mut bound);
        let failed = bound.broken || !bound.errors.is_empty();
        self.tell(bound.errors);
        if failed {
            self.breaks(&create.name.value);
        }
        let service = FeatureService {
            name: create.name.value.clone(),
            from: bound.views,
            features,
            annotations: annotations(&create.annotations),
        };
        self.definitions
            .services
            .insert(service.name.clone(), service);
    }

    /// Resolves a FROM: views, aliases and where each key comes from. `inputs`:
    /// those that an on-demand view declares; a service has those of its views.
    pub(super) async fn bind(&self, from: &[FromItem], inputs: Option<&[ColumnDef]>) -> Bound {
        let mut bound = self.bind_views(from);
        for input in inputs.into_iter().flatten() {
            bound.add_input(&input.name.value, &input.data_type, &input.type_span);
        }
        bound.refuse_input_as_alias(from);
        let inputs = match inputs {
            Some(declared) => columns(declared),
            None => {
                let known = bound.inputs.iter();
                let column = |(name, (t, _)): (&String, &(FeatureType, Span))| {
                    Column::new(name.clone(), t.clone())
                };
                known.map(column).collect()
            }
        };
        let reads = self.key_expressions(from, inputs, &mut bound).await;
        self.refuse_key_cycles(from, &reads, &mut bound);
        bound
    }

    fn bind_views(&self, from: &[FromItem]) -> Bound {
        let mut bound = Bound::default();
        let mut aliases = BTreeSet::new();
        let sorts = [ObjectSort::FeatureView, ObjectSort::OnDemandView];
        for item in from {
            let alias = item.alias.as_ref().unwrap_or(&item.view);
            if !aliases.insert(alias.value.as_str()) {
                let message = format!("{:?} is in FROM twice", alias.value);
                bound.errors.push(
                    Diagnostic::new(&alias.span, message)
                        .help("give one of them another name: view AS name"),
                );
                continue;
            }
            if let Some(wrong) = self.names.wrong(&item.view, &sorts, "feature view") {
                bound.errors.push(wrong);
                bound.broken = true;
                continue;
            }
            let keys = self.view_keys(&item.view.value);
            let (false, Some(keys)) = (self.broken.contains(&item.view.value), keys) else {
                bound.broken = true;
                continue;
            };
            let keys = self.bind_keys(item, alias, &keys, from, &mut bound);
            let view = BoundView {
                alias: alias.value.clone(),
                view: item.view.value.clone(),
                keys,
            };
            if self.definitions.on_demand_views.contains_key(&view.view) {
                self.add_requests_of(&view, &alias.span, &mut bound);
            }
            bound.views.push(view);
        }
        bound
    }

    /// What an on-demand view takes from the request.
    fn add_requests_of(&self, view: &BoundView, span: &Span, bound: &mut Bound) {
        let columns = self.definitions.request_columns(std::slice::from_ref(view));
        for key in &columns.keys {
            bound.add_request(&key.name, &key.data_type, span);
        }
        for input in &columns.inputs {
            bound.add_input(&input.name, &input.data_type, span);
        }
    }

    fn bind_keys(
        &self,
        item: &FromItem,
        alias: &Ident,
        keys: &[Column],
        from: &[FromItem],
        bound: &mut Bound,
    ) -> Vec<KeyBinding> {
        let mut clauses: BTreeMap<&str, &KeyClause> = BTreeMap::new();
        for clause in &item.keys {
            let name = clause.key.value.as_str();
            if !keys.iter().any(|key| key.name == name) {
                let message = format!("{} has no key {name:?}", item.view.value);
                let names = keys.iter().map(|key| key.name.as_str());
                bound
                    .errors
                    .push(Diagnostic::new(&clause.key.span, message).help_if(instead(name, names)));
            } else if clauses.insert(name, clause).is_some() {
                let message = format!("key {name:?} is bound twice");
                bound.errors.push(
                    Diagnostic::new(&clause.key.span, message).help("keep one of the bindings"),
                );
            }
        }
        let binding = |key: &Column| KeyBinding {
            key: key.clone(),
            source: match clauses.get(key.name.as_str()) {
                None => {
                    bound.add_request(&key.name, &key.data_type, &alias.span);
                    KeySource::Request(key.name.clone())
                }
                Some(clause) => self.key_source(clause, key, from, bound),
            },
        };
        let bindings: Vec<KeyBinding> = keys.iter().map(binding).collect();
        let mut each = item.keys.iter().filter(|clause| clause.each);
        if let (Some(_), Some(second)) = (each.next(), each.next()) {
            let message = format!("{} is read for EACH of two lists", alias.value);
            let error = Diagnostic::new(&second.key.span, message);
            bound
                .errors
                .push(error.help("one key at most is EACH of a list"));
        }
        bindings
    }

    fn key_source(
        &self,
        clause: &KeyClause,
        key: &Column,
        from: &[FromItem],
        bound: &mut Bound,
    ) -> KeySource {
        if let Some(sql) = expression_of(clause) {
            return match clause.each {
                true => KeySource::Each(sql.text),
                false => KeySource::Expression(sql.text),
            };
        }
        match &clause.source {
            KeyExpression::Name(name) => {
                bound.add_request(&name.value, &key.data_type, &name.span);
                KeySource::Request(name.value.clone())
            }
            KeyExpression::Feature { alias, feature } => {
                bound
                    .errors
                    .extend(self.wrong_key_feature(clause, key, alias, feature, from));
                if clause.each {
                    KeySource::Each(format!("{}.{}", quoted(alias), quoted(feature)))
                } else {
                    KeySource::Feature {
                        alias: alias.value.clone(),
                        feature: feature.value.clone(),
                    }
                }
            }
            KeyExpression::Sql(sql) => KeySource::Expression(sql.text.clone()),
        }
    }

    /// What is wrong with a feature that a key is to be taken from.
    fn wrong_key_feature(
        &self,
        clause: &KeyClause,
        key: &Column,
        alias: &Ident,
        feature: &Ident,
        from: &[FromItem],
    ) -> Option<Diagnostic> {
        let view = match view_of(alias, from) {
            Ok(view) => view,
            Err(error) => return Some(error),
        };
        if let Some(error) = of_each_element(alias, from) {
            return Some(error.help("take the key from another view"));
        }
        let column = match self.feature_of(view, feature)? {
            Ok(column) => column,
            Err(error) => return Some(error),
        };
        let given = match (&column.data_type, clause.each) {
            (FeatureType::List(item), true) => item.as_ref(),
            (other, true) => {
                let message = format!("EACH takes a list, and {:?} is {other}", feature.value);
                return Some(Diagnostic::new(&feature.span, message).help("leave EACH out"));
            }
            (given, false) => given,
        };
        (!key.data_type.accepts_key(given)).then(|| {
            let message = format!(
                "key {:?} is {}, and {:?} is {given}",
                key.name, key.data_type, feature.value
            );
            Diagnostic::new(&feature.span, message)
                .help("integers widen; nothing else is converted")
        })
    }

    /// Keys that are taken from views whose keys are taken from them.
    fn refuse_key_cycles(&self, from: &[FromItem], reads: &KeyReads, bound: &mut Bound) {
        let next = |alias: &str| -> Vec<String> {
            let item = from
                .iter()
                .find(|item| item.alias.as_ref().unwrap_or(&item.view).value == alias);
            let clauses = item.map(|item| item.keys.as_slice()).unwrap_or_default();
            let features = clauses.iter().filter_map(|clause| match &clause.source {
                KeyExpression::Feature { alias, .. } => Some(alias.value.clone()),
                _ => None,
            });
            let computed = reads.get(alias).into_iter().flatten();
            features.chain(computed.cloned()).collect()
        };
        for item in from {
            let start = item.alias.as_ref().unwrap_or(&item.view);
            let mut seen = BTreeSet::new();
            let mut open = next(&start.value);
            while let Some(alias) = open.pop() {
                if alias == start.value {
                    let message = format!("the key of {:?} depends on itself", start.value);
                    bound.errors.push(
                        Diagnostic::new(&start.span, message)
                            .help("take one of the keys from the request"),
                    );
                    return;
                }
                if seen.insert(alias.clone()) {
                    open.extend(next(&alias));
                }
            }
        }
    }

    fn refuse_offline(&self, item: &FromItem, bound: &mut Bound) {
        let Some(offline) = self.reads_offline(&item.view.value) else {
            return;
        };
        let (message, help) = if offline == item.view.value {
            (
                format!("{offline:?} is SERVE OFFLINE: no service can read it"),
                "leave SERVE OFFLINE out of the view, or the view out of the service",
            )
        } else {
            (
                format!(
                    "{:?} reads {offline:?}, which is SERVE OFFLINE: no service can read it",
                    item.view.value
                ),
                "leave SERVE OFFLINE out of that view, or this one out of the service",
            )
        };
        bound
            .errors
            .push(Diagnostic::new(&item.view.span, message).help(help));
    }

    /// The view itself, or one that it computes from, that is not served.
    fn reads_offline(&self, view: &str) -> Option<String> {
        let of_view = self.definitions.feature_views.get(view);
        if of_view.is_some_and(|view| view.serve == ServeMode::Offline) {
            return Some(view.to_owned());
        }
        let on_demand = self.definitions.on_demand_views.get(view)?;
        let mut from = on_demand.from.iter();
        from.find_map(|bound| self.reads_offline(&bound.view))
    }

    /// The features in SELECT order, `*` expanded, their names checked.
    fn service_features(
        &mut self,
        create: &CreateService,
        mut aggregates: BTreeMap<usize, (ServiceFeature, Span)>,
        bound: &mut Bound,
    ) -> Vec<ServiceFeature> {
        let mut features: Vec<(ServiceFeature, Span)> = Vec::new();
        for (place, item) in create.items.iter().enumerate() {
            if let ServiceItem::Feature { view, .. } | ServiceItem::All { view } = item
                && let Some(error) = of_each_element(view, &create.from)
            {
                let help = format!("select an aggregate: sum({}.feature) AS name", view.value);
                bound.errors.push(error.help(help));
                continue;
            }
            match item {
                ServiceItem::Feature {
                    view,
                    feature,
                    alias,
                } => match self.selected(view, feature, &create.from) {
                    Some(Ok(column)) => {
                        let named = alias.as_ref().unwrap_or(feature);
                        let selected = ServiceFeature {
                            name: named.value.clone(),
                            view_alias: view.value.clone(),
                            feature: column.name,
                            aggregate: None,
                        };
                        features.push((selected, named.span.clone()));
                    }
                    Some(Err(error)) => bound.errors.push(error),
                    None => bound.broken = true,
                },
                ServiceItem::All { view } => match view_of(view, &create.from) {
                    Ok(named) => {
                        let all = self.view_features(&named.value).unwrap_or_default();
                        features.extend(all.into_iter().map(|column| {
                            let selected = ServiceFeature {
                                name: column.name.clone(),
                                view_alias: view.value.clone(),
                                feature: column.name,
                                aggregate: None,
                            };
                            (selected, view.span.clone())
                        }));
                    }
                    Err(error) => bound.errors.push(error),
                },
                ServiceItem::Expression { .. } => features.extend(aggregates.remove(&place)),
            }
        }
        bound.errors.extend(clashes(&features, &bound.request));
        features.into_iter().map(|(feature, _)| feature).collect()
    }

    fn selected(
        &self,
        view: &Ident,
        feature: &Ident,
        from: &[FromItem],
    ) -> Option<Result<Column, Diagnostic>> {
        match view_of(view, from) {
            Ok(view) => self.feature_of(view, feature),
            Err(error) => Some(Err(error)),
        }
    }

    /// A feature of a view; `None` where the view's features are unknown.
    pub(super) fn feature_of(
        &self,
        view: &Ident,
        feature: &Ident,
    ) -> Option<Result<Column, Diagnostic>> {
        let features = self.view_features(&view.value)?;
        let found = features.iter().find(|column| column.name == feature.value);
        Some(found.cloned().ok_or_else(|| {
            let keys = self.view_keys(&view.value).unwrap_or_default();
            if keys.iter().any(|key| key.name == feature.value) {
                let message = format!(
                    "{:?} is a key of {}, not a feature",
                    feature.value, view.value
                );
                return Diagnostic::new(&feature.span, message)
                    .help("leave it out: keys come back beside the features");
            }
            let message = format!("{} has no feature {:?}", view.value, feature.value);
            let names = features.iter().map(|column| column.name.as_str());
            Diagnostic::new(&feature.span, message).help_if(instead(&feature.value, names))
        }))
    }

    pub(super) fn view_features(&self, view: &str) -> Option<Vec<Column>> {
        if self.broken.contains(view) {
            return None;
        }
        let of_view = self.definitions.feature_views.get(view);
        let on_demand = self.definitions.on_demand_views.get(view);
        of_view
            .map(|view| view.features.clone())
            .or_else(|| on_demand.map(|view| view.features.clone()))
    }

    /// The keys of a view; of an on-demand view none.
    pub(super) fn view_keys(&self, view: &str) -> Option<Vec<Column>> {
        if self.definitions.on_demand_views.contains_key(view) {
            return Some(Vec::new());
        }
        let view = self.definitions.feature_views.get(view)?;
        Some(view.keys.clone())
    }
}

/// The view that an alias of FROM stands for.
pub(super) fn view_of<'f>(alias: &Ident, from: &'f [FromItem]) -> Result<&'f Ident, Diagnostic> {
    let named = |item: &&FromItem| item.alias.as_ref().unwrap_or(&item.view).value == alias.value;
    from.iter()
        .find(named)
        .map(|item| &item.view)
        .ok_or_else(|| {
            let names = from
                .iter()
                .map(|item| item.alias.as_ref().unwrap_or(&item.view).value.as_str());
            let message = format!("{:?} is not in FROM", alias.value);
            let help = instead(&alias.value, names).unwrap_or_default();
            let help = if help.starts_with("did") {
                help
            } else {
                format!("add it: FROM .., {}", alias.value)
            };
            Diagnostic::new(&alias.span, message).help(help)
        })
}

/// Names that are twice in the answer of a service.
fn clashes(
    features: &[(ServiceFeature, Span)],
    request: &BTreeMap<String, (FeatureType, Span)>,
) -> Vec<Diagnostic> {
    let mut seen: BTreeMap<&str, &ServiceFeature> = BTreeMap::new();
    let mut errors = Vec::new();
    for (feature, span) in features {
        let name = feature.name.as_str();
        if request.contains_key(name) {
            let message = format!("feature {name:?} has the name of a key of the request");
            errors.push(Diagnostic::new(span, message).help(format!(
                "give it another: {}.{} AS ..",
                feature.view_alias, feature.feature
            )));
        }
        if let Some(first) = seen.insert(name, feature) {
            let message = format!(
                "two features are named {name:?}: of {} and of {}",
                first.view_alias, feature.view_alias
            );
            errors.push(Diagnostic::new(span, message).help(format!(
                "give one another name: {}.{} AS ..",
                feature.view_alias, feature.feature
            )));
        }
    }
    errors
}
