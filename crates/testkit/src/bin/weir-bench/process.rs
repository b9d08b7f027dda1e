//! What the kernel knows of the server and of the machine (`/proc`).

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

/// CPU time of a process, ended threads included.
pub(crate) fn cpu(process: u32) -> Result<Cpu> {
    read_cpu(Path::new(&format!("/proc/{process}/stat")))
}

/// CPU time of the running threads, by name.
pub(crate) fn cpu_by_thread(process: u32) -> Result<BTreeMap<String, Duration>> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))?.flatten() {
        // A thread may end between the listing and the look.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        let Ok(used) = read_cpu(&task.path().join("stat")) else { continue };
        // `tokio-rt-worker`, `weir-log-0`: numbered threads of a kind count together.
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
pub(crate) fn memory_mb(process: u32) -> Result<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kb: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kb / 1000)
    };
    Ok((field("VmHWM:")?, field("VmRSS:")?))
}

/// One line on the machine.
pub(crate) fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.trim_start_matches([' ', '\t', ':']).trim(), kernel.trim())
}

/// The date, as YYYY-MM-DD.
pub(crate) fn today() -> Result<String> {
    let days = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 86_400;
    // Days to a date of the Gregorian calendar, counted from 0000-03-01 so that leap days come last.
    let days = i64::try_from(days)? + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}
