//! `weir key`: what senders and readers of one tenant identify themselves with.

use http::Method;
use serde_json::Value;
use weir_api::key::KeyCreate;
use weir_server::stopped::Stopped;

use super::{list_of, note, print_list, print_one, say};
use crate::cli::{KeyCommand, ListFormat, Target};
use crate::client::{Api, path_segment};
use crate::failure::bad_arguments;

pub(super) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { tenant, scopes, name, expires_at, expires_in, format, target } => {
            let (api, path) = keys_of(&target, tenant.tenant.as_deref())?;
            let expires_at = match expires_in {
                Some(life) => Some(after(life)?),
                None => expires_at,
            };
            let scopes = scopes.into_iter().map(Into::into).collect();
            let answer = api.post(&path, &KeyCreate { scopes, name, expires_at }).await?;
            if format == ListFormat::Json {
                return print_one(&answer, format);
            }
            let Some(key) = answer.get("key").and_then(Value::as_str) else {
                anyhow::bail!("the server's answer has no key in it");
            };
            note("the key is shown this once; Weir keeps only a keyed hash of it");
            say(key)?;
            Ok(())
        }
        KeyCommand::List { tenant, format, target } => {
            let (api, path) = keys_of(&target, tenant.tenant.as_deref())?;
            let answer = api.ask(Method::GET, &path).await?;
            let fields = ["id", "name", "scopes", "created_at", "expires_at", "revoked_at"];
            print_list(list_of(&answer, "keys")?, &fields, format)
        }
        KeyCommand::Rescue { data_dir } => {
            let Some(stopped) = Stopped::open(&data_dir)? else {
                anyhow::bail!("there is no meta.db in {}", data_dir.display());
            };
            let id = stopped.renew_admin_key(&data_dir)?;
            note("keys there were stay valid until they are revoked");
            say(format_args!("the administrator's key {id} is in {}", data_dir.join("admin.key").display()))?;
            Ok(())
        }
        KeyCommand::Revoke { id, tenant, target } => {
            let (api, path) = keys_of(&target, tenant.tenant.as_deref())?;
            api.ask(Method::DELETE, &format!("{path}/{}", path_segment(&id))).await?;
            say(format_args!("revoked {id}"))?;
            Ok(())
        }
    }
}

fn keys_of(target: &Target, tenant: Option<&str>) -> anyhow::Result<(Api, String)> {
    let tenant = tenant.ok_or_else(|| bad_arguments("whose keys? give --tenant or set WEIR_TENANT"))?;
    // The path names the tenant, so no header has to.
    Ok((Api::new(target, None)?, format!("/api/v1/tenants/{}/keys", path_segment(tenant))))
}

/// RFC 3339 of now plus `life`.
fn after(life: weir_base::quantity::Span) -> anyhow::Result<String> {
    let life = jiff::SignedDuration::try_from(life.0).map_err(|_| bad_arguments("--expires-in is too long"))?;
    let end = jiff::Timestamp::now().checked_add(life).map_err(|_| bad_arguments("--expires-in is too long"))?;
    Ok(format!("{end:.0}"))
}
