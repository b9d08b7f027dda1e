//! The steps of a query mean what the query means: both are run over the same rows by the query engine,
//! the query with its windows written out, each step as a query over the step before.

#![allow(clippy::disallowed_methods, reason = "the queries are those of this file")]

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::super::*;

const MINUTE: i64 = 60_000_000_000;

/// Rows of four minutes around 1970, with nulls.
fn rows() -> RecordBatch {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let schema = Schema::new(vec![
        Field::new("t", time, true),
        Field::new("path", DataType::Utf8, true),
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
    ]);
    let times = TimestampNanosecondArray::from_iter_values((0..40).map(|row: i64| (row * 7 % 40 - 20) * MINUTE / 10));
    let paths = StringArray::from_iter((0..40).map(|row| ["/a", "/A", "/b"].get(row % 4).copied()));
    let a = Int64Array::from_iter((0..40).map(|row: i64| (row % 5 != 0).then_some(row % 7)));
    let b = Int64Array::from_iter_values((0..40).map(|row: i64| row % 3));
    RecordBatch::try_new(
        Arc::new(schema),
        vec![Arc::new(times.with_timezone("UTC")), Arc::new(paths), Arc::new(a), Arc::new(b)],
    )
    .unwrap()
}

/// The window of a time as an expression of a query.
fn window_of(time: &str, size: &str) -> String {
    let start = format!("date_bin(interval '{size}', {time}, timestamp '1970-01-01')");
    format!("named_struct('start', {start}, 'end', {start} + interval '{size}')")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A step over `input`, and its columns.
fn as_query(step: &StreamStep, columns: &[String]) -> (String, Vec<String>) {
    let list = |named: &[Named]| -> Vec<String> {
        named.iter().map(|named| format!("{} AS {}", named.value.text, quoted(&named.name))).collect()
    };
    match step {
        StreamStep::Filter(condition) => (format!("SELECT * FROM input WHERE {}", condition.text), columns.to_vec()),
        StreamStep::Set(set) => {
            let mut after = columns.to_vec();
            after.extend(set.iter().map(|named| named.name.clone()).filter(|name| !columns.contains(name)));
            let select: Vec<String> = after
                .iter()
                .map(|name| match set.iter().find(|named| named.name == *name) {
                    Some(named) => format!("{} AS {}", named.value.text, quoted(name)),
                    None => quoted(name),
                })
                .collect();
            (format!("SELECT {} FROM input", select.join(", ")), after)
        }
        StreamStep::Keep(names) => {
            let select: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            (format!("SELECT {} FROM input", select.join(", ")), names.clone())
        }
        StreamStep::Drop(names) => {
            as_query(&StreamStep::Keep(columns.iter().filter(|name| !names.contains(name)).cloned().collect()), columns)
        }
        StreamStep::Rename(names) => {
            let new = |name: &String| names.iter().find(|(from, _)| from == name).map_or(name, |(_, to)| to).clone();
            let select: Vec<String> =
                columns.iter().map(|name| format!("{} AS {}", quoted(name), quoted(&new(name)))).collect();
            (format!("SELECT {} FROM input", select.join(", ")), columns.iter().map(new).collect())
        }
        StreamStep::Window(window) => {
            let Windows::Tumbling { size, .. } = window.windows else { panic!("{:?}", window.windows) };
            let size = format!("{} minutes", size.as_secs() / 60);
            let time = if columns.iter().any(|name| name == "t") { "t" } else { "at" };
            let mut select = vec![format!("{} AS \"window\"", window_of(time, &size))];
            select.extend(list(&window.by));
            select.extend(list(&window.select));
            let group: Vec<String> = (1..=window.by.len() + 1).map(|at| at.to_string()).collect();
            let names = std::iter::once("window".to_owned());
            let names = names.chain(window.by.iter().chain(&window.select).map(|named| named.name.clone()));
            (format!("SELECT {} FROM input GROUP BY {}", select.join(", "), group.join(", ")), names.collect())
        }
        other => panic!("{other:?} is no step over one query"),
    }
}

/// The rows of a query as sorted lines, with the names of the columns before them.
async fn run(context: &SessionContext, sql: &str) -> Result<(Vec<RecordBatch>, Vec<String>), String> {
    let frame = context.sql(sql).await.map_err(|error| error.to_string())?;
    let names = frame.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join("|");
    let batches = frame.collect().await.map_err(|error| error.to_string())?;
    let shown = pretty_format_batches(&batches).unwrap().to_string();
    let mut lines: Vec<String> = shown
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(1)
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join("|"))
        .collect();
    lines.sort();
    lines.insert(0, names);
    Ok((batches, lines))
}

fn context(batches: Vec<RecordBatch>) -> SessionContext {
    let context = SessionContext::new();
    let schema = batches[0].schema();
    let table = datafusion::datasource::MemTable::try_new(schema, vec![batches]).unwrap();
    context.register_table("input", Arc::new(table)).unwrap();
    context
}

/// `written` is the query with `{w}` for the window of `t` and `{at}` for that of `at`.
///
/// Without the columns a name in `GROUP BY` that is one of the select list's is taken for that.
async fn compare(template: &str, knows: &[bool]) {
    let call = |time: &str| format!("tumble({time}, interval '2 minutes')");
    let sql = template.replace("{w}", &call("t")).replace("{at}", &call("at"));
    let batch = template.replace("{w}", &window_of("t", "2 minutes")).replace("{at}", &window_of("at", "2 minutes"));
    let (_, expected) = run(&context(vec![rows()]), &batch).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));

    let known: Vec<String> = ["t", "path", "a", "b"].map(str::to_owned).to_vec();
    for knows in knows {
        let columns = knows.then_some(known.as_slice());
        let steps = translate(&sql, &[Input { time: Some("t"), columns, ..Input::default() }])
            .unwrap_or_else(|found| panic!("{sql}\n{found:?}"));
        let mut batches = vec![rows()];
        let mut names = known.clone();
        let mut lines = Vec::new();
        for Placed { step, .. } in &steps {
            let (query, after) = as_query(step, &names);
            let context = context(batches);
            let found = run(&context, &query).await;
            (batches, lines) = found.unwrap_or_else(|error| panic!("{sql}\n{query}\n{error}"));
            // A query without any rows has no batches.
            if batches.is_empty() {
                let schema = context.sql(&query).await.unwrap().schema().as_arrow().clone();
                batches = vec![RecordBatch::new_empty(Arc::new(schema))];
            }
            names = after;
        }
        if steps.is_empty() {
            lines = run(&context(batches), "SELECT * FROM input").await.unwrap().1;
        }
        assert_eq!(lines, expected, "{sql}\n{steps:#?}");
    }
}

#[tokio::test]
async fn steps_mean_what_the_query_means() {
    for template in [
        "SELECT * FROM input",
        "SELECT b AS a, a AS b, t FROM input WHERE a > 2",
        "SELECT * EXCEPT (a), a + 1 AS c FROM input",
        "SELECT x + 1 AS y, t AS z FROM (SELECT a + b AS x, t FROM input) AS s WHERE s.x > 3",
        "SELECT {w} AS w, path, count(*) AS n FROM input GROUP BY 1, 2",
        "SELECT count(*) AS n, {w} AS w FROM input GROUP BY {w}, lower(path)",
        "SELECT {w} AS w, upper(path) AS path, sum(a) AS s FROM input GROUP BY 1, path",
        "SELECT {w} AS w, upper(path) AS p, sum(a) / count(*) AS s, count(*) AS n FROM input GROUP BY w, p HAVING count(*) > 1 AND max(b) > 1",
        "SELECT {w} AS w, a AS b, b AS a, count(*) AS n FROM input GROUP BY 1, input.a, input.b",
        "SELECT {w} AS w, count(*) AS \"window\" FROM input GROUP BY 1",
        "SELECT {w}['start'] AS s, a + b AS c, (a + b) * 2 AS d FROM input GROUP BY {w}, a + b",
        "WITH x AS (SELECT t AS at, a, path FROM input WHERE b > 0), y AS (SELECT * FROM x WHERE a > 0)\nSELECT {at} AS w, path, min(a) AS a FROM y GROUP BY w, y.path",
        "SELECT n + 1 AS m, w['start'] AS s FROM (SELECT {w} AS w, count(*) AS n FROM input GROUP BY 1) AS g WHERE g.n > 2",
        "SELECT {w} AS w, count(*) FILTER (WHERE a > 3) AS n, count(DISTINCT path) AS d FROM input WHERE a IS NOT NULL GROUP BY 1",
        "SELECT {w} AS w, CASE WHEN sum(a) > 9 THEN path ELSE 'few' END AS c FROM input GROUP BY 1, path HAVING sum(a) > 0",
    ] {
        compare(template, &[true, false]).await;
    }
}

const ROWS: [&str; 10] =
    ["a", "b", "path", "a + b", "lower(path)", "a * 2 + b", "coalesce(a, b, 0)", "input.a", "a IS NULL", "'x'"];
const AGGREGATES: [&str; 7] =
    ["count(*)", "sum(a)", "max(b) + 1", "sum(a) / count(*)", "count(DISTINCT path)", "min(lower(path))", "max(a + b)"];
const CONDITIONS: [&str; 5] = ["a > 1", "b = 1 OR a IS NULL", "path LIKE '/%'", "NOT (a > 3)", "true"];
const NAMES: [&str; 6] = ["a", "b", "c", "path", "window", "d"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Queries put together at random: names of outputs hide names of inputs, keys are given by number, name or
    /// again, aggregates and keys stand alone or inside expressions.
    #[test]
    fn steps_mean_what_any_query_means(
        keys in proptest::collection::vec((0usize..ROWS.len() - 1, 0usize..3), 0..3),
        aggregates in proptest::collection::vec(0usize..AGGREGATES.len(), 1..4),
        names in Just(NAMES.to_vec()).prop_shuffle(),
        condition in proptest::option::of(0usize..CONDITIONS.len()),
        having in proptest::option::of(0usize..AGGREGATES.len()),
        is_grouped in any::<bool>(),
        is_nested in any::<bool>(),
    ) {
        let mut names = names.into_iter();
        let mut select = Vec::new();
        let mut group = Vec::new();
        if is_grouped {
            select.push("{w} AS w".to_owned());
            group.push("1".to_owned());
        }
        let mut seen = Vec::new();
        for (key, how) in keys {
            // The engine does not take a key twice, nor one that is a constant.
            if seen.contains(&ROWS[key]) || (ROWS[key] == "input.a" && seen.contains(&"a")) || (ROWS[key] == "a" && seen.contains(&"input.a")) {
                continue;
            }
            seen.push(ROWS[key]);
            let name = names.next().unwrap();
            select.push(format!("{} AS {}", ROWS[key], quoted(name)));
            group.push(match how {
                0 => select.len().to_string(),
                _ => ROWS[key].to_owned(),
            });
        }
        if is_grouped {
            for aggregate in aggregates {
                let Some(name) = names.next() else { break };
                select.push(format!("{} AS {}", AGGREGATES[aggregate], quoted(name)));
            }
        } else {
            select.push("t".to_owned());
        }
        let from = if is_nested { "(SELECT *, a AS extra FROM input WHERE b < 2) AS input" } else { "input" };
        let mut sql = format!("SELECT {} FROM {from}", select.join(", "));
        if let Some(condition) = condition {
            sql.push_str(&format!(" WHERE {}", CONDITIONS[condition]));
        }
        if is_grouped {
            sql.push_str(&format!(" GROUP BY {}", group.join(", ")));
            if let Some(having) = having {
                sql.push_str(&format!(" HAVING {} IS NOT NULL", AGGREGATES[having]));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&sql, &[true]));
    }
}
