//! What tests of several crates share: a simulated disk, and oracles.

pub mod oracle;
pub mod sim_disk;
