//! Folders that are not mounted for a while, and what is no file: on the disk of this machine.

use std::path::PathBuf;

use weir_base::disk::RealDisk;

use super::*;

struct Desk {
    folder: tempfile::TempDir,
    config: Json,
}

impl Desk {
    fn new(config: Json) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("out")).unwrap();
        Self { folder, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, generation: u64, last: Option<(u64, Receipt)>) -> Result<Box<dyn Sink>, SinkError> {
        let context = PlanContext {
            tenant: None,
            checkpoint_interval: Duration::from_secs(10),
            directory: self.folder.path().to_owned(),
            pipeline: "test".to_owned(),
            disk: RealDisk::new(),
            clock: clock(),
            streams: None,
        };
        run(plan(&self.config, &[], &context).unwrap().open(schema(), Opening { generation, last }))
    }

    fn move_away(&self) {
        std::fs::rename(self.path("out"), self.path("away")).unwrap();
    }

    fn move_back(&self) {
        std::fs::rename(self.path("away"), self.path("out")).unwrap();
    }

    /// The numbers of the rows of all files that can be seen.
    fn seen(&self, format: &str) -> Vec<i64> {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(self.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'));
        files.sort();
        files.iter().flat_map(|path| numbers(format, &std::fs::read(path).unwrap()).unwrap()).collect()
    }
}

/// What stands where the folder was, and goes again.
const SHADOWS: [&str; 3] = ["nothing", "an empty folder", "a file"];

fn shadow(desk: &Desk, what: &str) {
    match what {
        "an empty folder" => std::fs::create_dir(desk.path("out")).unwrap(),
        "a file" => std::fs::write(desk.path("out"), "").unwrap(),
        _ => {}
    }
}

/// It must be as empty as it was.
fn unshadow(desk: &Desk, what: &str) {
    match what {
        "an empty folder" => std::fs::remove_dir(desk.path("out")).unwrap(),
        "a file" => std::fs::remove_file(desk.path("out")).unwrap(),
        _ => {}
    }
}

fn passes<T>(what: &str, result: Result<T, SinkError>) {
    let error = result.map(|_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::Transient && !error.is_undecided, "{what}: {error:?}");
}

#[test]
fn a_folder_that_is_not_mounted_gets_nothing_and_is_waited_for() {
    for format in ["ndjson", "csv", "parquet"] {
        for roll in [Json::Null, json!({ "every": "1h" })] {
            for what in SHADOWS {
                let what = format!("{format} {roll} {what}");
                let shadow_kind = SHADOWS.into_iter().find(|kind| what.ends_with(kind)).unwrap();
                let mut config = json!({ "path": format!("out/x.{format}"), "format": format });
                if !roll.is_null() {
                    config["roll"] = roll.clone();
                }
                let desk = Desk::new(config);
                let mut sink = desk.open(1, None).unwrap();
                let first = epoch(&mut sink, 1, &[rows(0, 5)]);
                run(sink.commit(1, &first)).unwrap();
                // Before rows are written, ...
                desk.move_away();
                shadow(&desk, shadow_kind);
                passes(&what, run(sink.write(&rows(5, 7))));
                unshadow(&desk, shadow_kind);
                desk.move_back();
                run(sink.write(&rows(5, 7))).unwrap();
                // ... before they are prepared, ...
                desk.move_away();
                shadow(&desk, shadow_kind);
                passes(&what, run(sink.prepare(2)));
                unshadow(&desk, shadow_kind);
                desk.move_back();
                let second = epoch(&mut sink, 2, &[rows(7, 8)]);
                // ... and before they are committed.
                desk.move_away();
                shadow(&desk, shadow_kind);
                passes(&what, run(sink.commit(2, &second)));
                // A start meanwhile goes on as well once the folder is there.
                drop(sink);
                passes(&what, desk.open(2, Some((2, second.clone()))));
                unshadow(&desk, shadow_kind);
                desk.move_back();
                let mut sink = desk.open(2, Some((2, second))).unwrap();
                let third = epoch(&mut sink, 3, &[rows(8, 9)]);
                run(sink.commit(3, &third)).unwrap();
                assert_eq!(desk.seen(format), (0..9).collect::<Vec<_>>(), "{what}");
            }
        }
    }
}

/// Others are not told of a folder that nobody needs at the moment.
#[test]
fn without_rows_nobody_looks_at_the_folder() {
    let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson" }));
    let mut sink = desk.open(1, None).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 5)]);
    run(sink.commit(1, &first)).unwrap();
    desk.move_away();
    let nothing = epoch(&mut sink, 2, &[]);
    run(sink.commit(2, &nothing)).unwrap();
}

/// As cleaners of old files do, who do not know what it is for.
#[test]
fn a_lock_that_somebody_removed_is_taken_anew() {
    let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson" }));
    let mut sink = desk.open(1, None).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 5)]);
    run(sink.commit(1, &first)).unwrap();
    let lock = desk.path("out/.x.ndjson.weir-lock");
    std::fs::remove_file(&lock).unwrap();
    let second = epoch(&mut sink, 2, &[rows(5, 7)]);
    run(sink.commit(2, &second)).unwrap();
    assert!(lock.exists(), "another one may write beside it");
    assert_eq!(desk.seen("ndjson"), (0..7).collect::<Vec<_>>());
}

/// As after a restore: with the file it is the right folder, though another one.
#[test]
fn a_copy_of_the_folder_is_gone_on_with() {
    let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson" }));
    let mut sink = desk.open(1, None).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 5)]);
    run(sink.commit(1, &first)).unwrap();
    desk.move_away();
    std::fs::create_dir(desk.path("out")).unwrap();
    let lock = desk.path("out/.x.ndjson.weir-lock");
    std::fs::write(&lock, "").unwrap();
    passes("a folder with a lock and no file", run(sink.write(&rows(5, 6))));
    std::fs::copy(desk.path("away/x.ndjson"), desk.path("out/x.ndjson")).unwrap();
    let second = epoch(&mut sink, 2, &[rows(5, 6)]);
    run(sink.commit(2, &second)).unwrap();
    assert_eq!(desk.seen("ndjson"), (0..6).collect::<Vec<_>>());
    let other = desk.open(2, None).err().unwrap();
    assert!(other.message.contains("being written by another"), "it is locked there: {other}");
}

/// Rolled files are there to be taken away, and some take the folder. What is done then is what the message says.
#[test]
fn rolled_files_are_gone_on_with_in_a_folder_that_is_said_to_be_right() {
    for format in ["ndjson", "csv", "parquet"] {
        for is_open in [true, false] {
            let config = json!({ "path": format!("out/x.{format}"), "format": format, "roll": { "every": "1h" } });
            let desk = Desk::new(config);
            let mut sink = desk.open(1, None).unwrap();
            let first = epoch(&mut sink, 1, &[rows(0, 5)]);
            run(sink.commit(1, &first)).unwrap();
            desk.move_away();
            let refused = if is_open {
                run(sink.write(&rows(5, 7))).unwrap_err()
            } else {
                drop(sink);
                desk.open(2, Some((1, first.clone()))).err().unwrap()
            };
            let (_, named) = refused.message.split_once("an empty file ").unwrap();
            let lock = PathBuf::from(named.split_once(" in that folder").unwrap().0);
            std::fs::create_dir(desk.path("out")).unwrap();
            std::fs::write(&lock, "").unwrap();
            let mut sink = desk.open(2, Some((1, first))).unwrap();
            let second = epoch(&mut sink, 2, &[rows(5, 7)]);
            run(sink.commit(2, &second)).unwrap();
            // Not under the name of one that somebody has taken.
            assert_eq!(desk.seen(format), [5, 6], "{format}");
            assert!(desk.path(&format!("out/x-000002.{format}")).exists(), "{format}");
        }
    }
}

#[test]
fn a_rolled_file_that_was_taken_away_is_followed_by_the_next() {
    let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson", "roll": { "every": "1h" } }));
    let mut sink = desk.open(1, None).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 5)]);
    run(sink.commit(1, &first)).unwrap();
    std::fs::rename(desk.path("out/x-000001.ndjson"), desk.path("taken")).unwrap();
    let second = epoch(&mut sink, 2, &[rows(5, 7)]);
    run(sink.commit(2, &second)).unwrap();
    assert_eq!(desk.seen("ndjson"), [5, 6]);
    assert!(desk.path("out/x-000002.ndjson").exists());
}

/// With rows that were staged for it already, by what this machine's file system does.
#[test]
fn a_rolled_file_is_taken_away_before_what_was_staged_for_it_is_shown() {
    for format in ["ndjson", "csv", "parquet"] {
        let config = json!({ "path": format!("out/x.{format}"), "format": format, "roll": { "every": "1h" } });
        let desk = Desk::new(config);
        let mut sink = desk.open(1, None).unwrap();
        for n in 1..4 {
            let receipt = epoch(&mut sink, n as u64, &[rows(n * 2, n * 2 + 2)]);
            run(sink.commit(n as u64, &receipt)).unwrap();
        }
        let fourth = epoch(&mut sink, 4, &[rows(8, 10)]);
        std::fs::rename(desk.path(&format!("out/x-000001.{format}")), desk.path("taken")).unwrap();
        run(sink.commit(4, &fourth)).unwrap();
        assert_eq!(numbers(format, &std::fs::read(desk.path("taken")).unwrap()), Ok((2..8).collect()));
        assert_eq!(desk.seen(format), [8, 9]);
        drop(sink);
        let mut sink = desk.open(2, Some((4, fourth))).unwrap();
        let fifth = epoch(&mut sink, 5, &[rows(10, 11)]);
        run(sink.commit(5, &fifth)).unwrap();
        assert_eq!(desk.seen(format), [8, 9, 10]);
    }
}

/// A copy grows until it is whole; meanwhile the file has less than it had, which is no reason to give up.
#[test]
fn a_file_that_is_being_put_back_is_waited_for() {
    for format in ["ndjson", "csv", "parquet"] {
        let desk = Desk::new(json!({ "path": format!("out/x.{format}"), "format": format }));
        let path = desk.path(&format!("out/x.{format}"));
        let mut sink = desk.open(1, None).unwrap();
        let first = epoch(&mut sink, 1, &[rows(0, 5)]);
        run(sink.commit(1, &first)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in [0, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let second = epoch(&mut sink, 2, &[rows(5, 7)]);
            passes("a commit", run(sink.commit(2, &second)));
            drop(sink);
            passes("a start", desk.open(2, Some((2, second.clone()))));
            std::fs::write(&path, &whole).unwrap();
            sink = desk.open(2, Some((2, second.clone()))).unwrap();
            assert_eq!(desk.seen(format), (0..7).collect::<Vec<_>>(), "{format} {len}");
            // As it was, for the next.
            drop(sink);
            std::fs::write(&path, &whole).unwrap();
            sink = desk.open(3, Some((1, first.clone()))).unwrap();
        }
        // One with more was written to by somebody else.
        drop(sink);
        let more = [&whole[..], &whole[..]].concat();
        if format != "parquet" {
            std::fs::write(&path, more).unwrap();
            assert_eq!(desk.open(4, Some((1, first))).err().unwrap().kind, ErrorKind::Conflict, "{format}");
        }
    }
}

/// What has come into the way since is waited for until it is gone, and said.
#[test]
fn what_is_in_the_way_of_a_file_that_was_written_is_waited_for() {
    let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson" }));
    let path = desk.path("out/x.ndjson");
    let mut sink = desk.open(1, None).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 5)]);
    run(sink.commit(1, &first)).unwrap();
    drop(sink);
    std::fs::rename(&path, desk.path("mine")).unwrap();
    std::fs::create_dir(&path).unwrap();
    let refused = desk.open(2, Some((1, first.clone()))).err().unwrap();
    assert!(refused.message.contains("take it away"), "{refused}");
    passes("a start", Err::<(), _>(refused));
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(desk.path("mine"), &path).unwrap();
    assert!(desk.open(2, Some((1, first))).is_ok());
}

/// What exists and is no regular file is never replaced, nor opened.
#[test]
fn what_is_no_regular_file_is_refused() {
    for existing in ["refuse", "append", "replace"] {
        for what in ["socket", "folder", "link", "link to nothing"] {
            let desk = Desk::new(json!({ "path": "out/x.ndjson", "format": "ndjson", "existing": existing }));
            let path = desk.path("out/x.ndjson");
            match what {
                "socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
                "folder" => std::fs::create_dir(&path).unwrap(),
                "link" => {
                    std::fs::write(desk.path("far.ndjson"), "").unwrap();
                    std::os::unix::fs::symlink(desk.path("far.ndjson"), &path).unwrap();
                }
                _ => std::os::unix::fs::symlink(desk.path("nowhere"), &path).unwrap(),
            }
            let before = std::fs::symlink_metadata(&path).unwrap().file_type();
            let error = desk.open(1, None).err().unwrap();
            assert_eq!(error.kind, ErrorKind::Config, "{existing} {what}: {error}");
            assert!(error.message.contains("is no regular file"), "{existing} {what}: {error}");
            assert_eq!(std::fs::symlink_metadata(&path).unwrap().file_type(), before);
            assert_eq!(std::fs::read_dir(desk.path("out")).unwrap().count(), 1, "{existing} {what}");
        }
    }
}
