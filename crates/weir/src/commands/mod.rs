//! One module a command. A command asks the server, prints, and returns; nothing here decides
//! anything a server should.

mod check;
mod components;
mod deadletters;
mod generate;
mod key;
mod local;
mod log;
mod pipeline;
mod query;
mod reference;
mod run;
mod savepoint;
mod table;
mod tail;
mod tap;
mod tenant;
mod test;
mod top;

use std::io::{IsTerminal, Write};

use serde_json::Value;

use crate::cli::{Command, CommandLine, ListFormat};
use crate::serve;

/// Runs one command to its end.
pub(crate) fn run(command_line: CommandLine) -> anyhow::Result<()> {
    match command_line.command {
        Command::Serve(args) => serve::run(args),
        Command::Tenant(command) => block_on(tenant::run(command)),
        Command::Key(command) => block_on(key::run(command)),
        Command::Query(args) => block_on(query::run(args)),
        Command::Tail(args) => block_on(tail::run(args)),
        Command::Generate(args) => generate::run(args),
        Command::Run(args) => run::run(&args),
        Command::Pipeline(command) => block_on(pipeline::run(command)),
        Command::Deadletters(command) => block_on(deadletters::run(command)),
        Command::Tap(args) => block_on(tap::run(args)),
        Command::Top(args) => block_on(top::run(args)),
        Command::Test(args) => test::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Log(command) => log::run(command),
        Command::Reference(args) => reference::run(&args),
        Command::Components(args) => components::run(&args),
    }
}

/// Client commands do one thing at a time: one thread is enough, and they start at once.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Writes one line to standard output.
fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// Writes one line to standard error, for people, only if people are there.
fn note(line: impl std::fmt::Display) {
    if std::io::stderr().is_terminal() {
        // A note nobody can read is no reason to fail.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// Prints a list the server answered: as it is, or as a table of the given fields.
fn print_list(list: &[Value], fields: &[&str], format: ListFormat) -> anyhow::Result<()> {
    match format {
        ListFormat::Json => say(serde_json::to_string_pretty(list)?)?,
        ListFormat::Table => {
            let columns = fields.iter().map(|name| table::Column::text(name)).collect();
            let rows = list
                .iter()
                .map(|item| fields.iter().map(|name| table::cell(item.get(*name).unwrap_or(&Value::Null))).collect())
                .collect();
            std::io::stdout().lock().write_all(table::render(columns, rows, table::width_of_stdout()).as_bytes())?;
        }
    }
    Ok(())
}

/// Prints one thing the server answered: as it is, or a line a field.
fn print_one(item: &Value, format: ListFormat) -> anyhow::Result<()> {
    match (format, item.as_object()) {
        (ListFormat::Table, Some(fields)) => {
            let width = fields.keys().map(|name| name.chars().count()).max().unwrap_or(0);
            for (name, value) in fields {
                say(format_args!("{name:width$}  {}", table::cell(value)))?;
            }
        }
        _ => say(serde_json::to_string_pretty(item)?)?,
    }
    Ok(())
}

/// The list in an answer: the answer itself, or its field `name`.
fn list_of<'a>(answer: &'a Value, name: &str) -> anyhow::Result<&'a [Value]> {
    let list = answer.as_array().or_else(|| answer.get(name)?.as_array());
    list.map(Vec::as_slice).ok_or_else(|| anyhow::anyhow!("the server's answer has no list of {name}"))
}
