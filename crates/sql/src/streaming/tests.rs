#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use expect_test::{Expect, expect};

mod graph;
mod meaning;

use super::*;
use crate::gate::gate_predicate;

const COLUMNS: [&str; 6] = ["timestamp", "path", "status", "Bytes", "user", "attributes"];

/// An expression, and its place; `=` if it stands in the query like that.
fn shown(sql: &str, expression: &Expression) -> String {
    gate_predicate(&expression.text).unwrap_or_else(|error| panic!("{}: {error}", expression.text));
    let mut text = expression.text.clone();
    if let Some(position) = expression.position {
        let _ = write!(text, " @{}:{}", position.line, position.column);
        let line = sql.lines().nth(usize::try_from(position.line).unwrap() - 1).unwrap();
        let there: String = line.chars().skip(usize::try_from(position.column).unwrap() - 1).collect();
        if expression.is_verbatim {
            let first = expression.text.lines().next().unwrap();
            assert!(there.starts_with(first), "{there:?} is not {first:?}");
            text.push('=');
        }
    }
    text
}

fn all(sql: &str, named: &[Named]) -> String {
    let named: Vec<String> =
        named.iter().map(|named| format!("{}: {}", named.name, shown(sql, &named.value))).collect();
    named.join(", ")
}

fn steps(sql: &str, input: Input<'_>) -> String {
    shown_steps(sql, &[input])
}

/// The steps of a query, or what is wrong with it.
fn shown_steps(sql: &str, inputs: &[Input<'_>]) -> String {
    let mut text = String::new();
    match translate(sql, inputs) {
        Ok(steps) => {
            for Placed { step, reads } in &steps {
                let _ = match step {
                    StreamStep::Filter(condition) => writeln!(text, "filter {}", shown(sql, condition)),
                    StreamStep::Set(named) => writeln!(text, "set {}", all(sql, named)),
                    StreamStep::Keep(names) => writeln!(text, "keep {}", names.join(", ")),
                    StreamStep::Drop(names) => writeln!(text, "drop {}", names.join(", ")),
                    StreamStep::Rename(names) => writeln!(text, "rename {names:?}"),
                    StreamStep::Window(window) => {
                        let Windowed { windows, timing, by, select, position } = window.as_ref();
                        let at = position.map(|at| format!("{}:{}", at.line, at.column)).unwrap_or_default();
                        let windows = match windows {
                            Windows::Tumbling { size, offset } => format!("{size:?} from {offset:?}"),
                            Windows::Hopping { size, every, offset } => {
                                format!("{size:?} every {every:?} from {offset:?}")
                            }
                            Windows::Cumulative { size, every, offset } => {
                                format!("up to {size:?} every {every:?} from {offset:?}")
                            }
                            Windows::Session { gap } => format!("until a gap of {gap:?}"),
                        };
                        writeln!(text, "window {windows} @{at}").unwrap();
                        for (name, time) in [("lateness", timing.lateness), ("early", timing.early)] {
                            let _ = time.map(|time| writeln!(text, "  {name} {time:?}"));
                        }
                        writeln!(text, "  by {}", all(sql, by)).unwrap();
                        writeln!(text, "  select {}", all(sql, select))
                    }
                    StreamStep::Explode { column, element } => writeln!(text, "explode {column} as {element}"),
                    StreamStep::Union(others) => writeln!(text, "union {reads:?} and {others:?}"),
                    StreamStep::Join(joined) => {
                        let Joined { with, on, before, after, kind, time, .. } = joined.as_ref();
                        let on: Vec<String> = on
                            .iter()
                            .map(|(left, right)| format!("{} = {}", shown(sql, left), shown(sql, right)))
                            .collect();
                        let (kind, on) = (kind.shown().to_lowercase(), on.join(", "));
                        let time = match time {
                            JoinTime::Later => "",
                            JoinTime::Left => " at left",
                            JoinTime::Right => " at right",
                        };
                        writeln!(text, "{kind} {reads:?} with {with:?} on {on} from {before:?} to {after:?}{time}")
                    }
                    StreamStep::First(first) => {
                        let First { rows, per, by, .. } = first.as_ref();
                        writeln!(text, "first {rows} of {per:?} by {}", all(sql, by))
                    }
                    StreamStep::Lookup(looked_up) => {
                        let LookedUp { table, on, select, is_left, .. } = looked_up.as_ref();
                        let on = on.iter().map(|(left, right)| format!("{} = {}", shown(sql, left), shown(sql, right)));
                        let on: Vec<String> = on.collect();
                        let kind = if *is_left { "left lookup" } else { "lookup" };
                        writeln!(text, "{kind} in {table} on {} selecting {select:?}", on.join(", "))
                    }
                    StreamStep::Top(top) => {
                        let Top { rows, order, ties, per, by, rank, .. } = top.as_ref();
                        let ties = match ties {
                            Ties::Broken => "",
                            Ties::Shared => " places",
                            Ties::Dense => " values",
                        };
                        let per =
                            per.map_or_else(String::new, |per| format!(" per {:?} from {:?}", per.size, per.offset));
                        let rank = rank.as_ref().map_or_else(String::new, |rank| format!(" as {rank}"));
                        writeln!(text, "top {rows}{ties}{per} by {} in order of {}{rank}", all(sql, by), order.text)
                    }
                };
            }
        }
        Err(problems) => {
            for StreamProblem { message, hint, position } in problems {
                let at = position.map(|at| format!("{}:{}: ", at.line, at.column)).unwrap_or_default();
                let hint = if hint.is_empty() { hint } else { format!(" ({hint})") };
                writeln!(text, "{at}{message}{hint}").unwrap();
            }
        }
    }
    text
}

/// One query after another: what becomes of each.
fn check(queries: &[&str], expected: Expect) {
    let mut text = String::new();
    let input = Input { time: Some("timestamp"), ..Input::default() };
    for sql in queries {
        writeln!(text, "> {}", sql.replace('\n', "\n> ")).unwrap();
        text.push_str(&steps(sql, input));
    }
    expected.assert_eq(&text);
}

#[test]
fn rows_one_by_one() {
    check(
        &[
            "SELECT * FROM input",
            "select * from Input as i where i.status >= 500 AND path LIKE '/api/%'",
            "SELECT path, Status AS code, lower(user) AS who, input.\"Bytes\" FROM input",
            "SELECT path AS user, user AS path FROM input",
            "SELECT *, status / 100 AS class, upper(path) AS path FROM input",
            "SELECT * EXCEPT (user, path), upper(path) AS path FROM input WHERE user IS NOT NULL",
            "SELECT i.* EXCLUDE user FROM input i",
            "SELECT lower(path), attributes['http.route'], 1 + 1, w.start, 'it''s' FROM input",
            "SELECT CASE WHEN status > 499 THEN 'bad' ELSE 'good' END AS verdict, CAST(\"Bytes\" AS BIGINT) AS bytes, status BETWEEN 1 AND 2 AS b FROM (input)",
        ],
        expect![[r#"
            > SELECT * FROM input
            > select * from Input as i where i.status >= 500 AND path LIKE '/api/%'
            filter status >= 500 AND path LIKE '/api/%' @1:32
            > SELECT path, Status AS code, lower(user) AS who, input."Bytes" FROM input
            set code: Status @1:14=, who: lower("user") @1:30
            keep path, code, who, Bytes
            > SELECT path AS user, user AS path FROM input
            set user: path @1:8=, path: "user" @1:22
            keep user, path
            > SELECT *, status / 100 AS class, upper(path) AS path FROM input
            set class: status / 100 @1:11=, path: upper(path) @1:34=
            > SELECT * EXCEPT (user, path), upper(path) AS path FROM input WHERE user IS NOT NULL
            filter "user" IS NOT NULL @1:68
            set path: upper(path) @1:31=
            drop user
            > SELECT i.* EXCLUDE user FROM input i
            drop user
            > SELECT lower(path), attributes['http.route'], 1 + 1, w.start, 'it''s' FROM input
            set lower(path): lower(path) @1:8=, attributes['http.route']: attributes['http.route'] @1:21=, 1 + 1: 1 + 1 @1:47=, start: w.start @1:54=, 'it''s': 'it''s' @1:63=
            keep lower(path), attributes['http.route'], 1 + 1, start, 'it''s'
            > SELECT CASE WHEN status > 499 THEN 'bad' ELSE 'good' END AS verdict, CAST("Bytes" AS BIGINT) AS bytes, status BETWEEN 1 AND 2 AS b FROM (input)
            set verdict: CASE WHEN status > 499 THEN 'bad' ELSE 'good' END @1:8=, bytes: CAST("Bytes" AS BIGINT) @1:75, b: status BETWEEN 1 AND 2 @1:104=
            keep verdict, bytes, b
        "#]],
    );
}

#[test]
fn queries_inside_queries() {
    check(
        &[
            "SELECT who, n FROM (SELECT user AS who, status + 1 AS n, timestamp FROM input WHERE status > 0) AS s WHERE s.n > 2",
            "WITH good AS (SELECT * FROM input WHERE status < 400), users AS (SELECT user, timestamp AS at FROM good)\nSELECT tumble(at, interval '1 hour') AS w, count(*) AS n FROM users u GROUP BY w",
            "SELECT w.start AS \"from\", n FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) t WHERE t.n > 1",
            "WITH input AS (SELECT * FROM input) SELECT path FROM input",
            "(SELECT path FROM input)",
        ],
        expect![[r#"
            > SELECT who, n FROM (SELECT user AS who, status + 1 AS n, timestamp FROM input WHERE status > 0) AS s WHERE s.n > 2
            filter status > 0 @1:85=
            set who: "user" @1:28, n: status + 1 @1:41=
            keep who, n, timestamp
            filter n > 2 @1:108
            keep who, n
            > WITH good AS (SELECT * FROM input WHERE status < 400), users AS (SELECT user, timestamp AS at FROM good)
            > SELECT tumble(at, interval '1 hour') AS w, count(*) AS n FROM users u GROUP BY w
            filter status < 400 @1:41=
            set at: timestamp @1:79=
            keep user, at
            window 3600s from 0ns @2:8
              by 
              select n: count(*) @2:44=
            rename [("window", "w")]
            > SELECT w.start AS "from", n FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) t WHERE t.n > 1
            window 60s from 0ns @1:42
              by 
              select n: count(*) @1:72=
            rename [("window", "w")]
            filter n > 1 @1:117
            set from: w.start @1:8=
            keep from, n
            > WITH input AS (SELECT * FROM input) SELECT path FROM input
            keep path
            > (SELECT path FROM input)
            keep path
        "#]],
    );
}

#[test]
fn windows_of_time() {
    check(
        &[
            "SELECT tumble(timestamp, interval '1 minute') AS w, path, count(*) AS n\nFROM input GROUP BY 1, 2",
            "SELECT path, count(*), tumble(timestamp, interval '1' minute) FROM input GROUP BY path, tumble(timestamp, interval '1' MINUTE)",
            "SELECT hop(timestamp, interval '1 minute', interval '5 minutes') w, COUNT(DISTINCT user) FROM input GROUP BY w",
            "SELECT max(status) AS worst FROM input GROUP BY tumble(input.timestamp, '90s', '-15s')",
            "SELECT tumble(timestamp, interval '1 day', interval '-5 hours') AS day, sum(\"Bytes\") FILTER (WHERE status < 300) AS bytes, avg(status) AS a FROM input WHERE path <> '' GROUP BY ALL",
            "SELECT hop(timestamp, '5m', '1m', '30s') AS w FROM input GROUP BY 1",
            "SELECT count(*) FROM input GROUP BY (tumble(timestamp, '1m'), path, path)",
        ],
        expect![[r#"
            > SELECT tumble(timestamp, interval '1 minute') AS w, path, count(*) AS n
            > FROM input GROUP BY 1, 2
            window 60s from 0ns @1:8
              by path: path @1:53=
              select n: count(*) @1:59=
            rename [("window", "w")]
            > SELECT path, count(*), tumble(timestamp, interval '1' minute) FROM input GROUP BY path, tumble(timestamp, interval '1' MINUTE)
            window 60s from 0ns @1:89
              by path: path @1:83=
              select count(*): count(*) @1:14=
            keep path, count(*), window
            > SELECT hop(timestamp, interval '1 minute', interval '5 minutes') w, COUNT(DISTINCT user) FROM input GROUP BY w
            window 300s every 60s from 0ns @1:8
              by 
              select COUNT(DISTINCT user): count(DISTINCT "user") @1:69
            rename [("window", "w")]
            > SELECT max(status) AS worst FROM input GROUP BY tumble(input.timestamp, '90s', '-15s')
            window 90s from 75s @1:49
              by 
              select worst: max(status) @1:8=
            keep worst
            > SELECT tumble(timestamp, interval '1 day', interval '-5 hours') AS day, sum("Bytes") FILTER (WHERE status < 300) AS bytes, avg(status) AS a FROM input WHERE path <> '' GROUP BY ALL
            filter path <> '' @1:158=
            window 86400s from 68400s @1:8
              by 
              select bytes: sum("Bytes") FILTER (WHERE status < 300) @1:73=, a: avg(status) @1:124=
            rename [("window", "day")]
            > SELECT hop(timestamp, '5m', '1m', '30s') AS w FROM input GROUP BY 1
            window 60s every 300s from 30s @1:8
              by 
              select 
            rename [("window", "w")]
            > SELECT count(*) FROM input GROUP BY (tumble(timestamp, '1m'), path, path)
            window 60s from 0ns @1:38
              by path: path @1:63=
              select count(*): count(*) @1:8=
            keep count(*)
        "#]],
    );
}

#[test]
fn expressions_over_groups() {
    check(
        &[
            // Keys and aggregates inside of expressions, and the same aggregate twice.
            "SELECT tumble(timestamp, '1m') AS w, lower(path) AS p, count(*) AS n, sum(status) / count(*) AS mean, 1 AS one\nFROM input GROUP BY 1, 2 HAVING count(*) > 1 AND max(status) < 500",
            // Names of the select list in HAVING, and parts of the window.
            "SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY w, n HAVING count(n) > 3",
            "SELECT tumble(timestamp, '1m') AS w, w.start AS s, count(*) AS n FROM input GROUP BY w",
            "SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY w HAVING n > 3 AND w.start > '2020-01-01' AND window.\"end\" IS NOT NULL",
            "SELECT tumble(timestamp, '1m')['start'] AS since, count(*) AS n, tumble(timestamp, '1m') AS w, tumble(timestamp, '1m') AS again FROM input GROUP BY tumble(timestamp, '1m')",
            // An expression with the name of its column: grouped by the column.
            "SELECT tumble(timestamp, '1m') AS w, upper(path) AS path, path AS p, count(*) FROM input GROUP BY w, path",
            // Names in each other's way.
            "SELECT tumble(timestamp, '1m') AS w, count(*) AS path FROM input GROUP BY w, input.path",
            "SELECT tumble(timestamp, '1m') AS w, count(*) AS \"window\" FROM input GROUP BY w",
            "SELECT tumble(timestamp, '1m') AS w, user.name AS name, count(*) AS n FROM input GROUP BY w, user",
            "SELECT count(*) AS n, status % 10, status % 10 AS s FROM input GROUP BY tumble(timestamp, '1m'), (status % 10)",
        ],
        expect![[r#"
            > SELECT tumble(timestamp, '1m') AS w, lower(path) AS p, count(*) AS n, sum(status) / count(*) AS mean, 1 AS one
            > FROM input GROUP BY 1, 2 HAVING count(*) > 1 AND max(status) < 500
            window 60s from 0ns @1:8
              by p: lower(path) @1:38=
              select n: count(*) @1:56=, __aggregate_1: max(status) @2:50=, __aggregate_2: sum(status) @1:71=
            filter n > 1 AND __aggregate_1 < 500 @2:33
            set mean: __aggregate_2 / n @1:71, one: 1 @1:103=
            rename [("window", "w")]
            keep w, p, n, mean, one
            > SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY w, n HAVING count(n) > 3
            window 60s from 0ns @1:8
              by __key_1: n @1:75=
              select n: count(*) @1:38=, __aggregate_1: count(n) @1:84=
            filter __aggregate_1 > 3 @1:84
            rename [("window", "w")]
            keep w, n
            > SELECT tumble(timestamp, '1m') AS w, w.start AS s, count(*) AS n FROM input GROUP BY w
            window 60s from 0ns @1:8
              by 
              select n: count(*) @1:52=
            set s: "window".start @1:38
            rename [("window", "w")]
            keep w, s, n
            > SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY w HAVING n > 3 AND w.start > '2020-01-01' AND window."end" IS NOT NULL
            window 60s from 0ns @1:8
              by 
              select n: count(*) @1:38=
            filter n > 3 AND "window".start > '2020-01-01' AND "window"."end" IS NOT NULL @1:81
            rename [("window", "w")]
            > SELECT tumble(timestamp, '1m')['start'] AS since, count(*) AS n, tumble(timestamp, '1m') AS w, tumble(timestamp, '1m') AS again FROM input GROUP BY tumble(timestamp, '1m')
            window 60s from 0ns @1:149
              by 
              select n: count(*) @1:51=
            set since: "window"['start'] @1:8, again: "window" @1:96
            rename [("window", "w")]
            keep since, n, w, again
            > SELECT tumble(timestamp, '1m') AS w, upper(path) AS path, path AS p, count(*) FROM input GROUP BY w, path
            window 60s from 0ns @1:8
              by p: path @1:102=
              select count(*): count(*) @1:70=
            set path: upper(p) @1:38
            rename [("window", "w")]
            keep w, path, p, count(*)
            > SELECT tumble(timestamp, '1m') AS w, count(*) AS path FROM input GROUP BY w, input.path
            window 60s from 0ns @1:8
              by __key_1: path @1:78
              select path: count(*) @1:38=
            rename [("window", "w")]
            keep w, path
            > SELECT tumble(timestamp, '1m') AS w, count(*) AS "window" FROM input GROUP BY w
            window 60s from 0ns @1:8
              by 
              select __aggregate_1: count(*) @1:38=
            set w: "window" @1:8, window: __aggregate_1 @1:38
            keep w, window
            > SELECT tumble(timestamp, '1m') AS w, user.name AS name, count(*) AS n FROM input GROUP BY w, user
            window 60s from 0ns @1:8
              by user: "user" @1:94
              select n: count(*) @1:57=
            set name: "user"['name'] @1:38
            rename [("window", "w")]
            keep w, name, n
            > SELECT count(*) AS n, status % 10, status % 10 AS s FROM input GROUP BY tumble(timestamp, '1m'), (status % 10)
            window 60s from 0ns @1:73
              by status % 10: status % 10 @1:99=
              select n: count(*) @1:8=
            set s: "status % 10" @1:36
            keep n, status % 10, s
        "#]],
    );
}

#[test]
fn what_is_known_of_the_columns_decides_what_a_name_is() {
    let columns = COLUMNS.map(str::to_owned);
    let input = Input { time: Some("timestamp"), columns: Some(&columns), ..Input::default() };
    let grouped =
        "SELECT tumble(timestamp, '1m') AS w, upper(status) AS path, count(*) AS n FROM input GROUP BY w, path";
    expect![[r#"
        1:44: the column `status` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
    "#]].assert_eq(&steps(grouped, input));
    expect![[r#"
        window 60s from 0ns @1:8
          by path: upper(status) @1:38=
          select n: count(*) @1:61=
        rename [("window", "w")]
    "#]]
    .assert_eq(&steps(grouped, Input { columns: None, ..input }));
    let same = "SELECT timestamp, path, status, \"Bytes\", user, attributes FROM input";
    expect![[""]].assert_eq(&steps(same, input));
    let unnamed = "SELECT tumble(time, '1m'), count(*) FROM input GROUP BY 1";
    expect![[r#"
        1:15: windows need the column with the event time, and it is not named (name it with `time:` in `from`)
    "#]]
    .assert_eq(&steps(unnamed, Input::default()));
}

#[test]
fn what_has_no_bounded_meaning_is_refused() {
    check(
        &[
            "SELECT count(*) FROM input",
            "SELECT path, count(*) FROM input GROUP BY path",
            "SELECT DISTINCT path FROM input",
            "SELECT * FROM input ORDER BY timestamp LIMIT 10",
            "SELECT * FROM input OFFSET 3",
            "SELECT * FROM input JOIN other ON true",
            "SELECT * FROM input,\n  other",
            "SELECT * FROM input UNION ALL SELECT * FROM input",
            "SELECT * FROM input EXCEPT SELECT * FROM input",
            "SELECT * FROM inputs",
            "SELECT * FROM tumble(input, timestamp, interval '1 minute')",
            "SELECT * FROM TABLE(TUMBLE(TABLE input, DESCRIPTOR(timestamp), INTERVAL '1' MINUTE))",
            "SELECT * FROM generate_series(1, 2)",
            "SELECT * FROM UNNEST([1, 2])",
            "SELECT 1",
            "SELECT status, row_number() OVER (PARTITION BY user ORDER BY timestamp) AS n FROM input",
            "SELECT sum(status) OVER () FROM input",
            "SELECT unnest(attributes) FROM input",
            "SELECT * FROM input WHERE user IN (SELECT user FROM input)",
            "SELECT * FROM input WHERE EXISTS (SELECT 1) AND count(*) > 1",
            "SELECT * FROM input WHERE count(*) > 1",
            "SELECT * FROM input WHERE tumble(timestamp, '1m') IS NULL",
            "SELECT tumble(timestamp, '1m') AS w, path FROM input",
            "SELECT *, count(*) FROM input GROUP BY tumble(timestamp, '1m')",
            "SELECT path, * FROM input",
            "SELECT * REPLACE (1 AS path) FROM input",
            "SELECT a AS x, b AS x FROM input",
            "VALUES (1)",
            "WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a",
            "WITH a(x) AS (SELECT path FROM input) SELECT * FROM a",
            "EXPLAIN SELECT 1",
            "DROP TABLE input",
            "SELECT $1 FROM input",
            "SELECT * FROM input; SELECT * FROM input",
            "SELECT FROM WHERE",
            "SELECT *\nFROM input\nWHERE 'a",
            "",
        ],
        expect![[r#"
            > SELECT count(*) FROM input
            1:8: groups of a stream without end are never complete: there is no window of time in GROUP BY (GROUP BY tumble(timestamp, interval '1 minute'), ...)
            > SELECT path, count(*) FROM input GROUP BY path
            1:43: groups of a stream without end are never complete: there is no window of time in GROUP BY (GROUP BY tumble(timestamp, interval '1 minute'), ...)
            > SELECT DISTINCT path FROM input
            1:1: DISTINCT over a stream without end has to remember every row there ever was (group by the columns within windows of time: GROUP BY tumble(...), a, b)
            > SELECT * FROM input ORDER BY timestamp LIMIT 10
            1:30: ORDER BY has to see the last row first, and a stream has no last row (leave it out, and sort where the results are read)
            1:46: LIMIT, OFFSET and FETCH count rows from the beginning, and results of a stream have no first row after a restart (leave it out, or filter rows by what is in them)
            > SELECT * FROM input OFFSET 3
            1:28: LIMIT, OFFSET and FETCH count rows from the beginning, and results of a stream have no first row after a restart (leave it out, or filter rows by what is in them)
            > SELECT * FROM input JOIN other ON true
            1:26: there is no table `other`: the rows of the pipeline are called `input`
            > SELECT * FROM input,
            >   other
            2:3: rows of all inputs with rows of all others have no end (write a JOIN b ON ... with the keys, and how far the times may be apart)
            > SELECT * FROM input UNION ALL SELECT * FROM input
            1:31: the columns of both sides of UNION ALL must be known (write them out)
            > SELECT * FROM input EXCEPT SELECT * FROM input
            1:1: EXCEPT and INTERSECT need all rows of both sides, and a stream never has all its rows
            > SELECT * FROM inputs
            1:15: there is no table `inputs`: the rows of the pipeline are called `input` (did you mean `input`?)
            > SELECT * FROM tumble(input, timestamp, interval '1 minute')
            1:15: `tumble` is called in GROUP BY, not in FROM (SELECT ... FROM input GROUP BY tumble(time, interval '1 minute'), ...)
            > SELECT * FROM TABLE(TUMBLE(TABLE input, DESCRIPTOR(timestamp), INTERVAL '1' MINUTE))
            1:34: this is not SQL: expected: ), found: input
            > SELECT * FROM generate_series(1, 2)
            1:15: this is not something a pipeline can read from (the rows of the pipeline are called `input`)
            > SELECT * FROM UNNEST([1, 2])
            1:23: unnest is called in the select list of a pipeline, not in FROM (SELECT *, unnest(items) AS item FROM input)
            > SELECT 1
            1:1: there is no FROM: the rows of the pipeline are called `input` (SELECT ... FROM input)
            > SELECT status, row_number() OVER (PARTITION BY user ORDER BY timestamp) AS n FROM input
            1:16: the ranks of every key there ever was have to be remembered for ever (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3; or use the step `top` with `keep` after the query)
            > SELECT sum(status) OVER () FROM input
            1:8: functions with OVER are not supported in the SQL of a pipeline (aggregate within windows of time: GROUP BY tumble(...) or hop(...))
            > SELECT unnest(attributes) FROM input
            explode attributes as __element
            set unnest(attributes): __element @1:8
            keep unnest(attributes)
            > SELECT * FROM input WHERE user IN (SELECT user FROM input)
            1:27: subqueries inside expressions are not supported in the SQL of a pipeline
            > SELECT * FROM input WHERE EXISTS (SELECT 1) AND count(*) > 1
            1:35: subqueries inside expressions are not supported in the SQL of a pipeline
            1:49: WHERE is asked before anything is aggregated (use HAVING)
            > SELECT * FROM input WHERE count(*) > 1
            1:27: WHERE is asked before anything is aggregated (use HAVING)
            > SELECT * FROM input WHERE tumble(timestamp, '1m') IS NULL
            1:27: WHERE is asked before rows belong to a window (compare the event time itself, or use HAVING)
            > SELECT tumble(timestamp, '1m') AS w, path FROM input
            1:8: a window of time belongs into GROUP BY (GROUP BY it, and aggregate what is selected beside it)
            > SELECT *, count(*) FROM input GROUP BY tumble(timestamp, '1m')
            1:1: * has no meaning beside GROUP BY (write out the columns of GROUP BY and the aggregates)
            > SELECT path, * FROM input
            1:14: * must be the first of the select list
            > SELECT * REPLACE (1 AS path) FROM input
            1:8: ILIKE, REPLACE and RENAME behind * are not supported (use EXCEPT, and name what is to be different: SELECT * EXCEPT (a), f(a) AS a)
            > SELECT a AS x, b AS x FROM input
            1:16: two columns are called `x` (name one of them with AS)
            > VALUES (1)
            1:8: the SQL of a pipeline is one SELECT
            > WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a
            1:1: recursive queries never end over a stream
            1:22: there is no FROM: the rows of the pipeline are called `input` (SELECT ... FROM input)
            > WITH a(x) AS (SELECT path FROM input) SELECT * FROM a
            1:6: names of columns behind a name are not supported (name the columns in its select list, with AS)
            > EXPLAIN SELECT 1
            the SQL of a pipeline is one SELECT
            > DROP TABLE input
            the SQL of a pipeline is one SELECT
            > SELECT $1 FROM input
            the SQL of a pipeline has no parameters
            > SELECT * FROM input; SELECT * FROM input
            a query is one statement; send the others one by one
            > SELECT FROM WHERE
            1:13: there is no table `WHERE`: the rows of the pipeline are called `input`
            > SELECT *
            > FROM input
            > WHERE 'a
            3:7: this is not SQL: Unterminated string literal
            > 
            the query is empty
        "#]],
    );
}

#[test]
fn windows_that_are_not_right() {
    check(
        &[
            "SELECT count(*) FROM input GROUP BY tumble(time, interval '1 minute')",
            "SELECT count(*) FROM input GROUP BY tumble(lower(timestamp), '1m')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp)",
            "SELECT count(*) FROM input GROUP BY hop(timestamp, '1m')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, interval '1 month')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, 60)",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, '0s')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, interval '-1 minute')",
            "SELECT count(*) FROM input GROUP BY hop(timestamp, '0s', '1m')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, 'a while')",
            "SELECT count(*) FROM input GROUP BY tumble(size => '1m')",
            "SELECT count(*) FROM input GROUP BY session(timestamp, interval '30 minutes', '1h')",
            "SELECT count(*) FROM input GROUP BY cumulate(timestamp, '1m')",
            "SELECT tumble_start(timestamp, '1m') FROM input GROUP BY tumble_start(timestamp, '1m')",
            "SELECT count(*) FROM input GROUP BY tumble(timestamp, '1m'), hop(timestamp, '1m', '2m')",
            "SELECT count(*) FROM input GROUP BY CUBE (path, user)",
            "SELECT count(*) FROM input GROUP BY path WITH ROLLUP",
            "SELECT path, count(*) FROM input GROUP BY tumble(timestamp, '1m'), 3",
            "SELECT path, count(*) FROM input GROUP BY tumble(timestamp, '1m'), 2",
            "SELECT path, user.name, hop(timestamp, '1m', '2m') FROM input GROUP BY tumble(timestamp, '1m')",
            "SELECT sum(count(*)) FROM input GROUP BY tumble(timestamp, '1m') HAVING user > 1",
            "SELECT tumble(w.start, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) GROUP BY 1",
            "SELECT tumble(timestamp, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) GROUP BY 1",
            "SELECT tumble(w, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, path, count(*) AS n FROM input GROUP BY 1, 2) GROUP BY path",
            "SELECT tumble(timestamp, '1h') AS h, sum(n) FROM (SELECT path, count(*) AS n FROM input GROUP BY tumble(timestamp, '1m'), 1) GROUP BY 1",
            "SELECT tumble(timestamp, '1h') AS h, count(*) FROM (SELECT user FROM input) GROUP BY 1",
            "SELECT tumble(timestamp, '1h') AS h, count(*) FROM (SELECT *, now() AS timestamp FROM input) GROUP BY 1",
        ],
        expect![[r#"
            > SELECT count(*) FROM input GROUP BY tumble(time, interval '1 minute')
            1:44: tumble cuts the event time, which is the column `timestamp`, not time (write tumble(timestamp, ...), or name another column with `time:` in `from`)
            > SELECT count(*) FROM input GROUP BY tumble(lower(timestamp), '1m')
            1:44: tumble cuts the event time, which is the column `timestamp`, not lower(timestamp) (write tumble(timestamp, ...), or name another column with `time:` in `from`)
            > SELECT count(*) FROM input GROUP BY tumble(timestamp)
            1:37: tumble takes 2 or 3 arguments, not 1 (tumble(time, size), for example tumble(time, interval '1 minute'))
            > SELECT count(*) FROM input GROUP BY hop(timestamp, '1m')
            1:37: hop takes 3 or 4 arguments, not 2 (hop(time, every, size), for example hop(time, interval '1 minute', interval '5 minutes'))
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, interval '1 month')
            1:64: INTERVAL '1 month' has no fixed length: months and years differ (use days, for example interval '30 days')
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, 60)
            1:55: 60 is not a length of time (write interval '1 minute', for example)
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, '0s')
            1:55: the size of a window is more than nothing and less than 292 years, not '0s'
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, interval '-1 minute')
            1:64: the size of a window is more than nothing and less than 292 years, not INTERVAL '-1 minute'
            > SELECT count(*) FROM input GROUP BY hop(timestamp, '0s', '1m')
            1:52: the distance of a window is more than nothing and less than 292 years, not '0s'
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, 'a while')
            1:55: 'a while' is not a length of time (write interval '1 minute', for example)
            > SELECT count(*) FROM input GROUP BY tumble(size => '1m')
            1:37: tumble is called with expressions, and beside them `lateness` and `early` by name (tumble(time, size), for example tumble(time, interval '1 minute'))
            > SELECT count(*) FROM input GROUP BY session(timestamp, interval '30 minutes', '1h')
            1:37: session takes 2 arguments, not 3 (session(time, gap), for example session(time, interval '30 minutes'))
            > SELECT count(*) FROM input GROUP BY cumulate(timestamp, '1m')
            1:37: cumulate takes 3 or 4 arguments, not 2 (cumulate(time, every, size), for example cumulate(time, interval '1 hour', interval '1 day'))
            > SELECT tumble_start(timestamp, '1m') FROM input GROUP BY tumble_start(timestamp, '1m')
            1:58: there is no function tumble_start (name the window, tumble(...) AS w, and take w.start or w.end of it in a query around this one)
            > SELECT count(*) FROM input GROUP BY tumble(timestamp, '1m'), hop(timestamp, '1m', '2m')
            1:62: there is more than one window in GROUP BY (keep one of them)
            > SELECT count(*) FROM input GROUP BY CUBE (path, user)
            1:43: GROUPING SETS, CUBE and ROLLUP are not supported in the SQL of a pipeline (one pipeline for each grouping)
            > SELECT count(*) FROM input GROUP BY path WITH ROLLUP
            WITH ROLLUP, CUBE or TOTALS is not supported in the SQL of a pipeline (one pipeline for each grouping)
            > SELECT path, count(*) FROM input GROUP BY tumble(timestamp, '1m'), 3
            1:68: GROUP BY 3: the select list has 2 columns
            > SELECT path, count(*) FROM input GROUP BY tumble(timestamp, '1m'), 2
            1:14: an aggregate is computed for each group, so nothing can be grouped by it
            > SELECT path, user.name, hop(timestamp, '1m', '2m') FROM input GROUP BY tumble(timestamp, '1m')
            1:8: the column `path` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
            1:14: the column `user` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
            1:25: hop(timestamp, '1m', '2m') is not the window of GROUP BY (write it like there, or give it a name and group by the name)
            > SELECT sum(count(*)) FROM input GROUP BY tumble(timestamp, '1m') HAVING user > 1
            1:73: the column `user` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
            1:12: an aggregate inside an aggregate has no meaning (aggregate in a query inside, and then again)
            > SELECT tumble(w.start, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) GROUP BY 1
            1:15: tumble cuts the event time, which is the column `w`, not w.start (write tumble(w, ...), or name another column with `time:` in `from`)
            > SELECT tumble(timestamp, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, count(*) AS n FROM input GROUP BY 1) GROUP BY 1
            1:15: tumble cuts the event time, which is the column `w`, not timestamp (write tumble(w, ...), or name another column with `time:` in `from`)
            > SELECT tumble(w, '1h') AS h, sum(n) FROM (SELECT tumble(timestamp, '1m') AS w, path, count(*) AS n FROM input GROUP BY 1, 2) GROUP BY path
            1:135: groups of a stream without end are never complete: there is no window of time in GROUP BY (GROUP BY tumble(w, interval '1 minute'), ...)
            > SELECT tumble(timestamp, '1h') AS h, sum(n) FROM (SELECT path, count(*) AS n FROM input GROUP BY tumble(timestamp, '1m'), 1) GROUP BY 1
            1:15: the time of results of windows is that of their window, which is not a column here (select the window in the query inside, under any name, and cut it: tumble(w, interval '1 hour'))
            > SELECT tumble(timestamp, '1h') AS h, count(*) FROM (SELECT user FROM input) GROUP BY 1
            1:15: the event time is not a column here: the query inside does not keep it as it is (select the column there, under any name)
            > SELECT tumble(timestamp, '1h') AS h, count(*) FROM (SELECT *, now() AS timestamp FROM input) GROUP BY 1
            1:15: the event time is not a column here: the query inside does not keep it as it is (select the column there, under any name)
        "#]],
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    const WORDS: [&str; 44] = [
        "SELECT",
        "FROM",
        "input",
        "WHERE",
        "GROUP BY",
        "HAVING",
        "AS",
        "tumble(timestamp, '1m')",
        "hop(timestamp,",
        "count(*)",
        "sum(",
        ")",
        "(",
        ",",
        "path",
        "w",
        "*",
        "1",
        "'a'",
        "WITH",
        "UNION ALL",
        "interval '1 minute'",
        "ORDER BY",
        "LIMIT",
        "DISTINCT",
        "JOIN",
        "ON",
        ".",
        "=",
        "AND",
        "IN",
        "CASE",
        "WHEN",
        "THEN",
        "END",
        "EXCEPT",
        "OVER",
        "[",
        "]",
        "\"x\"",
        "$1",
        ";",
        "ü",
        "\n",
    ];

    proptest! {
        #[test]
        fn any_text_is_translated_or_refused(words in proptest::collection::vec(0usize..44, 0..25)) {
            let sql = words.into_iter().map(|at| WORDS[at]).collect::<Vec<_>>().join(" ");
            let input = Input { time: Some("timestamp"), ..Input::default() };
            if let Err(problems) = translate(&sql, &[input]) {
                prop_assert!(!problems.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = translate(&text, &[Input::default()]);
            let _ = translate(&format!("SELECT {text} FROM input"), &[Input::default()]);
        }
    }
}

#[test]
fn first_rows_in_an_order() {
    check(
        &[
            "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(timestamp, '1h'), path ORDER BY bytes DESC, user) AS n FROM input) WHERE n <= 3",
            "SELECT path, n FROM (SELECT path, bytes, row_number() OVER (PARTITION BY tumble(timestamp, '1h', '5m') ORDER BY bytes) AS n FROM input WHERE bytes > 0) AS ranked WHERE ranked.n < 3 AND path <> '/' AND n = 2",
            "SELECT * EXCEPT (n) FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp DESC) AS n FROM input) WHERE n = 1",
            "SELECT * EXCEPT (n) FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1",
            "SELECT w, path, n, place FROM (SELECT *, row_number() OVER (PARTITION BY w ORDER BY n DESC NULLS LAST) AS place FROM (SELECT hop(timestamp, '2s', '10s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 2",
            "WITH counts AS (SELECT tumble(timestamp, '2s'), path, user, count(*) AS n FROM input GROUP BY ALL) SELECT path FROM (SELECT \"window\", path, row_number() OVER (PARTITION BY \"window\", user ORDER BY n) AS p FROM counts) WHERE p = 1",
            "SELECT * FROM (SELECT path, row_number() OVER (ORDER BY bytes DESC) AS n FROM input) WHERE n <= 10",
            "SELECT tumble(x.at, '1h', '5m') AS h, path, max(n) AS most FROM (SELECT hop(timestamp, '1m', '5m') AS at, path, count(*) AS n FROM input GROUP BY 1, 2 HAVING count(*) > 1) AS x GROUP BY 1, 2",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(w, '1h') ORDER BY n DESC) AS place FROM (SELECT tumble(timestamp, '1m') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 3",
            "SELECT * EXCEPT (n) FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1",
            "SELECT path, n FROM (SELECT *, DENSE_RANK() OVER (PARTITION BY tumble(timestamp, '1h'), path ORDER BY bytes DESC) AS n FROM input) WHERE n = 2",
            "SELECT w, path, n, place FROM (SELECT *, rank() OVER (PARTITION BY w ORDER BY n DESC) AS place FROM (SELECT hop(timestamp, '2s', '10s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 2",
        ],
        expect![[r#"
            > SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(timestamp, '1h'), path ORDER BY bytes DESC, user) AS n FROM input) WHERE n <= 3
            top 3 per 3600s from 0ns by path: path @1:83= in order of bytes DESC, "user" as n
            > SELECT path, n FROM (SELECT path, bytes, row_number() OVER (PARTITION BY tumble(timestamp, '1h', '5m') ORDER BY bytes) AS n FROM input WHERE bytes > 0) AS ranked WHERE ranked.n < 3 AND path <> '/' AND n = 2
            filter bytes > 0 @1:142=
            top 2 per 3600s from 300s by  in order of bytes as n
            keep path, bytes, n
            filter path <> '/' @1:186=
            filter n = 2 @1:202=
            keep path, n
            > SELECT * EXCEPT (n) FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp DESC) AS n FROM input) WHERE n = 1
            top 1 per 3600s from 0ns by  in order of timestamp DESC
            > SELECT * EXCEPT (n) FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1
            first 1 of 3600s by 
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1
            top 1 per 3600s from 0ns by  in order of timestamp as n
            > SELECT w, path, n, place FROM (SELECT *, row_number() OVER (PARTITION BY w ORDER BY n DESC NULLS LAST) AS place FROM (SELECT hop(timestamp, '2s', '10s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 2
            window 10s every 2s from 0ns @1:126
              by path: path @1:160=
              select n: count(*) @1:166=
            rename [("window", "w")]
            top 2 by w: w @1:74= in order of n DESC NULLS LAST as place
            > WITH counts AS (SELECT tumble(timestamp, '2s'), path, user, count(*) AS n FROM input GROUP BY ALL) SELECT path FROM (SELECT "window", path, row_number() OVER (PARTITION BY "window", user ORDER BY n) AS p FROM counts) WHERE p = 1
            window 2s from 0ns @1:24
              by path: path @1:49=, user: "user" @1:55
              select n: count(*) @1:61=
            top 1 by window: "window" @1:173=, user: "user" @1:183 in order of n
            keep window, path
            keep path
            > SELECT * FROM (SELECT path, row_number() OVER (ORDER BY bytes DESC) AS n FROM input) WHERE n <= 10
            top 10 by  in order of bytes DESC as n
            keep path, n
            > SELECT tumble(x.at, '1h', '5m') AS h, path, max(n) AS most FROM (SELECT hop(timestamp, '1m', '5m') AS at, path, count(*) AS n FROM input GROUP BY 1, 2 HAVING count(*) > 1) AS x GROUP BY 1, 2
            window 300s every 60s from 0ns @1:73
              by path: path @1:107=
              select n: count(*) @1:113=
            filter n > 1 @1:159
            rename [("window", "at")]
            window 3600s from 300s @1:8
              by path: path @1:39=
              select most: max(n) @1:45=
            rename [("window", "h")]
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(w, '1h') ORDER BY n DESC) AS place FROM (SELECT tumble(timestamp, '1m') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 3
            window 60s from 0ns @1:113
              by path: path @1:143=
              select n: count(*) @1:149=
            rename [("window", "w")]
            top 3 per 3600s from 0ns by  in order of n DESC as place
            > SELECT * EXCEPT (n) FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY timestamp) AS n FROM input) WHERE n = 1
            top 1 places per 3600s from 0ns by  in order of timestamp
            > SELECT path, n FROM (SELECT *, DENSE_RANK() OVER (PARTITION BY tumble(timestamp, '1h'), path ORDER BY bytes DESC) AS n FROM input) WHERE n = 2
            top 2 values per 3600s from 0ns by path: path @1:89= in order of bytes DESC as n
            filter n = 2 @1:138=
            keep path, n
            > SELECT w, path, n, place FROM (SELECT *, rank() OVER (PARTITION BY w ORDER BY n DESC) AS place FROM (SELECT hop(timestamp, '2s', '10s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE place <= 2
            window 10s every 2s from 0ns @1:109
              by path: path @1:143=
              select n: count(*) @1:149=
            rename [("window", "w")]
            top 2 places by w: w @1:68= in order of n DESC as place
        "#]],
    );
}

#[test]
fn ranks_without_a_bound_are_refused() {
    check(
        &[
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY bytes) AS n FROM input) WHERE n <= 3",
            "SELECT path FROM (SELECT *, row_number() OVER (ORDER BY bytes) AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n FROM input) WHERE n > 3",
            "SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n FROM input",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY hop(timestamp, '1m', '1h') ORDER BY bytes) AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY n) AS p FROM (SELECT tumble(timestamp, '2s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE p <= 3",
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h')) AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, rank() OVER (ORDER BY bytes) AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, dense_rank() OVER (PARTITION BY path ORDER BY bytes) AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) + 1 AS n FROM input) WHERE n <= 3",
            "SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n, dense_rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS m FROM input) WHERE n <= 3",
        ],
        expect![[r#"
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY bytes) AS n FROM input) WHERE n <= 3
            1:26: the ranks of every key there ever was have to be remembered for ever (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3; or use the step `top` with `keep` after the query)
            > SELECT path FROM (SELECT *, row_number() OVER (ORDER BY bytes) AS n FROM input) WHERE n <= 3
            1:29: which row is in which place changes with the rows, so the place has to be a column of the result (select n, and make it the `key` of the sink)
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n FROM input) WHERE n > 3
            1:26: nothing says how many rows are wanted by `n` (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n FROM input
            1:11: nothing says how many rows are wanted by `n` (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY hop(timestamp, '1m', '1h') ORDER BY bytes) AS n FROM input) WHERE n <= 3
            1:26: rows are ranked in windows of tumble(time, size) (aggregate within the windows first, and rank their results)
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY n) AS p FROM (SELECT tumble(timestamp, '2s') AS w, path, count(*) AS n FROM input GROUP BY 1, 2)) WHERE p <= 3
            1:26: the first results of all windows so far are of no window: it is not in PARTITION BY (PARTITION BY the window, and what else there is)
            > SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY tumble(timestamp, '1h')) AS n FROM input) WHERE n <= 3
            1:26: which rows are the first is said by ORDER BY, and by nothing else (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT * FROM (SELECT *, rank() OVER (ORDER BY bytes) AS n FROM input) WHERE n <= 3
            1:26: of all rows so far there may be any number in a place of RANK (use ROW_NUMBER, or PARTITION BY a window: tumble(time, interval '1 hour'))
            > SELECT * FROM (SELECT *, dense_rank() OVER (PARTITION BY path ORDER BY bytes) AS n FROM input) WHERE n <= 3
            1:26: the ranks of every key there ever was have to be remembered for ever (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3; or use the step `top` with `keep` after the query)
            > SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) FROM input) WHERE n <= 3
            1:26: RANK needs a name (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) + 1 AS n FROM input) WHERE n <= 3
            1:26: a rank over a stream changes with every row (the first rows of a window of time: SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(time, '1h'), key ORDER BY time) AS n FROM input) WHERE n = 1)
            1:52: a window of time belongs into GROUP BY (GROUP BY it, and aggregate what is selected beside it)
            > SELECT * FROM (SELECT *, rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS n, dense_rank() OVER (PARTITION BY tumble(timestamp, '1h') ORDER BY bytes) AS m FROM input) WHERE n <= 3
            1:98: there is more than one ROW_NUMBER, RANK or DENSE_RANK (keep one of them)
            1:98: nothing says how many rows are wanted by `m` (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
        "#]],
    );
}
