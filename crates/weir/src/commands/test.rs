//! `weir test`: text tests of pipelines, without a server and in simulated time.

use std::path::Path;

use anyhow::Context;
use weir_pipelines::testing::file::TextTest;
use weir_pipelines::testing::runner::{Verdict, Way, find};

use super::say;
use crate::cli::TestArgs;
use crate::failure::bad_arguments;

pub(super) fn run(args: &TestArgs) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for path in &args.paths {
        files.extend(find(path).with_context(|| format!("cannot look for tests in {}", path.display()))?);
    }
    if files.is_empty() {
        return Err(bad_arguments("there are no tests: their files end in .wt"));
    }
    let mut n_failed = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.display().to_string();
        let folder = file.parent().unwrap_or(Path::new("."));
        let verdict = match TextTest::parse(&name, &text) {
            Err(problems) => Verdict::Failed(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
            Ok(test) if args.bless => match test.blessed(folder) {
                Err(message) => Verdict::Failed(message),
                Ok((blessed, verdict)) => {
                    if blessed != text {
                        std::fs::write(file, blessed).with_context(|| format!("cannot write {name}"))?;
                        say(format_args!("blessed {name}"))?;
                    }
                    verdict
                }
            },
            Ok(test) => test.run(folder),
        };
        match verdict {
            Verdict::Passed => say(format_args!("ok      {name}"))?,
            Verdict::Failed(message) => {
                n_failed += 1;
                say(format_args!("FAILED  {name}\n{message}\n"))?;
            }
        }
    }
    if n_failed > 0 {
        anyhow::bail!("{n_failed} of {} tests failed", files.len());
    }
    say(format_args!("{} tests passed, each run in {} ways", files.len(), Way::ALL.len()))?;
    Ok(())
}
