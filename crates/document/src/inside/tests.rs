#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::tree::{Node, Value};

/// Finds the text value of `name`, looks for the `@` in it, and for each place inside the text asks which
/// character of the document is there.
fn check(syntax: Syntax, document: &str) {
    let parsed = syntax.parse("f", document);
    assert_eq!(parsed.problems, [], "{document}");
    let Value::Map(entries) = parsed.root.value else { panic!("a section") };
    let mut n_checked = 0;
    for (_, Node { place, value }) in &entries {
        let Value::Text(text) = value else { continue };
        for (line, content) in text.lines().enumerate() {
            for (column, character) in content.chars().enumerate() {
                if character.is_whitespace() {
                    continue;
                }
                let found = inside(document, syntax, place, text, line + 1, column + 1);
                let there = document.lines().nth(found.line - 1).unwrap().chars().nth(found.column - 1).unwrap();
                // An escape is found at its backslash, and a doubled quote at the first.
                if there != '\\' {
                    assert_eq!(there, character, "{document:?}: {line}:{column} is {found}");
                }
                n_checked += 1;
            }
        }
    }
    assert!(n_checked > 3, "{document}");
}

#[test]
fn every_style_of_yaml() {
    check(Syntax::Yaml, "a: 1\nsql: SELECT a\nb: 2\n");
    check(Syntax::Yaml, "sql: |\n  SELECT a,\n    b\n\n  FROM c\nb: 2\n");
    check(Syntax::Yaml, "sql: |2-\n    SELECT a,\n   b\nb: 2\n");
    check(Syntax::Yaml, "sql: >\n  SELECT a,\n  b\n\n  FROM ü.c\n");
    check(Syntax::Yaml, "ü: { sql: x, filter: 'it''s a \"b\"', n: 'x\n   y' }\nsql: 'it''s a \"b\"'\n");
    check(Syntax::Yaml, "sql: \"a \\\"b\\\" \\u00e4 \\n c\\\n   d\"\n");
    check(Syntax::Yaml, "sql: SELECT a,\n  b\n  c # no\n");
    check(Syntax::Yaml, "{sql: SELECT a}");
}

#[test]
fn every_style_of_toml_and_json() {
    check(Syntax::Toml, "a = 1\nsql = \"SELECT \\\"a\\\" \\u00e4 \\t b\"\n");
    check(Syntax::Toml, "sql = 'SELECT a\\b'\n");
    check(Syntax::Toml, "sql = '''\nSELECT a,\n  'b'\n'''\n");
    check(Syntax::Toml, "sql = \"\"\"\nSELECT a, \\\n  \"b\"\n\"\"\"\n");
    check(Syntax::Json, "{\n\t\"sql\": \"SELECT \\\"a\\\"\\n\\u00e4\\uD83D\\uDE00 b\\/c\"}");
}

#[test]
fn a_place_that_is_not_in_the_text_is_that_of_the_text() {
    let place = Place { source: "f".into(), line: 1, column: 4 };
    let at = |line, column| inside("a: bc\n", Syntax::Yaml, &place, "bc", line, column).column;
    assert_eq!([at(1, 1), at(1, 2), at(1, 3), at(9, 9)], [4, 5, 4, 4]);
    let nowhere = Place::named("WEIR_X");
    assert_eq!(inside("a: bc\n", Syntax::Yaml, &nowhere, "bc", 1, 1), nowhere);
}
