//! Randomness for secrets and identifiers, from the operating system.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// `N` bytes nobody can guess.
///
/// # Panics
/// If the operating system has no randomness to give; no key may be made then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[allow(clippy::expect_used, reason = "documented panic: no key may be made without randomness")]
    getrandom::fill(&mut bytes).expect("the operating system has no randomness");
    bytes
}

/// A number that nobody else has, for names of things that need not be secret: who sees some of them
/// may guess others. Much quicker than [`bytes`], which asks the operating system every time.
///
/// # Panics
/// As [`bytes`].
pub fn unique() -> u128 {
    static FIRST: LazyLock<u128> = LazyLock::new(|| u128::from_le_bytes(bytes()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // An odd factor maps different counts to different numbers, and neighbours far apart.
    const FAR_APART: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    FIRST.wrapping_add(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_mul(FAR_APART))
}
