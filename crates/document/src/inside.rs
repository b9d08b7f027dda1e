//! From a place inside a text value to its place in the document: an error in the third line of an
//! SQL text is an error in some line of the file.

use crate::read::Syntax;
use crate::tree::Place;

/// How the text was written, after its first character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// As it is: without quotes, a block, or in quotes without escapes.
    Raw,
    /// `''` is one `'`.
    Doubled,
    /// With `\`, up to the next `"`.
    Escaped,
    /// With `\`, up to `"""`.
    EscapedLines,
}

/// The place of line `line` and column `column` (both from 1, in characters) of a text that was written
/// at `place` of `document` and read as `text`.
///
/// YAML folds and indents lines, all languages have escapes; what they agree on is the order of the
/// characters that are not white space, so those are counted.
pub fn inside(document: &str, syntax: Syntax, place: &Place, text: &str, line: usize, column: usize) -> Place {
    let n_before = n_visible_before(text, line, column);
    let Some(start) = offset(document, place.line, place.column) else { return place.clone() };
    let (style, content) = content(&document[start..], syntax);
    let mut walk = Walk { rest: content, style };
    for _ in 0..n_before {
        if walk.visible().is_none() {
            return place.clone();
        }
    }
    let before = walk.rest;
    let Some(length) = walk.visible() else { return place.clone() };
    let at = document.len() - before.len() + (before.len() - walk.rest.len() - length);
    let line_start = document[..at].rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        source: std::sync::Arc::clone(&place.source),
        line: document[..at].matches('\n').count() + 1,
        column: document[line_start..at].chars().count() + 1,
    }
}

/// Characters before that place that are not white space.
fn n_visible_before(text: &str, line: usize, column: usize) -> usize {
    let mut n_before = 0;
    let (mut at_line, mut at_column) = (1, 1);
    for character in text.chars() {
        if (at_line, at_column) >= (line, column) {
            break;
        }
        if character == '\n' {
            (at_line, at_column) = (at_line + 1, 1);
        } else {
            at_column += 1;
        }
        n_before += usize::from(!character.is_whitespace());
    }
    n_before
}

/// The byte at a line and column.
fn offset(document: &str, line: usize, column: usize) -> Option<usize> {
    let start = match line {
        0 => return None,
        1 => 0,
        _ => document.match_indices('\n').nth(line - 2)?.0 + 1,
    };
    let rest = &document[start..];
    let within = rest.char_indices().nth(column.checked_sub(1)?).map_or(rest.len(), |(at, _)| at);
    Some(start + within)
}

/// How a value was written, and its first character.
fn content(value: &str, syntax: Syntax) -> (Style, &str) {
    if syntax == Syntax::Toml {
        if let Some(rest) = value.strip_prefix("'''") {
            return (Style::Raw, rest);
        }
        if let Some(rest) = value.strip_prefix("\"\"\"") {
            return (Style::EscapedLines, rest);
        }
    }
    match value.chars().next() {
        Some('"') => (Style::Escaped, &value[1..]),
        Some('\'') if syntax == Syntax::Toml => (Style::Raw, &value[1..]),
        Some('\'') => (Style::Doubled, &value[1..]),
        Some('|' | '>') if syntax == Syntax::Yaml => {
            (Style::Raw, value.split_once('\n').map_or("", |(_, content)| content))
        }
        _ => (Style::Raw, value),
    }
}

/// A walk over the characters of a text as it was written.
struct Walk<'a> {
    rest: &'a str,
    style: Style,
}

impl Walk<'_> {
    /// Goes behind the next character that is not white space, and returns the bytes it took.
    fn visible(&mut self) -> Option<usize> {
        loop {
            let character = self.rest.chars().next()?;
            let (length, is_visible) = match (character, self.style) {
                ('\'', Style::Doubled) if self.rest.starts_with("''") => (2, true),
                ('\'', Style::Doubled) | ('"', Style::Escaped) => return None,
                ('\\', Style::Escaped | Style::EscapedLines) => escape(self.rest),
                _ => (character.len_utf8(), !character.is_whitespace()),
            };
            self.rest = self.rest.get(length..)?;
            if is_visible {
                return Some(length);
            }
        }
    }
}

/// The bytes of an escape, and whether it stands for something visible.
fn escape(text: &str) -> (usize, bool) {
    let Some(kind) = text[1..].chars().next() else { return (1, true) };
    let hexadecimal = |digits: usize| {
        let length = 2 + digits;
        let code = text.get(2..length).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match code {
            // The first half of a pair; the second counts.
            Some(0xD800..=0xDBFF) => (length, false),
            Some(code) => (length, !char::from_u32(code).is_some_and(char::is_whitespace)),
            None => (2, true),
        }
    };
    match kind {
        'x' => hexadecimal(2),
        'u' => hexadecimal(4),
        'U' => hexadecimal(8),
        'n' | 't' | 'r' | 'f' | 'v' | 'N' | 'L' | 'P' | '_' => (2, false),
        other => (1 + other.len_utf8(), !other.is_whitespace()),
    }
}

#[cfg(test)]
mod tests;
