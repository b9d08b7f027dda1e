//! The examples of the book: each document is right, and each query has a meaning.

use std::path::Path;

use weir_document::{Fills, Syntax};
use weir_pipelines::plan::GRAMMAR;
use weir_pipelines::sql::steps;
use weir_sql::streaming::{Input, translate};

struct Anything;

impl Fills for Anything {
    fn variable(&self, name: &str) -> Result<String, String> {
        Ok(format!("/{name}"))
    }

    fn file(&self, path: &str) -> Result<String, String> {
        Ok(path.to_owned())
    }
}

/// The blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let blocks = page.split(&begin).skip(1).filter_map(|rest| rest.split_once("\n```"));
    blocks.map(|(block, _)| format!("{block}\n")).collect()
}

#[test]
fn the_examples_are_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/pipelines.md");
    let page = std::fs::read_to_string(path).unwrap();
    let documents = blocks(&page, "yaml");
    assert!(documents.len() >= 3);
    for text in documents {
        let document =
            GRAMMAR.read("p", Syntax::Yaml, &text, &Anything).unwrap_or_else(|found| panic!("{text}{found:?}"));
        let inputs: Vec<Input<'_>> = document
            .from
            .iter()
            .map(|from| Input { name: &from.id, time: from.time.as_deref(), columns: None, is_table: false })
            .collect();
        steps(&document, &inputs).unwrap_or_else(|found| panic!("{text}{found:?}"));
    }
    let queries = blocks(&page, "sql");
    assert!(queries.len() >= 3);
    for sql in queries {
        let columns = ["timestamp", "user", "path", "status", "bytes", "items", "event_id"].map(str::to_owned);
        let of = |name| Input { name, time: Some("timestamp"), columns: Some(&columns), is_table: false };
        let of_table = ["id", "name", "tier"].map(str::to_owned);
        let customers = Input { name: "customers", time: None, columns: Some(&of_table), is_table: true };
        translate(&sql, &[of("input"), of("orders"), of("payments"), customers])
            .unwrap_or_else(|found| panic!("{sql}{found:?}"));
    }
}
