//! What was measured, beside what it should be.

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// One figure.
#[derive(Clone, Debug)]
struct Figure {
    what: String,
    measured: f64,
    unit: &'static str,
    target: Option<Target>,
}

/// The figures of one scenario.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    figures: Vec<Figure>,
    /// What a reader must know besides.
    remarks: Vec<String>,
}

impl Figures {
    /// A figure that only informs.
    pub fn add(&mut self, what: impl Into<String>, measured: f64, unit: &'static str) {
        self.figures.push(Figure { what: what.into(), measured, unit, target: None });
    }

    /// A figure with a target.
    pub fn compare(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, target: Target) {
        self.figures.push(Figure { what: what.into(), measured, unit, target: Some(target) });
    }

    /// A sentence below the table.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// The figures as a table of Markdown.
    pub fn table(&self, name: &str) -> String {
        let mut out = format!("**{name}**\n\n| | measured | target | |\n|---|---|---|---|\n");
        for Figure { what, measured, unit, target } in &self.figures {
            let (target, verdict) = match target {
                None => (String::new(), ""),
                Some(Target::AtMost(most)) => {
                    (format!("at most {} {unit}", number(*most)), if measured <= most { "reached" } else { "missed" })
                }
                Some(Target::AtLeast(least)) => (
                    format!("at least {} {unit}", number(*least)),
                    if measured >= least { "reached" } else { "missed" },
                ),
            };
            out.push_str(&format!("| {what} | {} {unit} | {target} | {verdict} |\n", number(*measured)));
        }
        for remark in &self.remarks {
            out.push_str(&format!("\n{remark}\n"));
        }
        out
    }
}

/// Three digits, or all of the integral ones, with separators.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        for (value, text) in [
            (1_234_567.8, "1,234,568"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (-1500.0, "-1,500"),
            (0.0, "0.00"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_table_says_what_was_missed() {
        let mut figures = Figures::default();
        figures.compare("cost", 2.6, "µs", Target::AtMost(2.5));
        figures.compare("rate", 500_000.0, "rows/s", Target::AtLeast(400_000.0));
        figures.add("memory", 10.0, "MB");
        let table = figures.table("name");
        assert!(table.contains("| cost | 2.60 µs | at most 2.50 µs | missed |"), "{table}");
        assert!(table.contains("| rate | 500,000 rows/s | at least 400,000 rows/s | reached |"), "{table}");
        assert!(table.contains("| memory | 10.0 MB |  |  |"), "{table}");
    }
}
