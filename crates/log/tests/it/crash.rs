//! Crashes at every operation, and what they may leave behind. Checked after each: rows that were
//! acknowledged are there once, nothing is there that was not sent, order is kept, a crash is never
//! taken for damage, and retrying with the same ids doubles nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use weir_base::clock::ManualClock;
use weir_log::{Append, IdempotencyKey, LogOptions, ProducerSequence};
use weir_testkit::sim_disk::{Choices, Fault, SimDisk};

use crate::harness::{Bench, START, append, part, small_options, try_open_with};

/// What a client knows about one append: its rows, and whether it was acknowledged.
#[derive(Clone, Debug)]
struct Sent {
    tenant: &'static str,
    ids: Vec<String>,
    value: i64,
    producer: Option<u64>,
    keyed: bool,
    acknowledged: bool,
}

/// A client that remembers everything.
#[derive(Clone, Debug, Default)]
struct Client {
    sent: Vec<Sent>,
    next: i64,
}

const TENANTS: [&str; 3] = ["a", "b", "c"];

impl Client {
    fn request(&mut self, random: &mut Choices) -> Append {
        let value = self.next;
        self.next += 1;
        let n_rows = 1 + random.draw_below(4);
        let tenant = TENANTS[random.draw_below(3) as usize];
        let sent = Sent {
            tenant,
            ids: (0..n_rows).map(|row| format!("{value}-{row}")).collect(),
            value,
            producer: (random.draw_below(3) == 0).then_some(value as u64),
            keyed: random.draw_below(3) == 0,
            acknowledged: false,
        };
        let request = Self::append_of(&sent);
        self.sent.push(sent);
        request
    }

    fn append_of(sent: &Sent) -> Append {
        let rows: Vec<(&str, i64)> = sent.ids.iter().map(|id| (id.as_str(), sent.value)).collect();
        let (first, rest) = rows.split_at(1);
        let mut parts = vec![part("s", first)];
        if !rest.is_empty() {
            parts.push(part("t", rest));
        }
        Append {
            idempotency_key: sent.keyed.then(|| IdempotencyKey { key: sent.value.to_le_bytes().to_vec(), body: 1 }),
            // Its own producer a request: requests of one producer may not overtake each other.
            producer: sent.producer.map(|sequence| ProducerSequence {
                producer: u128::from(sequence),
                epoch: 1,
                sequence,
            }),
            ..append(sent.tenant, parts)
        }
    }

    /// Compares what the log handed out with what was sent.
    fn check(&self, bench: &Bench, what: &str) {
        assert_eq!(*bench.keeper.damages.lock().unwrap(), [], "{what}: a crash is not damage");
        let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
        for row in bench.keeper.rows() {
            *found.entry((row.tenant, row.id)).or_default() += 1;
        }
        let mut phantoms: BTreeSet<(String, String)> = found.keys().cloned().collect();
        for sent in &self.sent {
            let counts: Vec<usize> = sent
                .ids
                .iter()
                .map(|id| {
                    let key = (sent.tenant.to_owned(), id.clone());
                    phantoms.remove(&key);
                    found.get(&key).copied().unwrap_or(0)
                })
                .collect();
            assert!(counts.iter().all(|count| *count <= 1), "{what}: doubled: {sent:?} {counts:?}");
            assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{what}: torn apart: {sent:?} {counts:?}");
            assert!(!sent.acknowledged || counts[0] == 1, "{what}: lost: {sent:?}");
        }
        assert!(phantoms.is_empty(), "{what}: phantoms: {phantoms:?}");
    }

    fn check_order(&self, bench: &Bench, what: &str) {
        for tenant in TENANTS {
            for stream in ["s", "t"] {
                let rows = bench.keeper.rows();
                let values: Vec<i64> = rows
                    .iter()
                    .filter(|row| row.tenant == tenant && row.stream == stream)
                    .map(|row| row.value)
                    .collect();
                assert!(values.is_sorted(), "{what}: order of {tenant}/{stream}: {values:?}");
            }
        }
    }

    /// Sends again whatever has no acknowledgement, and some that has.
    fn retry(&mut self, bench: &Bench, what: &str) {
        for sent in &mut self.sent {
            if sent.acknowledged && sent.value % 3 != 0 {
                continue;
            }
            let was_acknowledged = sent.acknowledged;
            let outcome = bench.append(Self::append_of(sent)).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let stored: usize = outcome.parts.iter().map(|part| part.stored).sum();
            assert!(stored == 0 || (!was_acknowledged && stored == sent.ids.len()), "{what}: {sent:?} {outcome:?}");
            sent.acknowledged = true;
        }
    }
}

fn options() -> LogOptions {
    LogOptions { dedup_memory_ids_max: 16, retention: Duration::from_secs(60), ..small_options() }
}

/// Runs a workload until power goes; several requests share a commit now and then.
fn work(bench: &Bench, client: &mut Client, random: &mut Choices, rounds: usize) {
    for _ in 0..rounds {
        let together = 1 + random.draw_below(3) as usize;
        let first = client.sent.len();
        let answers: Vec<_> = (0..together).map(|_| bench.log.append(client.request(random))).collect();
        bench.log.step();
        for (at, answer) in answers.into_iter().enumerate() {
            if let Some(Ok(_)) = answer.now() {
                client.sent[first + at].acknowledged = true;
            }
        }
        match random.draw_below(6) {
            0 => bench.rest(),
            1 => {
                bench.clock.advance(Duration::from_secs(1800));
            }
            _ => {}
        }
    }
}

/// One life after another: work, crash at the given operation, open what is left, check, retry.
fn live(seed: u64, crash_at: u64) -> bool {
    let mut random = Choices::seeded(seed);
    let clock = ManualClock::new(START);
    let mut disk = SimDisk::new();
    let mut client = Client::default();
    let mut crashed = false;
    for life in 0..3 {
        let what = format!("seed {seed}, crash at {crash_at}, life {life}");
        disk.fail_at(Fault::PowerLoss, if life == 0 { crash_at } else { 1 + random.draw_below(60) });
        if let Ok(bench) = try_open_with(&disk, &clock, options(), 0) {
            work(&bench, &mut client, &mut random, 6);
        }
        crashed |= !disk.faults_met().is_empty();
        let after = disk.after_crash(&mut random);
        let bench = try_open_with(&after, &clock, options(), 0).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        client.check(&bench, &what);
        if life == 0 {
            client.check_order(&bench, &what);
        }
        client.retry(&bench, &what);
        client.check(&bench, &what);
        // Also a crash that loses nothing but what was never written.
        bench.log.close();
        drop(bench);
        disk = after;
    }
    crashed
}

#[test]
fn a_crash_at_any_operation_loses_and_doubles_nothing() {
    let mut states = 0;
    for seed in weir_testkit::seeds(4) {
        let mut crash_at = 1;
        while live(seed * 1000 + crash_at, crash_at) && crash_at < 400 {
            crash_at += 1;
            states += 3;
        }
        assert!(crash_at > 50, "the workload has more operations than {crash_at}");
    }
    assert!(states > 1000, "{states} states");
}

/// Every state a crash may leave of a small workload, at every operation of it.
#[test]
fn every_state_after_a_crash_of_a_small_workload() {
    let mut states = 0;
    for crash_at in 1.. {
        let clock = ManualClock::new(START);
        let disk = SimDisk::new();
        disk.fail_at(Fault::PowerLoss, crash_at);
        let mut client = Client::default();
        let mut random = Choices::seeded(7);
        let options = || LogOptions { segment_bytes: 4096, reserve_bytes: 0, ..options() };
        if let Ok(bench) = try_open_with(&disk, &clock, options(), 0) {
            work(&bench, &mut client, &mut random, 3);
        }
        let mut choices = Choices::exhaustive();
        let mut of_this_crash = 0;
        loop {
            let what = format!("crash at {crash_at}, state {of_this_crash}");
            let after = disk.after_crash(&mut choices);
            let bench = try_open_with(&after, &clock, options(), 0).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            client.check(&bench, &what);
            client.check_order(&bench, &what);
            of_this_crash += 1;
            if !choices.next() || of_this_crash == 64 {
                break;
            }
        }
        states += of_this_crash;
        if disk.faults_met().is_empty() {
            break;
        }
    }
    assert!(states > 250, "{states} states");
}

#[test]
fn the_end_and_positions_do_not_go_back_over_crashes() {
    for seed in weir_testkit::seeds(200) {
        let mut random = Choices::seeded(seed);
        let clock = ManualClock::new(START);
        let mut disk = SimDisk::new();
        let mut client = Client::default();
        let mut end = 0;
        for _ in 0..3 {
            let crash_at = 10 + random.draw_below(80);
            let bench = try_open_with(&disk, &clock, options(), 0).unwrap();
            assert!(bench.log.end(0).offset >= end, "seed {seed}");
            disk.fail_at(Fault::PowerLoss, crash_at);
            work(&bench, &mut client, &mut random, 5);
            end = bench.log.end(0).offset;
            let published = bench.keeper.positions.lock().unwrap().clone();
            let after = disk.after_crash(&mut random);
            let again = try_open_with(&after, &clock, options(), 0).unwrap();
            let kept = again.keeper.positions.lock().unwrap().clone();
            assert_eq!(kept[..published.len()], published[..], "seed {seed}");
            assert!(again.log.end(0).offset >= end, "seed {seed}");
            end = again.log.end(0).offset;
            drop(again);
            disk = Arc::clone(&after);
        }
    }
}
