#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::AsArray;
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::Int64Type;
use futures::FutureExt;
use parking_lot::Mutex;
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_component::table::Part;

use super::*;

/// A source whose rows, or whose failure, is what a test says.
struct Told {
    rows: Mutex<Result<Vec<i64>, ErrorKind>>,
    is_bounded: bool,
}

fn numbers(values: &[i64]) -> RecordBatch {
    let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    RecordBatch::try_from_iter([("n", values)]).unwrap()
}

#[async_trait]
impl PlannedSource for Told {
    fn schema(&self) -> SchemaRef {
        numbers(&[]).schema()
    }

    fn is_bounded(&self) -> bool {
        self.is_bounded
    }

    async fn open(&self, _: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        match &*self.rows.lock() {
            Ok(values) => Ok(Box::new(ToldReader(values.chunks(2).map(<[i64]>::to_vec).collect()))),
            Err(kind) => Err(SourceError::new(*kind, "it cannot be read")),
        }
    }

    fn describe(&self) -> String {
        "what a test says".to_owned()
    }
}

struct ToldReader(VecDeque<Vec<i64>>);

#[async_trait]
impl Source for ToldReader {
    async fn next(&mut self, _: Option<&str>) -> Result<Next, SourceError> {
        Ok(self.0.pop_front().map_or(Next::Done, |values| {
            let rows = numbers(&values);
            Next::Rows(SourceRows { partition: "p".into(), rows, arrived: None, rejects: Vec::new(), bytes: 8 })
        }))
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }
}

struct Table {
    told: Arc<Told>,
    clock: Arc<ManualClock>,
    planned: Arc<dyn PlannedSource>,
}

fn table(refresh: Option<Duration>, bytes_max: u64) -> Table {
    let told = Arc::new(Told { rows: Mutex::new(Ok(vec![1, 2, 3])), is_bounded: true });
    let clock = ManualClock::new(Timestamp(0));
    let options = TableOptions { refresh, bytes_max };
    let planned = TableSource::plan("t", Arc::<Told>::clone(&told), options, Arc::<ManualClock>::clone(&clock));
    Table { told, planned: planned.unwrap(), clock }
}

impl Table {
    fn open(&self) -> Result<Box<dyn Source>, SourceError> {
        self.planned.open(None).now_or_never().unwrap()
    }
}

/// All that comes until there is nothing: `(version, value)`, and a version alone where it is whole.
fn all(source: &mut dyn Source) -> Vec<(i64, Option<i64>)> {
    let mut found = Vec::new();
    loop {
        match source.next(None).now_or_never().unwrap().unwrap() {
            Next::Rows(rows) => {
                let part = Part::of(&rows.rows).unwrap();
                let values = part.rows.column(0).as_primitive::<Int64Type>();
                if part.is_mark(0) {
                    found.push((part.versions.value(0), None));
                } else {
                    found.extend((0..values.len()).map(|row| (part.versions.value(row), Some(values.value(row)))));
                }
            }
            Next::Time(_, time) => assert_eq!(time, i64::MAX, "a table holds back nothing"),
            Next::Nothing(_) | Next::Done => return found,
        }
    }
}

fn whole(version: i64, values: &[i64]) -> Vec<(i64, Option<i64>)> {
    values.iter().map(|value| (version, Some(*value))).chain([(version, None)]).collect()
}

#[test]
fn a_version_comes_when_the_table_has_changed() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    *table.told.rows.lock() = Ok(vec![4]);
    table.clock.advance(Duration::from_secs(9));
    assert_eq!(all(source.as_mut()), []);
    table.clock.advance(Duration::from_secs(1));
    assert_eq!(all(source.as_mut()), whole(2, &[4]));
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), [], "it is as it was");
    *table.told.rows.lock() = Ok(Vec::new());
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), whole(3, &[]), "an empty table is one");
}

#[test]
fn what_could_be_read_last_counts() {
    let table = table(Some(Duration::from_secs(10)), 1 << 20);
    *table.told.rows.lock() = Err(ErrorKind::Transient);
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::Transient), "whoever runs it tries again");
    *table.told.rows.lock() = Ok(vec![1]);
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1]));
    for kind in [ErrorKind::Transient, ErrorKind::NotFound, ErrorKind::Corrupt] {
        *table.told.rows.lock() = Err(kind);
        table.clock.advance(Duration::from_secs(10));
        assert_eq!(all(source.as_mut()), [], "{kind:?}");
    }
    *table.told.rows.lock() = Ok(vec![2]);
    table.clock.advance(Duration::from_secs(10));
    assert_eq!(all(source.as_mut()), whole(2, &[2]));
}

#[test]
fn a_table_has_a_bound_and_an_end() {
    let table = table(Some(Duration::from_secs(10)), 100);
    let mut source = table.open().unwrap();
    all(source.as_mut());
    *table.told.rows.lock() = Ok((0..1000).collect());
    table.clock.advance(Duration::from_secs(10));
    let error = source.next(None).now_or_never().unwrap().err().unwrap();
    assert_eq!(error.message, "the rows of the table `t` take more than its `bytes_max`, 100B");
    assert_eq!(table.open().err().map(|error| error.kind), Some(ErrorKind::TooLarge));
    let endless = Arc::new(Told { rows: Mutex::new(Ok(Vec::new())), is_bounded: false });
    let options = TableOptions { refresh: None, bytes_max: 1 };
    let faults = TableSource::plan("t", endless, options, ManualClock::new(Timestamp(0))).err().unwrap();
    assert_eq!(faults[0].message, "a table is read to its end, and this has none");
}

/// Beside sources that end it is read once, and is no reason to go on.
#[test]
fn a_table_that_is_read_once_ends() {
    let table = table(None, 1 << 20);
    assert!(table.planned.is_bounded());
    let mut source = table.open().unwrap();
    assert_eq!(all(source.as_mut()), whole(1, &[1, 2, 3]));
    table.clock.advance(Duration::from_secs(100_000));
    assert!(matches!(source.next(None).now_or_never().unwrap(), Ok(Next::Done)));
}
