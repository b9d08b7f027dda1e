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

/// What a test says once it was blessed, and how it goes then.
fn blessed(expected: &str) -> (String, Verdict) {
    let pipeline = "--- pipeline
pipeline: shares
from: { stream: input, time: ts }
steps:
  - set: { share: \"12 / n\" }
to: [ { stream: out } ]
--- send input
ts        n
00:00:01  4
00:00:02  0
";
    let test = TextTest::parse("shares.wt", &format!("{pipeline}{expected}")).unwrap();
    let (text, verdict) = test.blessed(Path::new(".")).unwrap();
    (text.strip_prefix(pipeline).unwrap().to_owned(), verdict)
}

#[test]
fn a_test_that_is_blessed_passes_or_it_is_said_that_it_does_not() {
    let dead = "--- expect shares_dead\nn  step\n0  set\n";
    let (text, verdict) = blessed(&format!("--- expect out\n{dead}"));
    assert_eq!(verdict, Verdict::Passed);
    assert_eq!(
        text,
        format!("--- expect out\nts        n  share\n00:00:01  4  3\n{dead}"),
        "all columns if none is named"
    );
    assert_eq!(blessed(&text), (text.clone(), Verdict::Passed));
    let (_, verdict) = blessed("--- expect out\nshare\n4\n");
    let Verdict::Failed(message) = verdict else { panic!("nobody looks at the dead letter") };
    assert!(message.contains("under `--- expect shares_dead`"), "{message}");
}
