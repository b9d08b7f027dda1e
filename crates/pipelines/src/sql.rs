//! The query of a document as steps, the same as a user would write them.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use weir_base::Diagnostic;
use weir_base::quantity::Span;
use weir_sql::expressions::{Defined, WrongDefinition};
use weir_sql::streaming::{
    First, Input, JoinKind, JoinTime, Joined, LookedUp, Named, Place, Placed, StreamStep, Stretches, Ties, Top,
    Windowed, Windows, translate_with,
};
use weir_sql::{TextPosition, streaming};

use crate::document::{Component, Document, Ids, QueryPlace, QueryPlaces, Step};

/// The steps the query of a document is the same as; none if it has no query. They come before its
/// other steps. Their ids begin with `sql_`.
///
/// `inputs` is what is known of the sources, in the order of the document: their columns, and the ones with the
/// event time.
///
/// # Errors
/// Everything in the query that has no bounded meaning over a stream.
pub fn steps(document: &Document, inputs: &[Input<'_>]) -> Result<Vec<Step>, Vec<Diagnostic>> {
    steps_with(document, inputs, &functions(document)?, false)
}

/// The same with the functions of the document. Where something of the inputs is in doubt, only what is wrong whatever
/// they are is told.
pub(crate) fn steps_with(
    document: &Document,
    inputs: &[Input<'_>],
    functions: &Defined,
    in_doubt: bool,
) -> Result<Vec<Step>, Vec<Diagnostic>> {
    let Some(sql) = &document.sql else { return Ok(Vec::new()) };
    let translated = translate_with(sql, inputs, functions).map_err(|problems| {
        let shown = |problem: streaming::StreamProblem| {
            document.problem("/sql", problem.position.map(place), &problem.message, &problem.hint)
        };
        let told = problems.into_iter().filter(|problem| !in_doubt || problem.is_of_the_text());
        told.map(shown).collect::<Vec<Diagnostic>>()
    })?;
    let mut ids = Ids(document.steps.iter().map(|step| step.id.clone()).collect());
    let mut steps: Vec<Step> = Vec::with_capacity(translated.len());
    for (at, Placed { step, reads }) in translated.into_iter().enumerate() {
        let name_of = |place: &Place| match place {
            Place::Input(name) => name.clone(),
            Place::Step(step) => steps[*step].id.clone(),
        };
        let is_above = match &reads {
            Place::Step(step) => *step + 1 == at,
            Place::Input(name) => at == 0 && document.from.first().is_some_and(|first| first.id == *name),
        };
        let from = (!is_above).then(|| name_of(&reads));
        let id = ids.next(&format!("sql_{}", name_of_step(&step)));
        let component = component(step, &id, &name_of);
        steps.push(Step { component, id, when: None, from });
    }
    Ok(steps)
}

/// The functions and aggregates a document defines.
///
/// # Errors
/// Everything that is wrong with them.
pub fn functions(document: &Document) -> Result<Defined, Vec<Diagnostic>> {
    let shown = |section: &str, names: &[&str], wrong: Vec<WrongDefinition>| {
        let shown = |WrongDefinition { at, part, message, hint, inside }: WrongDefinition| {
            let name = names.get(at).copied().unwrap_or_default().replace('~', "~0").replace('/', "~1");
            let inside = inside.map(|(line, column)| place(TextPosition { line, column }));
            document.problem(&format!("/{section}/{name}{part}"), inside, &message, &hint)
        };
        wrong.into_iter().map(shown).collect::<Vec<_>>()
    };
    let functions: Vec<&str> = document.functions.iter().map(|(name, _)| name.as_str()).collect();
    let aggregates: Vec<&str> = document.aggregates.iter().map(|aggregate| aggregate.call.as_str()).collect();
    let defined = Defined::new(&document.functions).map_err(|wrong| shown("functions", &functions, wrong))?;
    defined.with_aggregates(&document.aggregates).map_err(|wrong| shown("aggregates", &aggregates, wrong))
}

/// What a step is called in a document.
fn name_of_step(step: &StreamStep) -> &'static str {
    match step {
        StreamStep::Filter(_) => "filter",
        StreamStep::Set(_) => "set",
        StreamStep::Keep(_) => "keep",
        StreamStep::Drop(_) => "drop",
        StreamStep::Rename(_) => "rename",
        StreamStep::Window(_) => "window",
        StreamStep::Explode { .. } => "explode",
        StreamStep::Union(_) => "union",
        StreamStep::Join(_) => "join",
        StreamStep::Lookup(_) => "lookup",
        StreamStep::First(_) => "limit_rate",
        StreamStep::Top(_) => "top",
    }
}

/// A step with its configuration. `read` gives the names of what it reads beside what is above it.
fn component(step: StreamStep, id: &str, read: &dyn Fn(&Place) -> String) -> Component {
    let mut places = QueryPlaces::default();
    let name = name_of_step(&step);
    let config = match step {
        StreamStep::Filter(condition) => {
            places.add(String::new(), &condition);
            json!(condition.text)
        }
        StreamStep::Set(named) => places.expressions("", &named),
        StreamStep::Keep(columns) | StreamStep::Drop(columns) => json!(columns),
        StreamStep::Rename(names) => {
            let names = names.into_iter().map(|(from, to)| (from, Json::String(to)));
            Json::Object(names.collect())
        }
        StreamStep::Window(window) => self::window(&window, &mut places),
        StreamStep::Explode { column, element } => json!({ "column": column, "as": element }),
        StreamStep::Union(others) => others.iter().map(read).collect(),
        StreamStep::Join(joined) => {
            let Joined { with, on, before, after, kind, time, position } = *joined;
            places.whole = position.map(place);
            let pair = |(left, right): &(streaming::Expression, streaming::Expression)| {
                places.add(format!("/on/{}", left.text), right);
                json!({ "name": left.text, "text": right.text })
            };
            let mut config = json!({
                "with": read(&with),
                "on": on.iter().map(pair).collect::<Vec<_>>(),
                "within": { "before": Span(before), "after": Span(after) },
                "kind": match kind {
                    JoinKind::Inner => "inner",
                    JoinKind::Left => "left",
                    JoinKind::Right => "right",
                    JoinKind::Full => "full",
                },
            });
            match time {
                JoinTime::Later => {}
                JoinTime::Left => config["time"] = json!("left"),
                JoinTime::Right => config["time"] = json!("right"),
            }
            config
        }
        StreamStep::Lookup(looked_up) => {
            let LookedUp { table, on, select, is_left, position } = *looked_up;
            places.whole = position.map(place);
            let pair = |(row, of_table): &(streaming::Expression, streaming::Expression)| {
                places.add(format!("/on/{}", row.text), of_table);
                json!({ "name": row.text, "text": of_table.text })
            };
            let on: Vec<Json> = on.iter().map(pair).collect();
            let column = |(column, name): &(String, String)| json!({ "name": name, "text": format!("\"{}\"", column.replace('"', "\"\"")) });
            let select: Vec<Json> = select.iter().map(column).collect();
            json!({ "table": table, "on": on, "select": select, "kind": if is_left { "left" } else { "inner" } })
        }
        StreamStep::First(first) => {
            let First { rows, per, by, position } = *first;
            places.whole = position.map(place);
            // What is left out is nothing that went wrong, so it is no dead letter.
            json!({ "rows": rows, "per": Span(per), "by": places.expressions("/by", &by), "over": format!("{id}_over") })
        }
        StreamStep::Top(top) => self::top(*top, &mut places),
    };
    Component::of_query(name, config, places)
}

fn top(top: Top, places: &mut QueryPlaces) -> Json {
    let Top { rows, order, ties, per, by, rank, position } = top;
    places.whole = position.map(place);
    places.add("/order_by".to_owned(), &order);
    let mut config = Map::new();
    config.insert("rows".to_owned(), json!(rows));
    config.insert("order_by".to_owned(), json!(order.text));
    match ties {
        Ties::Broken => {}
        Ties::Shared => drop(config.insert("ties".to_owned(), json!("shared"))),
        Ties::Dense => drop(config.insert("ties".to_owned(), json!("dense"))),
    }
    if let Some(Stretches { size, offset, lateness }) = per {
        config.insert("per".to_owned(), json!(Span(size)));
        if !offset.is_zero() {
            config.insert("offset".to_owned(), json!(Span(offset)));
        }
        if let Some(lateness) = lateness {
            config.insert("lateness".to_owned(), json!(Span(lateness)));
        }
    }
    if !by.is_empty() {
        config.insert("by".to_owned(), places.expressions("/by", &by));
    }
    if let Some(rank) = rank {
        config.insert("rank".to_owned(), json!(rank));
    }
    Json::Object(config)
}

fn window(window: &Windowed, places: &mut QueryPlaces) -> Json {
    let Windowed { windows, timing, by, select, position } = window;
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
    for (name, span) in [("lateness", timing.lateness), ("early", timing.early)] {
        if let Some(span) = span {
            config.insert(name.to_owned(), json!(Span(span)));
        }
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
