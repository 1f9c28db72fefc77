//! Feature services and on-demand feature views: `SELECT .. FROM` over feature
//! views, where FROM binds keys instead of joining.

use sqlparser::tokenizer::Token;

use super::clauses::{Clause, Clauses, annotation, columns};
use super::create::defined_name;
use super::cursor::{Cursor, Parsed};
use super::lexer::Lexeme;
use crate::diagnostic::Diagnostic;
use crate::statement::{
    AnnotationClauses, CreateOnDemandView, CreateService, FromItem, Ident, KeyClause,
    KeyExpression, ServiceItem, SqlText,
};
use crate::suggest::closest;

/// Words after which a query does what these SELECTs don't.
const BEYOND: [&str; 20] = [
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "WINDOW",
    "QUALIFY",
    "JOIN",
    "LEFT",
    "RIGHT",
    "INNER",
    "OUTER",
    "CROSS",
    "FULL",
    "NATURAL",
];

pub(super) fn service(cursor: &mut Cursor<'_>) -> Parsed<CreateService> {
    const ALLOWED: &[Clause] = &[Clause::Owner, Clause::Tags, Clause::Comment, Clause::As];
    cursor.expect_words(&["FEATURE", "SERVICE"], "write CREATE FEATURE SERVICE")?;
    let name = defined_name(cursor, "the feature service's name")?;
    let mut clauses = Clauses::new("CREATE FEATURE SERVICE", ALLOWED);
    let mut annotations = AnnotationClauses::default();
    loop {
        match clauses.next(cursor)? {
            Some(Clause::As) => break,
            Some(clause) => annotation(cursor, clause, &mut annotations)?,
            None => {
                let why = "a service is a list of features";
                return Err(clauses.missing(cursor, Clause::As, why));
            }
        }
    }
    open_select(cursor)?;
    let mut items = vec![service_item(cursor)?];
    while cursor.eat(&Token::Comma) {
        items.push(service_item(cursor)?);
    }
    if cursor.at_end() {
        return Err(cursor.expected("FROM").help(from_help(&items)));
    }
    cursor.expect_words(&["FROM"], "the features are followed by FROM view, ..")?;
    let from = from_list(cursor)?;
    Ok(CreateService {
        name,
        annotations,
        items,
        from,
    })
}

/// The FROM that the items ask for.
fn from_help(items: &[ServiceItem]) -> String {
    let mut views: Vec<&str> = Vec::new();
    for item in items {
        if let ServiceItem::Feature { view, .. } | ServiceItem::All { view } = item
            && !views.contains(&view.value.as_str())
        {
            views.push(&view.value);
        }
    }
    let views = if views.is_empty() {
        "view, ..".to_owned()
    } else {
        views.join(", ")
    };
    format!("write FROM {views}")
}

pub(super) fn on_demand_view(cursor: &mut Cursor<'_>) -> Parsed<CreateOnDemandView> {
    const ALLOWED: &[Clause] = &[
        Clause::Input,
        Clause::Owner,
        Clause::Tags,
        Clause::Comment,
        Clause::As,
    ];
    let help = "write CREATE ON DEMAND FEATURE VIEW";
    cursor.expect_words(&["ON", "DEMAND", "FEATURE", "VIEW"], help)?;
    let name = defined_name(cursor, "the on-demand feature view's name")?;
    let mut clauses = Clauses::new("CREATE ON DEMAND FEATURE VIEW", ALLOWED);
    let mut inputs = Vec::new();
    let mut annotations = AnnotationClauses::default();
    loop {
        match clauses.next(cursor)? {
            Some(Clause::As) => break,
            Some(Clause::Input) => inputs = columns(cursor, Clause::Input.usage())?,
            Some(clause) => annotation(cursor, clause, &mut annotations)?,
            None => {
                let why = "an on-demand view is a list of expressions";
                return Err(clauses.missing(cursor, Clause::As, why));
            }
        }
    }
    open_select(cursor)?;
    let select = expressions(cursor)?;
    let from = if cursor.at_end() {
        Vec::new()
    } else {
        cursor.expect_words(&["FROM"], "the expressions are followed by FROM view, ..")?;
        from_list(cursor)?
    };
    Ok(CreateOnDemandView {
        name,
        inputs,
        annotations,
        select,
        from,
    })
}

/// `SELECT`, and neither DISTINCT nor a WITH before it.
fn open_select(cursor: &mut Cursor<'_>) -> Parsed<()> {
    if cursor.is_words(&["WITH"]) {
        return Err(Diagnostic::new(&cursor.here(), "WITH has no place here")
            .help("what needs a query of its own is a feature view; select from that"));
    }
    cursor.expect_words(&["SELECT"], "write AS SELECT .. FROM ..")?;
    for word in ["DISTINCT", "ALL"] {
        if cursor.is_words(&[word]) && cursor.peek_at(1).is_none_or(|l| l.token != Token::Period) {
            let message = format!("SELECT {word} has no place here");
            return Err(Diagnostic::new(&cursor.here(), message)
                .help("a read gives one row for each entity asked for; remove it"));
        }
    }
    Ok(())
}

/// Whether FROM stands here, and is not that of `IS DISTINCT FROM`.
fn at_from(cursor: &Cursor<'_>) -> bool {
    cursor.is_words(&["FROM"]) && !cursor.before().is_some_and(|l| l.is_word("DISTINCT"))
}

/// The text up to FROM or the end: expressions with commas between.
fn expressions(cursor: &mut Cursor<'_>) -> Parsed<SqlText> {
    let start = cursor.mark();
    loop {
        let item = cursor.mark();
        cursor.skip_until(|c| c.is_token(&Token::Comma) || at_from(c) || beyond(c))?;
        if cursor.mark() == item {
            let help = "write expressions over features and inputs: SELECT a / b AS ratio";
            return Err(cursor.expected("an expression").help(help));
        }
        if !cursor.eat(&Token::Comma) {
            break;
        }
    }
    let end = cursor.mark();
    if !cursor.at_end() && !at_from(cursor) {
        return Err(no_such_clause(cursor));
    }
    Ok(cursor.text(start..end))
}

/// `view.feature [[AS] alias]`, `view.*` or an expression that begins with an
/// aggregate: `aggregate(..) .. [[AS] alias]`.
fn service_item(cursor: &mut Cursor<'_>) -> Parsed<ServiceItem> {
    const SHAPES: &str = "a service selects view.feature, view.feature AS name or view.*";
    let start = cursor.mark();
    if cursor.eat(&Token::Mul) {
        return Err(
            Diagnostic::new(&cursor.span_since(start), "* of which view?")
                .help("write view.* for each view"),
        );
    }
    if at_from(cursor) || cursor.is_token(&Token::Comma) || cursor.at_end() {
        return Err(cursor.expected("a feature").help(SHAPES));
    }
    let is_call = cursor.peek_at(1).is_some_and(|l| l.token == Token::LParen);
    if is_call {
        return aggregate_item(cursor, start);
    }
    if !matches!(cursor.peek().map(|l| &l.token), Some(Token::Word(_))) {
        return Err(cursor.expected("a feature").help(SHAPES));
    }
    let view = cursor.name("a feature")?;
    if !cursor.eat(&Token::Period) {
        let bare = cursor.at_end() || cursor.is_token(&Token::Comma) || at_from(cursor);
        if bare || cursor.is_words(&["AS"]) {
            let message = format!("{} of which view?", view.value);
            return Err(
                Diagnostic::new(&view.span, message).help(format!("write view.{}", view.value))
            );
        }
        item_ends(cursor, start)?;
        return Err(cursor.expected(". and a feature's name").help(SHAPES));
    }
    if cursor.eat(&Token::Mul) {
        item_ends(cursor, start)?;
        return Ok(ServiceItem::All { view });
    }
    let feature = cursor.part("a feature's name or *")?;
    if cursor.is_token(&Token::Period) {
        cursor.next();
        cursor.next();
        return Err(
            Diagnostic::new(&cursor.span_since(start), "a feature of several parts").help(SHAPES),
        );
    }
    let alias = alias(cursor)?;
    item_ends(cursor, start)?;
    Ok(ServiceItem::Feature {
        view,
        feature,
        alias,
    })
}

/// `aggregate(..) .. [[AS] alias]`, the cursor at its name.
fn aggregate_item(cursor: &mut Cursor<'_>, start: usize) -> Parsed<ServiceItem> {
    cursor.next();
    cursor.next();
    cursor.skip_until(|c| c.is_token(&Token::RParen))?;
    if cursor.at_end() {
        return Err(cursor.never_closed(start + 1));
    }
    cursor.next();
    // FILTER, or an operator: it is a longer expression, up to its name.
    let filtered =
        cursor.is_words(&["FILTER"]) && cursor.peek_at(1).is_some_and(|l| l.token == Token::LParen);
    let operator = !cursor.at_end()
        && !matches!(
            cursor.peek().map(|l| &l.token),
            Some(Token::Word(_) | Token::Comma)
        );
    if filtered || operator {
        cursor.skip_until(|c| {
            c.is_token(&Token::Comma) || c.is_words(&["AS"]) || at_from(c) || beyond(c)
        })?;
    }
    let sql = cursor.text(start..cursor.mark());
    let alias = alias(cursor)?;
    item_ends(cursor, start)?;
    Ok(ServiceItem::Expression { sql, alias })
}

/// An item of a service ends here, or it is an expression.
fn item_ends(cursor: &mut Cursor<'_>, start: usize) -> Parsed<()> {
    if cursor.at_end() || cursor.is_token(&Token::Comma) || at_from(cursor) {
        return Ok(());
    }
    if beyond(cursor) {
        return Err(no_such_clause(cursor));
    }
    if let Some(meant) = misspelt(cursor, "FROM") {
        return Err(meant);
    }
    if cursor.peek().and_then(Lexeme::bare_word).is_some() {
        return Err(cursor
            .expected(", or FROM")
            .help("features are listed with commas between"));
    }
    cursor.skip_until(|c| c.is_token(&Token::Comma) || at_from(c))?;
    Err(Diagnostic::new(
        &cursor.span_since(start),
        "a service selects features as they are",
    )
    .help("compute it in a feature view or an on-demand feature view, and select that"))
}

/// `AS name`, or a name alone.
fn alias(cursor: &mut Cursor<'_>) -> Parsed<Option<Ident>> {
    if cursor.eat_words(&["AS"]) {
        return cursor
            .name("the name that the feature shall have")
            .map(Some);
    }
    let is_word = matches!(cursor.peek().map(|l| &l.token), Some(Token::Word(_)));
    if !is_word
        || cursor.is_words(&["FROM"])
        || beyond(cursor)
        || misspelt(cursor, "FROM").is_some()
    {
        return Ok(None);
    }
    if cursor.peek_at(1).is_some_and(|l| l.token == Token::Period) {
        return Ok(None);
    }
    cursor
        .name("the name that the feature shall have")
        .map(Some)
}

/// The error where the bare word here, with another word behind it, is a slip of `meant`.
fn misspelt(cursor: &Cursor<'_>, meant: &'static str) -> Option<Diagnostic> {
    let word = cursor.peek().and_then(Lexeme::bare_word)?;
    cursor
        .peek_at(1)
        .filter(|next| matches!(next.token, Token::Word(_) | Token::LParen))?;
    closest(word, [meant]).filter(|_| !word.eq_ignore_ascii_case(meant))?;
    Some(
        cursor
            .expected(meant)
            .help(format!("did you mean {meant}?")),
    )
}

/// Whether a clause starts here that these SELECTs don't have; the word may
/// also be a function, or a column's name.
fn beyond(cursor: &Cursor<'_>) -> bool {
    let names = |l: &Lexeme| l.token == Token::Period || l.is_word("AS");
    let called = |l: &Lexeme| matches!(l.token, Token::LParen | Token::Period);
    BEYOND.iter().any(|word| cursor.is_words(&[word]))
        && !cursor.before().is_some_and(names)
        && !cursor.peek_at(1).is_some_and(called)
}

fn no_such_clause(cursor: &Cursor<'_>) -> Diagnostic {
    let word = cursor.found().to_ascii_uppercase();
    let joins = [
        "JOIN", "LEFT", "RIGHT", "INNER", "OUTER", "CROSS", "FULL", "NATURAL",
    ];
    let (message, help) = if joins.contains(&word.as_str()) {
        (
            "views are not joined here".to_owned(),
            "list them with commas: each is read by its key, which KEY (key => other) renames",
        )
    } else {
        (
            format!("{word} has no place here"),
            "a read gives one row for each entity asked for; filter and sort in a feature view",
        )
    };
    Diagnostic::new(&cursor.here(), message).help(help)
}

/// `view [[AS] alias] [KEY (..)], ..` to the end of the statement.
fn from_list(cursor: &mut Cursor<'_>) -> Parsed<Vec<FromItem>> {
    let mut from = vec![from_item(cursor)?];
    while cursor.eat(&Token::Comma) {
        from.push(from_item(cursor)?);
    }
    if beyond(cursor) || cursor.is_words(&["ON"]) {
        return Err(no_such_clause(cursor));
    }
    cursor
        .expect_end("views are listed with commas between: view [AS name] [KEY (key => other)]")?;
    Ok(from)
}

fn from_item(cursor: &mut Cursor<'_>) -> Parsed<FromItem> {
    if cursor.is_token(&Token::LParen) {
        return Err(cursor
            .expected("a feature view's name")
            .help("a query in FROM is a feature view of its own; name that"));
    }
    let view = cursor.object_name("a feature view's name")?;
    let mut alias = None;
    if cursor.eat_words(&["AS"]) {
        alias = Some(cursor.name("the view's name in this list")?);
    } else if let Some(error) = misspelt(cursor, "KEY") {
        return Err(error);
    } else {
        let is_word = matches!(cursor.peek().map(|l| &l.token), Some(Token::Word(_)));
        let other = ["KEY", "ON"].iter().any(|word| cursor.is_words(&[word]));
        if is_word && !other && !beyond(cursor) {
            alias = Some(cursor.name("the view's name in this list")?);
        }
    }
    let mut keys = Vec::new();
    if cursor.eat_words(&["KEY"]) {
        keys = cursor.list(
            "KEY (key of the view => key of the request, ..)",
            key_clause,
        )?;
        keys = cursor.drop_repeated(keys, |clause| &clause.key);
    }
    Ok(FromItem { view, alias, keys })
}

/// `key => expression`, `key => EACH list`
fn key_clause(cursor: &mut Cursor<'_>) -> Parsed<KeyClause> {
    let key = cursor.name("a key of the view")?;
    cursor.expect(
        &Token::RArrow,
        "write KEY (key of the view => name of a request's key or a feature)",
    )?;
    let each_follows = cursor.peek_at(1).is_some_and(|l| {
        !matches!(
            l.token,
            Token::Comma | Token::RParen | Token::Period | Token::LParen
        )
    });
    let each = each_follows && cursor.eat_words(&["EACH"]);
    let start = cursor.mark();
    cursor.skip_until(|c| c.is_token(&Token::Comma) || c.is_token(&Token::RParen))?;
    let end = cursor.mark();
    if start == end {
        let help = "write the name of a request's key, a feature as view.feature, or an expression";
        return Err(cursor
            .expected("a name or an expression for the key")
            .help(help));
    }
    let source = key_source(cursor, start, end);
    Ok(KeyClause { key, each, source })
}

fn key_source(cursor: &mut Cursor<'_>, start: usize, end: usize) -> KeyExpression {
    cursor.reset(start);
    let literal = ["NULL", "TRUE", "FALSE"]
        .iter()
        .any(|word| cursor.is_words(&[word]));
    let name = |cursor: &mut Cursor<'_>| cursor.name("").ok();
    let source = match end - start {
        1 if !literal => name(cursor).map(KeyExpression::Name),
        3 => match (
            name(cursor),
            cursor.eat(&Token::Period),
            cursor.part("").ok(),
        ) {
            (Some(alias), true, Some(feature)) => Some(KeyExpression::Feature { alias, feature }),
            _ => None,
        },
        _ => None,
    };
    cursor.reset(end);
    source.unwrap_or_else(|| KeyExpression::Sql(cursor.text(start..end)))
}
