//! Aggregates of a document with a state of their own: what one row comes to, how two of those are put together, and
//! what is made of the last one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, visit_expressions_mut};

use super::{Defined, Definition, WrongDefinition, calls_aggregates, name_of, signature, without_places};
use crate::aggregates::fold::{FOLD, Merge, other};
use crate::gate::gate_predicate;

/// The most fields of a state.
const FIELDS_MAX: usize = 16;
/// What the other state is called in an expression that puts two together.
const OTHER: &str = "other";

/// An aggregate of a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefinedAggregate {
    /// Its name with its arguments.
    pub call: String,
    /// The fields of the state, each with what it is for one row.
    pub state: Vec<(String, String)>,
    /// The same fields, each with what it is for two states.
    pub merge: Vec<(String, String)>,
    /// What is made of the state.
    pub finish: String,
}

impl Defined {
    /// The same, and aggregates, which may call the functions.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn with_aggregates(mut self, aggregates: &[DefinedAggregate]) -> Result<Self, Vec<WrongDefinition>> {
        let mut wrong = Vec::new();
        let mut found: Vec<(String, Definition, Merge)> = Vec::new();
        for (at, aggregate) in aggregates.iter().enumerate() {
            match self.aggregate(aggregate) {
                Ok((name, ..)) if found.iter().any(|(known, ..)| *known == name) => {
                    wrong.push(WrongDefinition::new(at, format!("the aggregate {name} is defined twice"), ""));
                }
                Ok(aggregate) => found.push(aggregate),
                Err(of_it) => wrong.extend(of_it.into_iter().map(|problem| WrongDefinition { at, ..problem })),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        for (name, definition, merge) in found {
            self.functions.insert(name, definition);
            self.merges.push(merge);
        }
        Ok(self)
    }

    fn aggregate(&self, aggregate: &DefinedAggregate) -> Result<(String, Definition, Merge), Vec<WrongDefinition>> {
        let DefinedAggregate { call, state, merge, finish } = aggregate;
        let (name, arguments) = signature(call).map_err(|wrong| vec![wrong])?;
        Self::check_name(&name).map_err(|wrong| vec![wrong])?;
        if self.functions.contains_key(&name) {
            return Err(vec![WrongDefinition::new(
                0,
                format!("there is a function {name} already"),
                "give it another name",
            )]);
        }
        let mut problems = Vec::new();
        let mut refuse = |part: &str, message: String, hint: &str| {
            problems.push(WrongDefinition { part: part.to_owned(), ..WrongDefinition::new(0, message, hint) });
        };
        if state.is_empty() || state.len() > FIELDS_MAX {
            refuse("/state", format!("a state has 1 to {FIELDS_MAX} fields"), "");
        }
        for (field, _) in state.iter().filter(|(field, _)| signature(&format!("{field}()")).is_err()) {
            refuse("/state", format!("`{field}` is not the name of a field"), "use a-z, 0-9 and _");
        }
        for (field, _) in state.iter().filter(|(field, _)| merge.iter().all(|(merged, _)| merged != field)) {
            let hint = format!("for example {field}: \"{field} + {OTHER}.{field}\"");
            refuse("/merge", format!("it is not said what `{field}` of two states is"), &hint);
        }
        for (field, _) in merge.iter().filter(|(field, _)| state.iter().all(|(known, _)| known != field)) {
            refuse(&format!("/merge/{field}"), format!("the state has no field `{field}`"), "");
        }
        let fields: Vec<String> = state.iter().map(|(field, _)| field.clone()).collect();
        let both: Vec<String> = fields.iter().cloned().chain(fields.iter().map(|field| other(field))).collect();
        let mut texts = |part: &str, expressions: &[(String, String)], known: &[String]| {
            let mut texts = Vec::new();
            for (field, text) in expressions {
                match self.part(text, known) {
                    Ok(expr) => texts.push((field.clone(), expr.to_string())),
                    Err(wrong) => problems.push(WrongDefinition { part: format!("/{part}/{field}"), ..wrong }),
                }
            }
            texts
        };
        let state = texts("state", state, &arguments);
        let merge = texts("merge", merge, &both);
        let finish = self.part(finish, &fields);
        let finish = finish.map_err(|wrong| problems.push(WrongDefinition { part: "/finish".to_owned(), ..wrong }));
        let (Ok(finish), true) = (finish, problems.is_empty()) else { return Err(problems) };
        // Whoever goes on with sums of another kind has to know it.
        let fold = format!("{FOLD}{name}_{:08x}", digest(&merge));
        let body = body(&fold, &state, finish).map_err(|wrong| vec![wrong])?;
        let merge = Merge { name: fold, shown: name.clone(), fields: merge };
        Ok((name, Definition { arguments, body: without_places(body), is_aggregate: true }, merge))
    }

    /// One expression, over `known` and nothing else, with the calls of functions written out.
    fn part(&self, text: &str, known: &[String]) -> Result<Expr, WrongDefinition> {
        let mut expr = gate_predicate(text).map_err(WrongDefinition::of)?.expr;
        let _ = visit_expressions_mut(&mut expr, |part| {
            if let Expr::CompoundIdentifier(parts) = part
                && let [of, field] = parts.as_slice()
                && name_of(of) == OTHER
            {
                let ident = Ident { span: of.span, ..Ident::with_quote('"', other(&name_of(field))) };
                *part = Expr::Identifier(ident);
            }
            ControlFlow::<()>::Continue(())
        });
        if let Some(wrong) = self.wrong_in(&expr, known, &[]) {
            return Err(wrong);
        }
        self.expand(&mut expr).map_err(WrongDefinition::of)?;
        if calls_aggregates(&expr) {
            let message = "a part of an aggregate is computed of one row or state, and calls no aggregate";
            return Err(WrongDefinition::new(0, message, "put it into a function around this one"));
        }
        Ok(expr)
    }
}

/// What a call stands for: `finish`, over the fields of what all rows come to.
fn body(fold: &str, state: &[(String, String)], mut finish: Expr) -> Result<Expr, WrongDefinition> {
    let parse = |text: &str| gate_predicate(text).map(|parsed| parsed.expr).map_err(WrongDefinition::of);
    let fields: Vec<String> = state.iter().map(|(field, text)| format!("'{field}', {text}")).collect();
    let call = format!("{fold}(named_struct({}))", fields.join(", "));
    let mut parts = Vec::with_capacity(state.len());
    for (field, _) in state {
        parts.push((field, parse(&format!("get_field({call}, '{field}')"))?));
    }
    let _ = visit_expressions_mut(&mut finish, |part| {
        if let Expr::Identifier(ident) = part
            && let Some((_, value)) = parts.iter().find(|(field, _)| **field == name_of(ident))
        {
            *part = value.clone();
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(finish)
}

/// The same for the same expressions, in every version of Weir (FNV-1a, of 32 bits).
fn digest(merge: &[(String, String)]) -> u32 {
    let bytes = merge.iter().flat_map(|(field, text)| [field.as_bytes(), b"=", text.as_bytes(), b";"].concat());
    bytes.fold(0x811c_9dc5, |digest: u32, byte| (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
