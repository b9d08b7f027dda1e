//! Rolled files that somebody takes away, at any moment. What is in those that were taken and in those that are there is every
//! row once, always.

use weir_testkit::sim_disk::{Choices, Fault as DiskFault};

use super::crash::{End, Engine};
use super::*;

fn rolled(format: &str, roll: Json) -> Json {
    json!({ "path": format!("out/x.{format}"), "format": format, "roll": roll })
}

fn configs() -> Vec<(Json, &'static str)> {
    let formats = ["ndjson", "csv", "parquet"].into_iter();
    formats
        .flat_map(|format| {
            [json!({ "bytes": "1KiB" }), json!({ "every": "20m" })].map(|roll| (rolled(format, roll), format))
        })
        .collect()
}

fn files(disk: &SimDisk) -> Vec<String> {
    names(disk).into_iter().filter(|name| name.starts_with('x')).collect()
}

fn take(disk: &SimDisk) {
    disk.take_at(0, Path::new("/d/out"), "x-");
}

/// The rows of an epoch that were staged for a file that is gone, and those after them.
#[test]
fn the_file_that_rows_were_staged_for_may_be_taken_away() {
    for format in ["ndjson", "csv", "parquet"] {
        for is_killed in [false, true] {
            for exchanges in [true, false] {
                let disk = SimDisk::new();
                if !exchanges {
                    disk.forbid_exchange();
                }
                let config = rolled(format, json!({ "every": "1h" }));
                let mut sink = start(&disk, &config).unwrap();
                let first = epoch(&mut sink, 1, &[rows(0, 3)]);
                run(sink.commit(1, &first)).unwrap();
                let second = epoch(&mut sink, 2, &[rows(3, 5)]);
                if is_killed {
                    drop(sink);
                    take(&disk);
                    let opening = Opening { generation: 2, last: Some((2, second.clone())) };
                    sink = run(planned(&disk, &clock(), &config).unwrap().open(schema(), opening)).unwrap();
                } else {
                    // Rows of the next epoch have been staged for it already.
                    run(sink.write(&rows(5, 6))).unwrap();
                    take(&disk);
                    run(sink.commit(2, &second)).unwrap();
                    run(sink.commit(2, &second)).unwrap();
                }
                assert_eq!(files(&disk), [format!("x-000002.{format}")]);
                assert_eq!(visible(&disk, format), Ok(vec![3, 4]), "what was in it is not written again");
                let third = epoch(&mut sink, 3, &[if is_killed { rows(5, 7) } else { rows(6, 7) }]);
                run(sink.commit(3, &third)).unwrap();
                assert_eq!(visible(&disk, format), Ok(vec![3, 4, 5, 6]));
                let fourth = epoch(&mut sink, 4, &[rows(7, 8)]);
                run(sink.commit(4, &fourth)).unwrap();
                assert_eq!(files(&disk), [format!("x-000002.{format}"), format!("x-000003.{format}")], "it goes on");
                assert_eq!(visible(&disk, format), Ok((3..8).collect()));
            }
        }
    }
}

/// Whether its rows were shown already must not be guessed.
#[test]
fn a_commit_that_fails_once_where_the_file_was_taken_away_shows_its_rows_the_next_time() {
    let mut failed = 0;
    for format in ["ndjson", "csv", "parquet"] {
        for at in 1..100 {
            let disk = SimDisk::new();
            let mut sink = start(&disk, &rolled(format, json!({ "every": "1h" }))).unwrap();
            let first = epoch(&mut sink, 1, &[rows(0, 3)]);
            run(sink.commit(1, &first)).unwrap();
            let second = epoch(&mut sink, 2, &[rows(3, 5)]);
            take(&disk);
            disk.fail_at(DiskFault::Io, at);
            failed += u32::from(run(sink.commit(2, &second)).is_err());
            if disk.faults_met().is_empty() {
                break;
            }
            run(sink.commit(2, &second)).unwrap();
            assert_eq!(visible(&disk, format), Ok(vec![3, 4]), "{format}, operation {at}");
        }
    }
    assert!(failed > 10, "{failed}");
}

/// It is in the way of nobody, and is not written to.
#[test]
fn a_file_that_is_put_back_after_its_rows_went_elsewhere_stays_as_it_is() {
    let disk = SimDisk::new();
    let config = rolled("csv", json!({ "every": "1h" }));
    let mut sink = start(&disk, &config).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 3)]);
    run(sink.commit(1, &first)).unwrap();
    let second = epoch(&mut sink, 2, &[rows(3, 5)]);
    take(&disk);
    run(sink.commit(2, &second)).unwrap();
    let back = Path::new("/d/out/x-000001.csv");
    disk.create(back).unwrap();
    disk.poke(back, &disk.taken()[0]).unwrap();
    run(sink.commit(2, &second)).unwrap();
    drop(sink);
    let opening = Opening { generation: 2, last: Some((2, second)) };
    let mut sink = run(planned(&disk, &clock(), &config).unwrap().open(schema(), opening)).unwrap();
    let third = epoch(&mut sink, 3, &[rows(5, 6)]);
    run(sink.commit(3, &third)).unwrap();
    assert_eq!(visible(&disk, "csv"), Ok((0..6).collect()));
    assert_eq!(disk.peek(back).unwrap(), disk.taken()[0]);
}

/// One life with a thief at operation `at`, another after it.
#[test]
fn the_newest_file_may_be_taken_away_at_any_operation() {
    let mut stolen = 0;
    for (config, format) in configs() {
        for seed in weir_testkit::seeds(1) {
            for at in (1 + seed % 2..400).step_by(2) {
                let what = format!("{config}, taken at {at}, seed {seed}");
                let mut random = Choices::seeded(seed);
                let mut engine = Engine::new(config.clone(), format);
                let disk = SimDisk::new();
                assert_eq!(engine.live(&disk, &mut random, 2), End::Survived);
                disk.take_at(at, Path::new("/d/out"), "x-");
                assert_eq!(engine.live(&disk, &mut random, 3), End::Survived, "{what}");
                let again = disk.fork();
                engine.recover(&again, &what);
                if disk.taken().is_empty() {
                    break;
                }
                stolen += 1;
            }
        }
    }
    assert!(stolen > 150, "{stolen}");
}

/// Who stops at operation `at` finds the newest file gone, or all of them, when it is started again.
#[test]
fn files_may_be_taken_away_while_nothing_runs() {
    for (config, format) in configs() {
        for (power, seed) in [(false, 0), (true, 1)] {
            for at in 1..400 {
                let what = format!("{config}, stopped at {at}, seed {seed}, power loss {power}");
                let mut random = Choices::seeded(seed);
                let mut engine = Engine::new(config.clone(), format);
                let mut disk = SimDisk::new();
                assert_eq!(engine.live(&disk, &mut random, 2), End::Survived);
                disk.fail_at(DiskFault::PowerLoss, at);
                engine.live(&disk, &mut random, 4);
                let was_hit = !disk.faults_met().is_empty();
                disk = if power { disk.after_crash(&mut random) } else { disk.fork() };
                for _ in 0..if at % 3 == 0 { 9 } else { 1 } {
                    take(&disk);
                }
                engine.recover(&disk, &what);
                assert_eq!(engine.live(&disk, &mut random, 3), End::Survived, "{what}");
                engine.recover(&disk.fork(), &what);
                if !was_hit {
                    break;
                }
            }
        }
    }
}

/// A thief while it runs, and a kill some operations later.
#[test]
fn files_may_be_taken_away_shortly_before_a_kill() {
    for (config, format) in configs() {
        for at in (1..120_u64).step_by(3) {
            for later in [1, 5] {
                let what = format!("{config}, taken at {at}, killed {later} later");
                let mut random = Choices::seeded(5);
                let mut engine = Engine::new(config.clone(), format);
                let disk = SimDisk::new();
                assert_eq!(engine.live(&disk, &mut random, 2), End::Survived);
                // Counts operations that change something.
                disk.fail_at(DiskFault::PowerLoss, (at + later).div_ceil(2));
                disk.take_at(at, Path::new("/d/out"), "x-");
                engine.live(&disk, &mut random, 4);
                let disk = disk.fork();
                engine.recover(&disk, &what);
                take(&disk);
                assert_eq!(engine.live(&disk, &mut random, 2), End::Survived, "{what}");
                engine.recover(&disk.fork(), &what);
            }
        }
    }
}

/// Where files cannot be exchanged, one that is taken away between two looks is all that may come twice.
#[test]
fn other_file_systems_survive_kills_too() {
    for (config, format) in configs() {
        for at in 1..400 {
            let what = format!("{config}, stopped at {at}");
            let mut random = Choices::seeded(1);
            let mut engine = Engine::new(config.clone(), format);
            let disk = SimDisk::new();
            disk.forbid_exchange();
            assert_eq!(engine.live(&disk, &mut random, 2), End::Survived);
            disk.fail_at(DiskFault::PowerLoss, at);
            engine.live(&disk, &mut random, 4);
            let was_hit = !disk.faults_met().is_empty();
            let disk = if at % 2 == 0 { disk.after_crash(&mut random) } else { disk.fork() };
            take(&disk);
            engine.recover(&disk, &what);
            assert_eq!(engine.live(&disk, &mut random, 3), End::Survived, "{what}");
            engine.recover(&disk.fork(), &what);
            if !was_hit {
                break;
            }
        }
    }
}

/// Who goes back to an older checkpoint, with a backup of it, finds files of a later time.
#[test]
fn no_rolled_file_is_written_over_after_an_older_checkpoint() {
    for format in ["ndjson", "csv", "parquet"] {
        for is_same in [true, false] {
            let disk = SimDisk::new();
            let config = rolled(format, json!({ "bytes": if is_same { "1KiB" } else { "8KiB" } }));
            let mut sink = start(&disk, &config).unwrap();
            let mut receipts = Vec::new();
            for n in 0..8 {
                let receipt = epoch(&mut sink, n as u64 + 1, &[rows(n * 60, n * 60 + 60)]);
                run(sink.commit(n as u64 + 1, &receipt)).unwrap();
                receipts.push(receipt);
            }
            drop(sink);
            let before: Vec<_> = files(&disk).into_iter().map(|name| Path::new("/d/out").join(name)).collect();
            let contents: Vec<_> = before.iter().map(|path| disk.peek(path).unwrap()).collect();
            assert!(before.len() > 1, "{before:?}");
            let opening = Opening { generation: 2, last: Some((1, receipts[0].clone())) };
            let mut sink = run(planned(&disk, &clock(), &config).unwrap().open(schema(), opening)).unwrap();
            for n in 1..8 {
                let receipt = epoch(&mut sink, n as u64 + 1, &[rows(n * 60, n * 60 + 60)]);
                run(sink.commit(n as u64 + 1, &receipt)).unwrap();
            }
            for (path, contents) in before.iter().zip(&contents) {
                assert_eq!(disk.peek(path).unwrap(), *contents, "{}", path.display());
            }
            let all: Vec<i64> = (0..480).chain(60..480).collect();
            assert_eq!(visible(&disk, format), Ok(all), "{format}: the rows since then are there again");
        }
    }
}

/// What `copytruncate` of logrotate does. It looks like a file that is being put back.
#[test]
fn a_newest_file_that_was_cut_says_what_to_do_and_is_done_with_when_it_is_removed() {
    let disk = SimDisk::new();
    let config = rolled("ndjson", json!({ "every": "1h" }));
    let mut sink = start(&disk, &config).unwrap();
    let first = epoch(&mut sink, 1, &[rows(0, 3)]);
    run(sink.commit(1, &first)).unwrap();
    let second = epoch(&mut sink, 2, &[rows(3, 5)]);
    let newest = Path::new("/d/out/x-000001.ndjson");
    disk.poke(newest, b"").unwrap();
    let error = run(sink.commit(2, &second)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains("cut for good") && error.message.contains("remove it"), "{}", error.message);
    assert!(!error.message.contains("--restart"), "{}", error.message);
    disk.remove(newest).unwrap();
    run(sink.commit(2, &second)).unwrap();
    let third = epoch(&mut sink, 3, &[rows(5, 6)]);
    run(sink.commit(3, &third)).unwrap();
    assert_eq!(visible(&disk, "ndjson"), Ok(vec![3, 4, 5]), "those before are where it was copied to");
}
