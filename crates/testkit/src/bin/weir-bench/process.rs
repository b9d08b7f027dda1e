//! What the kernel knows of the server (`/proc`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts CPU time for user space in hundredths of a second, whatever the kernel's own tick.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user.saturating_sub(before.user), system: self.system.saturating_sub(before.system) }
    }
}

/// CPU time of a server by what it was for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spent {
    /// All of the process, ended threads included.
    pub(crate) all: Cpu,
    /// From the tail to table files: flusher and keeper.
    pub(crate) writing: Duration,
    /// Merging table files.
    pub(crate) compacting: Duration,
    /// Every kind of thread, by name.
    pub(crate) threads: BTreeMap<String, Duration>,
}

impl Spent {
    /// What a server has spent so far.
    pub(crate) fn by(process: u32) -> Result<Self> {
        let threads = by_thread(process)?;
        let of = |name: &str| threads.get(name).copied().unwrap_or_default();
        Ok(Self {
            all: read_cpu(Path::new(&format!("/proc/{process}/stat")))?,
            writing: of("weir-flusher") + of("weir-keeper"),
            compacting: of("weir-compactor"),
            threads,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let spent = |(name, time): (&String, &Duration)| {
            let earlier = before.threads.get(name).copied().unwrap_or_default();
            (name.clone(), time.saturating_sub(earlier))
        };
        Self {
            all: self.all.since(before.all),
            writing: self.writing.saturating_sub(before.writing),
            compacting: self.compacting.saturating_sub(before.compacting),
            threads: self.threads.iter().map(spent).collect(),
        }
    }

    /// Receiving rows and making them durable and queryable: all but the table writer and merging.
    pub(crate) fn receiving(&self) -> Duration {
        self.all.total().saturating_sub(self.writing + self.compacting)
    }
}

/// CPU time of the running threads, by name.
fn by_thread(process: u32) -> Result<BTreeMap<String, Duration>> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        // A thread may end between the listing and the look.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        let Ok(used) = read_cpu(&task.path().join("stat")) else { continue };
        // `log-0`: numbered threads of a kind count together.
        let kind = name.trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        *threads.entry(kind).or_default() += used.total();
    }
    Ok(threads)
}

fn read_cpu(path: &Path) -> Result<Cpu> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The name, in parentheses, may hold anything; fields are counted after it (proc(5)).
    let (_, fields) = text.rsplit_once(')').context("a stat file without a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> Result<Duration> {
        let ticks: u64 = fields.get(index).context("a short stat file")?.parse()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    };
    Ok(Cpu { user: ticks(11)?, system: ticks(12)? })
}

/// Peak and present memory of a process, in MB.
pub(crate) fn memory_mb(process: u32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: f64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib * 1024.0 / 1e6)
    };
    Ok((field("VmHWM:")?, field("VmRSS:")?))
}
