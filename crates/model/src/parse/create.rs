//! `CREATE ..`: entities, streams, sources and feature views.

use sqlparser::tokenizer::Token;

use super::clauses::{Clause, Clauses, annotation, columns, interval, names};
use super::cursor::{Cursor, Parsed};
use super::lexer::Lexeme;
use super::{query, select};
use crate::diagnostic::{Diagnostic, Span};
use crate::statement::{
    AnnotationClauses, CreateEntity, CreateFeatureView, CreateSource, CreateStream, Ident,
    ServeClause, StatementKind,
};
use crate::suggest::closest;

const OBJECTS: &str = "CREATE makes an ENTITY, an EXTERNAL TABLE, a VIEW, a STREAM, a FEATURE VIEW, \
    an ON DEMAND FEATURE VIEW or a FEATURE SERVICE";

pub(super) fn create(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    cursor.expect_words(&["CREATE"], OBJECTS)?;
    let or_replace = cursor.mark();
    let replaces = cursor.eat_words(&["OR", "REPLACE"]);
    let or_replace = replaces.then(|| cursor.span_since(or_replace));
    let word = cursor
        .peek()
        .and_then(Lexeme::bare_word)
        .map(str::to_ascii_uppercase)
        .unwrap_or_default();
    match word.as_str() {
        "EXTERNAL" => return external_table(cursor).map(StatementKind::CreateExternalTable),
        "VIEW" => return view(cursor).map(StatementKind::CreateView),
        _ => {}
    }
    if let Some(span) = or_replace {
        return Err(Diagnostic::new(&span, "OR REPLACE is not needed").help(
            "write CREATE alone: the files say what there shall be, apply replaces what differs",
        ));
    }
    match word.as_str() {
        "ENTITY" => entity(cursor).map(StatementKind::CreateEntity),
        "STREAM" => stream(cursor).map(StatementKind::CreateStream),
        "FEATURE" => match cursor.peek_at(1) {
            Some(next) if next.is_word("SERVICE") => {
                select::service(cursor).map(StatementKind::CreateService)
            }
            Some(next) if next.is_word("VIEW") => {
                feature_view(cursor).map(|v| StatementKind::CreateFeatureView(Box::new(v)))
            }
            _ => Err(after_feature(cursor)),
        },
        "ON" => select::on_demand_view(cursor).map(StatementKind::CreateOnDemandView),
        _ => Err(no_object(cursor, &word)),
    }
}

fn after_feature(cursor: &mut Cursor<'_>) -> Diagnostic {
    cursor.next();
    let error = cursor.expected("VIEW or SERVICE");
    let slip = cursor.peek().and_then(Lexeme::bare_word).unwrap_or("");
    match closest(slip, ["VIEW", "SERVICE"]) {
        Some(meant) => error.help(format!("did you mean FEATURE {meant}?")),
        None => error.help("write CREATE FEATURE VIEW or CREATE FEATURE SERVICE"),
    }
}

/// The error for what CREATE does not make.
fn no_object(cursor: &Cursor<'_>, word: &str) -> Diagnostic {
    let error = |message: &str| Diagnostic::new(&cursor.here(), message);
    match word {
        "TABLE" => error("CREATE TABLE would keep its rows in memory")
            .help("write CREATE EXTERNAL TABLE for files, CREATE VIEW for a query"),
        "TEMP" | "TEMPORARY" => {
            error("definitions are kept, none is temporary").help(format!("remove {word}"))
        }
        "MATERIALIZED" => error("a plain view is not materialised").help(
            "write CREATE FEATURE VIEW for what shall be stored, CREATE VIEW for a cleaning step",
        ),
        "UNBOUNDED" => error("an unbounded table has no end, and a run would have none")
            .help("write CREATE STREAM for events, CREATE EXTERNAL TABLE for files"),
        "IF" => error("IF NOT EXISTS is not needed").help("write CREATE alone"),
        "DEMAND" | "ONDEMAND" | "ON_DEMAND" => {
            error("expected ON DEMAND").help("write CREATE ON DEMAND FEATURE VIEW")
        }
        "SERVICE" => error("expected FEATURE SERVICE").help("write CREATE FEATURE SERVICE"),
        _ => {
            let objects = ["ENTITY", "STREAM", "FEATURE", "EXTERNAL", "VIEW"];
            let error = match word {
                "" => cursor.expected("what to create"),
                _ => error(&format!("unknown statement CREATE {word}")),
            };
            match closest(word, objects) {
                Some(meant) => error.help(format!("did you mean {meant}?")),
                None => error.help(OBJECTS),
            }
        }
    }
}

/// The name that a statement defines.
pub(super) fn defined_name(cursor: &mut Cursor<'_>, what: &str) -> Parsed<Ident> {
    let mark = cursor.mark();
    if cursor.eat_words(&["IF", "NOT", "EXISTS"]) {
        return Err(
            Diagnostic::new(&cursor.span_since(mark), "IF NOT EXISTS is not needed")
                .help("remove it: the files say what there shall be, apply makes what is missing"),
        );
    }
    // `CREATE ENTITY KEY (..)`: a clause stands where the name should.
    if opens_clause(cursor.peek()) && !opens_clause(cursor.peek_at(1)) && !follows_name(cursor) {
        return Err(cursor
            .expected(what)
            .help("the name comes before the clauses"));
    }
    let name = cursor.object_name(what)?;
    cursor.define(&name);
    Ok(name)
}

fn opens_clause(lexeme: Option<&Lexeme>) -> bool {
    const OPENERS: [&str; 16] = [
        "KEY",
        "ENTITY",
        "EVENT",
        "CREATED",
        "THEN",
        "DEDUPLICATE",
        "HISTORY",
        "INPUT",
        "TTL",
        "MAX",
        "REFRESH",
        "SERVE",
        "OWNER",
        "TAGS",
        "COMMENT",
        "AS",
    ];
    lexeme.is_some_and(|l| OPENERS.iter().any(|word| l.is_word(word)))
}

/// A stream's name is followed by its columns.
fn follows_name(cursor: &Cursor<'_>) -> bool {
    let columns = cursor.peek_at(1).is_some_and(|l| l.token == Token::LParen);
    columns
        && !["KEY", "INPUT", "TAGS"]
            .iter()
            .any(|word| cursor.is_words(&[word]))
}

fn entity(cursor: &mut Cursor<'_>) -> Parsed<CreateEntity> {
    const ALLOWED: &[Clause] = &[Clause::Key, Clause::Comment];
    cursor.expect_words(&["ENTITY"], OBJECTS)?;
    let name = defined_name(cursor, "the entity's name")?;
    let mut clauses = Clauses::new("CREATE ENTITY", ALLOWED);
    let mut keys = Vec::new();
    let mut comment = None;
    while let Some(clause) = clauses.next(cursor)? {
        if clause == Clause::Key {
            keys = columns(cursor, clause.usage())?;
        } else {
            comment = Some(cursor.string("the comment")?);
        }
    }
    if clauses.seen(Clause::Key).is_none() {
        let why = "an entity is told apart by its key columns";
        return Err(clauses.missing(cursor, Clause::Key, why));
    }
    Ok(CreateEntity {
        name,
        keys,
        comment,
    })
}

fn stream(cursor: &mut Cursor<'_>) -> Parsed<CreateStream> {
    const ALLOWED: &[Clause] = &[
        Clause::EventTime,
        Clause::DeduplicateBy,
        Clause::History,
        Clause::ThenBy,
        Clause::Owner,
        Clause::Tags,
        Clause::Comment,
    ];
    cursor.expect_words(&["STREAM"], OBJECTS)?;
    let name = defined_name(cursor, "the stream's name")?;
    let columns = columns(
        cursor,
        "CREATE STREAM name (column type, ..) EVENT TIME column",
    )?;
    let mut clauses = Clauses::new("CREATE STREAM", ALLOWED);
    let (mut event_time, mut history) = (None, None);
    let (mut deduplicate_by, mut then_by) = (Vec::new(), Vec::new());
    let mut annotations = AnnotationClauses::default();
    while let Some(clause) = clauses.next(cursor)? {
        match clause {
            Clause::EventTime => event_time = Some(cursor.name("the event time's column")?),
            Clause::DeduplicateBy => deduplicate_by = names(cursor, clause.usage())?,
            Clause::History => history = Some(cursor.object_name("the history's table")?),
            Clause::ThenBy => then_by = names(cursor, clause.usage())?,
            _ => annotation(cursor, clause, &mut annotations)?,
        }
    }
    let Some(event_time) = event_time else {
        let why = "an event needs a column that says when it happened";
        return Err(clauses.missing(cursor, Clause::EventTime, why));
    };
    Ok(CreateStream {
        name,
        columns,
        event_time,
        deduplicate_by,
        history,
        then_by,
        annotations,
    })
}

/// DataFusion's statement, kept whole.
fn external_table(cursor: &mut Cursor<'_>) -> Parsed<CreateSource> {
    cursor.expect_words(
        &["EXTERNAL", "TABLE"],
        "write CREATE EXTERNAL TABLE name ..",
    )?;
    cursor.eat_words(&["IF", "NOT", "EXISTS"]);
    if cursor.is_words(&["STORED", "AS"]) {
        let help = "write CREATE EXTERNAL TABLE name STORED AS ..";
        return Err(cursor.expected("the table's name").help(help));
    }
    let name = cursor.object_name("the table's name")?;
    cursor.define(&name);
    let mark = cursor.mark();
    for (words, example) in [
        (&["STORED", "AS"][..], "STORED AS PARQUET"),
        (&["LOCATION"], "LOCATION 'data/file.parquet'"),
    ] {
        cursor.reset(mark);
        cursor.skip_until(|c| c.is_words(words))?;
        if cursor.at_end() {
            let message = format!("CREATE EXTERNAL TABLE has no {}", words.join(" "));
            return Err(Diagnostic::new(&cursor.whole(), message).help(format!("write {example}")));
        }
    }
    Ok(CreateSource {
        name,
        sql: query::whole_statement(cursor)?,
    })
}

/// DataFusion's statement, kept whole.
fn view(cursor: &mut Cursor<'_>) -> Parsed<CreateSource> {
    cursor.expect_words(&["VIEW"], OBJECTS)?;
    cursor.eat_words(&["IF", "NOT", "EXISTS"]);
    let name = cursor.object_name("the view's name")?;
    cursor.define(&name);
    // A list of columns and options of DataFusion's may stand before AS.
    let options = ["WITH", "OPTIONS", "COMMENT"]
        .iter()
        .any(|w| cursor.is_words(&[w]));
    if options || cursor.is_token(&Token::LParen) {
        cursor.skip_until(|c| c.is_words(&["AS"]))?;
    }
    if opens_clause(cursor.peek()) && !cursor.is_words(&["AS"]) {
        return Err(cursor
            .expected("AS")
            .help("a plain view has no clauses; write CREATE FEATURE VIEW for features"));
    }
    cursor.expect_words(&["AS"], "write CREATE VIEW name AS SELECT ..")?;
    query::query(cursor)?;
    Ok(CreateSource {
        name,
        sql: query::whole_statement(cursor)?,
    })
}

const FEATURE_VIEW: &[Clause] = &[
    Clause::Entity,
    Clause::EventTime,
    Clause::CreatedTime,
    Clause::ThenBy,
    Clause::Ttl,
    Clause::MaxEvents,
    Clause::RefreshEvery,
    Clause::Serve,
    Clause::Owner,
    Clause::Tags,
    Clause::Comment,
    Clause::As,
];

fn feature_view(cursor: &mut Cursor<'_>) -> Parsed<CreateFeatureView> {
    cursor.expect_words(&["FEATURE", "VIEW"], OBJECTS)?;
    let name = defined_name(cursor, "the feature view's name")?;
    let mut clauses = Clauses::new("CREATE FEATURE VIEW", FEATURE_VIEW);
    let mut view = CreateFeatureView {
        name,
        entities: Vec::new(),
        event_time: None,
        created_time: None,
        then_by: Vec::new(),
        ttl: None,
        max_events: None,
        refresh_every: None,
        serve: None,
        annotations: AnnotationClauses::default(),
        query: cursor.text(0..0),
    };
    loop {
        let Some(clause) = clauses.next(cursor)? else {
            let why = "a feature view is a query";
            return Err(clauses.missing(cursor, Clause::As, why));
        };
        if clause == Clause::As {
            break;
        }
        feature_view_clause(cursor, clause, &mut view)?;
    }
    if clauses.seen(Clause::Entity).is_none() {
        let why = "a feature describes an entity";
        cursor.tell(clauses.missing(cursor, Clause::Entity, why));
    }
    for clause in [Clause::CreatedTime, Clause::ThenBy] {
        if let Some(span) = clauses.seen(clause)
            && clauses.seen(Clause::EventTime).is_none()
        {
            let message = format!("{} without EVENT TIME", clause.words());
            cursor.tell(
                Diagnostic::new(span, message).help(format!("write {}", Clause::EventTime.usage())),
            );
        }
    }
    view.query = query::query(cursor)?;
    Ok(view)
}

fn feature_view_clause(
    cursor: &mut Cursor<'_>,
    clause: Clause,
    view: &mut CreateFeatureView,
) -> Parsed<()> {
    match clause {
        Clause::Entity => {
            let mut entities = vec![cursor.object_name("an entity's name")?];
            while cursor.eat(&Token::Comma) {
                entities.push(cursor.object_name("an entity's name")?);
            }
            view.entities = cursor.drop_repeated(entities, |name| name);
        }
        Clause::EventTime => view.event_time = Some(cursor.name("the event time's column")?),
        Clause::CreatedTime => view.created_time = Some(cursor.name("the created time's column")?),
        Clause::ThenBy => view.then_by = names(cursor, clause.usage())?,
        Clause::Ttl => view.ttl = interval(cursor, "TTL")?,
        Clause::MaxEvents => view.max_events = max_events(cursor)?,
        Clause::RefreshEvery => view.refresh_every = interval(cursor, "REFRESH EVERY")?,
        Clause::Serve => view.serve = Some(serve(cursor)?),
        _ => annotation(cursor, clause, &mut view.annotations)?,
    }
    Ok(())
}

fn max_events(cursor: &mut Cursor<'_>) -> Parsed<Option<(u64, Span)>> {
    let mark = cursor.mark();
    cursor.eat(&Token::Minus);
    let Some(Token::Number(digits, false)) = cursor.peek().map(|l| &l.token) else {
        let help = "write how many of the newest events count: MAX EVENTS 1000";
        return Err(cursor.expected("a number").help(help));
    };
    cursor.next();
    let span = cursor.span_since(mark);
    match digits.parse::<u64>() {
        Ok(count @ 1..) if cursor.mark() == mark + 1 => Ok(Some((count, span))),
        _ => {
            cursor.tell(
                Diagnostic::new(&span, "MAX EVENTS needs a whole number from 1 on")
                    .help("write how many of the newest events count: MAX EVENTS 1000"),
            );
            Ok(None)
        }
    }
}

/// What follows SERVE.
fn serve(cursor: &mut Cursor<'_>) -> Parsed<(ServeClause, Span)> {
    let mark = cursor.mark();
    let serve = if cursor.eat_words(&["ONLINE"]) {
        ServeClause::Online
    } else if cursor.eat_words(&["OFFLINE"]) {
        ServeClause::Offline
    } else if cursor.eat_words(&["QUERY"]) {
        let mut cache_for = None;
        if cursor.is_words(&["CACHE"]) {
            cursor.expect_words(&["CACHE", "FOR"], "write CACHE FOR INTERVAL '10 minutes'")?;
            cache_for = interval(cursor, "CACHE FOR")?.map(|(interval, _)| interval);
        }
        ServeClause::Query { cache_for }
    } else {
        let error = cursor.expected("ONLINE, QUERY or OFFLINE");
        let slip = cursor.peek().and_then(Lexeme::bare_word).unwrap_or("");
        return Err(match closest(slip, ["ONLINE", "QUERY", "OFFLINE"]) {
            Some(meant) => error.help(format!("did you mean {meant}?")),
            None => error.help(format!("write {}", Clause::Serve.usage())),
        });
    };
    if cursor.is_words(&["CACHE"]) {
        return Err(
            Diagnostic::new(&cursor.here(), "only SERVE QUERY has CACHE FOR")
                .help("what is materialised needs no cache: remove it, or write SERVE QUERY"),
        );
    }
    Ok((serve, cursor.span_since(mark)))
}
