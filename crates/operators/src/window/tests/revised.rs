//! Results that are revised, against a count by brute force at every moment: what readers know is what the rows that
//! were taken come to, numbers rise, and what is final comes once.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use weir_component::operator::{KnownBy, Moment};
use weir_component::revision::Revision;

use super::*;

/// What a result is known by: start, end if that is part of it, key.
type Known = (i64, Option<i64>, i64);
/// The end of its window; number, sum and maximum of its values.
type Content = (i64, i64, i64, i64);

/// What a reader with a key knows.
#[derive(Default)]
struct Reader {
    known_by_start: bool,
    read: usize,
    newest: BTreeMap<Known, (Revision, Option<Content>)>,
    n_finals: usize,
}

impl Reader {
    /// Reads what has come since the last time, and checks that each revision may come after those before it.
    fn read(&mut self, batches: &[Batch]) {
        for batch in &batches[self.read..] {
            let revisions = batch.revisions.as_ref().expect("results say which revision they are");
            let window = batch.rows.column(0).as_struct();
            let bound = |at: usize| window.column(at).as_primitive::<TimestampNanosecondType>().values().clone();
            let column = |name: &str| batch.rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
            let (starts, ends, keys) = (bound(0), bound(1), batch.rows.column_by_name("k").map(|_| column("k")));
            let (n, total, most) = (column("n"), column("total"), column("most"));
            for row in 0..batch.len() {
                let end = (!self.known_by_start).then_some(ends[row]);
                let known = (starts[row], end, keys.as_ref().map_or(0, |keys| keys.value(row)));
                let revision = revisions.of(row);
                let content = (!revision.is_retracted).then(|| {
                    assert!(n.is_valid(row), "only what is gone has no values");
                    (ends[row], n.value(row), total.value(row), most.value(row))
                });
                let before = self.newest.insert(known, (revision, content));
                match before {
                    None => assert_eq!(revision.number, 1, "{known:?} begins with {revision:?}"),
                    Some((before, _)) => {
                        assert!(revision.number > before.number, "{known:?}: {revision:?} after {before:?}");
                        assert!(!before.is_final, "{known:?}: {revision:?} after {before:?}");
                    }
                }
                assert!(before.is_some() || !revision.is_retracted, "{known:?} is taken back and was never there");
                self.n_finals += usize::from(revision.is_final && !revision.is_retracted);
            }
        }
        self.read = batches.len();
    }

    /// The results that there are.
    fn live(&self) -> BTreeMap<Known, Content> {
        self.newest.iter().filter_map(|(known, (_, content))| Some((*known, (*content)?))).collect()
    }
}

/// Windows of time, or sessions.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Hopping { size: i64, every: i64, offset: i64 },
    Cumulative { pieces: i64, every: i64 },
    Session { gap: i64, known_by: KnownBy },
}

impl Kind {
    fn config(self) -> Json {
        let span = |nanos: i64| format!("{nanos}ns");
        match self {
            Self::Hopping { size, every, offset } => {
                json!({"hopping": {"size": span(size), "every": span(every)}, "offset": span(offset)})
            }
            Self::Cumulative { pieces, every } => {
                json!({"cumulative": {"size": span(pieces * every), "every": span(every)}})
            }
            Self::Session { gap, .. } => json!({"session": {"gap": span(gap)}}),
        }
    }

    fn known_by(self) -> KnownBy {
        match self {
            Self::Session { known_by, .. } => known_by,
            _ => KnownBy::Both,
        }
    }

    /// The windows a time is in.
    fn windows(self, time: i64) -> Vec<(i64, i64)> {
        match self {
            Self::Hopping { size, every, offset } => {
                let newest = (time - offset).div_euclid(every) * every + offset;
                let starts = (0..=size / every).map(|back| newest - back * every);
                starts.map(|start| (start, start + size)).filter(|(start, end)| *start <= time && time < *end).collect()
            }
            Self::Cumulative { pieces, every } => {
                let start = time.div_euclid(pieces * every) * pieces * every;
                (1..=pieces).map(|piece| (start, start + piece * every)).filter(|(_, end)| time < *end).collect()
            }
            Self::Session { .. } => Vec::new(),
        }
    }

    /// What the rows come to that were taken.
    fn by_hand(self, rows: &[Row], lateness: i64) -> BTreeMap<Known, Content> {
        let mut results: BTreeMap<Known, Content> = BTreeMap::new();
        let mut add = |known: Known, end: i64, value: i64| {
            let entry = results.entry(known).or_insert((end, 0, 0, i64::MIN));
            *entry = (end, entry.1 + 1, entry.2 + value, entry.3.max(value));
        };
        let Self::Session { gap, known_by } = self else {
            for row in rows {
                for (start, end) in self.windows(row.time) {
                    if end.saturating_add(lateness) > row.watermark {
                        add((start, Some(end), row.key), end, row.value);
                    }
                }
            }
            return results;
        };
        let taken = rows.iter().filter(|row| row.time >= row.watermark.saturating_sub(lateness));
        let mut taken: Vec<&Row> = taken.collect();
        taken.sort_by_key(|row| (row.key, row.time));
        for rows in taken.chunk_by(|one, next| one.key == next.key && next.time - one.time < gap) {
            let (start, end) = (rows[0].time, rows[rows.len() - 1].time + gap);
            for row in rows {
                add((start, (known_by == KnownBy::Both).then_some(end), row.key), end, row.value);
            }
        }
        results
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1_i64..40, 1_i64..40, 0_i64..10).prop_map(|(size, every, offset)| Kind::Hopping { size, every, offset }),
        (1_i64..5, 1_i64..15).prop_map(|(pieces, every)| Kind::Cumulative { pieces, every }),
        (1_i64..30, any::<bool>()).prop_map(|(gap, by_start)| {
            Kind::Session { gap, known_by: if by_start { KnownBy::Start } else { KnownBy::Both } }
        }),
    ]
}

/// What happens beside what always happens.
#[derive(Clone, Debug)]
enum Event {
    Act(Act),
    Moment(Moment),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let moment = prop_oneof![Just(Moment::Changed), Just(Moment::Early)];
    acts().prop_flat_map(move |acts| {
        let moments = prop::collection::vec(prop::option::of(moment.clone()), acts.len());
        moments.prop_map(move |moments| {
            let pairs = acts.iter().cloned().zip(moments);
            pairs.flat_map(|(act, moment)| std::iter::once(Event::Act(act)).chain(moment.map(Event::Moment))).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn readers_know_what_the_rows_come_to(
        events in events(),
        kind in kinds(),
        is_early in any::<bool>(),
        lateness in prop_oneof![Just(0_i64), 1_i64..60],
        disorder in 0_i64..40,
        is_resorted in any::<bool>(),
        by_key in any::<bool>(),
    ) {
        let is_early = is_early || lateness == 0;
        let mut config = kind.config();
        config["lateness"] = json!(format!("{lateness}ns"));
        config["select"] = json!({"n": "count(*)", "total": "sum(v)", "most": "max(v)"});
        if is_early {
            config["early"] = json!("1s");
        }
        if by_key {
            config["by"] = json!(["k"]);
        }
        let step = step(&config).revising(kind.known_by()).unwrap();
        let mut instances = Instances::new(&step, 2);
        let mut reader = Reader { known_by_start: kind.known_by() == KnownBy::Start, ..Reader::default() };
        let mut newest = [i64::MIN; 2];
        let (mut told, mut base) = (i64::MIN, -50);
        let mut rows: Vec<Row> = Vec::new();
        for event in events {
            match event {
                Event::Act(Act::Restart(count)) => instances.restart(count),
                Event::Act(Act::Rows(drawn)) => {
                    let from = rows.len();
                    for (partition, step, key, value) in drawn {
                        let newest = &mut newest[usize::from(partition)];
                        let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
                        base += 1;
                        rows.push(Row { time: base + step, key: if by_key { key } else { 0 }, value, watermark });
                        *newest = (*newest).max(base + step);
                    }
                    instances.send(&if is_resorted { resorted(&rows[from..]) } else { rows[from..].to_vec() });
                    if newest.iter().all(|newest| *newest > i64::MIN) {
                        let watermark = newest.iter().min().unwrap() - disorder;
                        if watermark > told {
                            told = watermark;
                            prop_assert_eq!(instances.watermark(told), told - lateness);
                        }
                    }
                }
                // Nobody has a moment for early results where there are none.
                Event::Moment(Moment::Early) if !is_early => {}
                Event::Moment(moment) => {
                    instances.moment(moment);
                    if moment == Moment::Early {
                        // What is closed may wait for the other moment, which always comes soon.
                        instances.moment(Moment::Changed);
                    }
                    reader.read(&instances.kept.batches);
                    let (live, by_hand) = (reader.live(), kind.by_hand(&rows, lateness));
                    for (known, content) in &by_hand {
                        // What is over is known whenever anything is said, and with early results so is all else.
                        let is_due = (content.0 <= told && lateness > 0) || moment == Moment::Early;
                        if is_due {
                            prop_assert_eq!(live.get(known), Some(content), "{:?} at {}", known, told);
                        }
                    }
                    let is_all_current = if is_early { moment == Moment::Early } else { moment == Moment::Changed };
                    if is_all_current {
                        for (known, content) in &live {
                            prop_assert_eq!(by_hand.get(known), Some(content), "{:?} at {}", known, told);
                        }
                    }
                }
            }
            reader.read(&instances.kept.batches);
        }
        instances.watermark(i64::MAX);
        instances.assert_empty();
        reader.read(&instances.kept.batches);
        prop_assert_eq!(reader.live(), kind.by_hand(&rows, lateness));
        prop_assert_eq!(reader.n_finals, reader.live().len());
        for (known, (revision, _)) in &reader.newest {
            prop_assert!(revision.is_final, "{:?} stays as {:?}", known, revision);
        }
    }
}

/// A session that was closed is opened again by a late row, and said when it closes the second time.
#[test]
fn a_session_that_closes_twice_is_said_twice() {
    for early in [false, true] {
        let mut config = json!({"session": {"gap": "13ns"}, "lateness": "50ns", "by": ["k"]});
        config["select"] = json!({"n": "count(*)", "total": "sum(v)", "most": "max(v)"});
        if early {
            config["early"] = json!("1s");
        }
        let step = step(&config).revising(KnownBy::Both).unwrap();
        let mut instances = Instances::new(&step, 1);
        let mut reader = Reader::default();
        let row = |time| Row { time, key: 1, value: 1, watermark: i64::MIN };
        let mut live = |instances: &mut Instances, sent: i64, watermark: i64| {
            instances.send(&[row(sent)]);
            instances.watermark(watermark);
            instances.moment(Moment::Changed);
            reader.read(&instances.kept.batches);
            reader.live()
        };
        assert_eq!(live(&mut instances, 0, 20), [((0, Some(13), 1), (13, 1, 1, 1))].into());
        // It ends at 23 now, and that is not yet.
        live(&mut instances, 10, 21);
        assert_eq!(live(&mut instances, 5, 30), [((0, Some(23), 1), (23, 3, 3, 1))].into(), "early: {early}");
    }
}
