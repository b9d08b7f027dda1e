#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use expect_test::{Expect, expect};
use schemars::json_schema;
use weir_component::spec::Fault;
use weir_document::{NoFills, Syntax};

use super::*;
use crate::document::{Entry, Grammar};

fn read(sql: &str) -> Document {
    let any = Entry { name: "any", summary: "", schema: || json_schema!(true) };
    let sql: String = sql.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    });
    let text = format!(
        "pipeline: p\nfrom: {{ any: 1, time: t }}\nsql: |\n{sql}steps:\n- any: 1\n  id: sql_window\nto: [ any: 1 ]\n"
    );
    Grammar::new(&[any], &[any], &[any], &[any]).read("p.yaml", Syntax::Yaml, &text, &NoFills).unwrap()
}

fn check(sql: &str, expected: Expect) {
    let document = read(sql);
    let mut text = String::new();
    match steps(&document, &[Input { time: Some("t"), ..Input::default() }]) {
        Ok(steps) => {
            for step in steps {
                writeln!(text, "{}: {} {}", step.id, step.component.name, step.component.config()).unwrap();
            }
        }
        Err(problems) => {
            for problem in problems {
                writeln!(text, "{problem}").unwrap();
            }
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn queries_become_steps() {
    check("SELECT * FROM input", expect![[""]]);
    check(
        "SELECT tumble(t, interval '1 minute') AS w, path, count(*) AS n\nFROM input GROUP BY 1, 2",
        expect![[r#"
            sql_window_2: window {"by":[{"name":"path","text":"path"}],"select":[{"name":"n","text":"count(*)"}],"tumbling":"1m"}
            sql_rename: rename {"window":"w"}
        "#]],
    );
    check(
        "SELECT hop(t, '1m', '5m', '30s') AS w, lower(path) AS p, sum(n) / count(*) AS mean\nFROM (SELECT *, 1 AS one FROM input WHERE n > 0)\nGROUP BY 1, p HAVING max(n) > 3",
        expect![[r#"
            sql_filter: filter "n > 0"
            sql_set: set [{"name":"one","text":"1"}]
            sql_window_2: window {"by":[{"name":"p","text":"lower(path)"}],"hopping":{"every":"1m","size":"5m"},"offset":"30s","select":[{"name":"__aggregate_1","text":"max(n)"},{"name":"__aggregate_2","text":"sum(n)"},{"name":"__aggregate_3","text":"count(*)"}]}
            sql_filter_2: filter "__aggregate_1 > 3"
            sql_set_2: set [{"name":"mean","text":"__aggregate_2 / __aggregate_3"}]
            sql_rename: rename {"window":"w"}
            sql_keep: keep ["w","p","mean"]
        "#]],
    );
}

#[test]
fn problems_have_their_line() {
    check(
        "SELECT path\nFROM inptu",
        expect![[r#"
        p.yaml:5:8: there is no table `inptu`: the rows of the pipeline are called `input` (did you mean `input`?)
    "#]],
    );
    check(
        "SELECT path,\n  count(*) FROM input\nGROUP BY tumble(time, '1m')",
        expect![[r#"
        p.yaml:6:19: tumble cuts the event time, which is the column `t`, not time (write tumble(t, ...), or name another column with `time:` in `from`)
    "#]],
    );
    check(
        "SELECT path\n  FORM input",
        expect![[r#"
        p.yaml:5:10: this is not SQL: expected: end of statement, found: input
    "#]],
    );
    check(
        "DELETE FROM input",
        expect![[r#"
        p.yaml:4:3: the SQL of a pipeline is one SELECT
    "#]],
    );
}

/// What a step finds wrong is a place in the query.
#[test]
fn faults_of_steps_have_their_line() {
    let document = read(
        "SELECT tumble(t, '1m') AS w,\n       lower(pth) AS p,\n       sum(a) / sum(b) AS q,\n       count(*)\nFROM input AS i\nWHERE i.x > 1 AND\n  y > 2\nGROUP BY w, p",
    );
    let steps = steps(&document, &[Input { time: Some("t"), ..Input::default() }]).unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(names, ["sql_filter", "sql_window_2", "sql_set", "sql_rename", "sql_keep"]);
    let mut text = String::new();
    for (step, pointer, inside) in [
        (0, "", None),
        (0, "", Some((1, 3))),
        (1, "", None),
        (1, "/tumbling", None),
        (1, "/by/p", Some((1, 7))),
        (1, "/select/count(*)", Some((1, 1))),
        (1, "/select/__aggregate_1", Some((1, 5))),
        (2, "/q", Some((1, 1))),
        (3, "", None),
    ] {
        let fault = Fault::new(pointer, "wrong", "");
        let fault = inside.map_or(fault.clone(), |(line, column)| fault.at(line, column));
        let problem = document.diagnostic(&steps[step].component, fault);
        writeln!(text, "{} {pointer} {inside:?}: {}", steps[step].id, problem.place).unwrap();
    }
    expect![[r#"
        sql_filter  None: p.yaml:9:9
        sql_filter  Some((1, 3)): p.yaml:9:9
        sql_window_2  None: p.yaml:4:10
        sql_window_2 /tumbling None: p.yaml:4:10
        sql_window_2 /by/p Some((1, 7)): p.yaml:5:16
        sql_window_2 /select/count(*) Some((1, 1)): p.yaml:7:10
        sql_window_2 /select/__aggregate_1 Some((1, 5)): p.yaml:6:14
        sql_set /q Some((1, 1)): p.yaml:6:10
        sql_rename  None: p.yaml:4:3
    "#]]
    .assert_eq(&text);
}
