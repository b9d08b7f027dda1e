//! The ground everything in Weir stands on: identifiers, error kinds, time, sizes, secrets, the
//! disk seam and shutdown.
//!
//! Invariant: nothing here knows Arrow, the network or a database. Wall clock, randomness and the
//! file system are reached only through this crate, so that a simulator can replace them.

pub mod clock;
pub mod cpu;
pub mod crc;
pub mod disk;
pub mod error;
pub mod id;
pub mod quantity;
pub mod random;
pub mod secret;
pub mod shutdown;

pub use clock::{Clock, Timestamp};
pub use error::{Diagnostic, ErrorKind, Kinded};
pub use id::{StreamName, TenantId};
