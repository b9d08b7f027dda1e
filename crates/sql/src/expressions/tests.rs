#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::util::pretty::pretty_format_batches;
use weir_base::clock::SystemClock;

use super::*;

fn language() -> Language {
    Language::new(Arc::new(NoKinds), SystemClock::new())
}

fn rows() -> RecordBatch {
    let host: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("a"), Some("b"), Some("a")]));
    let n: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(3), None, Some(5), Some(6)]));
    let x: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5, 3.5, 4.5, 5.5]));
    RecordBatch::try_from_iter([("host", host), ("n", n), ("x", x)]).unwrap()
}

fn shown(rows: &RecordBatch) -> String {
    let text = pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
    let mut lines: Vec<String> = text
        .lines()
        .skip(3)
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned())
        .collect();
    lines.sort();
    lines.join("\n")
}

fn check_scalar(text: &str, expected: &str) {
    let compiled = language().scalar(&rows().schema(), "v", text);
    let actual = compiled.and_then(|scalar| {
        let values = scalar.evaluate(&rows())?;
        assert_eq!(values.data_type(), scalar.field().data_type(), "{text}");
        let cells = RecordBatch::try_from_iter([("v", values)]).unwrap();
        Ok(pretty_format_batches(&[cells]).unwrap().to_string())
    });
    let actual = match actual {
        Ok(table) => {
            let cells = table.lines().skip(3).filter(|line| line.starts_with('|'));
            cells.map(|line| line.trim_matches('|').trim().to_owned()).collect::<Vec<_>>().join(",")
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(actual, expected, "{text}");
}

#[test]
fn an_expression_gives_a_value_a_row() {
    check_scalar("n", "1,2,3,,5,6");
    check_scalar("n + 1", "2,3,4,,6,7");
    check_scalar("coalesce(host, 'unknown') || '!'", "a!,b!,unknown!,a!,b!,a!");
    check_scalar("case when n > 2 then 'many' else 'few' end", "few,few,many,few,many,many");
    check_scalar("1", "1,1,1,1,1,1");
}

#[test]
fn what_depends_on_more_than_the_row_is_refused() {
    let changing = |name: &str| {
        format!("{name}() depends on more than the row, so the results would not be the same after a restart")
    };
    check_scalar("now()", &changing("now"));
    check_scalar("n + random()", &changing("random"));
    check_scalar("uuid()", &changing("uuid"));
    check_scalar(
        "sum(n)",
        "sum() looks at many rows, and this expression is computed for one row at a time: aggregates belong into a window",
    );
    check_scalar("(select 1)", "a filter is one expression over a row: no subqueries");
    check_scalar(
        "hots",
        "there is no column `hots` at line 1, column 1; did you mean `host`?; the columns here are host, n, x",
    );
}

#[test]
fn a_condition_that_is_not_known_is_not_true() {
    let condition = language().condition(&rows().schema(), "n > 2").unwrap();
    let kept = condition.is_true(&rows()).unwrap();
    assert_eq!(kept.iter().map(|kept| kept.unwrap()).collect::<Vec<_>>(), [false, false, true, false, true, true]);
    let error = language().condition(&rows().schema(), "n").unwrap_err();
    assert_eq!(error.to_string(), "a condition is true or false, such as severity_number >= 17; this is Int64");
}

fn named(pairs: &[(&str, &str)]) -> Vec<NamedExpression> {
    pairs.iter().map(|(name, text)| NamedExpression::new(*name, *text)).collect()
}

/// The result of an aggregation, computed in one go, and in pieces that are sealed and merged.
fn check_aggregation(keys: &[(&str, &str)], select: &[(&str, &str)], expected: &str) {
    let compiled = language().aggregation(&rows().schema(), &[], &named(keys), &named(select));
    let aggregation = match compiled {
        Ok(aggregation) => aggregation,
        Err(wrong) => {
            let wrong: Vec<String> = wrong.iter().map(|(at, error)| format!("{at}: {error}")).collect();
            return assert_eq!(wrong.join("\n"), expected);
        }
    };
    let mut whole = aggregation.groups().unwrap();
    whole.update(&aggregation.arguments(&rows()).unwrap()).unwrap();
    assert_eq!(shown(&aggregation.results(Vec::new(), &whole.finish().unwrap()).unwrap()), expected);
    assert!(whole.is_empty());

    for cut in 0..=rows().num_rows() {
        let mut part = aggregation.groups().unwrap();
        let mut sum = aggregation.groups().unwrap();
        part.update(&aggregation.arguments(&rows().slice(0, cut)).unwrap()).unwrap();
        let sealed = part.take_state().unwrap();
        assert_eq!(sealed.schema(), *aggregation.state_schema());
        assert!(part.is_empty());
        let rest: Vec<u32> = (cut as u32..rows().num_rows() as u32).rev().collect();
        let rest = aggregation.arguments(&rows()).unwrap().take(&UInt32Array::from(rest)).unwrap();
        part.update(&rest).unwrap();
        sum.merge(&part.take_state().unwrap()).unwrap();
        sum.merge(&sealed).unwrap();
        assert_eq!(shown(&aggregation.results(Vec::new(), &sum.finish().unwrap()).unwrap()), expected, "cut at {cut}");
    }
}

#[test]
fn groups_are_the_same_in_one_go_and_in_pieces() {
    check_aggregation(&[("host", "host")], &[("n", "count(*)")], "1\na 3\nb 2");
    check_aggregation(
        &[("host", "host")],
        &[
            ("total", "sum(n)"),
            ("mean", "sum(n) / count(n)"),
            ("most", "max(x)"),
            ("few", "count(*) filter (where x < 3)"),
        ],
        "3 3 2.5 1\na 7 3 5.5 1\nb 7 3 4.5 1",
    );
    check_aggregation(&[], &[("n", "count(*)"), ("hosts", "count(distinct host)")], "6 2");
    check_aggregation(&[("host", "host")], &[("n", "approx_distinct(x)")], "1\na 3\nb 2");
    check_aggregation(
        &[("even", "n % 2 = 0")],
        &[("n", "count(*)"), ("middle", "median(x)")],
        "1 3.5\nfalse 3 2.5\ntrue 2 3.5",
    );
    check_aggregation(
        &[("a", "upper(host)"), ("b", "n > 2")],
        &[("label", "a || ':' || count(*)")],
        "A  A:1\nA false A:1\nA true A:1\nB false B:1\nB true B:1\ntrue",
    );
}

/// Aggregates that go by an order: of rows that are equal in it, by their values.
#[test]
fn what_is_first_does_not_depend_on_who_came_first() {
    check_aggregation(
        &[("host", "host")],
        &[("first", "first_value(n order by x)"), ("last", "last_value(n order by x)")],
        "3 3\na 1 6\nb 2 5",
    );
    check_aggregation(
        &[],
        &[("first", "first_value(host order by n % 2)"), ("last", "last_value(x order by n % 2 desc)")],
        "a 5.5",
    );
    // What is ordered by may be said twice, or be the value.
    check_aggregation(
        &[],
        &[("first", "first_value(x order by n % 2, x desc)"), ("last", "last_value(x order by n, x, n desc)")],
        "5.5 3.5",
    );
    check_aggregation(
        &[],
        &[("v", "max(to_timestamp_nanos(n)) >= max(to_timestamp_nanos(n)) - interval '5000000000 nanoseconds'")],
        "true",
    );
    check_aggregation(&[], &[("hosts", "string_agg(host, '-' order by n % 2 desc)")], "a-a-b-a-b");
    check_aggregation(&[("host", "host")], &[("all", "array_agg(n order by x desc)")], "[3]\na [6, , 1]\nb [5, 2]");
}

#[test]
fn what_has_no_single_value_in_a_group_is_refused() {
    check_aggregation(
        &[("host", "host")],
        &[("n", "count(*)"), ("x", "x + 1")],
        "2: the rows of a group may differ in x: put it into an aggregate such as max(x), or group by it",
    );
    check_aggregation(
        &[],
        &[("all", "array_agg(n)")],
        "0: the result of array_agg() depends on the order rows come in, so it would not be the same after a restart: say which order, as in array_agg(x ORDER BY time)",
    );
    // A wrong key hides no wrong value, and is not reported again by a value that names it.
    check_aggregation(
        &[("k", "nope"), ("host", "host")],
        &[("n", "count(nope2)"), ("same", "upper(k)"), ("x", "x + 1")],
        "0: there is no column `nope` at line 1, column 1; the columns here are host, n, x\n2: there is no column `nope2` at line 1, column 7; the columns here are host, n, x, k\n4: the rows of a group may differ in x: put it into an aggregate such as max(x), or group by it",
    );
    // What the engine would refuse with the first row.
    for (text, expected) in [
        ("avg(null)", "0: avg() cannot be computed of Null"),
        ("bit_or(null)", "0: bit_or() cannot be computed of Null"),
        (
            "max(map(['a'], [host]))",
            "0: max() needs values in an order, and maps have none: give it one of their values, as in max(properties['key'])",
        ),
    ] {
        check_aggregation(&[], &[("v", text)], expected);
    }
    check_aggregation(&[("n", "x")], &[], "0: the key n hides the column of that name: give it another");
    check_aggregation(&[("k", "max(x)")], &[], "0: a key is computed for each row; aggregates belong into `select`");
}

/// What is tallied is what DataFusion's accumulators give, as a state and as a result.
#[test]
fn tallies_are_what_datafusion_gives() {
    let select = [
        "count(*)",
        "count(n)",
        "count(host) FILTER (WHERE n > 2)",
        "sum(n)",
        "sum(n) FILTER (WHERE n > 2)",
        "sum(x)",
        "min(n)",
        "max(n) FILTER (WHERE x < 3)",
        "min(to_timestamp_nanos(n))",
        "max(to_timestamp_nanos(n))",
        "sum(cast(n as bigint unsigned))",
        "max(cast(n as bigint unsigned))",
    ];
    let named: Vec<NamedExpression> =
        select.iter().enumerate().map(|(at, text)| NamedExpression::new(format!("v{at}"), *text)).collect();
    let aggregation = language().aggregation(&rows().schema(), &[], &[], &named).unwrap();
    let (mut single, mut all) = (Slots::single(&aggregation).unwrap(), Slots::new(&aggregation).unwrap());
    assert!(single.are_single() && !all.are_single());
    assert!(all.some(&[0]).is_none());
    let arguments = aggregation.arguments(&rows()).unwrap();
    for slots in [&mut single, &mut all] {
        slots.update(&arguments, &[0, 1, 2, 2, 1, 0], 3).unwrap();
        slots.update(&arguments, &[3, 3, 3, 4, 3, 3], 5).unwrap();
    }
    let some = single.some(&[4, 1]).unwrap();
    let states = all.take_state().unwrap();
    for (some, state) in some.iter().zip(&states) {
        let expected = arrow::compute::take(state, &UInt32Array::from(vec![4, 1]), None).unwrap();
        assert_eq!(some, &expected);
    }
    let taken = single.take_state().unwrap();
    assert_eq!(taken, states);
    for slots in [&mut single, &mut all] {
        slots.merge(&states, &[1, 0, 1, 0, 2], 3).unwrap();
    }
    let (single, all) = (single.finish(Vec::new()).unwrap(), all.finish(Vec::new()).unwrap());
    assert_eq!((single.values, single.rows), (all.values, all.rows));
    // A slot that is begun anew is like one without rows.
    let mut slots = Slots::single(&aggregation).unwrap();
    slots.update(&arguments, &[0; 6], 1).unwrap();
    slots.clear(0);
    slots.update(&arguments, &[1, 0, 1, 1, 1, 1], 2).unwrap();
    let mut fresh = Slots::single(&aggregation).unwrap();
    fresh.update(&arguments, &[1, 0, 1, 1, 1, 1], 2).unwrap();
    assert_eq!(slots.take_state().unwrap(), fresh.take_state().unwrap());
}

/// First and last texts are those of DataFusion in whatever pieces the rows come, and what the one has begun the other goes on
/// with. Times have ties and nulls, texts too.
#[test]
fn first_and_last_texts_are_what_datafusion_gives() {
    let orders = ["n", "n desc", "n nulls first", "n desc nulls last", "to_timestamp_nanos(n)"];
    let select: Vec<String> = orders
        .iter()
        .flat_map(|order| ["first_value", "last_value"].map(|name| format!("{name}(host order by {order})")))
        .chain(["last_value(host order by n) filter (where host is not null)".to_owned()])
        .chain(["first_value(host order by n) filter (where x > 100)".to_owned()])
        .collect();
    let named: Vec<NamedExpression> =
        select.iter().enumerate().map(|(at, text)| NamedExpression::new(format!("v{at}"), text)).collect();
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut batch = |n_rows: usize| {
        let host: StringArray = (0..n_rows).map(|_| ["a", "b", "c"].get(next(4) as usize).copied()).collect();
        let n: Int64Array = (0..n_rows).map(|_| Some(next(6) as i64).filter(|n| *n < 5)).collect();
        let x: Float64Array = (0..n_rows).map(|_| Some(next(10) as f64)).collect();
        let columns = [("host", Arc::new(host) as ArrayRef), ("n", Arc::new(n)), ("x", Arc::new(x))];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let groups: Vec<usize> = (0..n_rows).map(|_| next(5) as usize).collect();
        (rows, groups)
    };
    let aggregation = language().aggregation(&rows().schema(), &[], &[], &named).unwrap();
    let with_ties = |slots: &mut Slots| slots.finish(Vec::new()).unwrap().values;
    for round in 0..50 {
        let (mut single, mut all) = (Slots::single(&aggregation).unwrap(), Slots::new(&aggregation).unwrap());
        assert!(single.are_single() && !all.are_single());
        let mut merged = Slots::single(&aggregation).unwrap();
        for _ in 0..1 + round % 4 {
            let (rows, groups) = batch(1 + round % 7);
            let arguments = aggregation.arguments(&rows).unwrap();
            single.update(&arguments, &groups, 6).unwrap();
            all.update(&arguments, &groups, 6).unwrap();
            let (mut piece, mut other) = (Slots::single(&aggregation).unwrap(), Slots::new(&aggregation).unwrap());
            piece.update(&arguments, &groups, 6).unwrap();
            other.update(&arguments, &groups, 6).unwrap();
            // Its own state and that of DataFusion.
            merged.merge(&piece.some(&[0, 1, 2, 3, 4, 5]).unwrap(), &[0, 1, 2, 3, 4, 5], 6).unwrap();
            assert_eq!(piece.take_state().unwrap().len(), aggregation.state_schema().fields().len());
            merged.merge(&other.take_state().unwrap(), &[0, 1, 2, 3, 4, 5], 6).unwrap();
        }
        let bytes = single.bytes();
        let expected = with_ties(&mut all);
        assert_eq!(with_ties(&mut single), expected, "round {round}");
        assert_eq!(with_ties(&mut merged), expected, "round {round}, merged");
        assert!(bytes > 0 && single.bytes() < bytes);
    }
    // A slot that is begun anew is like one without rows, and its state is one DataFusion takes.
    let (rows, _) = batch(20);
    let arguments = aggregation.arguments(&rows).unwrap();
    let mut slots = Slots::single(&aggregation).unwrap();
    slots.update(&arguments, &[0; 20], 2).unwrap();
    slots.clear(0);
    let mut all = Slots::new(&aggregation).unwrap();
    all.merge(&slots.take_state().unwrap(), &[0, 1], 2).unwrap();
    assert!(with_ties(&mut all).iter().all(|values| values.null_count() == 2));
}
