//! `tumble`, `hop`, `cumulate` and `session`: which windows are asked for.

use std::time::Duration;

use arrow::compute::kernels::cast_utils::{IntervalParseConfig, IntervalUnit, parse_interval_month_day_nano_config};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Interval, UnaryOperator, Value,
};
use weir_base::quantity::Span;

use super::rewrite::{Relations, bare, column_of, function_name, name_of, position_of};
use super::times::Time;
use super::{StreamProblem, Timing, Windows};

/// How each function is called.
const TUMBLE: &str = "tumble(time, size), for example tumble(time, interval '1 minute')";
const HOP: &str = "hop(time, every, size), for example hop(time, interval '1 minute', interval '5 minutes')";
const CUMULATE: &str = "cumulate(time, every, size), for example cumulate(time, interval '1 hour', interval '1 day')";
const SESSION: &str = "session(time, gap), for example session(time, interval '30 minutes')";

/// The call, if an expression calls a function of windows, even one there is not.
pub(super) fn window_function(expr: &Expr) -> Option<&Function> {
    match bare(expr) {
        Expr::Function(function) if is_window_name(&function_name(function)) => Some(function),
        _ => None,
    }
}

/// Whether that is the name of a function of windows, here or elsewhere.
pub(crate) fn is_window_name(name: &str) -> bool {
    matches!(
        name,
        "tumble"
            | "hop"
            | "session"
            | "cumulate"
            | "tumbling"
            | "hopping"
            | "slide"
            | "tumble_start"
            | "tumble_end"
            | "hop_start"
            | "hop_end"
            | "session_start"
            | "session_end"
            | "cumulate_start"
            | "cumulate_end"
            | "window"
    )
}

/// What a call of a function of windows cuts.
pub(super) fn first_argument(call: &Expr) -> Option<&Expr> {
    let FunctionArguments::List(list) = &window_function(call)?.args else { return None };
    list.args.iter().find_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    })
}

/// Reads a call. `time` is the event time where it stands, of rows of `relations`.
pub(super) fn read(expr: &Expr, time: &Time, relations: &Relations) -> Result<(Windows, Timing), StreamProblem> {
    let here = position_of(expr);
    let Some(function) = window_function(expr) else {
        return Err(StreamProblem::new("there is no window", format!("use {TUMBLE}"), here));
    };
    let name = function_name(function);
    let usage = match name.as_str() {
        "tumble" => TUMBLE,
        "hop" => HOP,
        "cumulate" => CUMULATE,
        "session" => SESSION,
        "tumble_start" | "tumble_end" | "hop_start" | "hop_end" | "session_start" | "session_end" => {
            let hint = "name the window, tumble(...) AS w, and take w.start or w.end of it in a query around this one";
            return Err(StreamProblem::new(format!("there is no function {name}"), hint, here));
        }
        _ => {
            let hint = format!("use {TUMBLE}; or hop, cumulate or session");
            return Err(StreamProblem::new(format!("there is no function {name}"), hint, here));
        }
    };
    let (function, timing) = timing(function)?;
    let arguments = arguments(&function).ok_or_else(|| {
        let message = format!("{name} is called with expressions, and beside them `lateness` and `early` by name");
        StreamProblem::new(message, usage, here)
    })?;
    let (least, most) = match name.as_str() {
        "tumble" => (1, 2),
        "session" => (1, 1),
        _ => (2, 3),
    };
    let (first, spans) = match arguments.as_slice() {
        [first, spans @ ..] if spans.len() >= least && spans.len() <= most => (*first, spans),
        _ => {
            let counts = if least == most { (least + 1).to_string() } else { format!("{} or {}", least + 1, most + 1) };
            let message = format!("{name} takes {counts} arguments, not {}", arguments.len());
            return Err(StreamProblem::new(message, usage, here));
        }
    };
    time.check(&name, first, relations)?;
    let windows = match (name.as_str(), spans) {
        ("session", [gap, ..]) => Ok(Windows::Session { gap: positive(gap, "gap")? }),
        ("tumble", [size, offset @ ..]) => {
            let size = positive(size, "size")?;
            Ok(Windows::Tumbling { size, offset: offset_within(size, offset.first())? })
        }
        ("hop", [every, size, offset @ ..]) => {
            let (every, size) = (positive(every, "distance")?, positive(size, "size")?);
            Ok(Windows::Hopping { size, every, offset: offset_within(every, offset.first())? })
        }
        (_, [every, size, offset @ ..]) => {
            let (every, size) = (positive(every, "distance")?, positive(size, "size")?);
            Ok(Windows::Cumulative { size, every, offset: offset_within(size, offset.first())? })
        }
        _ => Err(StreamProblem::new("there is no size", usage, here)),
    };
    Ok((windows?, timing))
}

/// The call without the arguments that have a name, and what these say.
fn timing(function: &Function) -> Result<(Function, Timing), StreamProblem> {
    let mut plain = function.clone();
    let mut timing = Timing::default();
    if let FunctionArguments::List(list) = &mut plain.args {
        let mut problem = None;
        list.args.retain(|argument| {
            let (name, value) = match argument {
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => (name_of(name), value),
                FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(value), .. } => match column_of(name) {
                    Some(name) => (name, value),
                    None => return true,
                },
                _ => return true,
            };
            let place = match name.as_str() {
                "lateness" => &mut timing.lateness,
                "early" => &mut timing.early,
                _ => return true,
            };
            match nanos(value).map(|nanos| (nanos, u64::try_from(nanos))) {
                Ok((nanos, Ok(length))) if nanos <= i128::from(i64::MAX) => *place = Some(Duration::from_nanos(length)),
                Ok(_) => {
                    let message = format!("{name} is a length of time below 292 years, not {value}");
                    problem.get_or_insert(StreamProblem::new(message, "", position_of(value)));
                }
                Err(found) => {
                    problem.get_or_insert(found);
                }
            }
            false
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok((plain, timing))
}

/// Where windows begin, as a part of what they repeat after.
fn offset_within(period: Duration, offset: Option<&&Expr>) -> Result<Duration, StreamProblem> {
    let Some(offset) = offset else { return Ok(Duration::ZERO) };
    let period = i128::try_from(period.as_nanos()).unwrap_or(i128::MAX);
    Ok(Duration::from_nanos(u64::try_from(nanos(offset)?.rem_euclid(period)).unwrap_or_default()))
}

/// The arguments of a call that has nothing else.
pub(super) fn arguments(function: &Function) -> Option<Vec<&Expr>> {
    let is_plain = function.filter.is_none() && function.over.is_none() && function.within_group.is_empty();
    let FunctionArguments::List(list) = &function.args else { return None };
    if !is_plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let expression = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Some(expr),
        _ => None,
    };
    list.args.iter().map(expression).collect()
}

fn positive(expr: &Expr, what: &str) -> Result<Duration, StreamProblem> {
    let nanos = nanos(expr)?;
    match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 && nanos <= i64::MAX.cast_unsigned() => Ok(Duration::from_nanos(nanos)),
        _ => Err(StreamProblem::new(
            format!("the {what} of a window is more than nothing and less than 292 years, not {expr}"),
            "",
            position_of(expr),
        )),
    }
}

/// A length of time in nanoseconds: an interval, or text such as `1m`.
pub(super) fn nanos(expr: &Expr) -> Result<i128, StreamProblem> {
    let here = position_of(expr);
    let not_a_length = || {
        StreamProblem::new(format!("{expr} is not a length of time"), "write interval '1 minute', for example", here)
    };
    let text = match bare(expr) {
        Expr::Interval(interval) => interval_text(interval).ok_or_else(not_a_length)?,
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => match text.parse::<Span>() {
                Ok(span) => return Ok(i128::try_from(span.0.as_nanos()).unwrap_or(i128::MAX)),
                Err(_) => text.clone(),
            },
            _ => return Err(not_a_length()),
        },
        _ => return Err(not_a_length()),
    };
    let parsed = parse_interval_month_day_nano_config(&text, IntervalParseConfig::new(IntervalUnit::Second))
        .map_err(|_| not_a_length())?;
    if parsed.months != 0 {
        return Err(StreamProblem::new(
            format!("{expr} has no fixed length: months and years differ"),
            "use days, for example interval '30 days'",
            here,
        ));
    }
    Ok(i128::from(parsed.days) * 86_400_000_000_000 + i128::from(parsed.nanoseconds))
}

/// `interval '5' minute` and `interval '5 minutes'` as one text.
fn interval_text(interval: &Interval) -> Option<String> {
    if interval.last_field.is_some() || interval.leading_precision.is_some() {
        return None;
    }
    let (sign, value) = match interval.value.as_ref() {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => ("-", expr.as_ref()),
        value => ("", value),
    };
    let Expr::Value(value) = value else { return None };
    let text = match &value.value {
        Value::SingleQuotedString(text) | Value::Number(text, _) => text,
        _ => return None,
    };
    Some(match &interval.leading_field {
        Some(field) => format!("{sign}{text} {field}"),
        None => format!("{sign}{text}"),
    })
}
