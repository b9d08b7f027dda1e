//! Randomness for secrets and identifiers, from the operating system.

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
