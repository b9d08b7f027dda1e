//! Crashes and failures at every operation. A small engine around the sink keeps what a checkpoint
//! would: the decided epoch, its receipt, and how many rows went before. Rows are numbered, so what can
//! be seen has to be 0, 1, 2, ... up to the end of a decided epoch, in order, at any moment.

use weir_testkit::sim_disk::{Choices, Fault as DiskFault};

use super::*;

/// What is durable outside of the sink.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    generation: u64,
    last: Option<(u64, Receipt)>,
    /// Rows in decided epochs; and before the last of them.
    decided: i64,
    before: i64,
}

pub(super) struct Engine {
    pub(super) config: Json,
    pub(super) format: &'static str,
    pub(super) checkpoint: Checkpoint,
    clock: Arc<ManualClock>,
}

/// How a life ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    Survived,
    Failed(ErrorKind),
}

impl Engine {
    pub(super) fn new(config: Json, format: &'static str) -> Self {
        Self { config, format, checkpoint: Checkpoint::default(), clock: clock() }
    }

    /// Opens the sink and writes some epochs. Errors that may pass are tried again, as the engine does.
    pub(super) fn live(&mut self, disk: &Arc<SimDisk>, random: &mut Choices, epochs: u64) -> End {
        self.checkpoint.generation += 1;
        let opening = Opening { generation: self.checkpoint.generation, last: self.checkpoint.last.clone() };
        let plan = planned(disk, &self.clock, &self.config).unwrap();
        let mut sink = match again(|| run(plan.open(schema(), opening.clone()))) {
            Ok(sink) => sink,
            Err(kind) => return End::Failed(kind),
        };
        for _ in 0..epochs {
            if let Err(kind) = self.epoch(&mut sink, random) {
                return End::Failed(kind);
            }
            // A reader at any moment.
            self.check(disk, "between epochs");
        }
        End::Survived
    }

    fn epoch(&mut self, sink: &mut Box<dyn Sink>, random: &mut Choices) -> Result<(), ErrorKind> {
        let epoch = self.checkpoint.last.as_ref().map_or(1, |(last, _)| last + 1);
        let mut next = self.checkpoint.decided;
        for _ in 0..random.draw_below(4) {
            let batch = rows(next, next + 1 + random.draw_below(30) as i64);
            again(|| run(sink.write(&batch)))?;
            next += batch.num_rows() as i64;
        }
        self.clock.advance(Duration::from_secs(random.draw_below(900)));
        let receipt = again(|| run(sink.prepare(epoch)))?;
        self.checkpoint.last = Some((epoch, receipt.clone()));
        self.checkpoint.before = self.checkpoint.decided;
        self.checkpoint.decided = next;
        again(|| run(sink.commit(epoch, &receipt)))?;
        self.checkpoint.before = next;
        Ok(())
    }

    /// What can be seen ends with the last decided epoch or, if that was not committed, with the one before;
    /// rolled files of an epoch appear one after another.
    pub(super) fn check(&self, disk: &SimDisk, what: &str) -> i64 {
        let mut seen = visible(disk, self.format).unwrap_or_else(|error| panic!("{what}: {error}"));
        for bytes in disk.taken() {
            seen.extend(numbers(self.format, &bytes).unwrap_or_else(|error| panic!("{what}: taken away: {error}")));
            seen.sort_unstable();
        }
        let count = seen.len() as i64;
        assert_eq!(seen, (0..count).collect::<Vec<i64>>(), "{what}");
        let Checkpoint { before, decided, .. } = self.checkpoint;
        let rolled = self.config.get("roll").is_some();
        let expected = if rolled { count >= before && count <= decided } else { count == before || count == decided };
        assert!(expected, "{what}: {count} rows can be seen, {before} were committed and {decided} decided");
        count
    }

    /// Opened again, exactly what was decided can be seen, and nothing is left over.
    pub(super) fn recover(&mut self, disk: &Arc<SimDisk>, what: &str) {
        let seen = self.check(disk, what);
        let end = self.live(disk, &mut Choices::seeded(0), 0);
        assert_eq!(end, End::Survived, "{what}");
        let after = self.check(disk, what);
        assert!(after >= seen && after == self.checkpoint.decided, "{what}: {after} of {}", self.checkpoint.decided);
        self.checkpoint.before = self.checkpoint.decided;
        let hidden = names(disk).into_iter().filter(|name| name.contains(".weir-g")).count();
        assert_eq!(hidden, 0, "{what}: {:?}", names(disk));
    }
}

/// Calls again what failed in a way that may pass, a few times.
fn again<T>(mut call: impl FnMut() -> Result<T, SinkError>) -> Result<T, ErrorKind> {
    let mut failures = 0;
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if matches!(error.kind, ErrorKind::Transient | ErrorKind::Full) && failures < 3 => failures += 1,
            Err(error) => return Err(error.kind),
        }
    }
}

fn configs() -> Vec<(Json, &'static str)> {
    let mut configs = Vec::new();
    for format in ["ndjson", "csv", "parquet"] {
        let path = format!("out/x.{format}");
        configs.push((json!({ "path": path, "format": format }), format));
        configs.push((json!({ "path": path, "format": format, "roll": { "bytes": "1KiB", "every": "20m" } }), format));
    }
    configs
}

/// One life is hit at operation `at`, then two more are lived. Whether it was hit at all.
fn survive(config: &Json, format: &'static str, fault: DiskFault, at: u64, seed: u64, power: bool) -> bool {
    let what = format!("{config} {fault:?} at {at}, seed {seed}, power loss {power}");
    let mut random = Choices::seeded(seed);
    let mut engine = Engine::new(config.clone(), format);
    let mut disk = SimDisk::new();
    // Some epochs in peace first, so that there is something to lose.
    if seed % 2 == 1 {
        assert_eq!(engine.live(&disk, &mut random, 2), End::Survived);
    }
    disk.fail_at(fault, at);
    let end = engine.live(&disk, &mut random, 4);
    let hit = !disk.faults_met().is_empty();
    if fault == DiskFault::Full {
        assert_eq!(end, End::Survived, "{what}: a disk that is full for a moment only takes longer");
    }
    disk = if power { disk.after_crash(&mut random) } else { disk.fork() };
    engine.recover(&disk, &what);
    assert_eq!(engine.live(&disk, &mut random, 3), End::Survived, "{what}");
    let disk = disk.fork();
    engine.recover(&disk, &what);
    hit
}

fn every_operation(fault: DiskFault, power: bool) {
    let mut hits = 0;
    for (config, format) in configs() {
        for seed in weir_testkit::seeds(2) {
            let mut at = 1;
            while survive(&config, format, fault, at, seed, power) && at < 400 {
                at += 1;
            }
            hits += at;
        }
    }
    assert!(hits > 150, "the workload has more operations than {hits}");
}

#[test]
fn power_may_go_at_any_operation() {
    every_operation(DiskFault::PowerLoss, true);
}

/// The process is gone and the operating system goes on: what was written is there.
#[test]
fn the_process_may_be_killed_at_any_operation() {
    every_operation(DiskFault::PowerLoss, false);
}

#[test]
fn any_operation_may_fail() {
    every_operation(DiskFault::Io, false);
}

/// A sync that failed has lost what was pending; the next crash shows it.
#[test]
fn any_operation_may_fail_and_power_go_afterwards() {
    every_operation(DiskFault::Io, true);
}

#[test]
fn the_disk_may_be_full_at_any_operation() {
    every_operation(DiskFault::Full, false);
}

/// Every state a power loss may leave, at every operation of a small workload.
#[test]
fn every_state_after_a_power_loss() {
    let mut states = 0;
    for (config, format) in configs() {
        for at in 1.. {
            let mut random = Choices::seeded(7);
            let mut engine = Engine::new(config.clone(), format);
            let disk = SimDisk::new();
            disk.fail_at(DiskFault::PowerLoss, at);
            engine.live(&disk, &mut random, 4);
            let mut choices = Choices::exhaustive();
            for state in 0..200 {
                let what = format!("{config} at {at}, state {state}");
                let after = disk.after_crash(&mut choices);
                let mut engine =
                    Engine { config: config.clone(), checkpoint: engine.checkpoint.clone(), clock: clock(), format };
                engine.recover(&after, &what);
                states += 1;
                if !choices.next() {
                    break;
                }
            }
            if disk.faults_met().is_empty() {
                break;
            }
        }
    }
    assert!(states > 400, "{states} states");
}
