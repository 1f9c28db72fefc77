//! Statements about objects that others define: EVENT TIME OF, GRANT, REVOKE
//! and COMMENT ON.

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed};
use super::lexer::Lexeme;
use crate::diagnostic::Diagnostic;
use crate::statement::{CommentOn, EventTimeOf, GrantStatement, ObjectSort};
use crate::suggest::closest;

/// `EVENT TIME OF table IS column [CREATED TIME column]`
pub(super) fn event_time_of(cursor: &mut Cursor<'_>) -> Parsed<EventTimeOf> {
    const SHAPE: &str = "write EVENT TIME OF table IS column [CREATED TIME column]";
    cursor.expect_words(&["EVENT", "TIME", "OF"], SHAPE)?;
    let relation = cursor.object_name("a table's or view's name")?;
    cursor.expect_words(&["IS"], SHAPE)?;
    let event_time = cursor.name("the event time's column")?;
    let mut created_time = None;
    if !cursor.at_end() {
        cursor.expect_words(&["CREATED", "TIME"], SHAPE)?;
        created_time = Some(cursor.name("the created time's column")?);
    }
    cursor.expect_end(SHAPE)?;
    Ok(EventTimeOf {
        relation,
        event_time,
        created_time,
    })
}

/// `GRANT | REVOKE READ ON FEATURE SERVICE | FEATURE VIEW x TO | FROM ROLE r`
pub(super) fn grant(cursor: &mut Cursor<'_>) -> Parsed<GrantStatement> {
    let revoke = cursor.is_words(&["REVOKE"]);
    let (shape, direction) = if revoke {
        (
            "write REVOKE READ ON FEATURE SERVICE name FROM ROLE name",
            "FROM",
        )
    } else {
        (
            "write GRANT READ ON FEATURE SERVICE name TO ROLE name",
            "TO",
        )
    };
    cursor.next();
    if !cursor.is_words(&["READ"]) && cursor.peek_at(1).is_some_and(|l| l.is_word("ON")) {
        let message = format!("there is no right {} to grant", cursor.found());
        return Err(
            Diagnostic::new(&cursor.here(), message).help(format!("READ is the only one: {shape}"))
        );
    }
    cursor.expect_words(&["READ", "ON"], shape)?;
    let on_service = cursor.is_words(&["FEATURE", "SERVICE"]);
    if !on_service && !cursor.is_words(&["FEATURE", "VIEW"]) {
        return Err(cursor
            .expected("FEATURE SERVICE or FEATURE VIEW")
            .help(shape));
    }
    cursor.next();
    cursor.next();
    let object = cursor.object_name("the name of a feature service or view")?;
    if cursor.is_token(&Token::Comma) {
        return Err(cursor
            .expected(direction)
            .help("name one object in each statement"));
    }
    let other = if revoke { "TO" } else { "FROM" };
    if cursor.is_words(&[other]) {
        let error = cursor.expected(direction);
        return Err(error.help(format!("GRANT .. TO, REVOKE .. FROM: {shape}")));
    }
    cursor.expect_words(&[direction, "ROLE"], shape)?;
    let role = cursor.name("a role's name")?;
    if cursor.is_token(&Token::Minus) {
        return Err(Diagnostic::new(&cursor.here(), "a name has no -")
            .help("write _, or put the name in double quotes"));
    }
    cursor.expect_end("name one role in each statement")?;
    Ok(GrantStatement {
        revoke,
        on_service,
        object,
        role,
    })
}

/// The words that name what a comment is on; the longer come first.
const COMMENTED: [(&[&str], Option<ObjectSort>); 9] = [
    (&["COLUMN"], None),
    (&["ENTITY"], Some(ObjectSort::Entity)),
    (&["EXTERNAL", "TABLE"], Some(ObjectSort::Table)),
    (&["TABLE"], Some(ObjectSort::Table)),
    (&["VIEW"], Some(ObjectSort::View)),
    (&["STREAM"], Some(ObjectSort::Stream)),
    (
        &["ON", "DEMAND", "FEATURE", "VIEW"],
        Some(ObjectSort::OnDemandView),
    ),
    (&["FEATURE", "VIEW"], Some(ObjectSort::FeatureView)),
    (&["FEATURE", "SERVICE"], Some(ObjectSort::FeatureService)),
];

/// `COMMENT ON what name IS 'text'`
pub(super) fn comment_on(cursor: &mut Cursor<'_>) -> Parsed<CommentOn> {
    const SHAPE: &str =
        "write COMMENT ON FEATURE VIEW name IS 'text' or COMMENT ON COLUMN view.column IS 'text'";
    cursor.expect_words(&["COMMENT", "ON"], SHAPE)?;
    let Some((_, sort)) = COMMENTED.iter().find(|(words, _)| cursor.eat_words(words)) else {
        let error = cursor.expected("what the comment is on");
        let slip = cursor.peek().and_then(Lexeme::bare_word).unwrap_or("");
        let known = COMMENTED.iter().map(|(words, _)| words[0]);
        return Err(match closest(slip, known) {
            Some(meant) => error.help(format!("did you mean {meant}?")),
            None => error.help(
                "it is on an ENTITY, TABLE, VIEW, STREAM, FEATURE VIEW, ON DEMAND FEATURE VIEW, \
                 FEATURE SERVICE or COLUMN",
            ),
        });
    };
    let mut column = None;
    let object = if sort.is_some() {
        cursor.object_name("the object's name")?
    } else {
        let object = cursor.name("view.column")?;
        cursor.expect(
            &Token::Period,
            "write COMMENT ON COLUMN view.column IS 'text'",
        )?;
        column = Some(cursor.part("the column's name")?);
        object
    };
    cursor.expect_words(&["IS"], SHAPE)?;
    let comment = if cursor.eat_words(&["NULL"]) {
        None
    } else {
        Some(cursor.string("the comment or NULL")?)
    };
    cursor.expect_end(SHAPE)?;
    Ok(CommentOn {
        sort: *sort,
        object,
        column,
        comment,
    })
}
