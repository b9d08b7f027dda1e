#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use weir_base::clock::SystemClock;

use super::*;
use crate::expressions::{Language, NamedExpression, NoKinds};

fn defined(definitions: &[(&str, &str)]) -> Result<Defined, Vec<WrongDefinition>> {
    let owned: Vec<(String, String)> =
        definitions.iter().map(|(call, body)| ((*call).to_owned(), (*body).to_owned())).collect();
    Defined::new(&owned)
}

fn rates() -> Defined {
    defined(&[
        ("share(part, whole)", "part / nullif(whole, 0)"),
        ("failures(status)", "sum(CASE WHEN status >= 500 THEN 1 ELSE 0 END)"),
        ("error_rate(status)", "share(failures(status) * 1.0, count(*))"),
        ("weighted(value, weight)", "sum(value * weight) / sum(weight) FILTER (WHERE weight > 0)"),
    ])
    .unwrap()
}

#[test]
fn calls_are_written_out() {
    let rates = rates();
    let check = |text: &str, expected: &str| {
        let mut expr = gate_predicate(text).unwrap().expr;
        let actual = match rates.expand(&mut expr) {
            Ok(()) => expr.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(actual, expected, "{text}");
    };
    check("n + 1", "n + 1");
    check("share(a + b, 2)", "((a + b) / nullif((2), 0))");
    check(
        "error_rate(code) > 0.5",
        "((((sum(CASE WHEN ((code)) >= 500 THEN 1 ELSE 0 END)) * 1.0) / nullif((count(*)), 0))) > 0.5",
    );
    check("share(1)", "share takes 2 arguments and was given 1: share(part, whole)");
    check("share(a, b) FILTER (WHERE c)", "share calls no aggregates, so there is nothing to FILTER");
    check("failures(DISTINCT a)", "failures is called as failures(status), without DISTINCT, ORDER BY or OVER");
    check(
        "weighted(v, w) FILTER (WHERE ok)",
        "(sum((v) * (w)) FILTER (WHERE ok) / sum((w)) FILTER (WHERE ((w) > 0) AND (ok)))",
    );
}

#[test]
fn wrong_definitions_have_their_reason() {
    let check = |definitions: &[(&str, &str)], expected: &[&str]| {
        let wrong = defined(definitions).err().unwrap_or_default();
        let shown = |wrong: &WrongDefinition| {
            let inside = wrong.inside.map_or(String::new(), |(line, column)| format!(" at {line}:{column}"));
            let hint = if wrong.hint.is_empty() { String::new() } else { format!(" ({})", wrong.hint) };
            format!("{}{inside}: {}{hint}", wrong.at, wrong.message)
        };
        assert_eq!(wrong.iter().map(shown).collect::<Vec<_>>(), expected);
    };
    check(
        &[("rate(status)", "count(*) FILTER (WHERE statsu > 1)"), ("b(x)", "y.z"), ("c()", "d")],
        &[
            "0 at 1:24: `statsu` is no argument of the function (did you mean `status`?)",
            "1 at 1:1: a function knows its arguments, and no tables (a part of an argument is written argument['part'])",
            "2 at 1:1: `d` is no argument of the function (it has no arguments)",
        ],
    );
    check(
        &[("a(x)", "1 + a(x)"), ("b(x)", "c(x)"), ("c(x)", "x + 1"), ("c(y)", "y")],
        &[
            "0 at 1:5: a calls itself, which would never end (say what it is without it)",
            "1 at 1:1: c is defined after it (define it before)",
            "3: the function c is defined twice",
        ],
    );
    check(
        &[
            ("sum(x)", "x"),
            ("mean(x)", "x"),
            ("tumble(x)", "x"),
            ("hop_start(x)", "x"),
            ("row_number()", "1"),
            ("date(x)", "x"),
        ],
        &[
            "0: there is a function sum already (give it another name)",
            "1: there is a function mean already (give it another name)",
            "2: there is a function tumble already (give it another name)",
            "3: there is a function hop_start already (give it another name)",
            "4: there is a function row_number already (give it another name)",
            "5: date is a word of SQL itself (give it another name)",
        ],
    );
    check(
        &[("sum(x)", "x"), ("lower(x)", "x"), ("Rate(x)", "x"), ("rate", "1"), ("r(x, x)", "x")],
        &[
            "0: there is a function sum already (give it another name)",
            "1: there is a function lower already (give it another name)",
            "2: `Rate(x)` is not the name of a function with its arguments (write a name with its arguments, such as error_rate(status))",
            "3: `rate` is not the name of a function with its arguments (write a name with its arguments, such as error_rate(status))",
            "4: two arguments are called `x`",
        ],
    );
    check(
        &[("a(x)", "count(*) / x"), ("b(x)", "(SELECT 1)"), ("c(x)", "x +")],
        &[
            "0: the rows of a group may differ in `x`, which is no argument of an aggregate here (put it into an aggregate such as max(...))",
            "1: a filter is one expression over a row: no subqueries",
            "2: expected: an expression, found: EOF",
        ],
    );
    // Each is twice as long as the one before.
    let names: Vec<(String, String)> = (0..20)
        .map(|at| {
            (format!("f{at}(x)"), if at == 0 { "x + x".to_owned() } else { format!("f{0}(x) + f{0}(x)", at - 1) })
        })
        .collect();
    let wrong = Defined::new(&names).err().unwrap();
    assert!(wrong[0].message.contains("more than 10000 parts"), "{}", wrong[0].message);
    // One that uses its argument often, called in itself: counted before it is written out.
    let wide = format!("coalesce({})", vec!["x"; 3000].join(", "));
    let definitions = [("wide(x)".to_owned(), wide), ("wider(x)".to_owned(), "wide(wide(x))".to_owned())];
    let wrong = Defined::new(&definitions).err().unwrap();
    assert!(wrong[0].message.contains("more than 10000 parts"), "{}", wrong[0].message);
    // Each call is small, and all of them together are not; nor is one in the other.
    let chain = format!("x{}", " + 1".repeat(400));
    let defined = Defined::new(&[("chain(x)".to_owned(), chain)]).unwrap();
    let expand = |text: String| {
        let mut parsed = gate_predicate(&text).unwrap();
        defined.expand(&mut parsed.expr).map(|()| parsed.expr.to_string().len())
    };
    assert!(expand("chain(a)".to_owned()).is_ok());
    assert!(expand("chain(chain(a))".to_owned()).unwrap_err().to_string().contains("nest deeper than 500"));
    let many = |calls: usize| vec!["chain(a)"; calls].join(" OR ");
    assert!(expand(many(10)).is_ok());
    assert!(expand(many(20)).unwrap_err().to_string().contains("more than 10000 parts"));
}

/// What is put together two and two is what the function there is makes of the same rows, however these are cut, and what
/// is held are the groups and not the rows.
#[test]
fn states_of_a_documents_own_come_to_the_same() {
    let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let mine = DefinedAggregate {
        call: "mine(x)".to_owned(),
        state: vec![pair("total", "x"), pair("n", "1")],
        merge: vec![pair("total", "total + other.total"), pair("n", "n + other.n")],
        finish: "total * 1000 + n".to_owned(),
    };
    let defined = Defined::default().with_aggregates(&[mine]).unwrap();
    let language = Language::new(Arc::new(NoKinds), SystemClock::new()).with(defined);
    let mut drawn = 7_u64;
    let mut draw = |bound: u64| {
        drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((drawn >> 33) % bound).unwrap()
    };
    let mut rows = |count: i64| {
        let (keys, values): (Vec<i64>, Vec<i64>) = (0..count).map(|_| (draw(500), draw(90) - 40)).unzip();
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        RecordBatch::try_from_iter([("k", column(keys)), ("v", column(values))]).unwrap()
    };
    let condition = "FILTER (WHERE v % 3 <> 0)";
    let select = [
        NamedExpression::new("mine", format!("mine(v) {condition}")),
        NamedExpression::new("known", format!("sum(v) {condition} * 1000 + count(*) {condition}")),
    ];
    let aggregation = language.aggregation(&rows(0).schema(), &[], &[NamedExpression::new("k", "k")], &select).unwrap();
    let mut groups = aggregation.groups().unwrap();
    for round in 0..300 {
        let rows = rows(1 + round * 7 % 90);
        groups.update(&aggregation.arguments(&rows).unwrap()).unwrap();
        if round % 37 == 0 {
            let state = groups.take_state().unwrap();
            groups = aggregation.groups().unwrap();
            groups.merge(&state).unwrap();
        }
    }
    assert!(groups.bytes() < 1 << 20, "{} bytes", groups.bytes());
    let results = aggregation.results(Vec::new(), &groups.finish().unwrap()).unwrap();
    assert!(results.num_rows() > 400);
    assert_eq!(results.column(1), results.column(2));
}

/// Whoever goes on with the states of another definition has to know it: a call is written out with what it is merged by.
#[test]
fn another_merge_is_another_function() {
    let written = |merge: &str| {
        let pair = |text: &str| vec![("n".to_owned(), text.to_owned())];
        let (call, finish) = ("mine(x)".to_owned(), "n".to_owned());
        let mine = DefinedAggregate { call, state: pair("x"), merge: pair(merge), finish };
        let defined = Defined::default().with_aggregates(&[mine]).unwrap();
        Language::new(Arc::new(NoKinds), SystemClock::new()).with(defined).written_out("mine(v)")
    };
    assert_ne!(written("n + other.n"), written("n * other.n"));
    assert_eq!(written("n + other.n"), written("n  +  other.n"));
}
