#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::compute::concat_batches;
use weir_base::clock::ManualClock;
use weir_data::json_rows;
use weir_testkit::sim_disk::SimDisk;

use super::*;
use crate::ready;

fn planned(config: &Json, clock: &Arc<ManualClock>) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    let context = PlanContext {
        tenant: None,
        checkpoint_interval: std::time::Duration::from_secs(10),
        directory: "/".into(),
        pipeline: "test".to_owned(),
        disk: SimDisk::new(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        streams: None,
    };
    plan(config, &context)
}

fn clock() -> Arc<ManualClock> {
    ManualClock::new(Timestamp(1_700_000_000_000_000_000))
}

fn every_kind() -> Json {
    json!({
        "count": 20_000,
        "columns": {
            "a": { "sequence": { "start": 5, "step": -2 } },
            "b": { "uniform": { "min": -3, "max": 3 } },
            "c": { "uniform": { "min": 0, "max": 0.5 } },
            "d": { "choice": ["x", "y", null] },
            "e": { "choice": [1, 2] },
            "f": { "choice": [1, 2.5] },
            "g": { "choice": [true, false] },
            "h": { "timestamp": { "every": "1s", "disorder": "10s" } },
        },
    })
}

/// All rows of a source, and the position after each batch.
fn drain(source: &mut dyn Source) -> (Vec<RecordBatch>, Vec<SourcePosition>) {
    let (mut rows, mut positions) = (Vec::new(), Vec::new());
    while let Next::Rows(next) = ready(source.next(None)).unwrap() {
        rows.push(next.rows);
        positions.push(source.position());
    }
    (rows, positions)
}

#[test]
fn the_same_seed_gives_the_same_rows_from_any_position() {
    let plan = planned(&every_kind(), &clock()).unwrap();
    assert!(plan.is_bounded());
    let (rows, positions) = drain(ready(plan.open(None)).unwrap().as_mut());
    assert_eq!(rows.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [8192, 8192, 3616]);
    let all = concat_batches(&plan.schema(), &rows).unwrap();
    for (at, position) in positions.into_iter().enumerate() {
        let (rest, _) = drain(ready(plan.open(Some(position))).unwrap().as_mut());
        let parts: Vec<_> = rows[..=at].iter().cloned().chain(rest).collect();
        assert_eq!(concat_batches(&plan.schema(), &parts).unwrap(), all);
    }
    let mut other = every_kind();
    other["seed"] = json!(1);
    let other = planned(&other, &clock()).unwrap();
    assert_ne!(drain(ready(other.open(None)).unwrap().as_mut()).0[0], rows[0]);
}

#[test]
fn values_are_what_was_asked_for() {
    let plan = planned(&every_kind(), &clock()).unwrap();
    let (rows, _) = drain(ready(plan.open(None)).unwrap().as_mut());
    let names: Vec<String> = ('a'..='h').map(String::from).collect();
    let mut seen: BTreeMap<&str, std::collections::BTreeSet<String>> = BTreeMap::new();
    let mut previous = None;
    for (at, line) in rows
        .iter()
        .flat_map(|rows| {
            let lines = String::from_utf8(json_rows::lines(rows, &names)).unwrap();
            lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()).collect::<Vec<_>>()
        })
        .enumerate()
    {
        assert_eq!(line["a"], json!(5 - 2 * at as i64));
        for name in ["b", "d", "e", "f", "g"] {
            seen.entry(name).or_default().insert(line[name].to_string());
        }
        assert!((0.0..0.5).contains(&line["c"].as_f64().unwrap()));
        let time = weir_codecs::rows::timestamp(line["h"].as_str().unwrap()).unwrap();
        let on_time = Timestamp(1_767_225_600_000_000_000).plus(Duration::from_secs(at as u64));
        assert!(time <= on_time && time >= on_time.minus(Duration::from_secs(10)));
        seen.entry("order").or_default().insert((previous < Some(time)).to_string());
        previous = Some(time);
    }
    let counts: Vec<usize> = ["b", "d", "e", "f", "g", "order"].iter().map(|name| seen[name].len()).collect();
    assert_eq!(counts, [7, 3, 2, 2, 2, 2]);
}

#[test]
fn a_rate_is_kept() {
    let clock = clock();
    let config = json!({ "rate": 1000, "columns": { "t": { "timestamp": { "start": "now" } } } });
    let plan = planned(&config, &clock).unwrap();
    assert!(!plan.is_bounded());
    let mut source = ready(plan.open(None)).unwrap();
    let mut rows = 0;
    for _ in 0..100 {
        match ready(source.next(None)).unwrap() {
            Next::Rows(next) => rows += next.rows.num_rows(),
            Next::Nothing(wait) => clock.advance(wait),
            Next::Done | Next::Time(..) => panic!("there is no end, and time goes with rows"),
        }
    }
    assert_eq!(rows, 500, "ten milliseconds each");
    clock.advance(Duration::from_secs(60));
    assert_eq!(source.lag_rows(), Some(60_000));
    // Where it stood says when it began, so a restart does not change the moments of rows.
    let position = source.position();
    let again = ready(plan.open(Some(position.clone()))).unwrap();
    assert_eq!(again.position(), position);
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_at_once() {
    let config = json!({ "rate": 0, "columns": {
        "a": { "choice": [] }, "b": { "choice": [1, "x"] }, "c": { "uniform": { "min": 2, "max": 1 } },
        "d/e": { "timestamp": { "start": "soon" } },
    } });
    let faults = planned(&config, &clock()).err().unwrap();
    let told: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
    assert_eq!(
        told,
        [
            "/rate: not between 1 and 1000000000",
            "/columns/a/choice: there is nothing to choose from",
            "/columns/b/choice: the values are not of one kind",
            "/columns/c/uniform: `min` is more than `max`",
            "/columns/d~1e/timestamp/start: `soon` is not a time",
        ]
    );
}
