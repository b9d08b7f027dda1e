use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use weir_base::disk::{Disk, RealDisk};
use weir_component::source::{Next, PlannedSource, Source};
use weir_connectors::checkpoints::CheckpointFolder;

use super::book::Book;
use super::queue::{Queue, Queued};
use super::source::LetterSourcePlan;
use super::*;

fn id(number: u64) -> LetterId {
    LetterId { start: 7, number }
}

#[test]
fn ids_read_as_they_are_written() {
    assert_eq!(id(12).to_string(), "0000000000000007-12");
    assert_eq!(LetterId::parse("0000000000000007-12"), Some(id(12)));
    for wrong in ["", "7-12", "0000000000000007-012", "0000000000000007-", "x-1", "0000000000000007-12 "] {
        assert_eq!(LetterId::parse(wrong), None, "{wrong}");
    }
}

/// Whatever comes in whatever order: what is in is found, what is not is not, and neighbours are one range.
#[test]
fn a_set_holds_what_was_put_in_and_nothing_else() {
    let orders = [vec![1, 2, 3, 5, 6, 9], vec![9, 6, 5, 3, 2, 1], vec![5, 1, 9, 3, 2, 6], vec![2, 6, 1, 3, 5, 9, 2]];
    for order in orders {
        let mut set = LetterSet::default();
        set.extend(order.iter().map(|number| id(*number)));
        let found: Vec<u64> = (0..12).filter(|number| set.contains(id(*number))).collect();
        assert_eq!(found, [1, 2, 3, 5, 6, 9], "{order:?}");
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"0000000000000007":[[1,3],[5,6],[9,9]]}"#, "{order:?}");
    }
}

struct Desk {
    dir: tempfile::TempDir,
    disk: Arc<dyn Disk>,
}

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), disk: RealDisk::new() }
    }

    /// As after a start of the process.
    fn open(&self) -> (Queue, Arc<Book>) {
        let at = |name: &str| self.dir.path().join(name);
        let book = Arc::new(Book::open(Arc::clone(&self.disk), Path::new(&at("book"))).unwrap());
        let store = CheckpointFolder::open(&at("queue"), Arc::clone(&self.disk)).unwrap();
        (Queue::new(Arc::new(store), Arc::clone(&book)), book)
    }
}

fn letters(numbers: std::ops::Range<u64>) -> Vec<Queued> {
    numbers
        .map(|number| Queued {
            id: id(number).to_string(),
            step: "set".to_owned(),
            reason: "failed".to_owned(),
            input: Some(0),
            attempts: 1,
            time: 0,
            row: number.to_string(),
        })
        .collect()
}

fn read(source: &mut dyn Source) -> Vec<String> {
    let mut rows = Vec::new();
    while let Next::Rows(read) = block_on(source.next(None)).unwrap() {
        use arrow::array::AsArray;
        let texts = read.rows.column_by_name("row").unwrap().as_string::<i32>().clone();
        rows.extend(texts.iter().flatten().map(str::to_owned));
    }
    rows
}

#[test]
fn what_is_asked_for_is_given_once_wherever_a_process_dies() {
    let desk = Desk::new();
    let (queue, _) = desk.open();
    block_on(queue.put(&letters(1..8))).unwrap();
    let texts = |numbers: std::ops::Range<u64>| numbers.map(|number| number.to_string()).collect::<Vec<_>>();

    // Two letters are given, and a checkpoint is made; what is given after it is given again.
    let mut source = block_on(LetterSourcePlan::new(queue, None).open(None)).unwrap();
    assert!(matches!(block_on(source.next(None)).unwrap(), Next::Rows(rows) if rows.rows.num_rows() == 2));
    let first = source.position();
    block_on(source.committed(&first)).unwrap();
    assert_eq!(read(source.as_mut()), texts(3..8));

    let (queue, book) = desk.open();
    let mut source = block_on(LetterSourcePlan::new(queue.clone(), None).open(Some(first))).unwrap();
    assert_eq!(source.lag_rows(), Some(5));
    assert_eq!(read(source.as_mut()), texts(3..8));
    let all = source.position();
    // As long as there is no checkpoint they wait, ...
    assert!(!book.marks().is_replayed(id(4)) && block_on(queue.waiting()).unwrap().contains(id(4)));
    block_on(source.committed(&all)).unwrap();
    // ... and then they were run again.
    assert!((1..8).all(|number| book.marks().is_replayed(id(number))));
    assert!(block_on(queue.waiting()).unwrap().is_empty());

    // What comes later has numbers that none had before, though the queue was empty.
    let (queue, _) = desk.open();
    block_on(queue.put(&letters(20..22))).unwrap();
    let mut source = block_on(LetterSourcePlan::new(queue, None).open(Some(all))).unwrap();
    assert_eq!(read(source.as_mut()), texts(20..22));
}

/// Letters that come while the pipeline runs are given as soon as somebody says so, and its tables have been read since.
#[tokio::test]
async fn letters_come_when_they_are_put_in_and_behind_the_tables() {
    let desk = Desk::new();
    let (queue, _) = desk.open();
    queue.put(&letters(1..2)).await.unwrap();
    let refreshes = Arc::new(crate::refreshes::Refreshes::default());
    let mut table = refreshes.join();
    let plan = LetterSourcePlan::new(queue.clone(), Some(refreshes));
    let mut source = plan.open(None).await.unwrap();
    let soon = std::time::Duration::from_millis(50);
    let first = source.next(None).await.unwrap();
    assert!(matches!(first, Next::Rows(_)), "tables are read when the pipeline starts, and not once more for it");
    assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)));
    assert!(tokio::time::timeout(soon, source.next(None)).await.is_err(), "nobody looks again and again");

    queue.put(&letters(2..4)).await.unwrap();
    assert!(tokio::time::timeout(soon, source.next(None)).await.is_err(), "the table has not been read since");
    assert!(table.begins() && !table.begins(), "it is asked for once, however often the source is");
    table.has_read();
    table.has_given();
    assert!(matches!(source.next(None).await.unwrap(), Next::Rows(rows) if rows.rows.num_rows() == 2));
    assert!(matches!(source.next(None).await.unwrap(), Next::Nothing(_)));
}

#[test]
fn what_was_not_run_again_is_open_again_when_the_pipeline_begins_anew() {
    let desk = Desk::new();
    let (queue, book) = desk.open();
    block_on(queue.put(&letters(1..6))).unwrap();
    let mut source = block_on(LetterSourcePlan::new(queue.clone(), None).open(None)).unwrap();
    block_on(source.next(None)).unwrap();
    block_on(queue.abandon(Some(&source.position()))).unwrap();
    let replayed: Vec<u64> = (1..6).filter(|number| book.marks().is_replayed(id(*number))).collect();
    assert_eq!(replayed, [1, 2]);
}

#[test]
fn a_damaged_book_is_refused() {
    let desk = Desk::new();
    let (_, book) = desk.open();
    book.note_purged([id(3)]).unwrap();
    let path = desk.dir.path().join("book");
    assert!(Book::open(Arc::clone(&desk.disk), &path).unwrap().marks().is_purged(id(3)));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(Book::open(Arc::clone(&desk.disk), &path).is_err());
}

/// The disk is full at any moment: what is in the queue is whole, the rest is still open, and once there is room all is
/// run again once.
#[test]
fn a_full_disk_takes_nothing_away_from_what_is_asked_for() {
    for at in 1.. {
        let disk = weir_testkit::sim_disk::SimDisk::new();
        let real: Arc<dyn Disk> = disk.clone();
        let open = || {
            let book = Arc::new(Book::open(Arc::clone(&real), Path::new("/book")).unwrap());
            let store = CheckpointFolder::open(Path::new("/queue"), Arc::clone(&real)).unwrap();
            (Queue::new(Arc::new(store), Arc::clone(&book)), book)
        };
        let (queue, _) = open();
        disk.fail_from(weir_testkit::sim_disk::Fault::Full, at);
        let has_room = block_on(queue.put(&letters(1..8))).is_ok();
        let has_met = !disk.faults_met().is_empty();
        disk.heal();
        let (queue, _) = open();
        let waiting = block_on(queue.waiting()).unwrap();
        let left: Vec<Queued> = letters(1..8)
            .into_iter()
            .filter(|letter| !waiting.contains(LetterId::parse(&letter.id).unwrap()))
            .collect();
        assert!(!has_room || left.is_empty(), "at {at}");
        block_on(queue.put(&left)).unwrap();
        let mut source = block_on(LetterSourcePlan::new(queue, None).open(None)).unwrap();
        let mut rows: Vec<u64> = read(source.as_mut()).iter().map(|row| row.parse().unwrap()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (1..8).collect::<Vec<_>>(), "at {at}");
        if !has_met {
            assert!(at > 3, "it was full {at} times only");
            return;
        }
    }
}
