//! How a failed command ends: which exit code, and what is printed.

use std::fmt;
use std::io::ErrorKind;

/// An error the user can mend on the command line or in the configuration file: exit code 2.
/// Everything else is exit code 1.
#[derive(Debug)]
pub(crate) struct BadArguments(pub(crate) String);

impl fmt::Display for BadArguments {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadArguments {}

/// An error of kind [`BadArguments`], ready to be returned.
pub(crate) fn bad_arguments(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(BadArguments(message.into()))
}

/// The exit code of a failed command.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if is_closed_pipe(error) {
        // `weir query ... | head` is not a failure of ours.
        0
    } else if error.is::<BadArguments>() {
        2
    } else {
        1
    }
}

/// Whether the reader of our output went away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// What the user reads: the error, and what caused it, once each.
pub(crate) fn report(error: &anyhow::Error) -> String {
    let mut text = format!("weir: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use anyhow::Context;

    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let closed = anyhow::Error::new(std::io::Error::from(ErrorKind::BrokenPipe));
        for (error, expected) in [
            (anyhow::anyhow!("no"), 1),
            (bad_arguments("no such format"), 2),
            (bad_arguments("line 3: unknown field").context("while reading weir.yaml"), 2),
            (closed.context("cannot write"), 0),
        ] {
            assert_eq!(exit_code(&error), expected, "{error:#}");
        }
    }

    #[test]
    fn a_cause_already_told_is_not_repeated() {
        let error =
            Err::<(), _>(anyhow::anyhow!("refused")).context("cannot reach x: refused").context("top").unwrap_err();
        assert_eq!(report(&error), "weir: top: cannot reach x: refused");
    }
}
