#![allow(clippy::unwrap_used, reason = "tests")]

use weir_base::{ErrorKind, Kinded};

use super::*;

fn tables() -> Vec<String> {
    vec!["events".to_owned(), "logs".to_owned()]
}

#[test]
fn queries_pass_and_parameters_are_counted() {
    let check = |sql: &str, parameters: usize, explain: bool| {
        let gated = gate(sql, &tables()).unwrap();
        assert_eq!((gated.parameters, gated.explain), (parameters, explain), "{sql}");
    };
    check("select 1", 0, false);
    check("select 1;", 0, false);
    check("(select 1)", 0, false);
    check("with a as (select $2) select $1 from a", 2, false);
    check("values (1)", 0, false);
    check("explain select 1", 0, true);
    check("explain verbose select $3", 3, true);
    check("explain format tree select 1", 0, true);
    check("show tables", 0, false);
    check("describe logs", 0, false);
    check("select '$9', \"$9\" -- $9", 0, false);
}

#[test]
fn a_relation_counts_wherever_it_is_used() {
    let chain = |levels: usize, body: &str| {
        let mut sql = "with t0 as (select 1 as a)".to_owned();
        for level in 1..=levels {
            sql.push_str(&format!(", t{level} as ({})", body.replace('?', &format!("t{}", level - 1))));
        }
        format!("{sql} select * from t{levels}")
    };
    // One use each: as many relations as tables.
    assert!(gate(&chain(100, "select a from ?"), &tables()).is_ok());
    // Two uses each: twice as many on every level.
    assert!(gate(&chain(5, "select x.a from ? x, ? y"), &tables()).is_ok());
    let error = gate(&chain(7, "select x.a from ? x, ? y"), &tables()).unwrap_err();
    assert!(matches!(error, SqlError::TooLarge { what: "tables and subqueries", .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    // Names are resolved where they stand: an inner definition hides an outer one.
    let hidden = "with t as (select 1), u as (with t as (select * from logs, events) select * from t, t b) select * from u, u b, t";
    assert!(gate(hidden, &tables()).is_ok());
}

#[test]
fn the_deepest_chain_counts_not_the_longest_list() {
    let list = vec!["a + b"; 2_000].join(", ");
    assert!(gate(&format!("select {list} from logs"), &tables()).is_ok());
    let sum = vec!["a"; 501].join(" + ");
    assert!(gate(&format!("select {sum} from logs"), &tables()).is_ok());
    let sum = vec!["a"; 502].join(" + ");
    assert!(gate(&format!("select {sum} from logs"), &tables()).is_err());
    // A chain inside a chain adds up.
    let half = vec!["a"; 300].join(" + ");
    assert!(gate(&format!("select {half} + ({half}) from logs"), &tables()).is_err());
}

#[test]
fn columns_are_called_what_was_written() {
    let check = |sql: &str, columns: usize, expected: &[Option<&str>]| {
        let gated = gate(sql, &tables()).unwrap();
        let names = gated.names.unwrap();
        let found: Vec<Option<&str>> = (0..columns).map(|at| names.name(at, columns)).collect();
        assert_eq!(found, expected, "{sql}");
    };
    check("select a, count(*), b as c from logs", 3, &[None, Some("count(*)"), None]);
    check("select *, a + 1 from logs", 4, &[None, None, None, Some("a + 1")]);
    check("select 1, * from logs", 3, &[Some("1"), None, None]);
    check("select 1, 1, a.x, x from logs", 4, &[Some("1"), Some("1"), None, None]);
    check("select l.x, l.x from logs l", 2, &[None, Some("x")]);
}

#[test]
fn a_filter_is_one_expression() {
    for sql in ["body = 'x'", "a > 1 and (b or not c)", "attributes['k'] like '%x%'", "a in (1, 2)"] {
        assert!(gate_predicate(sql).is_ok(), "{sql}");
    }
    for sql in [
        "",
        "body = 'x'; select 1",
        "select 1",
        "exists (select 1)",
        "a in (select 1)",
        "a = (select 1)",
        "a = any (select 1)",
        "a = $1",
        "a as b",
        "a, b",
        "body = 'x' order by 1",
    ] {
        assert!(gate_predicate(sql).is_err(), "{sql}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_gate(sql in ".{0,300}") {
        let _ = gate(&sql, &tables());
        let _ = gate_predicate(&sql);
    }

    #[test]
    fn no_soup_of_words_breaks_the_gate(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "select", "from", "logs", "(", ")", "[", "]", ",", "where", "and", "or", "not", "'x'", "1", "*", "+", "-",
            "with", "as", "a", "union", "all", "join", "on", "case", "when", "then", "end", "group", "by", "cube",
            "order", "limit", "explain", "show", "tables", "describe", "$1", ";", "::", "int", "over", "is", "null",
        ]), 0..60)) {
        let _ = gate(&words.join(" "), &tables());
    }
}
