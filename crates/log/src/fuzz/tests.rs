//! The corpora of the log's fuzz targets, replayed.

use std::path::PathBuf;

use weir_testkit::sim_disk::{Choices, SimDisk};

use super::*;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// A copy of the sample as a kill leaves it.
fn sample_disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let log = sample(&(Arc::clone(&disk) as _));
    let copy = disk.fork();
    log.close();
    copy
}

fn replay(target: &str, run: fn(&Arc<dyn Disk>, &[u8])) {
    let sample = sample_disk();
    let mut n_inputs = 0;
    for entry in std::fs::read_dir(folder(target)).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        for flags in [input.first().copied().unwrap_or(0), 0, SEALED] {
            let input = [&[flags], input.get(1..).unwrap_or(&[])].concat();
            let done = std::panic::catch_unwind(|| run(&(sample.fork() as _), &input));
            assert!(done.is_ok(), "{} with flags {flags}", path.display());
        }
        n_inputs += 1;
    }
    assert!(n_inputs > 0, "{target} has no corpus");
}

#[test]
fn log_segment_corpus() {
    replay("log_segment", segment);
}

#[test]
fn log_state_corpus() {
    replay("log_state", state);
}

#[test]
fn log_ids_corpus() {
    replay("log_ids", ids);
}

/// The seeds with a few bytes changed: what a fuzzer tries first, in every test run.
#[test]
fn changed_seeds_crash_nothing() {
    const VALUES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    let sample = sample_disk();
    let targets: [(&str, fn(&Arc<dyn Disk>, &[u8])); 3] =
        [("log_segment", segment), ("log_state", state), ("log_ids", ids)];
    for seed in weir_testkit::seeds(300) {
        let mut choices = Choices::seeded(seed);
        let (target, run) = targets[choices.choose(targets.len())];
        let mut seeds: Vec<_> = std::fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        let mut input = std::fs::read(&seeds[choices.choose(seeds.len())]).unwrap();
        input[0] = choices.choose(8) as u8;
        for _ in 0..=choices.choose(4) {
            // Mostly where lengths and offsets are: in the first bytes of a header.
            let near = choices.choose(input.len().div_ceil(512)) * 512 + 1 + choices.choose(80);
            let at = if choices.coin() { near } else { choices.choose(input.len()) };
            for place in at..at + 1 + choices.choose(8) {
                if let Some(byte) = input.get_mut(place) {
                    *byte = VALUES[choices.choose(VALUES.len())];
                }
            }
        }
        let done = std::panic::catch_unwind(|| run(&(sample.fork() as _), &input));
        assert!(done.is_ok(), "seed {seed} of {target}");
    }
}

/// The first inputs of a corpus are the files of the sample: with `WEIR_GEN` they are written, and
/// otherwise they must still be what this format looks like.
#[test]
fn the_seeds_are_files_of_a_log() {
    let disk = sample_disk();
    for path in disk.files_under(Path::new(DIR)) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (target, flags, len_max) = match path.extension().and_then(|end| end.to_str()) {
            Some("seg") => ("log_segment", SEALED, usize::MAX),
            Some("ids") => ("log_ids", SEALED, usize::MAX),
            None if name == "identity" => ("log_state", SEALED | IDENTITY, usize::MAX),
            None if name == "checkpoint" => ("log_state", SEALED, usize::MAX),
            _ => continue,
        };
        let mut bytes = disk.peek(&path).unwrap();
        if target == "log_state" {
            bytes.truncate(bytes.len() - 4);
        }
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).next_multiple_of(512);
        bytes.truncate(used.min(len_max));
        let seed = folder(target).join(format!("seed_{name}"));
        let input = [&[flags], bytes.as_slice()].concat();
        if std::env::var_os("WEIR_GEN").is_some() {
            std::fs::create_dir_all(folder(target)).unwrap();
            std::fs::write(&seed, &input).unwrap();
        }
        let committed = std::fs::read(&seed).unwrap();
        assert_eq!(committed.first_chunk::<9>(), input.first_chunk::<9>(), "{}", seed.display());
    }
}

/// Keys of logs written while bodies were not remembered make repetitions of whatever has them.
#[test]
fn a_key_that_was_kept_without_its_body_is_a_repetition() {
    let disk: Arc<dyn Disk> = sample_disk();
    let dir = Path::new(DIR).join("shard-0");
    let tenant = TenantId::new("c").unwrap();
    let of = |body| IdempotencyKey { key: vec![1, 11], body };
    let hasher = crate::dedup::KeyHasher::new([5; 16]);
    let (kept, other) = (hasher.idempotency(&tenant, &of(9)), hasher.idempotency(&tenant, &of(8)));
    // The last request of the sample, which is in no run yet, as it was written then: one entry, here twice.
    let number = disk.list(&dir).unwrap().iter().filter_map(|entry| segment_number(&entry.name)).max().unwrap();
    let path = segment_path(&dir, number);
    let file = disk.open_read(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for written in [kept.key, kept.request] {
        let written = written.to_le_bytes();
        let at = bytes.windows(16).position(|window| window == written).unwrap();
        bytes[at..at + 16].copy_from_slice(&kept.before_bodies.to_le_bytes());
    }
    seal_segment(&mut bytes, number);
    put(&disk, &path, &bytes);
    let (log, _) = open(&disk).unwrap();
    assert_eq!(kept.before_bodies, other.before_bodies);
    let batch = RecordBatch::try_from_iter([("value", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    for (body, key, is_repeated) in [(9, 11, true), (8, 11, true), (9, 77, false)] {
        let answer = log.append(Append {
            tenant: tenant.clone(),
            parts: vec![AppendPart { stream: StreamName::new("s").unwrap(), batch: batch.clone(), id_column: None }],
            idempotency_key: Some(IdempotencyKey { key: vec![1, key], body }),
            producer: None,
            durability: Durability::Disk,
        });
        log.step();
        assert_eq!(answer.now().unwrap().unwrap().repeated, is_repeated, "{body} {key}");
    }
    log.close();
}
