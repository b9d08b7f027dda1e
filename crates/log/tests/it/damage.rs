//! Flipped bits, cut files, blocks and files in wrong places: found and named, or harmless; never a
//! wrong row, never a panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use weir_base::clock::ManualClock;
use weir_base::{ErrorKind, Kinded, StreamName, TenantId};
use weir_log::{Commit, Damage, Log, LogOptions, Position, Read, Subscriber, fsck};
use weir_testkit::sim_disk::{Choices, SimDisk};

use crate::harness::{
    Bench, DIR, Row, START, append, open, part, rows_of, segments, small_options, tenant, try_open_with,
};

/// A log with 60 records, and its rows in order.
fn sample(segment_bytes: u64, closed: bool) -> (Arc<SimDisk>, Vec<Row>) {
    let clock = ManualClock::new(START);
    let options = LogOptions { segment_bytes, ..small_options() };
    let bench = try_open_with(&SimDisk::new(), &clock, options, 0).unwrap();
    for commit in 0..12 {
        let answers: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .flat_map(|tenant| ["s", "t"].map(|stream| (tenant, stream)))
            .take(5)
            .map(|(tenant, stream)| {
                let id = format!("{tenant}{stream}{commit}");
                bench.log.append(append(tenant, vec![part(stream, &[(&id, commit), ("", commit)])]))
            })
            .collect();
        bench.log.step();
        for answer in answers {
            answer.now().unwrap().unwrap();
        }
    }
    bench.rest();
    let rows = bench.keeper.rows();
    assert_eq!(bench.keeper.positions.lock().unwrap().len(), 60);
    if closed {
        bench.log.close();
    }
    let disk = bench.disk.fork();
    (disk, rows)
}

/// As after a kill: only the watermark block tells that the last commit was durable. Damage to both
/// at once is a torn tail as far as anybody can tell.
fn killed(segment_bytes: u64) -> (Arc<SimDisk>, Vec<Row>) {
    sample(segment_bytes, false)
}

/// As after a shutdown in good order.
fn closed(segment_bytes: u64) -> (Arc<SimDisk>, Vec<Row>) {
    sample(segment_bytes, true)
}

fn reopen(disk: &Arc<SimDisk>) -> Result<Bench, weir_log::LogError> {
    try_open_with(disk, &ManualClock::new(START), small_options(), 0)
}

/// Opens a damaged log: every row handed out was stored, in order; what is missing was reported,
/// and only streams that are named miss rows.
fn check(what: &str, disk: &Arc<SimDisk>, rows: &[Row]) {
    let bench = match reopen(disk) {
        Ok(bench) => bench,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
            return;
        }
    };
    let found = bench.keeper.rows();
    let mut expected = rows.iter();
    for row in &found {
        assert!(expected.any(|other| other == row), "{what}: a wrong row: {row:?}");
    }
    let damages = bench.keeper.damages.lock().unwrap();
    if found.len() < rows.len() {
        assert!(!damages.is_empty(), "{what}: {} of {} rows, and nothing said", found.len(), rows.len());
        if damages.iter().all(|damage| damage.streams.is_some()) {
            let named: Vec<_> = damages.iter().flat_map(|damage| damage.streams.iter().flatten()).collect();
            for row in rows {
                if !found.contains(row) {
                    let is_named = named
                        .iter()
                        .any(|(tenant, stream)| tenant.as_str() == row.tenant && stream.as_str() == row.stream);
                    assert!(is_named, "{what}: {row:?} is missing and {named:?} are named");
                }
            }
        }
    }
    // Life goes on, and a second opening says the same.
    let outcome = bench.log.append(append("z", vec![part("s", &[("after", 1)])]));
    bench.log.step();
    outcome.now().unwrap().unwrap_or_else(|error| panic!("{what}: {error:?}"));
    for position in bench.keeper.positions.lock().unwrap().iter() {
        bench.log.read(*position).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
    bench.log.close();
    let again = reopen(disk).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let later = again.keeper.rows();
    assert_eq!(later[..later.len() - 1], found[..], "{what}: the second opening finds other rows");
    assert_eq!(again.keeper.damages.lock().unwrap().is_empty(), damages.is_empty(), "{what}: damage forgotten");
    assert_eq!(later.last().unwrap().id, "after", "{what}");
}

fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// A sample of the bits of a larger log. Those of a small one are all flipped below, and those of a
/// segment before its scan beside the code.
#[test]
fn flipped_bits_are_found_or_harmless() {
    for (disk, rows) in [killed(64 << 10), closed(16 << 10)] {
        for file in disk.files_under(Path::new(DIR)) {
            let bytes = disk.peek(&file).unwrap();
            let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 64).min(bytes.len()));
            for byte in (0..len).step_by(97) {
                let bit = byte * 8 + byte % 8;
                let copy = disk.fork();
                copy.poke(&file, &flip(&bytes, bit)).unwrap();
                check(&format!("bit {bit} of {}", file.display()), &copy, &rows);
            }
        }
    }
}

/// A log of six records, killed or closed: small enough for all of its damage.
fn tiny(closed: bool) -> (Arc<SimDisk>, Vec<Row>) {
    let clock = ManualClock::new(START);
    let bench = try_open_with(&SimDisk::new(), &clock, small_options(), 0).unwrap();
    for commit in 0..3 {
        let answers = ["a", "b"].map(|tenant| {
            let id = format!("{tenant}{commit}");
            bench.log.append(append(tenant, vec![part("s", &[(&id, commit)])]))
        });
        bench.log.step();
        answers.into_iter().for_each(|answer| assert!(answer.now().unwrap().is_ok()));
    }
    bench.rest();
    let rows = bench.keeper.rows();
    assert_eq!(rows.len(), 6);
    if closed {
        bench.log.close();
    }
    (bench.disk.fork(), rows)
}

/// The files of a log, each with the bytes that were ever written, and one sector behind them.
fn written(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>, usize)> {
    let written = disk.files_under(Path::new(DIR)).into_iter().map(|file| {
        let bytes = disk.peek(&file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(SECTOR));
        let used = (used + SECTOR).min(bytes.len());
        (file, bytes, used)
    });
    written.collect()
}

const SECTOR: usize = 512;

/// All damage, not a part of it as in an ordinary run.
fn every_one() -> bool {
    std::env::var_os("WEIR_EVERY_BIT").is_some()
}

/// One bit of every fifth byte in an ordinary run, every bit with `WEIR_EVERY_BIT`; by the real way,
/// from the open to the second open.
#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let every = every_one();
    for (disk, rows) in [tiny(false), tiny(true)] {
        for (file, bytes, used) in written(&disk) {
            for bit in (0..used * 8).filter(|bit| every || (bit / 8 % 5 == 0 && bit % 8 == bit / 40 % 8)) {
                let copy = disk.fork();
                copy.poke(&file, &flip(&bytes, bit)).unwrap();
                check(&format!("bit {bit} of {}", file.display()), &copy, &rows);
            }
        }
    }
}

/// In the segment that was being written no footer repeats whose rows a block holds, nor the schemas. One bit costs nobody
/// but the tenant and stream whose rows it is in; what fsck writes in its place is what was there.
#[test]
fn one_bit_of_the_open_segment_costs_one_stream_at_most() {
    let (disk, rows) = tiny(false);
    let newest = segments(&disk).pop().unwrap();
    let bytes = disk.peek(&newest).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let (mut n_free, mut n_mended) = (0, 0);
    for bit in (SECTOR * 8..used * 8).filter(|bit| every_one() || bit % 8 == bit / 8 % 8) {
        let copy = disk.fork();
        copy.poke(&newest, &flip(&bytes, bit)).unwrap();
        let bench = reopen(&copy).unwrap();
        let damages = bench.keeper.damages.lock().unwrap();
        let hurt: usize = damages.iter().map(|damage| damage.streams.as_ref().map_or(usize::MAX, Vec::len)).sum();
        assert!(hurt <= 1, "bit {bit}: {damages:?}");
        if hurt == 0 {
            n_free += 1;
            assert_eq!(bench.keeper.rows(), rows, "bit {bit}");
        }
        if bit % 97 == 0 && hurt == 0 {
            let copy = disk.fork();
            copy.poke(&newest, &flip(&bytes, bit)).unwrap();
            let report = fsck(Path::new(DIR), copy.as_ref(), true).unwrap();
            let wrong_bits: u64 = report.shards[0].segments.iter().map(|segment| segment.wrong_bits).sum();
            if wrong_bits > 0 {
                n_mended += 1;
                assert_eq!(copy.peek(&newest).unwrap(), bytes, "bit {bit}");
            }
        }
    }
    assert!(n_free > 500 && n_mended > 5, "{n_free} {n_mended}");
}

/// Every length that any file can have been cut to; every fifth in an ordinary run.
#[test]
fn every_truncation_is_found_or_harmless() {
    for (disk, rows) in [tiny(false), tiny(true)] {
        for (file, bytes, used) in written(&disk) {
            let step = if every_one() { 1 } else { 5 };
            for len in (0..used).step_by(step).chain([bytes.len() - bytes.len().min(1)]) {
                let copy = disk.fork();
                copy.poke(&file, &bytes[..len]).unwrap();
                check(&format!("{} cut to {len}", file.display()), &copy, &rows);
            }
        }
    }
}

/// What a disk does that loses a write or puts it in the wrong place: every sector of every file
/// empty, and in the place of every other.
#[test]
fn every_sector_that_is_lost_or_in_the_wrong_place_is_found_or_harmless() {
    for (disk, rows) in [tiny(false), tiny(true)] {
        let files = written(&disk);
        let sectors: Vec<&[u8]> = files.iter().flat_map(|(_, bytes, used)| bytes[..*used].chunks(SECTOR)).collect();
        let empty = [[0; SECTOR], [0xff; SECTOR]];
        for (file, bytes, used) in &files {
            for at in (0..*used).step_by(SECTOR) {
                for sector in sectors.iter().copied().chain(empty.iter().map(<[u8; SECTOR]>::as_slice)) {
                    let mut changed = bytes.clone();
                    let end = (at + sector.len()).min(changed.len());
                    changed[at..end].copy_from_slice(&sector[..end - at]);
                    if changed == *bytes {
                        continue;
                    }
                    let copy = disk.fork();
                    copy.poke(file, &changed).unwrap();
                    check(&format!("another sector at {at} of {}", file.display()), &copy, &rows);
                }
            }
        }
    }
}

/// Each file as it was before, while the others are as they are: a disk that lost what was synced. The
/// log was closed, so that its checkpoint knows its end: without that, and without a table that has
/// the rows, nobody can tell that the last segment was longer.
#[test]
fn every_stale_file_is_found_or_harmless() {
    let clock = ManualClock::new(START);
    let bench = try_open_with(&SimDisk::new(), &clock, small_options(), 0).unwrap();
    let mut older: Vec<Arc<SimDisk>> = Vec::new();
    for commit in 0..40 {
        let id = format!("a{commit}");
        bench.append(append("a", vec![part("s", &[(&id, commit), ("", commit)])])).unwrap();
        bench.rest();
        older.push(bench.disk.fork());
    }
    bench.log.close();
    let (disk, rows) = (bench.disk.fork(), bench.keeper.rows());
    let mut n_stale = 0;
    for file in disk.files_under(Path::new(DIR)) {
        let now = disk.peek(&file).unwrap();
        let mut before: Vec<Vec<u8>> = older.iter().filter_map(|disk| disk.peek(&file).ok()).collect();
        before.dedup();
        for (at, stale) in before.into_iter().filter(|stale| *stale != now).enumerate() {
            let copy = disk.fork();
            copy.poke(&file, &stale).unwrap();
            check(&format!("state {at} of {}", file.display()), &copy, &rows);
            n_stale += 1;
        }
    }
    assert!(n_stale > 20, "{n_stale}");
}

#[test]
fn cut_and_extended_files() {
    for (disk, rows) in [killed(16 << 10), closed(16 << 10)] {
        cut_and_extend(&disk, &rows);
    }
}

fn cut_and_extend(disk: &Arc<SimDisk>, rows: &[Row]) {
    let files = segments(disk);
    for file in &files {
        let bytes = disk.peek(file).unwrap();
        for len in (0..bytes.len()).step_by(509) {
            let copy = disk.fork();
            copy.poke(file, &bytes[..len]).unwrap();
            check(&format!("{} cut to {len}", file.display()), &copy, rows);
        }
        for tail in [vec![0; 5000], vec![0xa5; 5000], bytes[..4096].to_vec()] {
            let copy = disk.fork();
            copy.poke(file, &[bytes.clone(), tail].concat()).unwrap();
            check(&format!("{} extended", file.display()), &copy, rows);
        }
    }
}

#[test]
fn blocks_in_wrong_places() {
    let (disk, rows) = closed(64 << 10);
    let file = segments(&disk).pop().unwrap();
    let bytes = disk.peek(&file).unwrap();
    let starts: Vec<usize> =
        (512..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"WEIRBLK1")).collect();
    assert_eq!(starts.len(), 14);
    let block = |number: usize| starts[number]..starts.get(number + 1).copied().unwrap_or(starts[number] + 512);
    for one in 0..starts.len() {
        for other in 0..starts.len() {
            let mut copied = bytes.clone();
            let source = &bytes[block(one)];
            let end = (starts[other] + source.len()).min(copied.len());
            copied[starts[other]..end].copy_from_slice(&source[..end - starts[other]]);
            let copy = disk.fork();
            copy.poke(&file, &copied).unwrap();
            check(&format!("block {one} over block {other}"), &copy, &rows);
            if one < other {
                let swapped = [
                    &bytes[..starts[one]],
                    &bytes[block(other)],
                    &bytes[block(one).end..starts[other]],
                    &bytes[block(one)],
                    &bytes[block(other).end..],
                ]
                .concat();
                let copy = disk.fork();
                copy.poke(&file, &swapped).unwrap();
                check(&format!("blocks {one} and {other} swapped"), &copy, &rows);
            }
        }
    }
}

#[test]
fn files_that_are_gone_or_in_wrong_places() {
    let (disk, rows) = killed(8 << 10);
    let files = segments(&disk);
    assert!(files.len() >= 3);
    for file in &files {
        let copy = disk.fork();
        copy.vanish(file).unwrap();
        check(&format!("{} gone", file.display()), &copy, &rows);
        for other in &files {
            let copy = disk.fork();
            copy.poke(other, &disk.peek(file).unwrap()).unwrap();
            check(&format!("{} over {}", file.display(), other.display()), &copy, &rows);
        }
        let copy = disk.fork();
        let number: u64 = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let duplicate = file.with_file_name(format!("{:020}.seg", number + 100));
        weir_base::disk::Disk::create(copy.as_ref(), &duplicate).unwrap();
        copy.poke(&duplicate, &disk.peek(file).unwrap()).unwrap();
        check(&format!("{} twice", file.display()), &copy, &rows);
    }
}

/// Takes a copy of the disk when the first rows are durable, before they are acknowledged.
struct Witness {
    disk: Arc<SimDisk>,
    seen: std::sync::Mutex<Option<Arc<SimDisk>>>,
}

impl Subscriber for Witness {
    fn wants(&self, _: &TenantId, _: &StreamName, _: Position) -> bool {
        false
    }

    fn committed(&self, _: &Commit) {
        self.seen.lock().unwrap().get_or_insert_with(|| self.disk.fork());
    }

    fn damaged(&self, _: &Damage) {}
}

#[test]
fn a_segment_that_is_lost_right_after_its_first_row_is_missed() {
    let disk = SimDisk::new();
    let witness = Arc::new(Witness { disk: Arc::clone(&disk), seen: std::sync::Mutex::default() });
    let clock = ManualClock::new(START);
    let log = Log::open_without_threads(small_options(), disk, clock, vec![Arc::clone(&witness) as _]).unwrap();
    let answer = log.append(append("a", vec![part("s", &[("first", 1)])]));
    log.step();
    answer.now().unwrap().unwrap();
    let disk = witness.seen.lock().unwrap().take().unwrap();
    let newest = segments(&disk).pop().unwrap();
    disk.vanish(&newest).unwrap();
    let bench = reopen(&disk).unwrap();
    assert_eq!(bench.keeper.rows(), []);
    assert_eq!(bench.keeper.damages.lock().unwrap().len(), 1, "it is missed");
}

#[test]
fn damage_names_file_offset_and_streams_and_others_are_served() {
    let (disk, rows) = killed(64 << 10);
    let file = segments(&disk).pop().unwrap();
    let bytes = disk.peek(&file).unwrap();
    // The value 7 of tenant b is in the eighth block; find its id in a body.
    let at = bytes.windows(3).position(|window| window == b"bs7").unwrap();
    disk.poke(&file, &flip(&bytes, at * 8)).unwrap();
    let bench = reopen(&disk).unwrap();
    let damages = bench.keeper.damages.lock().unwrap();
    assert_eq!(damages.len(), 1);
    assert_eq!(damages[0].file, file);
    assert!(damages[0].file_offset <= at as u64 && damages[0].file_offset + 8192 > at as u64);
    let streams = damages[0].streams.as_ref().unwrap();
    assert_eq!(
        streams.iter().map(|(tenant, stream)| (tenant.as_str(), stream.as_str())).collect::<Vec<_>>(),
        [("b", "s")]
    );
    assert_eq!(bench.keeper.rows().len(), rows.len() - 2);
    // Reading the place itself says the same.
    let error = bench.log.read(damages[0].from).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn fsck_counts_reports_and_repairs() {
    let (disk, rows) = killed(16 << 10);
    let report = fsck(Path::new(DIR), disk.as_ref(), false).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let total: u64 = report.shards[0].segments.iter().map(|segment| segment.rows).sum();
    assert_eq!(total, rows.len() as u64);
    let files = segments(&disk);
    let mut cases: Vec<(String, PathBuf, Option<Vec<u8>>)> = Vec::new();
    for file in &files {
        let bytes = disk.peek(file).unwrap();
        for byte in (0..bytes.len().min(14 << 10)).step_by(611) {
            cases.push((format!("byte {byte} of {}", file.display()), file.clone(), Some(flip(&bytes, byte * 8 + 3))));
        }
        for len in [0, 100, 512, 700, 5000] {
            cases.push((
                format!("{} cut to {len}", file.display()),
                file.clone(),
                Some(bytes[..len.min(bytes.len())].to_vec()),
            ));
        }
        cases.push((format!("{} gone", file.display()), file.clone(), None));
    }
    for (what, file, bytes) in cases {
        let copy = disk.fork();
        match bytes {
            Some(bytes) => copy.poke(&file, &bytes).unwrap(),
            None => copy.vanish(&file).unwrap(),
        }
        let before = reopen(&copy.fork()).unwrap();
        let damaged = !before.keeper.damages.lock().unwrap().is_empty();
        let found = before.keeper.rows();
        let report = fsck(Path::new(DIR), copy.as_ref(), true).unwrap();
        assert!(!damaged || !report.is_sound(), "{what}: {report:?}");
        let after = fsck(Path::new(DIR), copy.as_ref(), false).unwrap();
        assert!(after.is_sound(), "{what}: {report:?} then {after:?}");
        let bench = reopen(&copy).unwrap();
        assert_eq!(*bench.keeper.damages.lock().unwrap(), [], "{what}");
        assert_eq!(bench.keeper.rows(), found, "{what}");
        assert!(bench.log.end(0) >= before.log.end(0) || !damaged, "{what}");
    }
}

/// Wherever a reader had come to, and whether or not the opening had looked at the rows itself: after a repair it gives
/// every row that is left, and says where there were others.
#[test]
fn readers_go_on_behind_what_was_repaired() {
    let (disk, _) = closed(16 << 10);
    let whole = reopen(&disk.fork()).unwrap();
    let places: Vec<Position> = whole.keeper.positions.lock().unwrap().clone();
    let before = whole.keeper.rows().chunks(2).map(<[Row]>::to_vec).zip(places.clone()).collect::<Vec<_>>();
    let stood: Vec<Position> = places.into_iter().step_by(4).collect();
    for file in &segments(&disk) {
        let bytes = disk.peek(file).unwrap();
        let half = bytes[..bytes.len() / 2].to_vec();
        let mut cases = vec![("cut to half".to_owned(), half), ("cut to its header".to_owned(), bytes[..700].to_vec())];
        for byte in (0..bytes.len().min(14 << 10)).step_by(977) {
            cases.push((format!("byte {byte}"), flip(&bytes, byte * 8 + 3)));
        }
        for (what, damaged) in cases {
            let what = format!("{}: {what}", file.display());
            let copy = disk.fork();
            copy.poke(file, &damaged).unwrap();
            // It is served with the damage first, as it would be.
            reopen(&copy).unwrap().log.close();
            fsck(Path::new(DIR), copy.as_ref(), true).unwrap();
            let left = reopen(&copy.fork()).unwrap().keeper.rows();
            for wanted_from in [0, u64::MAX] {
                let bench =
                    try_open_with(&copy.fork(), &ManualClock::new(START), small_options(), wanted_from).unwrap();
                for at in &stood {
                    let stream = StreamName::new("s").unwrap();
                    let mut reader = bench.log.reader(&tenant("a"), &stream, Some(*at)).unwrap();
                    let mut found = Vec::new();
                    let mut lost = Vec::new();
                    loop {
                        match reader.read().unwrap_or_else(|error| panic!("{what}, from {at:?}: {error:?}")) {
                            Read::Record(record) => found.extend(rows_of("a", "s", &record.batch)),
                            Read::Lost(part) => lost.push(part),
                            Read::More => {}
                            Read::Nothing => break,
                        }
                    }
                    let own = before.iter().filter(|(rows, place)| place >= at && rows[0].is_of("a", "s"));
                    let (kept, gone): (Vec<_>, Vec<_>) = own.partition(|(rows, _)| left.contains(&rows[0]));
                    let expected: Vec<Row> = kept.into_iter().flat_map(|(rows, _)| rows.clone()).collect();
                    assert_eq!(found, expected, "{what}, from {at:?}");
                    let is_told = |place: &Position| lost.iter().any(|lost| (lost.from..lost.to).contains(place));
                    assert!(gone.iter().all(|(_, place)| is_told(place)), "{what}, from {at:?}: {gone:?} {lost:?}");
                    assert!(lost.iter().all(|lost| lost.rows != Some(0)), "{what}: {lost:?}");
                }
            }
        }
    }
}

#[test]
fn a_log_that_was_lost_goes_on_where_tables_had_come_to() {
    const FLOOR: u64 = 1_000_001;
    let clock = ManualClock::new(START);
    let with_floors = |floors: &[u64]| LogOptions { floors: floors.to_vec(), ..small_options() };
    let add = |bench: &Bench, value: i64| {
        bench.append(append("a", vec![part("s", &[(&format!("{value}"), value)])])).unwrap();
    };
    let values = |bench: &Bench| bench.keeper.rows().iter().map(|row| row.value).collect::<Vec<_>>();
    // (what was there before, floors)
    for (before, floors) in [(0, vec![FLOOR]), (0, vec![0, FLOOR]), (3, vec![FLOOR])] {
        let disk = SimDisk::new();
        let first = try_open_with(&disk, &clock, small_options(), 0).unwrap();
        (0..before).for_each(|value| add(&first, value));
        first.log.close();
        let id = first.log.id();
        let bench = try_open_with(&disk, &clock, with_floors(&floors), 0).unwrap();
        assert_eq!(bench.log.id(), id);
        assert!(bench.log.end(0).offset >= FLOOR);
        (10..40).for_each(|value| add(&bench, value));
        let positions = bench.keeper.positions.lock().unwrap().clone();
        let new = &positions[before as usize..];
        assert!(new.iter().all(|position| position.offset >= FLOOR), "{positions:?}");
        bench.log.read(new[0]).unwrap();
        let damages = usize::from(before > 0);
        assert_eq!(bench.keeper.damages.lock().unwrap().len(), damages);
        let (expected, end) = (values(&bench), bench.log.end(0));
        // A crash and an opener that knows of no floor change nothing, nor does a floor below the end.
        let mut choices = Choices::seeded(1);
        for (disk, floors) in [(disk.after_crash(&mut choices), vec![]), (disk.after_crash(&mut choices), floors)] {
            let again = try_open_with(&disk, &clock, with_floors(&floors), 0).unwrap();
            assert_eq!(values(&again), expected);
            assert_eq!(again.log.end(0).offset / FLOOR, end.offset / FLOOR);
            assert_eq!(again.keeper.damages.lock().unwrap().len(), damages);
        }
    }
    let refused = try_open_with(&SimDisk::new(), &clock, with_floors(&[u64::MAX]), 0);
    assert!(matches!(refused.err(), Some(weir_log::LogError::Options(_))));
}

#[test]
fn fsck_needs_the_log_to_itself() {
    let bench = open(&SimDisk::new());
    let refused = fsck(Path::new(DIR), bench.disk.as_ref(), false).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Anything written over a part of any file.
    #[test]
    fn garbage_anywhere(file in 0usize..100, at in 0usize..40_000, garbage in proptest::collection::vec(any::<u8>(), 1..2000)) {
        let (disk, rows) = closed(16 << 10);
        let files = disk.files_under(Path::new(DIR));
        let file = &files[file % files.len()];
        let mut bytes = disk.peek(file).unwrap();
        let at = at % bytes.len().max(1);
        let end = (at + garbage.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&garbage[..end - at]);
        disk.poke(file, &bytes).unwrap();
        check(&format!("garbage at {at} of {}", file.display()), &disk, &rows);
    }
}
