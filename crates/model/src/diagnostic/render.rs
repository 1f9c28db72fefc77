//! Diagnostics as text for people: plain characters, no colours, one column a
//! cell of the screen.

use std::fmt;

use unicode_width::UnicodeWidthChar;

use super::{Diagnostic, Diagnostics, Span};

/// A tab becomes this many spaces, wherever it stands.
const TAB: &str = "    ";

/// A quoted line is cut to this many cells around its span.
const CELLS_MAX: usize = 160;

/// So much of a cut line is shown before its span.
const CELLS_BEFORE: usize = 60;

impl Diagnostic {
    /// The message with its place and line; `label` is `error`, `warning`, ...
    /// Ends with a line end.
    pub fn render(&self, label: &str) -> String {
        let mut out = format!("{label}: {}\n", self.message);
        let margin = match &self.span {
            Some(span) => quote(span, &mut out),
            None => String::new(),
        };
        if let Some(help) = &self.help {
            let indent = format!("\n{margin}         ");
            let help = help.replace('\n', &indent);
            out.push_str(&format!("{margin} = help: {help}\n"));
        }
        out
    }
}

/// Appends the place, the line and the carets; gives the margin before `|`.
fn quote(span: &Span, out: &mut String) -> String {
    let number = span.start.line.to_string();
    let margin = " ".repeat(number.len());
    out.push_str(&format!("{margin}--> {span}\n"));
    let Some(line) = span.file.line(span.start.line) else {
        return margin;
    };
    let (text, before, under) = cells(line, span);
    let carets = format!("{}{}", " ".repeat(before), "^".repeat(under));
    out.push_str(&format!("{margin} |\n"));
    out.push_str(&format!("{number} | {text}\n"));
    out.push_str(&format!("{margin} | {carets}\n"));
    margin
}

/// The line as it is shown, the cells before the carets, and how many carets.
fn cells(line: &str, span: &Span) -> (String, usize, usize) {
    let from = (span.start.column as usize).saturating_sub(1);
    let to = if span.end.line > span.start.line {
        usize::MAX
    } else {
        (span.end.column as usize).saturating_sub(1)
    };
    let shown: Vec<(String, usize)> = line.chars().map(cell).collect();
    let width = |part: &[(String, usize)]| part.iter().map(|(_, cells)| cells).sum::<usize>();
    let from = from.min(shown.len());
    let to = to.clamp(from, shown.len());

    let mut first = 0;
    let mut last = shown.len();
    if width(&shown) > CELLS_MAX {
        while first < from && width(&shown[first..from]) > CELLS_BEFORE {
            first += 1;
        }
        while last > first + 1 && width(&shown[first..last]) > CELLS_MAX {
            last -= 1;
        }
    }
    let (cut_before, cut_after) = (first > 0, last < shown.len());
    let mut text = String::from(if cut_before { "..." } else { "" });
    text.extend(shown[first..last].iter().map(|(s, _)| s.as_str()));
    text.push_str(if cut_after { "..." } else { "" });
    let before = width(&shown[first..from]) + if cut_before { 3 } else { 0 };
    let under = width(&shown[from..to.clamp(from, last.max(from))]).max(1);
    (text.trim_end().to_owned(), before, under)
}

/// What stands for a character on the screen, and how many cells it takes.
/// Characters that would move the cursor or turn the text around are replaced.
fn cell(character: char) -> (String, usize) {
    match character {
        '\t' => (TAB.to_owned(), TAB.len()),
        '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => ("\u{fffd}".to_owned(), 1),
        _ => match character.width() {
            Some(cells) => (character.to_string(), cells),
            None => ("\u{fffd}".to_owned(), 1),
        },
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render("error").trim_end())
    }
}

impl Diagnostics {
    /// Every message, a blank line after each, then how many there are. Ends with a line end.
    pub fn render(&self) -> String {
        format!("{self}\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}\n")?;
        }
        match self.0.len() {
            1 => f.write_str("1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}
