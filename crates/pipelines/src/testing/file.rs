//! Text tests of pipelines: files that end in `.wt`.
//!
//! A file is a list of sections, each under a line that begins with `---`:
//!
//! - `--- pipeline` and the document, or `--- pipeline PATH` with the path of one, from the test's folder;
//! - `--- send NAME` and rows for the source: the name of its stream, or `input` if it reads something else.
//!   `NAME/PARTITION` sends to a partition of its own;
//! - `--- expect NAME` and the rows that have come to a sink since the last time: the name of its stream, or its
//!   id. `PIPELINE_late` and `PIPELINE_dead` are the rows set aside. Only the columns named are compared, in any
//!   order of rows. Some seconds pass until they are committed, and what waits for less is put out meanwhile;
//! - `--- expect problems` and what is wrong with the pipeline, a line each;
//! - `--- advance SPAN`: so much time passes in which nothing comes;
//! - `--- end`: nothing more comes, and windows close.
//!
//! Lines that begin with `#` are comments.

use weir_base::Diagnostic;
use weir_base::quantity::Span;

use super::table::TextTable;

/// A test as it is written.
#[derive(Clone, Debug)]
pub struct TextTest {
    /// Where it was read.
    pub name: String,
    pub(super) text: String,
    pub(super) sections: Vec<Section>,
}

/// One section of a test.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// The line of its heading, from 1.
    pub(super) line: usize,
    pub(super) what: What,
    /// The lines after the heading, as a range of bytes of the whole text.
    pub(super) body: std::ops::Range<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Pipeline { path: Option<String> },
    Send { stream: String, partition: String, table: TextTable },
    Expect { name: String, table: TextTable },
    ExpectProblems,
    Advance(Span),
    End,
}

/// The partition of rows that name none.
const PARTITION: &str = "0";

impl TextTest {
    /// Reads a test.
    ///
    /// # Errors
    /// Everything that is wrong with its form.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let mut sections = Vec::new();
        let mut headings: Vec<(usize, usize, usize, &str)> = Vec::new();
        let mut offset = 0;
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if let Some(heading) = line.strip_prefix("---") {
                headings.push((number + 1, offset, offset + line.len(), heading.trim()));
            }
            offset += line.len();
        }
        let problem = |line: usize, message: String, hint: &str| Diagnostic {
            message,
            place: format!("{name}:{line}"),
            hint: hint.to_owned(),
        };
        for (at, (line, _, from, heading)) in headings.iter().enumerate() {
            let to = headings.get(at + 1).map_or(text.len(), |(_, next, _, _)| *next);
            let (word, rest) = heading.split_once(char::is_whitespace).unwrap_or((heading, ""));
            let rest = rest.trim();
            let mut table = || match TextTable::parse(&text[*from..to]) {
                Ok(table) => Some(table),
                Err((below, message)) => {
                    problems.push(problem(line + 1 + below, message, ""));
                    None
                }
            };
            let what = match (word, rest) {
                ("pipeline", "") => Some(What::Pipeline { path: None }),
                ("pipeline", path) => Some(What::Pipeline { path: Some(path.to_owned()) }),
                ("expect", "problems") => Some(What::ExpectProblems),
                ("send" | "expect", "") => {
                    problems.push(problem(*line, format!("{word} what?"), "give the name of a stream or sink"));
                    None
                }
                ("send", stream) => table().map(|table| {
                    let (stream, partition) = stream.split_once('/').unwrap_or((stream, PARTITION));
                    What::Send { stream: stream.to_owned(), partition: partition.to_owned(), table }
                }),
                ("expect", sink) => table().map(|table| What::Expect { name: sink.to_owned(), table }),
                ("advance", span) => match span.parse() {
                    Ok(span) => Some(What::Advance(span)),
                    Err(error) => {
                        problems.push(problem(*line, error.to_string(), "for example 10s"));
                        None
                    }
                },
                ("end", "") => Some(What::End),
                _ => {
                    let hint = "sections are pipeline, send, expect, advance and end";
                    problems.push(problem(*line, format!("there is no section `{heading}`"), hint));
                    None
                }
            };
            if let Some(what) = what {
                sections.push(Section { line: *line, what, body: *from..to });
            }
        }
        let pipelines = sections.iter().filter(|section| matches!(section.what, What::Pipeline { .. })).count();
        if pipelines != 1 && problems.is_empty() {
            problems.push(problem(
                1,
                format!("there are {pipelines} pipeline sections"),
                "a test has one, at its beginning",
            ));
        } else if problems.is_empty() && !matches!(sections[0].what, What::Pipeline { .. }) {
            problems.push(problem(sections[0].line, "the pipeline must come first".to_owned(), ""));
        }
        if problems.is_empty() {
            Ok(Self { name: name.to_owned(), text: text.to_owned(), sections })
        } else {
            Err(problems)
        }
    }

    /// The test with other bodies of some sections, by their index.
    pub(super) fn with_bodies(&self, bodies: &[(usize, String)]) -> String {
        let mut text = self.text.clone();
        let mut sorted: Vec<&(usize, String)> = bodies.iter().collect();
        sorted.sort_by_key(|(section, _)| std::cmp::Reverse(*section));
        for (section, body) in sorted {
            let range = &self.sections[*section].body;
            // The empty lines and comments at the end belong to what follows.
            let old = &self.text[range.clone()];
            let kept = old.lines().rev().take_while(|line| line.trim().is_empty() || line.starts_with('#')).count();
            let n_lines = old.lines().count();
            let end: usize = old.split_inclusive('\n').take(n_lines - kept).map(str::len).sum();
            text.replace_range(range.start..range.start + end, body);
        }
        text
    }
}
