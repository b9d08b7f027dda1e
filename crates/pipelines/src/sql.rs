//! The query of a document as steps, the same as a user would write them.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use weir_base::Diagnostic;
use weir_base::quantity::Span;
use weir_sql::streaming::{Input, Named, StreamStep, Windowed, Windows, translate};
use weir_sql::{TextPosition, streaming};

use crate::document::{Component, Document, Ids, QueryPlace, QueryPlaces, Step};

/// The steps the query of a document is the same as; none if it has no query. They come before its
/// other steps. Their ids begin with `sql_`.
///
/// `input` is what is known of the source: its columns, and the one with the event time, which is that of
/// the document unless the source has one by itself.
///
/// # Errors
/// Everything in the query that has no bounded meaning over a stream.
pub fn steps(document: &Document, input: Input<'_>) -> Result<Vec<Step>, Vec<Diagnostic>> {
    let Some(sql) = &document.sql else { return Ok(Vec::new()) };
    let [from] = document.from.as_slice() else {
        let hint = "describe the pipeline by steps: a step `join` or `union` reads several inputs";
        return Err(vec![document.problem("/sql", None, "the query of a pipeline reads one input", hint)]);
    };
    let input = Input { time: from.time.as_deref().or(input.time), ..input };
    let translated = translate(sql, input).map_err(|problems| {
        let shown = |problem: streaming::StreamProblem| {
            document.problem("/sql", problem.position.map(place), &problem.message, &problem.hint)
        };
        problems.into_iter().map(shown).collect::<Vec<Diagnostic>>()
    })?;
    let mut ids = Ids(document.steps.iter().map(|step| step.id.clone()).collect());
    let step = |step: StreamStep| {
        let component = component(step);
        let id = ids.next(&format!("sql_{}", component.name));
        Step { component, id, when: None, from: None }
    };
    Ok(translated.into_iter().map(step).collect())
}

/// A step with its configuration.
fn component(step: StreamStep) -> Component {
    let mut places = QueryPlaces::default();
    let (name, config) = match step {
        StreamStep::Filter(condition) => {
            places.add(String::new(), &condition);
            ("filter", json!(condition.text))
        }
        StreamStep::Set(named) => ("set", places.expressions("", &named)),
        StreamStep::Keep(columns) => ("keep", json!(columns)),
        StreamStep::Drop(columns) => ("drop", json!(columns)),
        StreamStep::Rename(names) => {
            let names = names.into_iter().map(|(from, to)| (from, Json::String(to)));
            ("rename", Json::Object(names.collect()))
        }
        StreamStep::Window(window) => ("window", self::window(&window, &mut places)),
    };
    Component::of_query(name, config, places)
}

fn window(window: &Windowed, places: &mut QueryPlaces) -> Json {
    let Windowed { windows, by, select, position } = window;
    places.whole = position.map(place);
    let mut config = Map::new();
    let lengths = |size, every| json!({ "size": Span(size), "every": Span(every) });
    let (kind, what, offset) = match *windows {
        Windows::Tumbling { size, offset } => ("tumbling", json!(Span(size)), offset),
        Windows::Hopping { size, every, offset } => ("hopping", lengths(size, every), offset),
        Windows::Cumulative { size, every, offset } => ("cumulative", lengths(size, every), offset),
        Windows::Session { gap } => ("session", json!({ "gap": Span(gap) }), Duration::ZERO),
    };
    config.insert(kind.to_owned(), what);
    if !offset.is_zero() {
        config.insert("offset".to_owned(), json!(Span(offset)));
    }
    if !by.is_empty() {
        config.insert("by".to_owned(), places.expressions("/by", by));
    }
    config.insert("select".to_owned(), places.expressions("/select", select));
    Json::Object(config)
}

fn place(position: TextPosition) -> (usize, usize) {
    (usize::try_from(position.line).unwrap_or(usize::MAX), usize::try_from(position.column).unwrap_or(usize::MAX))
}

impl QueryPlaces {
    fn add(&mut self, pointer: String, expression: &streaming::Expression) {
        let Some(begin) = expression.position.map(place) else { return };
        self.whole.get_or_insert(begin);
        self.parts.insert(pointer, QueryPlace { begin, is_verbatim: expression.is_verbatim });
    }

    /// Expressions with their names, in order.
    fn expressions(&mut self, pointer: &str, named: &[Named]) -> Json {
        let expression = |named: &Named| {
            self.add(format!("{pointer}/{}", named.name), &named.value);
            json!({ "name": named.name, "text": named.value.text })
        };
        Json::Array(named.iter().map(expression).collect())
    }
}

#[cfg(test)]
mod tests;
