use super::*;

fn node(id: &str, role: api::PipelineRole, inputs: &[&str], blocked_instances: u64) -> api::PipelineNode {
    api::PipelineNode {
        id: id.to_owned(),
        role,
        text: String::new(),
        inputs: inputs.iter().map(|id| (*id).to_owned()).collect(),
        delivery: None,
        circuit: None,
        trouble: None,
        counters: Some(api::PipelineCounters { blocked_instances, ..api::PipelineCounters::default() }),
    }
}

#[test]
fn backpressure_begins_where_somebody_is_waited_for_and_waits_for_nobody() {
    use api::PipelineRole::{Sink, Source, Step};
    let check = |blocked: [u64; 4], expected: &[(&str, &[&str])]| {
        let nodes = [
            node("from", Source, &[], blocked[0]),
            node("filter", Step, &["from"], blocked[1]),
            node("window", Step, &["filter"], blocked[2]),
            node("file", Sink, &["window"], blocked[3]),
            node("console", Sink, &["filter"], 0),
        ];
        let found = slow(&nodes);
        let found: Vec<(&str, Vec<&str>)> =
            found.iter().map(|slow| (slow.part.as_str(), slow.waiting.iter().map(String::as_str).collect())).collect();
        let expected: Vec<(&str, Vec<&str>)> = expected.iter().map(|(part, ids)| (*part, ids.to_vec())).collect();
        assert_eq!(found, expected, "{blocked:?}");
    };
    check([0, 0, 0, 0], &[]);
    check([1, 0, 0, 0], &[("filter", &["from"])]);
    check([1, 0, 2, 0], &[("filter", &["from"]), ("file", &["window"])]);
    // A part that is read by two is waited for by neither of them: it waits for one of them, and nobody knows which.
    check([1, 1, 0, 0], &[("window", &["filter"]), ("console", &["filter"])]);
    check([1, 1, 1, 0], &[("file", &["window"]), ("console", &["filter"])]);
}
