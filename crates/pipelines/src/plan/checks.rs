//! What parts of a pipeline that are right each by themselves cannot be together.

use weir_component::spec::Fault;
use weir_engine::{PlanSink, PlanSource, PlanStep};

use super::Planner;
use crate::document::Step;

impl Planner<'_> {
    /// What is wrong with writing a stream besides what the sink knows.
    pub(super) fn loops(&self, sources: &[PlanSource], sinks: &[PlanSink], written: Option<&str>) -> Option<Fault> {
        let written = written?;
        if sources.iter().any(|source| source.source.stream() == Some(written)) {
            let message = format!("the pipeline reads the stream `{written}`: its results would be its input again");
            return Some(Fault::new("", message, "write another stream"));
        }
        let is_twice = sinks.iter().any(|sink| sink.sink.stream() == Some(written));
        let message = format!("two sinks write the stream `{written}`");
        is_twice.then(|| Fault::new("", message, "put what both get together with `union`, and give that to one"))
    }

    /// Where a sink is in the document.
    fn place_of(&self, sink: &PlanSink) -> String {
        let at = self.document.to.iter().position(|output| output.id == sink.id);
        at.map_or_else(|| "/to".to_owned(), |at| format!("/to/{at}"))
    }

    /// The commits of two sinks cannot be one decision.
    pub(super) fn one_decides(&mut self, sinks: &[PlanSink]) {
        let mut deciding = sinks.iter().filter(|sink| sink.sink.decider().is_some());
        let Some(first) = deciding.next() else { return };
        for sink in deciding {
            let message = format!("`{}` delivers exactly once by its own commit, and so does `{}`", sink.id, first.id);
            let hint = "one sink of a pipeline can; give the other one `delivery: at_least_once`, or its own pipeline";
            self.problems.push(self.document.problem(&self.place_of(sink), None, &message, hint));
        }
    }

    /// Partitions that go from one process to another would leave the state of their rows behind.
    pub(super) fn moves(&mut self, sources: &[PlanSource], step: &Step, planned: &PlanStep) {
        if !is_shared(sources) || planned.step.state_fingerprint().is_none() {
            return;
        }
        let message = format!(
            "the step `{}` remembers rows, and cannot where the source is shared: a partition that moves to another \
             process would leave what is remembered of its rows behind",
            planned.id
        );
        let hint = "let the shared pipeline write a topic that a pipeline of one process reads (its `parallelism` \
                    uses all cores), or leave out `shared` and give each process a `part` of the partitions";
        self.faults(&step.component, vec![Fault::new("", message, hint)]);
    }

    /// What else a shared source cannot be together with.
    pub(super) fn is_shareable(&mut self, sources: &[PlanSource], sinks: &[PlanSink]) {
        if !is_shared(sources) {
            return;
        }
        if sources.len() > 1 {
            let message =
                "a shared source must be the only one of its pipeline: every process would read the others as a whole";
            let hint = "give each source a pipeline, or leave out `shared`";
            self.problems.push(self.document.problem("/from", None, message, hint));
        }
        for sink in sinks {
            if sink.sink.keeps_rows() {
                let message = format!(
                    "`{}` delivers exactly once by the checkpoints of one process, and those know nothing of partitions \
                     that have moved to another one",
                    sink.id
                );
                let hint = "write to Kafka, which commits what was read together with the rows, or give the sink \
                            `delivery: at_least_once` where it has that, or leave out `shared`";
                self.problems.push(self.document.problem(&self.place_of(sink), None, &message, hint));
            }
        }
    }
}

fn is_shared(sources: &[PlanSource]) -> bool {
    sources.iter().any(|source| source.source.is_shared())
}
