//! The page of the documentation that benchmarks write: what was measured, when, and on which machine.

pub mod figures;

use std::path::Path;

use anyhow::{Context, Result};

/// A section of the page: a heading with the date, the machine, and what was measured.
///
/// # Errors
/// If the clock stands before 1970.
pub fn section(title: &str, text: &str) -> Result<String> {
    let load = load();
    Ok(format!("\n## {title}, {}\n\n{}; load average at the end {load:.1}.\n\n{text}", today()?, machine()))
}

/// Adds a section to the page, which is begun if it is not there.
///
/// # Errors
/// If it cannot be read or written.
pub fn add(report: &Path, text: &str) -> Result<()> {
    let mut all = match std::fs::read_to_string(report) {
        Ok(all) => all,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "# Benchmarks\n\nWritten by `cargo xtask bench`, newest last. CPU time of the server for each row is the figure to \
             compare; it grows when the machine is busy with other work, so the load average stands beside every table.\n"
                .to_owned()
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", report.display())),
    };
    all.push_str(text);
    std::fs::write(report, all).with_context(|| format!("cannot write {}", report.display()))
}

/// One line on the machine.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.trim_start_matches([' ', '\t', ':']).trim(), kernel.trim())
}

/// How busy the machine was meanwhile: the load average of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The date, as YYYY-MM-DD.
#[allow(clippy::disallowed_methods, reason = "a report has the date of the wall clock")]
fn today() -> Result<String> {
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
