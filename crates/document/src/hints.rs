//! What was probably meant.

use crate::shape::{Field, Format, Shape};
use crate::tree::{Value, cut};

/// What to do about a value that is not of a shape.
pub(crate) fn for_value(shape: &Shape, value: &Value) -> String {
    match (shape, value) {
        (Shape::Bool, Value::Text(text)) if matches!(text.as_str(), "yes" | "on" | "no" | "off" | "true" | "false") => {
            "write true or false, without quotes".to_owned()
        }
        (Shape::Integer { .. }, Value::Text(text)) if text.parse::<i128>().is_ok() => "remove the quotes".to_owned(),
        (Shape::Number { .. }, Value::Text(text)) if text.parse::<f64>().is_ok() => "remove the quotes".to_owned(),
        (Shape::Span { .. }, Value::Number(number)) => format!("a duration needs a unit: {number}s, {number}ms, ..."),
        (Shape::Text(Format::Address), Value::Number(port)) => format!("127.0.0.1:{port}?"),
        (Shape::Text(Format::Plain), Value::Number(_) | Value::Bool(_)) => "put it in quotes".to_owned(),
        (Shape::Text(Format::Name(most)), Value::Text(text)) => lower_case(text, *most),
        (Shape::Text(Format::Expression), Value::Null) => {
            "put an expression that has a comma in quotes; nothing at all is written null, in quotes".to_owned()
        }
        (Shape::List(_), Value::Text(text)) => format!("[{}]?", cut(text)),
        (Shape::List(_), Value::Map(_)) => "begin each item with `- `".to_owned(),
        (Shape::Choice(words), Value::Text(text) | Value::Loose(text)) => {
            nearest(text, words.iter().map(|(word, _)| word.as_str())).map_or_else(String::new, did_you_mean)
        }
        (Shape::Tagged { tags, .. }, Value::Text(text)) => match tags.iter().find(|tag| tag.name == *text) {
            Some(tag) if matches!(tag.shape, Shape::Section(_)) => format!("{text}: {{}}?"),
            Some(tag) => format!("`{}` needs {}", tag.name, tag.shape.expected()),
            None => String::new(),
        },
        _ => String::new(),
    }
}

fn lower_case(text: &str, characters_max: usize) -> String {
    let suggestion: String =
        text.chars().map(|c| c.to_ascii_lowercase()).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if crate::formats::is_name(&suggestion, characters_max) { format!("{suggestion}?") } else { String::new() }
}

/// Whether a value of such a shape can have a setting of that name.
pub(crate) fn is_inside(name: &str, shape: &Shape) -> bool {
    match shape {
        Shape::Either(shapes) => shapes.iter().any(|shape| is_inside(name, shape)),
        shape => shape.fields().iter().any(|field| field.name == name),
    }
}

/// What to do about a name that no field has. `root` is searched for other places of it, save in
/// the sections `unsuggested`.
pub(crate) fn for_unknown(name: &str, fields: &[&Field], root: &Shape, unsuggested: &[&str]) -> String {
    if let Some(known) = nearest(name, fields.iter().map(|field| field.name.as_str())) {
        return did_you_mean(known);
    }
    let elsewhere: Vec<String> = root
        .paths()
        .into_iter()
        .filter(|path| {
            path.last().is_some_and(|last| last == name)
                && path.first().is_some_and(|first| !unsuggested.contains(&first.as_str()))
        })
        .map(|path| path.join("."))
        .collect();
    if !elsewhere.is_empty() && elsewhere.len() <= 3 {
        return format!("it belongs to {}", elsewhere.join(" or "));
    }
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    if names.is_empty() { "it has no settings".to_owned() } else { format!("known are {}", names.join(", ")) }
}

fn did_you_mean(known: &str) -> String {
    format!("did you mean `{known}`?")
}

/// Longer names are not compared: the work is the product of the lengths.
const COMPARED_MAX: usize = 128;

/// The known name that was probably meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > COMPARED_MAX {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::damerau_levenshtein(&name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= (name.len().max(known.len()) / 3).max(1))
        .map(|(_, known)| known)
}
