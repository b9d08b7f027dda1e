//! `weir tenant`: the owners of data.

use std::io::{BufRead, IsTerminal, Write};

use http::Method;
use weir_api::tenant::{TenantCreate, TenantSettings};

use super::{list_of, note, print_list, print_one, say};
use crate::cli::TenantCommand;
use crate::client::{Api, path_segment};
use crate::failure::bad_arguments;

pub(super) async fn run(command: TenantCommand) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create { id, name, tier, format, target } => {
            let body = TenantCreate {
                id: id.clone(),
                name,
                tier: tier.into(),
                limits: serde_json::Map::new(),
                settings: TenantSettings::default(),
            };
            let tenant = Api::new(&target, None)?.post("/api/v1/tenants", &body).await?;
            note(format_args!("created; its first key: weir key create --tenant {id}"));
            print_one(&tenant, format)
        }
        TenantCommand::List { format, target } => {
            let answer = Api::new(&target, None)?.ask(Method::GET, "/api/v1/tenants").await?;
            print_list(list_of(&answer, "tenants")?, &["id", "name", "tier", "created_at"], format)
        }
        TenantCommand::Show { id, format, target } => {
            let path = format!("/api/v1/tenants/{}", path_segment(&id));
            print_one(&Api::new(&target, None)?.ask(Method::GET, &path).await?, format)
        }
        TenantCommand::Delete { id, yes, target } => {
            if !yes {
                confirm(&id)?;
            }
            let path = format!("/api/v1/tenants/{}", path_segment(&id));
            Api::new(&target, None)?.ask(Method::DELETE, &path).await?;
            say(format_args!("deleted {id}"))?;
            Ok(())
        }
    }
}

/// A tenant goes with all its data, so its name has to be typed.
fn confirm(id: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(bad_arguments("deleting a tenant deletes its data: give --yes to do it without being asked"));
    }
    write!(std::io::stderr(), "This deletes tenant {id}, its keys and all its data. Type its identifier to go on: ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    anyhow::ensure!(answer.trim() == id, "not deleted");
    Ok(())
}
