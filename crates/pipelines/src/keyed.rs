//! Sinks with a key: what a row is known by there, and whether that is what tells results apart.
//!
//! A result of a window is told apart from others by its window and by what it is grouped by. A key with less would be
//! that of several results at once, whose revisions could not be put in order; one with more would leave the result
//! behind under a key of before, when that part changes.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use weir_component::operator::{Bounds, Identity, KnownBy, Part};
use weir_component::revision;
use weir_component::spec::Fault;
use weir_engine::{Input, PlanStep};

use crate::document::Output;

/// What the outputs of each step are, as far as they are results of windows.
pub(crate) type Identities = Vec<Vec<Option<Identity>>>;

/// The identity of what is read at an input.
pub(crate) fn identity_of(identities: &Identities, input: Input) -> Option<&Identity> {
    match input {
        Input::Source(_) => None,
        Input::Step { step, branch } => identities.get(step)?.get(branch)?.as_ref(),
    }
}

/// The windows whose results somebody wants all revisions of, by step: what they are known by, and to which sink.
#[derive(Debug, Default)]
pub(crate) struct Revised(BTreeMap<usize, (KnownBy, String)>);

impl Revised {
    /// A sink with a key reads `input`, where rows have these columns. The pointers of faults are relative to the key.
    pub(crate) fn add(
        &mut self,
        output: &Output,
        input: Input,
        schema: &SchemaRef,
        steps: &[PlanStep],
        identity: Option<&Identity>,
    ) -> Vec<Fault> {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let missing = output.key.iter().enumerate().filter(|(_, column)| !names.contains(&column.as_str()));
        let mut faults: Vec<Fault> = missing
            .map(|(at, column)| {
                let hint = format!("the columns are {}", names.join(", "));
                Fault::new(&format!("/{at}"), format!("there is no column `{column}`"), hint)
            })
            .collect();
        for name in revision::COLUMNS.into_iter().filter(|name| names.contains(name)) {
            let message = format!("the rows have a column `{name}`, and a sink with a key gets one of that name");
            faults.push(Fault::new("", message, "give the column another name"));
        }
        let Some(identity) = identity.filter(|_| faults.is_empty()) else { return faults };
        let known_by = match known_by(&output.key, &names, identity) {
            Ok(known_by) => known_by,
            Err(faults) => return faults,
        };
        let Some(window) = window_of(steps, input) else { return faults };
        match self.0.get(&window) {
            Some((other, sink)) if *other != known_by => {
                let (by, other) = match known_by {
                    KnownBy::Start => ("its start", "its start and end"),
                    KnownBy::Both => ("its start and end", "its start"),
                };
                let message = format!("a session is known by {by} here, and by {other} to the sink `{sink}`");
                faults.push(Fault::new("", message, "let both have the same parts of the window in their key"));
            }
            Some(_) => {}
            None => {
                self.0.insert(window, (known_by, output.id.clone()));
            }
        }
        faults
    }

    /// Lets the windows put out all revisions that are wanted. Gives the steps with early results that nobody gets.
    pub(crate) fn apply(&self, steps: &mut [PlanStep]) -> Vec<usize> {
        for (at, (known_by, _)) in &self.0 {
            if let Some(revising) = steps.get(*at).and_then(|step| step.step.revising(*known_by)) {
                steps[*at].step = revising;
            }
        }
        let unread = |at: &usize| steps[*at].step.early().is_some() && !self.0.contains_key(at);
        (0..steps.len()).filter(unread).collect()
    }
}

/// Why somebody who is given final rows only would get nothing of an input.
pub(crate) fn never_final(who: &str) -> Fault {
    let message = format!("{who} gets rows that are final, and these are not before there are no more rows at all");
    let hint = "give a sink a `key`, which is then told each change; or let the step `top` have `per` or `keep`";
    Fault::new("", message, hint)
}

/// Whether results at an input may be said more than once.
pub(crate) fn may_be_revised(steps: &[PlanStep], input: Input) -> bool {
    let step = window_of(steps, input).and_then(|at| steps.get(at));
    step.is_some_and(|step| step.step.revising(KnownBy::Both).is_some())
}

/// The window that an input has results of.
fn window_of(steps: &[PlanStep], input: Input) -> Option<usize> {
    let Input::Step { step: at, .. } = input else { return None };
    let step = steps.get(at)?;
    if step.step.takes_revisions() { window_of(steps, *step.inputs.first()?) } else { Some(at) }
}

/// By what results are known to a sink with such a key.
fn known_by(key: &[String], names: &[&str], identity: &Identity) -> Result<KnownBy, Vec<Fault>> {
    let part = |column: &str| names.iter().position(|name| *name == column).map(|at| identity.part(at));
    let has = |wanted: Part| key.iter().any(|column| part(column) == Some(wanted));
    let called = |wanted: Part| {
        let at = identity.parts.iter().position(|part| *part == wanted)?;
        names.get(at).map(|name| (*name).to_owned())
    };
    let mut faults = Vec::new();
    for (at, column) in key.iter().enumerate() {
        if part(column) == Some(Part::Value) {
            let message = format!("`{column}` may change from one revision of a result to the next");
            let hint = "a key is made of the window, or of its start or end, and of what is grouped by";
            faults.push(Fault::new(&format!("/{at}"), message, hint));
        }
    }
    for (at, by) in identity.by.iter().enumerate().filter(|(at, _)| !has(Part::By(*at))) {
        let (message, hint) = match called(Part::By(at)) {
            Some(name) => (format!("results are told apart by `{name}`, too"), format!("add {name} to the key")),
            None => (
                format!("results are told apart by `{by}`, too, and there is no column with it any more"),
                "keep that column, and add it to the key".to_owned(),
            ),
        };
        faults.push(Fault::new("", message, hint));
    }
    let (window, start, end) = (has(Part::Window), has(Part::Start), has(Part::End));
    let (is_known, by) = match identity.bounds {
        Bounds::Either => (window || start || end, "their window"),
        Bounds::End => (window || end, "the end of their window: several begin together"),
        Bounds::Start => (window || start, "the start of their window"),
        Bounds::None => (true, ""),
    };
    if !is_known {
        let hint = match called(Part::Window) {
            Some(name) => format!("add {name} to the key"),
            None => "keep the window, and add it to the key".to_owned(),
        };
        faults.push(Fault::new("", format!("results are told apart by {by}, too"), hint));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(if window || end { KnownBy::Both } else { KnownBy::Start })
}
