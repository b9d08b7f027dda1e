//! What tests and benchmarks of several crates share: a simulated disk, oracles, brokers of Kafka, and the page of figures.

pub mod kafka;
pub mod oracle;
pub mod report;
pub mod sim_disk;

/// The seeds a simulation runs over: `default` of them in a normal test run, as many as
/// `cargo xtask sim --seeds N --first M` says in a long one.
///
/// # Panics
/// If the variables it says so with hold no numbers.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
    };
    let first = number("WEIR_SIM_FIRST_SEED").unwrap_or(0);
    first..first.saturating_add(number("WEIR_SIM_SEEDS").unwrap_or(default))
}
