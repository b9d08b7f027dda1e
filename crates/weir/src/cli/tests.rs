#![allow(clippy::unwrap_used, reason = "tests")]
use clap::CommandFactory;

use super::*;

fn every_command(command: &clap::Command, check: &mut impl FnMut(&clap::Command)) {
    check(command);
    for inner in command.get_subcommands() {
        every_command(inner, check);
    }
}

#[test]
fn clap_finds_no_contradiction() {
    CommandLine::command().debug_assert();
}

#[test]
fn help_is_complete() {
    // Every command and every argument says what it is; the value names of options are given.
    every_command(&CommandLine::command(), &mut |command| {
        assert!(command.get_about().is_some(), "`{}` has no help", command.get_name());
        for argument in command.get_arguments() {
            let documented = argument.get_help().is_some() || argument.get_possible_values().len() > 1;
            assert!(documented, "`{} {}` has no help", command.get_name(), argument.get_id());
        }
    });
}

#[test]
fn the_documented_command_lines_parse() {
    for line in [
        "weir serve",
        "weir serve --config weir.yaml --data-dir d --http 127.0.0.1:0 --otlp-grpc [::1]:0 --otlp-http 0.0.0.0:0",
        "weir tenant create shop --name Shop --tier paid",
        "weir tenant list --format json --url http://x:1 --key k",
        "weir tenant show shop",
        "weir tenant delete shop --yes",
        "weir key create --tenant shop --scopes ingest,query --expires-in 90d",
        "weir key list --tenant shop",
        "weir key revoke 0a1b2c --tenant shop",
        "weir query select_1 --tenant shop --format parquet --param 1 --param x",
        "weir tail logs --where severity_number>=17",
        "weir generate --tenants 3 --rate 2000 --duration 30s --seed 7",
        "weir check weir.toml",
        "weir log fsck --data-dir d --repair",
        "weir components",
    ] {
        if let Err(error) = CommandLine::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_arguments_end_with_code_2() {
    for line in [
        "weir",
        "weir frobnicate",
        "weir query",
        "weir query x --format xml",
        "weir generate --tenants 0",
        "weir generate --duration soon",
        "weir key create --expires-in 1d --expires-at 2027-01-01T00:00:00Z",
    ] {
        assert_eq!(CommandLine::try_parse_from(line.split(' ')).unwrap_err().exit_code(), 2, "{line}");
    }
}
