//! Runs the text tests of the repository.

use std::path::Path;

use weir_pipelines::testing::file::TextTest;
use weir_pipelines::testing::runner::{Verdict, find};

#[test]
fn text_tests_pass_every_way() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/pipelines");
    let files = find(&folder).unwrap();
    assert!(files.len() >= 10, "only {} text tests are there", files.len());
    let mut failures = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        match TextTest::parse(&name, &text) {
            Ok(test) => match test.run(file.parent().unwrap()) {
                Verdict::Passed => {}
                Verdict::Failed(message) => failures.push(message),
            },
            Err(problems) => failures.extend(problems.iter().map(ToString::to_string)),
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}
