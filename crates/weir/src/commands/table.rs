//! Tables for people: aligned columns that fit the terminal, or one block a row when there are too
//! many columns.
//!
//! Values come from strangers (a log body, a page title). Control characters are shown escaped, so
//! that no row can move the cursor, recolour or retitle the terminal of whoever looks at it.

use std::io::IsTerminal;

use serde_json::Value;

/// Between two columns.
const GAP: usize = 2;
/// A column is not cut below this many characters; the block layout takes over instead.
const CUT_WIDTH_MIN: usize = 10;

/// A column's name, and on which side its values stand.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    name: String,
    right: bool,
}

impl Column {
    /// A column of text.
    pub(crate) fn text(name: &str) -> Self {
        Self { name: escape(name), right: false }
    }

    /// A column of a type as the query API names it.
    pub(crate) fn typed(name: &str, kind: &str) -> Self {
        Self { name: escape(name), right: matches!(kind, "int64" | "float64") }
    }
}

/// The width of the terminal on standard output; none if it is not one: then nothing is cut.
pub(crate) fn width_of_stdout() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let from_terminal = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    from_terminal.filter(|width| *width >= 20).or(Some(80))
}

/// A JSON value as the text of a cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escape(text),
        // Keys and texts inside are escaped by JSON itself, except for DEL and the C1 controls.
        other => escape(&other.to_string()),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            '\r' => escaped.push_str("\\r"),
            // Bidirectional controls can make a line read as something else.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.extend(character.escape_unicode()),
            control if control.is_control() => escaped.extend(control.escape_unicode()),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// The table as text, every line ended.
pub(crate) fn render(columns: Vec<Column>, rows: Vec<Vec<String>>, width_max: Option<usize>) -> String {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.name.chars().count()).collect();
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = (*width).max(text.chars().count());
        }
    }
    if let Some(width_max) = width_max
        && !shrink(&mut widths, width_max)
    {
        return blocks(&columns, &rows, width_max);
    }
    let mut text = String::new();
    line(&mut text, &columns, &widths, columns.iter().map(|column| column.name.as_str()));
    line(&mut text, &columns, &widths, widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>().iter());
    for row in &rows {
        line(&mut text, &columns, &widths, row.iter());
    }
    text
}

/// Cuts the widest columns until all fit; false if that would leave nothing readable.
fn shrink(widths: &mut [usize], width_max: usize) -> bool {
    let gaps = GAP * widths.len().saturating_sub(1);
    loop {
        let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(width_max);
        if excess == 0 {
            return true;
        }
        let widest = widths.iter().copied().max().unwrap_or(0);
        if widest <= CUT_WIDTH_MIN {
            return false;
        }
        // Down to the second widest at most, so that all wide columns give way alike.
        let second = widths.iter().copied().filter(|width| *width < widest).max().unwrap_or(0);
        let at_widest = widths.iter().filter(|width| **width == widest).count();
        let target = widest.saturating_sub(excess.div_ceil(at_widest)).max(second).max(CUT_WIDTH_MIN);
        widths.iter_mut().filter(|width| **width == widest).for_each(|width| *width = target);
    }
}

fn line<T: AsRef<str>>(text: &mut String, columns: &[Column], widths: &[usize], cells: impl Iterator<Item = T>) {
    let begin = text.len();
    for (index, ((cell, column), width)) in cells.zip(columns).zip(widths).enumerate() {
        if index > 0 {
            text.push_str(&" ".repeat(GAP));
        }
        let cell = cut(cell.as_ref(), *width);
        let padding = " ".repeat(width - cell.chars().count());
        if column.right {
            text.push_str(&padding);
            text.push_str(&cell);
        } else {
            text.push_str(&cell);
            text.push_str(&padding);
        }
    }
    text.truncate(begin + text[begin..].trim_end().len());
    text.push('\n');
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// One line a value, for rows that are too wide; empty values are left out.
fn blocks(columns: &[Column], rows: &[Vec<String>], width_max: usize) -> String {
    let name_width = columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let title = format!("── row {} ", index + 1);
        let rest = width_max.min(60).saturating_sub(title.chars().count());
        text.push_str(&format!("{title}{}\n", "─".repeat(rest)));
        for (column, cell) in columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            text.push_str(&format!("{:name_width$}  {cell}\n", column.name));
        }
    }
    text
}

#[cfg(test)]
mod tests;
