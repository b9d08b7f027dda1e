#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use weir_base::clock::SystemClock;
use weir_component::checkpoint::CheckpointStore;
use weir_component::source::{Next, PlannedSource, Source, SourceError, SourcePosition};

use super::*;
use crate::job::{End, Job, JobOptions};
use crate::memory::Memory;
use crate::plan::PlanSource;

/// A source that has nothing, of which a document reads a part.
#[derive(Clone)]
struct Parted {
    part: Option<&'static str>,
    is_shared: bool,
}

#[async_trait]
impl PlannedSource for Parted {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn is_bounded(&self) -> bool {
        true
    }

    async fn open(&self, _: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(self.clone()))
    }

    fn describe(&self) -> String {
        "reads nothing".to_owned()
    }

    fn part(&self) -> Option<String> {
        self.part.map(str::to_owned)
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }
}

#[async_trait]
impl Source for Parted {
    async fn next(&mut self, _: Option<&str>) -> Result<Next, SourceError> {
        Ok(Next::Done)
    }

    fn position(&self) -> SourcePosition {
        SourcePosition { partitions: [("a".to_owned(), serde_json::json!(1))].into() }
    }
}

fn plan(part: Option<&'static str>, is_shared: bool) -> Plan {
    let source = PlanSource {
        id: "messages".to_owned(),
        source: Arc::new(Parted { part, is_shared }),
        time: None,
        disorder: Duration::ZERO,
        idle: None,
        align: None,
    };
    Plan {
        pipeline: "p".to_owned(),
        sources: vec![source],
        steps: Vec::new(),
        sinks: Vec::new(),
        late: None,
        dead: None,
        parallelism: 1,
    }
}

fn refused(result: Result<(), JobError>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(JobError::Changed { reason }) => reason,
        Err(error) => panic!("{error}"),
    }
}

/// Whether it is known from a checkpoint, or from what runs and has made none.
#[tokio::test]
async fn another_part_of_a_source_is_refused_before_anything_is_stopped() {
    for (before, now, expected) in [
        (Some("part 1/3"), Some("part 1/3"), ""),
        (Some("part 1/3"), Some("part 2/3"), "messages has read part 1/3 so far, and is to read part 2/3 now"),
        (Some("part 1/3"), Some("all"), "messages has read part 1/3 so far, and is to read all now"),
        (None, None, ""),
        // By a program that did not say.
        (None, Some("all"), ""),
    ] {
        let (before, now) = (plan(before, false), plan(now, false));
        assert_eq!(refused(now.could_follow(&before)), expected);
        let store = Arc::new(Memory::default());
        let kept = Arc::clone(&store) as Arc<dyn CheckpointStore>;
        let job = Job::open(&before, kept, SystemClock::new(), JobOptions::default()).await.unwrap();
        assert_eq!(crate::run(job).await, Ok(End::Finished));
        assert_eq!(refused(now.resumes(store.as_ref()).await.map(drop)), expected);
    }
}

#[test]
fn one_that_reads_alone_does_not_go_on_as_one_of_several() {
    let (alone, shared) = (plan(None, false), plan(None, true));
    assert_eq!(refused(shared.could_follow(&alone)), "it was made by a process that read its source alone");
    assert_eq!(refused(alone.could_follow(&shared)), "it was made by a process that read its source as one of several");
    assert_eq!(refused(shared.could_follow(&shared)), "");
}
