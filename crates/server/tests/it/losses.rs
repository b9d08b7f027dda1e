//! What was there and is not: the server does not begin an empty log in the place of one, and says which
//! tables have lost files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_base::quantity::Span;
use weir_log::{Log, LogOptions};
use weir_meta::{Meta, pepper};
use weir_server::app::StartError;
use weir_server::lost_log::look;

use crate::harness::until;
use crate::whole::{config, start, start_with};

const EVENTS: &str = "select count(*) from events";

#[tokio::test]
async fn a_log_that_is_gone_stops_the_start_until_it_is_back_or_given_up() {
    for lost in ["log", "log/shard-0"] {
        let dir = tempfile::tempdir().unwrap();
        let server = start(&dir).await;
        let key = server.tenant_with_key("acme").await;
        let events = json!({"events": [{"type": "custom", "name": "n", "id": uuid(0)}]});
        server.post("/ingest", &key, events.clone()).await.expect(200);
        server.stop().await;
        let (path, aside) = (dir.path().join("data").join(lost), dir.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        for is_empty_directory in [false, true] {
            if is_empty_directory {
                std::fs::create_dir(&path).unwrap();
            }
            let Err(error) = start_with(config(dir.path())).await else { panic!("it starts without {lost}") };
            assert!(matches!(&error, StartError::LogLost { path: named } if *named == path), "{error}");
            assert_eq!(look(&dir.path().join("data"), false).unwrap().missing, std::slice::from_ref(&path));
        }
        // It is back, as after a disk was mounted.
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        let server = start(&dir).await;
        assert_eq!(server.query(&key, EVENTS).await, json!([[1]]));
        server.stop().await;
        // It is given up.
        std::fs::remove_dir_all(&path).unwrap();
        look(&dir.path().join("data"), true).unwrap();
        assert!(look(&dir.path().join("data"), false).unwrap().is_nothing());
        for rows in 1..3_u32 {
            let server = start(&dir).await;
            let mut events = events.clone();
            events["events"][0]["id"] = json!(uuid(rows));
            server.post("/ingest", &key, events).await.expect(200);
            assert_eq!(server.query(&key, EVENTS).await, json!([[rows]]));
            server.stop().await;
        }
    }
}

#[tokio::test]
async fn another_log_is_not_taken_for_the_one_that_was_there() {
    let dir = tempfile::tempdir().unwrap();
    start(&dir).await.stop().await;
    let log = dir.path().join("data/log");
    std::fs::remove_dir_all(&log).unwrap();
    open_log(&log);
    let Err(error) = start_with(config(dir.path())).await else { panic!("it starts with another log") };
    assert!(matches!(error, StartError::LogIsAnother { .. }), "{error}");
    assert!(look(&dir.path().join("data"), true).unwrap().is_another);
    start(&dir).await.stop().await;
}

#[tokio::test]
async fn a_first_start_that_was_killed_anywhere_is_followed_by_another() {
    for n_steps in 1..5 {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let log = data.join("log");
        let pepper = pepper::load_or_create(&data.join("pepper")).unwrap();
        drop(Meta::open(&data.join("meta.db"), pepper, SystemClock::new()).unwrap());
        if n_steps >= 2 {
            std::fs::create_dir(&log).unwrap();
        }
        if n_steps >= 3 {
            open_log(&log);
        }
        if n_steps == 3 {
            std::fs::remove_dir_all(log.join("shard-0")).unwrap();
        }
        start(&dir).await.stop().await;
    }
}

#[tokio::test]
async fn a_table_file_that_is_gone_is_told_by_health_and_metrics_once_it_was_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.tables.flush_age = Span(Duration::from_millis(50));
    let server = start_with(config).await.unwrap();
    let key = server.tenant_with_key("acme").await;
    server.post("/ingest", &key, json!({"events": [{"type": "custom", "name": "n"}]})).await.expect(200);
    let tables = dir.path().join("data/tables/acme/events");
    let store = &server.app.store;
    let is_in_a_file = || store.stats().tables.iter().any(|table| table.tenant.as_str() == "acme" && table.files > 0);
    until("the rows are in a file", is_in_a_file).await;
    let health = async || server.get("/health", "").await.expect(200).json()["components"][1].clone();
    assert_eq!(health().await["status"], "ok");
    for file in parquet_files(&tables) {
        std::fs::remove_file(file).unwrap();
    }
    let refused = server.post("/api/v1/query", &key, json!({"sql": "select name from events"})).await.expect(500);
    assert_eq!(refused.json()["code"], "corrupt");
    let tables = health().await;
    assert_eq!((&tables["name"], &tables["status"]), (&json!("tables"), &json!("degraded")), "{tables}");
    assert!(tables["detail"].as_str().unwrap().starts_with("1 table file is damaged or missing"), "{tables}");
    let metrics = server.get("/metrics", &server.admin).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = metrics.lines().find(|line| line.starts_with("weir_table_damaged{") && line.contains("\"events\""));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
    server.stop().await;
}

/// The table files below `dir`.
fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let is_table = |path: &PathBuf| path.extension().is_some_and(|end| end == "parquet");
    files.into_iter().filter(is_table).chain(folders.iter().flat_map(|folder| parquet_files(folder))).collect()
}

fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn open_log(dir: &Path) {
    let options = LogOptions { reserve_bytes: 0, ..LogOptions::new(dir) };
    Log::open_without_threads(options, RealDisk::new(), SystemClock::new(), Vec::new()).unwrap().close();
}
