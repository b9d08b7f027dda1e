//! Descriptions of pipelines, in each of the languages: the first byte says in which. Every problem has a place in
//! the text, and what is filled in is never shown. A query in it becomes steps, or has problems.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use schemars::json_schema;
use weir_component::spec::Fault;
use weir_document::{Fills, Syntax};
use weir_pipelines::document::{Entry, Grammar};
use weir_pipelines::sql;
use weir_sql::streaming::Input;

const SECRET: &str = "Kx7Qw9";

struct Secrets;

impl Fills for Secrets {
    fn variable(&self, _: &str) -> Result<String, String> {
        Ok(SECRET.to_owned())
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Ok(format!("{SECRET}, {SECRET}"))
    }
}

static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| {
    let entry = |name, schema| Entry { name, summary: "", schema };
    let file = entry("file", || {
        json_schema!({
            "type": "object",
            "properties": {
                "path": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] },
                "format": { "enum": ["ndjson", "csv"] },
                "size": { "type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535 },
                "every": { "type": "string", "format": "span", "x-min": "1s" },
                "any": true,
            },
            "required": ["path"],
        })
    });
    let filter = entry("filter", || json_schema!({ "type": "string", "format": "expression" }));
    let set = entry("set", || json_schema!({ "type": "object", "x-weir-shape": "expressions" }));
    let console = entry("console", || json_schema!({ "type": "object", "properties": {} }));
    Grammar::new(&[file], &[filter, set], &[file, console])
});

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let syntax = [Syntax::Yaml, Syntax::Toml, Syntax::Json][usize::from(first % 3)];
    let shown = match GRAMMAR.read("f", syntax, text, &Secrets) {
        Ok(document) => {
            for step in &document.steps {
                for pointer in ["", "/a", "/when"] {
                    for place in [(1, 1), (2, 3), (usize::MAX, usize::MAX)] {
                        let fault = Fault::new(pointer, "wrong", "").at(place.0, place.1);
                        let problem = document.diagnostic(&step.component, fault);
                        assert!(problem.place.starts_with("f:"), "{problem}");
                    }
                }
            }
            let columns = ["t", "a", "b"].map(str::to_owned);
            let known = |name| Input { name, time: Some("t"), columns: Some(&columns) };
            let inputs: Vec<Input<'_>> = document.from.iter().map(|from| known(from.id.as_str())).collect();
            let of_query = sql::steps(&document, &inputs);
            if let Err(problems) = &of_query {
                assert!(problems.iter().all(|problem| problem.place.starts_with("f:")), "{problems:?}");
            }
            format!("{document:?}{of_query:?}")
        }
        Err(problems) => {
            assert!(!problems.is_empty() && problems.len() <= 101);
            for problem in &problems {
                assert!(problem.place.starts_with("f:"), "{problem}");
            }
            format!("{problems:?}")
        }
    };
    assert!(!shown.contains(SECRET) || text.contains(SECRET), "{shown}");
});
