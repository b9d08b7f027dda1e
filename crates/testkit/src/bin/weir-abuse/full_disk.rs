//! A disk that fills up: rows are refused, everything else goes on, and with space again so do rows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weir_testkit::oracle::server::Addresses;

use crate::Outcome;
use crate::sender::{Outcome as Sent, Protocol, Sender, compare};
use crate::stage::Stage;

const DISK: &str = "size=200m";
/// What the ballast leaves free.
const LEFT_FREE: u64 = 512 << 10;
const CONFIG: &str = "\
log:
  segment_bytes: 4MiB
  reserve_bytes: 16MiB
";
/// Of the reserve, the least that has to be left once rows are refused.
const RESERVE_LEFT: u64 = 8 << 20;
const FULL_WITHIN: Duration = Duration::from_secs(30);
const AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// A file system of its own in memory, small enough to fill.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: PathBuf) -> Result<Self> {
        std::fs::create_dir(&folder).context("cannot make the mount point")?;
        let mut mount = Command::new("mount");
        let output =
            mount.args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&folder).output().context("cannot run mount")?;
        ensure!(output.status.success(), "mount failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self(folder))
    }

    fn free(&self) -> Result<u64> {
        let numbers = rustix::fs::statvfs(&self.0).context("cannot look at the disk")?;
        Ok(numbers.f_bavail * numbers.f_frsize)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) -> Result<()> {
        let file = std::fs::File::create(self.ballast())?;
        let mut length = self.free()?.saturating_sub(LEFT_FREE);
        // The server takes space at the same time, so what was free may be less a moment later. What
        // it gives free meanwhile, its reserve, is not for the ballast.
        loop {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
                Err(rustix::io::Errno::NOSPC) if length > 1 << 20 => length -= 1 << 20,
                other => return other.context("cannot fill the disk"),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because on the way out of a failure something may still look into it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the senders have seen, by protocol in the order of [`Protocol::ALL`].
#[derive(Default)]
struct Seen {
    refused: [u64; 3],
    acknowledged: [u64; 3],
}

pub(crate) async fn run(weir: &Path) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("needs root, to mount a file system that can be filled".to_owned()));
    }
    let scratch = tempfile::tempdir().context("cannot make a scratch directory")?;
    let disk = Disk::mount(scratch.path().join("disk"))?;
    let data_dir = disk.0.join("data");
    let mut stage = Stage::start_in(weir, CONFIG, scratch, data_dir).await?;
    let outcome = scenario(&mut stage, &disk).await;
    let outcome = stage.explain(outcome);
    stage.server.kill().await?;
    // Before the stage, which removes the folder it is mounted on.
    drop(disk);
    outcome
}

async fn scenario(stage: &mut Stage, disk: &Disk) -> Result<Outcome> {
    let tenants = ["full-a", "full-b"];
    let mut senders = Vec::new();
    for tenant in tenants {
        let key = stage.tenant(tenant, "enterprise", &json!({})).await?;
        for protocol in Protocol::ALL {
            senders.push(Sender::new(tenant, &key, &format!("{protocol:?}"), protocol).large(50, 2000));
        }
    }
    let doomed_key = stage.tenant("doomed", "enterprise", &json!({})).await?;
    let mut doomed = Sender::new("doomed", &doomed_key, "doomed", Protocol::Ingest);
    let sent = doomed.send(&stage.server.addresses).await?;
    ensure!(matches!(sent, Sent::Acknowledged), "the first row: {sent:?}");
    let (revoked_key, revoked_id) = stage.key("full-a").await?;

    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut load = JoinSet::new();
    for sender in senders {
        load.spawn(until_the_end(sender, stage.server.addresses.clone(), Arc::clone(&seen)));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    disk.fill()?;
    wait_for(&mut load, FULL_WITHIN, "a refusal over every protocol", || {
        seen.lock().refused.iter().all(|refused| *refused > 0)
    })
    .await?;

    // Rows are refused; everything else goes on, with the reserve to go on with.
    let free = disk.free()?;
    ensure!(free >= RESERVE_LEFT, "when rows were refused there were {} KiB left for everything else", free >> 10);
    let health = stage.admin(Method::GET, "/health", None, &Value::Null).await?;
    let report: Value = serde_json::from_slice(&health.body).context("the reply of /health")?;
    ensure!(
        health.status == 200 && report["status"] == "degraded" && report.to_string().contains("the disk is full"),
        "/health of a server that refuses rows says {}",
        health.text()
    );
    let before = seen.lock().acknowledged;
    for tenant in tenants {
        let rows = stage.query(tenant, "select count(*) from events").await?;
        ensure!(rows[0][0].as_u64() > Some(0), "a query on a full disk finds {rows:?}");
    }
    let path = format!("/api/v1/tenants/full-a/keys/{revoked_id}");
    let reply = stage.admin(Method::DELETE, &path, None, &Value::Null).await?;
    ensure!(reply.status == 204 || reply.status == 200, "DELETE of a key on a full disk: {}", reply.text());
    let reply = stage.admin(Method::DELETE, "/api/v1/tenants/doomed", None, &Value::Null).await?;
    ensure!(reply.status == 204, "DELETE of a tenant on a full disk: {}", reply.text());
    for (key, what) in [(&revoked_key, "a revoked key"), (&doomed_key, "a key of a deleted tenant")] {
        let mut sender = Sender::new("full-a", key, "nobody", Protocol::Ingest);
        let sent = sender.send(&stage.server.addresses).await?;
        ensure!(matches!(sent, Sent::Refused { status: 401, .. }), "{what} still works: {sent:?}");
    }
    // Still full: nothing above was paid for with the rows' space.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let n_refused: u64 = seen.lock().refused.iter().sum();

    std::fs::remove_file(disk.ballast()).context("cannot remove the ballast")?;
    let begin = Instant::now();
    let at_end = seen.lock().acknowledged;
    wait_for(&mut load, AGAIN_WITHIN, "an acknowledgement over every protocol once there is space again", || {
        seen.lock().acknowledged.iter().zip(at_end).all(|(now, before)| *now > before)
    })
    .await?;
    let again = begin.elapsed();
    let report = stage.admin_json(Method::GET, "/health", None, &Value::Null).await?;
    ensure!(report["status"] == "ok", "with space again /health says {report}");

    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.server.kill().await?;
    let mut senders = Vec::new();
    while let Some(joined) = load.join_next().await {
        senders.push(joined.context("a sender panicked")??);
    }
    stage.server.start().await.context("cannot start again")?;
    let n_rows = compare(stage, &senders).await?;
    let gone = stage.admin(Method::GET, "/api/v1/tenants/doomed", None, &Value::Null).await?;
    ensure!(gone.status == 404, "the deleted tenant after a restart: {}", gone.text());
    stage.no_panics().await?;
    Ok(Outcome::Kept(format!(
        "{n_refused} requests refused ({} taken meanwhile, {} MiB left), taken again {:.1} s after there was space, \
         {n_rows} acknowledged rows are there after kill -9",
        at_end.iter().zip(before).map(|(after, before)| after - before).sum::<u64>(),
        free >> 20,
        again.as_secs_f64()
    )))
}

/// Waits until something holds; a sender that ends before has failed.
async fn wait_for(
    load: &mut JoinSet<Result<Sender>>,
    patience: Duration,
    what: &str,
    holds: impl Fn() -> bool,
) -> Result<()> {
    let begin = Instant::now();
    while !holds() {
        if let Some(ended) = load.try_join_next() {
            let sender = ended.context("a sender panicked")??;
            bail!("{} got no answer while the server should run", sender.name);
        }
        ensure!(begin.elapsed() < patience, "after {patience:?} there was not yet {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Sends until the server answers no more, and judges every refusal.
async fn until_the_end(mut sender: Sender, addresses: Addresses, seen: Arc<Mutex<Seen>>) -> Result<Sender> {
    let index = Protocol::ALL.iter().position(|protocol| *protocol == sender.protocol).unwrap_or(0);
    loop {
        match sender.send(&addresses).await? {
            Sent::Acknowledged => {
                seen.lock().acknowledged[index] += 1;
                // Some pace, so that the disk is filled by the ballast and not by the rows.
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            Sent::Refused { status, retry_after, text } => {
                let as_promised = match sender.protocol {
                    Protocol::Ingest => status == 507 && text.contains("\"full\""),
                    Protocol::OtlpHttp => status == 503 && retry_after && text.contains("full"),
                    Protocol::OtlpGrpc => status == 14,
                };
                ensure!(
                    as_promised,
                    "{:?} on a full disk was answered {text}, retry-after: {retry_after}",
                    sender.protocol
                );
                seen.lock().refused[index] += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Sent::Unanswered(_) => return Ok(sender),
        }
    }
}
