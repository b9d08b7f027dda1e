//! `weir deadletters`: rows of pipelines that failed.

use http::Method;
use serde_json::{Value, json};
use weir_api::deadletter::{
    DeadLetterFilter, DeadLetterPurge, DeadLetterReason, DeadLetterReplay, DeadLettersPurged, DeadLettersReplayed,
};
use weir_base::quantity::Span;
use weir_component::operator::AsideReason;

use super::local::{self, Local};
use super::{list_of, print_list, say};
use crate::cli::{DeadlettersCommand, Which};
use crate::client::{Api, path_segment};
use crate::failure::bad_arguments;

pub(super) async fn run(command: DeadlettersCommand) -> anyhow::Result<()> {
    match command {
        DeadlettersCommand::List { name, which, all, limit, format, state, .. } if local::is_file(&name) => {
            let list =
                Local::open(&name, state.state.as_deref())?.letters(&filter(which, Vec::new())?, all, limit).await?;
            print_list(&list, &["id", "state", "time", "step", "class", "attempts", "error", "row"], format)
        }
        DeadlettersCommand::Replay { name, which, ids, dry_run, state, .. } if local::is_file(&name) => {
            let (replayed, reasons) =
                Local::open(&name, state.state.as_deref())?.replay(&filter(which, ids)?, dry_run).await?;
            if dry_run {
                say(format_args!("{replayed} dead letters of {name} can be run again"))?;
            } else {
                say(format_args!("{replayed} dead letters of {name} will be run again by the next `weir run`"))?;
            }
            told(reasons)
        }
        DeadlettersCommand::Purge { name, which, ids, all, state, .. } if local::is_file(&name) => {
            let filter = checked(which, ids, all)?;
            let (purged, path) = Local::open(&name, state.state.as_deref())?.purge(&filter).await?;
            Ok(say(format_args!("purged {purged} dead letters of {name}; their lines stay in {}", path.display()))?)
        }
        DeadlettersCommand::List { name, which, all, limit, format, tenant, target, .. } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let filter = filter(which, Vec::new())?;
            let mut address = format!("{}?limit={limit}&all={all}", path(&name));
            for (key, value) in [("since", filter.since), ("class", filter.class), ("step", filter.step)] {
                if let Some(value) = value {
                    address.push_str(&format!("&{key}={}", path_segment(&value)));
                }
            }
            let answer = api.ask(Method::GET, &address).await?;
            let list = list_of(&answer, "deadletters")?;
            print_list(list, &["id", "state", "at", "step", "class", "attempts", "error", "row"], format)
        }
        DeadlettersCommand::Replay { name, which, ids, dry_run, tenant, target, .. } => {
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            replay(&api, &name, filter(which, ids)?, dry_run).await
        }
        DeadlettersCommand::Purge { name, which, ids, all, tenant, target, .. } => {
            let filter = checked(which, ids, all)?;
            let api = Api::new(&target, tenant.tenant.as_deref())?;
            let answer = api.post(&format!("{}/purge", path(&name)), &DeadLetterPurge { filter, all }).await?;
            let DeadLettersPurged { purged } = serde_json::from_value(answer)?;
            Ok(say(format_args!("purged {purged} dead letters of {name}"))?)
        }
    }
}

fn path(name: &str) -> String {
    format!("/api/v1/pipelines/{}/deadletters", path_segment(name))
}

fn filter(which: Which, ids: Vec<String>) -> anyhow::Result<DeadLetterFilter> {
    let Which { since, class, step } = which;
    let since = since.map(|since| time(&since)).transpose()?;
    if let Some(class) = &class {
        AsideReason::class(class).map_err(|message| bad_arguments(format!("--class: {message}")))?;
    }
    Ok(DeadLetterFilter { since, class, step, ids })
}

/// Which ones are purged: some, or all if that is said.
fn checked(which: Which, ids: Vec<String>, all: bool) -> anyhow::Result<DeadLetterFilter> {
    let filter = filter(which, ids)?;
    if (filter == DeadLetterFilter::default()) != all {
        return Err(bad_arguments("say which ones, by --since, --class, --step or --id, or --all of them"));
    }
    Ok(filter)
}

/// Says which letters cannot be run again, and fails if there are any.
fn told(reasons: Vec<DeadLetterReason>) -> anyhow::Result<()> {
    let refused: u64 = reasons.iter().map(|reason| reason.count).sum();
    for DeadLetterReason { reason, count, example } in reasons {
        say(format_args!("  not {count}: {reason} (such as {example})"))?;
    }
    anyhow::ensure!(refused == 0, "{refused} dead letters cannot be run again");
    Ok(())
}

/// A time as it is written, or so long ago.
fn time(text: &str) -> anyhow::Result<String> {
    let Ok(span) = text.parse::<Span>() else { return Ok(text.to_owned()) };
    let long = || bad_arguments(format!("--since {text} is too long ago"));
    let span = jiff::SignedDuration::try_from(span.0).map_err(|_| long())?;
    Ok(jiff::Timestamp::now().checked_sub(span).map_err(|_| long())?.to_string())
}

/// Asks until there are no more.
async fn replay(api: &Api, name: &str, filter: DeadLetterFilter, dry_run: bool) -> anyhow::Result<()> {
    let (mut after, mut replayed, mut refused) = (None, 0, 0);
    let mut reasons: Vec<DeadLetterReason> = Vec::new();
    loop {
        let body = DeadLetterReplay { filter: filter.clone(), dry_run, after };
        let answer = api.post(&format!("{}/replay", path(name)), &body).await?;
        let part: DeadLettersReplayed = serde_json::from_value(answer)?;
        replayed += part.replayed;
        refused += part.refused;
        for reason in part.reasons {
            match reasons.iter_mut().find(|known| known.reason == reason.reason) {
                Some(known) => known.count += reason.count,
                None => reasons.push(reason),
            }
        }
        after = part.after;
        if after.is_none() {
            break;
        }
    }
    let pipeline: Value = api.ask(Method::GET, &format!("/api/v1/pipelines/{}", path_segment(name))).await?;
    let runs = pipeline["status"] == json!("running") || pipeline["status"] == json!("starting");
    match (dry_run, runs) {
        (true, _) => say(format_args!("{replayed} dead letters of {name} can be run again"))?,
        (false, true) => say(format_args!("{replayed} dead letters of {name} are run again"))?,
        (false, false) => {
            let status = pipeline["status"].as_str().unwrap_or_default();
            say(format_args!("{replayed} dead letters of {name} will be run again when it runs; it is {status}"))?;
        }
    }
    debug_assert_eq!(refused, reasons.iter().map(|reason| reason.count).sum::<u64>(), "all are given a reason");
    told(reasons)
}
