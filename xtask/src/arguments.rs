//! The command line: words, `--flag` and `--option VALUE`. Nothing unknown passes.

use std::cell::Cell;
use std::time::Duration;

use crate::Result;

/// What is left of the command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: Vec<String>,
    wrong: Cell<bool>,
}

impl Arguments {
    pub(crate) fn new(arguments: impl Iterator<Item = String>) -> Self {
        // `--option=value` is `--option value`.
        let left = arguments.flat_map(|argument| match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => vec![name.to_owned(), value.to_owned()],
            _ => vec![argument],
        });
        Self { left: left.collect(), wrong: Cell::new(false) }
    }

    /// Marks the command line as wrong (exit code 2) and returns the message.
    pub(crate) fn wrong(&self, message: &str) -> String {
        self.wrong.set(true);
        message.to_owned()
    }

    pub(crate) fn are_wrong(&self) -> bool {
        self.wrong.get()
    }

    /// Takes the first word, if what comes next is one.
    pub(crate) fn word(&mut self) -> Option<String> {
        (!self.left.first()?.starts_with("--") || matches!(self.left[0].as_str(), "--help"))
            .then(|| self.left.remove(0))
    }

    /// Takes a flag.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let place = self.left.iter().position(|argument| argument == name);
        place.map(|place| self.left.remove(place)).is_some()
    }

    /// Takes an option's value.
    pub(crate) fn option(&mut self, name: &str) -> Result<Option<String>> {
        let Some(place) = self.left.iter().position(|argument| argument == name) else { return Ok(None) };
        if place + 1 == self.left.len() {
            return Err(self.wrong(&format!("{name} needs a value")));
        }
        self.left.remove(place);
        Ok(Some(self.left.remove(place)))
    }

    /// Takes a number.
    pub(crate) fn number(&mut self, name: &str, default: u64) -> Result<u64> {
        match self.option(name)? {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| self.wrong(&format!("{name} {text}: not a number"))),
        }
    }

    /// Takes a duration such as `30s`, `5m`, `2h`.
    pub(crate) fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.option(name)? else { return Ok(None) };
        let problem = || self.wrong(&format!("{name} {text}: expected something like 30s, 5m or 2h"));
        let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(problem)?;
        let number: u64 = text[..unit].parse().map_err(|_| problem())?;
        let seconds = match &text[unit..] {
            "s" => number,
            "m" => number.saturating_mul(60),
            "h" => number.saturating_mul(3600),
            _ => return Err(problem()),
        };
        Ok(Some(Duration::from_secs(seconds)))
    }

    /// Refuses what nobody took.
    pub(crate) fn end(&self) -> Result<()> {
        match self.left.first() {
            None => Ok(()),
            Some(left) => Err(self.wrong(&format!("`{left}` means nothing here; see `cargo xtask help`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::new(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_flags_and_options_are_taken_in_any_order() {
        let mut line = arguments("crash --power-loss --cycles=7 --seed 9");
        assert_eq!(line.word().as_deref(), Some("crash"));
        assert_eq!(line.number("--seed", 1), Ok(9));
        assert_eq!(line.number("--cycles", 25), Ok(7));
        assert!(line.flag("--power-loss") && !line.flag("--power-loss"));
        assert_eq!(line.end(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(arguments("--cycles").number("--cycles", 1).is_err());
        assert!(arguments("--cycles x").number("--cycles", 1).is_err());
        assert!(arguments("--frobnicate").end().is_err());
        for (text, expected) in [("30s", Some(30)), ("5m", Some(300)), ("2h", Some(7200)), ("30", None), ("s", None)] {
            let parsed = arguments(&format!("--duration {text}")).duration("--duration");
            assert_eq!(parsed.ok().flatten().map(|time| time.as_secs()), expected, "{text}");
        }
    }
}
