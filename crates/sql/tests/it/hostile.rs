//! Queries made to hurt: all end soon, with an answer or an error, and the process goes on.

use std::time::Duration;

use weir_base::{ErrorKind, Kinded};
use weir_sql::QueryLimits;

use crate::support::{NOON, World, logs, request, tenant};

fn nested(depth: usize, open: &str, inner: &str, close: &str) -> String {
    format!("select {}{inner}{}", open.repeat(depth), close.repeat(depth))
}

fn chain(count: usize, part: &str, between: &str) -> String {
    vec![part; count].join(between)
}

fn doubling_relations(levels: usize) -> String {
    let mut sql = String::from("with t0 as (select 1 as a)");
    for level in 1..=levels {
        let before = level - 1;
        sql.push_str(&format!(", t{level} as (select x.a from t{before} x, t{before} y)"));
    }
    format!("{sql} select count(*) from t{levels}")
}

fn doubling_text(levels: usize, expression: &str) -> String {
    let mut sql = String::from("with t0 as (select repeat('x', 100) as c from logs)");
    for level in 1..=levels {
        sql.push_str(&format!(", t{level} as (select {} as c from t{})", expression, level - 1));
    }
    format!("{sql} select length(c::text) from t{levels}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_brings_the_process_down() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "body", r#"{"k":"v"}"#)]));
    let mut queries: Vec<String> = vec![
        format!("select {}", chain(2_000, "1", " + ")),
        format!("select {}", chain(20_000, "1", "+")),
        format!("select * from logs where {}", chain(2_000, "body = 'x'", " or ")),
        format!("select * from logs where {}", chain(400, "body = 'x'", " or ")),
        format!("select * from logs where {}", chain(160, "body = 'x'", " and ")),
        format!("select {}", chain(499, "1", "+")),
        format!("select {}", chain(300, "'x'", "||")),
        format!("select * from logs where not {} true", "not ".repeat(1_000)),
        format!("select {}1", "-".repeat(3_000)),
        format!("select {}1", "- ".repeat(3_000)),
        format!("select attributes{} from logs", "['a']".repeat(3_000)),
        format!("select 1{}", "::int::text".repeat(1_000)),
        format!("select 1{}", " is null".repeat(1_000)),
        format!("select now(){}", " at time zone 'UTC'".repeat(1_000)),
        format!("select case {} end", "when true then 1 ".repeat(2_000)),
        format!("select {}", "case when ".repeat(1_000)),
        format!("select * from logs where body in ({})", chain(5_000, "'x'", ",")),
        format!("select * from logs where body in ({})", chain(500, "body || 'x'", ",")),
        format!("select coalesce({})", chain(5_000, "null", ",")),
        format!("select concat({})", chain(5_000, "'x'", ",")),
        format!("{}", chain(300, "select 1", " union all ")),
        format!("{}", chain(100, "select 1", " union ")),
        format!("select 1 from {}", (0..500).map(|at| format!("logs l{at}")).collect::<Vec<_>>().join(", ")),
        format!("select 1 from {}", (0..60).map(|at| format!("logs l{at}")).collect::<Vec<_>>().join(" cross join ")),
        nested(1_000, "(", "1", ")"),
        nested(40, "(", "1", ")"),
        nested(1_000, "abs(", "1", ")"),
        nested(23, "case when true then 1 + ", "1", " end"),
        nested(10, "case when true then 1 + ", "1", " end"),
        format!("select 1{}", " * 2 / 2".repeat(120)),
        nested(1_000, "[", "1", "]"),
        nested(1_000, "(select ", "1", ")"),
        nested(40, "(select ", "1", ")"),
        format!("select * from {}logs{}", "(select * from ".repeat(200), ")".repeat(200)),
        format!("select {}", "(".repeat(60_000)),
        format!("select {}", "'".repeat(60_001)),
        "select 'x".to_owned(),
        "select /* /* ".repeat(1_000),
        "x".repeat(64 * 1024 + 1),
        "select ".repeat(9_000),
        "\u{0}select 1".to_owned(),
        "select '\u{0}'".to_owned(),
        doubling_relations(4),
        doubling_relations(12),
        doubling_relations(60),
        doubling_text(40, "c || c"),
        doubling_text(40, "concat(c, c)"),
        doubling_text(40, "encode(c::bytea, 'hex')"),
        doubling_text(40, "replace(c, 'x', 'xxxxxxxx')"),
        doubling_text(40, "make_array(c, c)"),
        doubling_text(40, "struct(c, c)"),
        doubling_text(40, "array_concat(make_array(c), make_array(c))"),
        "select repeat('x', 2000000000)".to_owned(),
        "select repeat(body, 2000000000) from logs".to_owned(),
        "select repeat(repeat(repeat('x', 100000), 100000), 100000)".to_owned(),
        "select lpad('x', 2000000000)".to_owned(),
        "select rpad(body, 2000000000, 'yz') from logs".to_owned(),
        "select array_repeat(1, 2000000000)".to_owned(),
        "select array_repeat(array_repeat(1, 100000), 100000)".to_owned(),
        "select array_resize([1], 2000000000, 0)".to_owned(),
        "select generate_series(1, 9876543210)".to_owned(),
        "select * from generate_series(1, 9876543210)".to_owned(),
        "select array_length(range(0, 9876543210))".to_owned(),
        "select replace(repeat('a', 1000000), 'a', repeat('b', 1000000))".to_owned(),
        "select regexp_replace(repeat('a', 100000), 'a', repeat('b', 100000), 'g')".to_owned(),
        "select regexp_replace(repeat('a', 60000), '(a*)', repeat('\\1', 20000), 'g')".to_owned(),
        "select regexp_like(body, '(((a{100}){100}){100}){100}') from logs".to_owned(),
        "select regexp_like('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!', '^(a+)+$')".to_owned(),
        "select regexp_like(body, '(') from logs".to_owned(),
        "select 1 from logs group by cube(time, received_at, time_flag, observed_time, severity_number, severity_text, body, event_name, trace_id, span_id, flags, service_name, scope_name, scope_version)".to_owned(),
        "select 1 from logs group by rollup(time, body), rollup(flags, body), rollup(body, trace_id)".to_owned(),
        "select * from logs order by time limit 9223372036854775807 offset 9223372036854775807".to_owned(),
        "select count(*) from (select * from logs order by time limit 9223372036854775807)".to_owned(),
        "select count(*) from (select * from logs order by time limit 9223372036854775807 offset 9223372036854775806)".to_owned(),
        "select nth_value(body, 9223372036854775807) over () from logs".to_owned(),
        "select lag(body, 9223372036854775807) over () from logs".to_owned(),
        "select lag(body, -9223372036854775808) over () from logs".to_owned(),
        "select ntile(9223372036854775807) over () from logs".to_owned(),
        "select sum(1) over (rows between 9223372036854775807 preceding and 9223372036854775807 following) from logs".to_owned(),
        "select approx_percentile_cont(severity_number, 0.5, 1000000000) from logs".to_owned(),
        "select approx_percentile_cont(severity_number, 1e300) from logs".to_owned(),
        "select percentile_cont(severity_number, 7) from logs".to_owned(),
        "select factorial(9223372036854775807)".to_owned(),
        "select factorial(-1)".to_owned(),
        "select power(2, 9223372036854775807)".to_owned(),
        "select -9223372036854775808 / -1".to_owned(),
        "select cast(-9223372036854775808 as bigint) % -1".to_owned(),
        "select abs(cast(-9223372036854775808 as bigint))".to_owned(),
        "select 9223372036854775807 + 1".to_owned(),
        "select 1 / 0".to_owned(),
        "select gcd(-9223372036854775808, -9223372036854775808)".to_owned(),
        "select lcm(9223372036854775807, 9223372036854775806)".to_owned(),
        "select date_bin(interval '0 seconds', time) from logs".to_owned(),
        "select date_bin(interval '-9223372036854775808 nanoseconds', time) from logs".to_owned(),
        "select date_trunc('century', time) from logs".to_owned(),
        "select time + interval '999999999 years' from logs".to_owned(),
        "select to_timestamp('99999-01-01')".to_owned(),
        "select to_timestamp(9223372036854775807)".to_owned(),
        "select to_char(time, repeat('%Y', 100000)) from logs".to_owned(),
        "select to_char(time, '%Q%!%') from logs".to_owned(),
        "select chr(-1)".to_owned(),
        "select chr(1114112)".to_owned(),
        "select substr('abc', -9223372036854775808, 9223372036854775807)".to_owned(),
        "select substr('abc', 9223372036854775807, 9223372036854775807)".to_owned(),
        "select left('abc', -9223372036854775808), right('abc', -9223372036854775808)".to_owned(),
        "select split_part('a,b', ',', -9223372036854775808)".to_owned(),
        "select overlay('abc' placing 'x' from -9223372036854775808 for 9223372036854775807)".to_owned(),
        "select [1,2,3][9223372036854775807], [1,2,3][-9223372036854775808]".to_owned(),
        "select [1,2,3][1:9223372036854775807:-9223372036854775808]".to_owned(),
        "select array_slice([1,2,3], 1, 2, 0)".to_owned(),
        "select array_position([1,2,3], 1, 9223372036854775807)".to_owned(),
        "select flatten([[[1]]])".to_owned(),
        "select string_to_array(repeat('a,', 1000000), ',')".to_owned(),
        "select levenshtein(repeat('a', 3000), repeat('b', 3000))".to_owned(),
        "select digest('x', 'none')".to_owned(),
        "select decode('zz', 'hex')".to_owned(),
        "select map([1,1],[2,2])".to_owned(),
        "select map([1,2],[2])".to_owned(),
        "select cast('x' as varchar(99999999999999999999))".to_owned(),
        "select cast('1' as decimal(76, 76))".to_owned(),
        "select round(1.5, 2147483647), trunc(1.5, -2147483648)".to_owned(),
        "select * from (values (1), (2, 3))".to_owned(),
        "select * from logs, unnest([1,2,3])".to_owned(),
        "select unnest([[1],[2]]), unnest([1,2,3,4])".to_owned(),
        "select (select body from logs l where l.body = logs.body and exists (select 1 from logs m where m.body = logs.body)) from logs".to_owned(),
        "select grouping(body) from logs".to_owned(),
        "select string_agg(body, repeat(',', 1000000)) from logs".to_owned(),
        "select $1".to_owned(),
        "select $0".to_owned(),
        "select $99999999999999999999".to_owned(),
        "select ?".to_owned(),
        "select :x".to_owned(),
        "select * from logs where".to_owned(),
        "select * from".to_owned(),
        "select * from logs tablesample (10 percent)".to_owned(),
        "select * from logs pivot (count(body) for flags in (1,2))".to_owned(),
        "select * from logs match_recognize (measures 1 as x pattern (a) define a as true)".to_owned(),
    ];
    queries.push(format!("select {} from logs", chain(2_000, "body", ", ")));
    queries
        .push(format!("select {} from logs", (0..2_000).map(|at| format!("body b{at}")).collect::<Vec<_>>().join(",")));
    for sql in queries {
        let limits = QueryLimits { time: Duration::from_secs(100), ..QueryLimits::default() };
        let begun = std::time::Duration::from_secs_f64(now());
        let mut request = request(&sql);
        request.limits = limits;
        let outcome = world.run("acme", request, weir_sql::output::Format::Json).await;
        let took = std::time::Duration::from_secs_f64(now()).saturating_sub(begun);
        let shown: String = sql.chars().take(120).collect();
        assert!(took < Duration::from_secs(60), "{shown} took {took:?}");
        if let Err(error) = outcome {
            assert_ne!(error.kind(), ErrorKind::Timeout, "{shown}");
        }
    }
    // And the engine still answers.
    assert_eq!(world.rows("acme", "select body from logs").await, r#"[["body"]]"#);
    assert!(world.engine.query(&tenant("rival"), request("select 1")).await.is_ok());
}

/// One null of such a type takes as much memory as the type says, and no allocation that large can
/// be refused in time: the process would be gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn types_of_a_fixed_size_cannot_be_made() {
    let world = World::new();
    for expression in [
        "arrow_cast(null, 'FixedSizeList(2147483647, FixedSizeList(100000, Int64))')",
        "arrow_try_cast(null, 'FixedSizeList(2147483647, FixedSizeList(100000, Int64))')",
        "arrow_cast(null, 'FixedSizeBinary(2147483647)')",
        "cast(null as bigint[2147483647][100000])",
        "try_cast(null as bigint[2147483647][100000])",
        "null::bigint array[2147483647]",
        "cast(null as struct<a bigint[2147483647]>)",
    ] {
        let error = world.engine.query(&tenant("acme"), request(&format!("select {expression}"))).await.err();
        if let Some(error) = &error {
            assert_eq!(error.kind(), ErrorKind::Input, "{expression}: {error}");
        }
        // What the planner takes for a list of any length is harmless.
        assert!(error.is_some() || !expression.contains("arrow"), "{expression}");
    }
}

async fn refusal(world: &World, sql: &str) -> weir_sql::SqlError {
    let mut request = request(sql);
    request.limits.memory_bytes = 256 << 20;
    match world.run("acme", request, weir_sql::output::Format::Json).await {
        Err(error) => error,
        Ok(answer) => {
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            panic!("{} was answered: {:?}", &sql[..sql.len().min(100)], answer["stats"]);
        }
    }
}

/// What single calls may make adds up, so they share the memory of the query.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_results_do_not_add_up() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "body", "{}")]));
    let list = |count: usize, part: fn(usize) -> String| (0..count).map(part).collect::<Vec<_>>().join(", ");
    for sql in [
        // Constants.
        format!("select {}", list(30, |at| format!("repeat('a', {})", 60_000_000 + at))),
        format!("select {}", list(30, |at| format!("repeat('a', {})", 900_000 + at))),
        format!("select {}", list(30, |at| format!("case when body = 'x' then repeat('a', {}) end", 900_000 + at)))
            + " from logs",
        // Rows.
        format!("select {} from logs", list(30, |at| format!("repeat(body, {})", 12_000_000 + at))),
        format!("select {} from logs", list(30, |at| format!("upper(repeat(body, {}))", 12_000_000 + at))),
        format!("select {} from logs", list(30, |at| format!("lpad(body, {})", 12_000_000 + at))),
        "select array_repeat(array_repeat(body, 1000000), 1000000) from logs".to_owned(),
        // A scalar that is not a constant, written out for every row.
        format!(
            "select {} from logs",
            list(30, |at| format!("repeat((select body from logs limit 1), {})", 12_000_000 + at))
        ),
    ] {
        let error = refusal(&world, &sql).await;
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert!(error.to_string().contains("query_memory_bytes_max"), "{error}");
    }
    // What is of ordinary size passes, however much there is of it.
    let ordinary = list(40, |at| format!("length(concat(body, repeat('a', {})))", 2_000 + at));
    let answer = world.rows("acme", &format!("select {ordinary} from logs")).await;
    assert!(answer.starts_with("[[2004,2005,"), "{answer}");
}

/// A call cannot be stopped half way, so none may have much to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn work_that_cannot_be_stopped_is_bounded() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "body", "{}")]));
    for expression in [
        "levenshtein(repeat(body, 100000), repeat(body, 100000))",
        "regexp_like(repeat(body, 1000000), '(a{100}){100}x')",
        "repeat(body, 1000000) ~ '(a{100}){100}x'",
        "repeat(body, 1000000) !~* '(a{100}){100}x'",
        "regexp_count(repeat(body, 1000000), '(?:.*o){150}x')",
        "regexp_replace(repeat(body, 100000), '(([a-z]{20}){20}){3}x', '')",
        "regexp_match(repeat('a', 1000000), '[a-z]{20}x')",
        "regexp_like(body, '(((a{20}){20}){20}){20}')",
        "array_has_all(array_repeat(length(body) + 1, 100000), array_repeat(length(body), 100000))",
        "array_has_any(array_repeat(length(body) + 1, 100000), array_repeat(length(body), 100000))",
    ] {
        let error = refusal(&world, &format!("select {expression} from logs")).await;
        assert_eq!(error.kind(), ErrorKind::Input, "{expression}: {error}");
    }
    for (expression, expected) in [
        (r"regexp_like(body, '^[\w.]{1,64}$')", "true"),
        (r"body ~ 'BODY'", "false"),
        (r"body ~* 'BODY'", "true"),
        (r"body !~ 'o.y'", "false"),
        (r"body !~* '(x|y){2,3}'", "true"),
        (r"null ~ 'x'", "null"),
        (r"array_has_any([1, 2], [2, 3])", "true"),
    ] {
        assert_eq!(world.rows("acme", &format!("select {expression} from logs")).await, format!("[[{expected}]]"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_filter_is_compiled_and_applied_in_bounds() {
    let world = World::new();
    let name = weir_base::StreamName::new("logs").unwrap();
    for predicate in [
        "regexp_like(repeat('a', 1000000), '[a-z]{200}x')",
        "length(repeat('a', 60000000)) > 1",
        "body = repeat('a', 60000000) or body = repeat('b', 60000000)",
        "arrow_cast(null, 'FixedSizeBinary(2147483647)') is null",
    ] {
        let begun = tokio::time::Instant::now();
        assert!(world.engine.row_filter(&tenant("acme"), &name, predicate).await.is_err(), "{predicate}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{predicate}");
    }
    let filter = world.engine.row_filter(&tenant("acme"), &name, "body ~ 'b.d'").await.unwrap();
    assert_eq!(filter.filter(&logs(&[(NOON, 9, "body", "{}"), (NOON, 9, "x", "{}")])).unwrap().num_rows(), 1);
    let filter =
        world.engine.row_filter(&tenant("acme"), &name, "repeat(body, 1000000) ~ '[a-z]{200}x'").await.unwrap();
    assert!(filter.filter(&logs(&[(NOON, 9, "body", "{}")])).is_err());
}

fn now() -> f64 {
    use weir_base::Clock;
    thread_local!(static CLOCK: std::sync::Arc<weir_base::clock::SystemClock> = weir_base::clock::SystemClock::new());
    CLOCK.with(|clock| clock.now().0 as f64 / 1e9)
}

/// What a pattern of LIKE costs a row is bounded, and ordinary ones are not in the way of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn patterns_of_like_are_bounded() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "one two three", r#"{"k":"%w%"}"#)]));
    for (condition, problem) in [
        (format!("body like '%{}x'", "_".repeat(9)), "`_` after a `%`"),
        (format!("body not ilike 'a%b{}'", "_".repeat(200)), "`_` after a `%`"),
        ("body like '%' || repeat('_', 50)".to_owned(), "`_` after a `%`"),
        (format!("body like '%{}'", "x".repeat(1100)), "bytes in a pattern"),
        ("body like attributes['k']".to_owned(), "must be the same for all rows"),
        ("body like severity_text || '%'".to_owned(), "must be the same for all rows"),
        ("body similar to '(a|b)*'".to_owned(), "SIMILAR TO is not supported"),
    ] {
        let error = refusal(&world, &format!("select count(*) from logs where {condition}")).await;
        assert!(matches!(error.kind(), ErrorKind::Input | ErrorKind::TooLarge), "{condition}: {error:?}");
        assert!(error.to_string().contains(problem), "{condition}: {error}");
        // Also where it is no filter.
        refusal(&world, &format!("select {condition} from logs")).await;
    }
    for condition in [
        "body like '%two%'",
        "body like 'one%three'",
        "body ilike '%TWO%'",
        "body like '%' || 'two' || '%'",
        "body like '_____________'",
        "body like '________%'",
        "body like '%o%e%t%w%o%t%h%r%e%e%'",
        r"body not like '%\_\_\_\_\_\_\_\_\_\_'",
        "body like concat('%', 'two', '%')",
    ] {
        let answer = world.rows("acme", &format!("select count(*) from logs where {condition}")).await;
        assert_eq!(answer, "[[1]]", "{condition}");
    }
}

/// All centroids that are asked for are made room for at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn centroids_are_bounded() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "body", "{}"), (NOON, 17, "other", "{}")]));
    for call in [
        "approx_percentile_cont(severity_number, 0.5, 10001)",
        "approx_percentile_cont(severity_number, 0.5, 1000000000000)",
        "approx_percentile_cont(severity_number, 0.5, 100000000000000000)",
        "approx_percentile_cont(severity_number, 0.5, 9223372036854775807)",
        "approx_percentile_cont(severity_number, 0.5, 0)",
        "approx_percentile_cont(severity_number, 0.5, 3162277660 * 3162277)",
        "approx_percentile_cont(severity_number, 0.5, power(10, 17)::bigint)",
        "approx_percentile_cont(severity_number, 0.5, $1::bigint)",
        "approx_percentile_cont(0.5, 100000000000000000) within group (order by severity_number)",
        "approx_percentile_cont(severity_number, 0.5, 100000000000000000) over ()",
        "approx_percentile_cont(severity_number, 0.5, 100000000000000000) over (order by time rows 1 preceding)",
        "approx_percentile_cont(severity_number, 0.5, 100000000000000000) filter (where body = 'body')",
        "approx_percentile_cont_with_weight(severity_number, 1, 0.5, 100000000000000000)",
        "approx_percentile_cont_with_weight(severity_number, 1, 0.5, $1::bigint)",
        "approx_percentile_cont_with_weight(1, 0.5, 100000000000000000) within group (order by severity_number)",
    ] {
        for sql in [
            format!("select {call} from logs"),
            format!("select body, {call} from logs group by body, severity_number, time"),
        ] {
            let mut request = request(&sql);
            if sql.contains('$') {
                request.params = vec![100_000_000_000_000_000_i64.into()];
            }
            let error = match world.run("acme", request, weir_sql::output::Format::Json).await {
                Err(error) => error,
                Ok(answer) => panic!("{sql} was answered: {}", String::from_utf8_lossy(&answer)),
            };
            assert_eq!(error.kind(), ErrorKind::Input, "{sql}: {error}");
            let called = call.split('(').next().unwrap();
            assert!(error.to_string().contains(&format!("{called} takes 1 to 10000 centroids")), "{sql}: {error}");
        }
    }
    for call in [
        "approx_percentile_cont(severity_number, 1.0, 10000)",
        "approx_percentile_cont(1.0, 10000) within group (order by severity_number)",
        "approx_percentile_cont_with_weight(severity_number, 1, 1.0, 10000)",
        "approx_percentile_cont_with_weight(severity_number, 1, 1.0)",
        "approx_percentile_cont(severity_number, 1.0)",
    ] {
        assert_eq!(world.rows("acme", &format!("select {call} from logs")).await, "[[17]]", "{call}");
    }
}

/// A heap of as many groups as a limit lets through is made at once, and the limit may be the tenant's: none.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn groups_in_an_order_are_not_made_room_for() {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "b", "{}"), (NOON + 1, 17, "a", "{}"), (NOON + 2, 9, "b", "{}")]));
    let groups = "select body from logs group by body order by body";
    for (sql, expected) in [
        ("select distinct body from logs order by 1", r#"[["a"],["b"]]"#),
        ("select distinct body from logs order by 1 desc", r#"[["b"],["a"]]"#),
        (groups, r#"[["a"],["b"]]"#),
        ("select body from logs group by body order by max(severity_number) desc", r#"[["a"],["b"]]"#),
        ("select body, min(severity_number) from logs group by 1 order by 2 desc", r#"[["a",17],["b",9]]"#),
        ("select distinct severity_number from logs order by 1", "[[9],[17]]"),
        (&format!("{groups} limit 1000000000000"), r#"[["a"],["b"]]"#),
        (&format!("{groups} limit 9223372036854775807 offset 1"), r#"[["b"]]"#),
        (&format!("{groups} limit 1000000000000 offset 1000000000000"), "[]"),
        (&format!("select (select count(*) from ({groups} limit 1000000000000))"), "[[2]]"),
        (&format!("select count(*) from ({groups} limit 1000000000000) a, ({groups} limit 1000000000000) b"), "[[4]]"),
        (
            &format!("select * from ({groups} limit 1000000000000) union all select 'z' order by 1"),
            r#"[["a"],["b"],["z"]]"#,
        ),
        (
            &format!("select body from logs where body in ({groups} limit 1000000000000) order by time"),
            r#"[["b"],["a"],["b"]]"#,
        ),
        (&format!("{groups} limit 1"), r#"[["a"]]"#),
    ] {
        for rows in [usize::MAX, 1_000_000_000_000, 1_000] {
            let mut request = request(sql);
            request.limits.rows = rows;
            let answer = world.run("acme", request, weir_sql::output::Format::Json).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["rows"].to_string(), expected, "{sql}, {rows} rows");
        }
    }
}
