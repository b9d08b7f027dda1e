//! Searching for text: the index, and reading block by block, change what is read and never what is
//! answered.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use weir_base::clock::ManualClock;
use weir_base::disk::RealDisk;
use weir_base::secret::Secret;
use weir_base::{Clock, StreamName, TenantId, Timestamp};
use weir_data::attributes::{AttributeKind, AttributesBuilder};
use weir_log::{Commit, Position, Record, Subscriber};
use weir_meta::Meta;
use weir_meta::attributes::AttributeKey;
use weir_meta::limits::Tier;
use weir_meta::tenants::NewTenant;
use weir_sql::output::{Format, encode};
use weir_sql::{QueryEngine, QueryOptions, SqlError};
use weir_store::{Store, StoreOptions};

use crate::support::{NOON, SECOND, batch, request, tenant, texts, times};

/// Row groups end elsewhere than blocks do.
const GROUP_ROWS: usize = 10_000;

/// A real store with its catalogue, and an engine over it.
struct Shop {
    engine: Arc<QueryEngine>,
    store: Arc<Store>,
    acme: TenantId,
    offset: std::cell::Cell<u64>,
    dir: tempfile::TempDir,
}

impl Shop {
    fn new(search_index: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = ManualClock::new(Timestamp(NOON));
        let meta = Meta::open(&dir.path().join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock)).unwrap();
        let acme = tenant("acme");
        meta.create_tenant(NewTenant { id: acme.clone(), name: String::new(), tier: Tier::Enterprise }).unwrap();
        let key = AttributeKey {
            stream: StreamName::new("logs").unwrap(),
            column: "attributes".into(),
            key: "shop".into(),
            kind: AttributeKind::Text,
        };
        meta.declare_attributes(&acme, &[key], 100).unwrap();
        let options = StoreOptions {
            dir: dir.path().join("tables"),
            row_group_rows_max: GROUP_ROWS,
            search_index,
            ..StoreOptions::default()
        };
        let store = Store::open(options, RealDisk::new(), Arc::clone(&clock), Arc::clone(&meta) as _).unwrap();
        let options = QueryOptions { spill_dir: dir.path().join("spill"), threads: 2, ..QueryOptions::default() };
        let engine = QueryEngine::new(Arc::clone(&store), meta, clock, options).unwrap();
        Self { engine, store, acme, offset: std::cell::Cell::new(0), dir }
    }

    fn append(&self, batch: RecordBatch) {
        let offset = self.offset.get();
        let record = Record {
            tenant: self.acme.clone(),
            stream: StreamName::new("logs").unwrap(),
            position: Position { shard: 0, offset },
            committed_at: Timestamp(NOON),
            batch,
        };
        self.offset.set(offset + 1);
        self.store.committed(&Commit { records: vec![record], end: Position { shard: 0, offset: offset + 1 } });
    }

    /// The rows as JSON text, and the bytes that were read of files.
    async fn ask(&self, sql: &str) -> (String, u64) {
        match self.try_ask(sql).await {
            Ok(answer) => answer,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    async fn try_ask(&self, sql: &str) -> Result<(String, u64), SqlError> {
        use futures::StreamExt;
        let result = self.engine.query(&self.acme, request(sql)).await?;
        let stats = result.stats_handle();
        let mut stream = std::pin::pin!(encode(result, Format::Json).unwrap());
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part?);
        }
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(answer.get("error").is_none(), "{sql}: {answer}");
        Ok((answer["rows"].to_string(), stats().bytes_scanned))
    }
}

/// A generator of numbers (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// Rows of a file: `from` counts seconds, every row has a time of its own.
fn rows(from: i64, count: i64, random: &mut Random) -> RecordBatch {
    const WORDS: &[&str] = &["request", "Kelvin", "100%", "user_id", "größer", "日本語", "timeout", "a\\b", "ſtop"];
    let bodies: Vec<Option<String>> = (0..count)
        .map(|row| match row {
            // Where the interesting things are: at the edges of blocks and of row groups.
            4095 | 4096 | 8191 | 8192 | 9_999 | 10_000 | 16_384 => Some(format!("needle {from} \u{212a}ey {row}")),
            row if row % 97 == 0 => None,
            _ => Some(format!("{} {} {}", random.of(WORDS), random.of(WORDS), random.below(50))),
        })
        .collect();
    let mut attributes = AttributesBuilder::with_capacity(bodies.len());
    for row in 0..count {
        attributes.push_str("shop", if row == 9_000 { "zurich" } else { "bern" });
        attributes.end_row();
    }
    // Files overlap in time.
    let at = |row: i64| NOON - 50_000 * SECOND / 2 + (from + row) * SECOND / 2;
    let severity: ArrayRef =
        Arc::new(arrow::array::Int32Array::from_iter_values((0..count).map(|row| 1 + (row % 24) as i32)));
    batch(
        "logs",
        vec![
            ("time", times((0..count).map(at))),
            ("received_at", times((0..count).map(at))),
            ("severity_number", severity),
            ("body", texts(bodies.iter().map(Option::as_deref))),
            ("trace_id", texts((0..count).map(|row| (row % 2 == 0).then_some("00000000000000000000000000000001")))),
            ("attributes", attributes.finish().0),
        ],
    )
}

/// Two files that overlap, and a tail.
fn fill(shop: &Shop) {
    let mut random = Random(42);
    for from in [0, 12_001] {
        shop.append(rows(from, 17_000, &mut random));
        shop.store.flush_all().unwrap();
    }
    shop.append(rows(40_003, 300, &mut random));
    assert_eq!(shop.store.snapshot(&shop.acme, &StreamName::new("logs").unwrap()).unwrap().files.len(), 2);
}

#[tokio::test]
async fn answers_do_not_depend_on_the_index() {
    let (with, without) = (Shop::new(true), Shop::new(false));
    // The same rows in memory only: no file, no index, no blocks.
    let plain = Shop::new(false);
    fill(&with);
    fill(&without);
    let mut random = Random(42);
    for from in [0, 12_001] {
        plain.append(rows(from, 17_000, &mut random));
    }
    plain.append(rows(40_003, 300, &mut random));
    let mut filters: Vec<String> = [
        "body like '%needle%'",
        "body like '%needle 12001 %'",
        "body ilike '%KEY 9999%'",
        "body like '%Key%'",
        "body ilike '%stop 1%'",
        "body like '%100\\%%' and severity_number = 5",
        "body like '%user\\_id 7%'",
        "body like '%a\\\\b%'",
        "body = 'request timeout 7'",
        "body in ('request timeout 7', 'Kelvin größer 8', null)",
        "strpos(body, 'needle') > 0",
        "contains(body, 'needle 0') or body like '%日本語 日本語 11'",
        "body not like '%e%'",
        "not (body like '%needle%' and severity_number > 3) and body like '%needle%'",
        "starts_with(body, 'needle 1') and time < '2026-11-21T12:00:00Z'",
        "attributes['shop'] = 'zurich'",
        "attributes['shop'] = 'zurich' and body is not null",
        "body like '%absent from all%'",
        "body is null and severity_number < 3",
        "trace_id = '00000000000000000000000000000001' and body like '%needle%'",
        "trace_id = '00000000000000000000000000000002' and body like '%e%'",
    ]
    .map(str::to_owned)
    .to_vec();
    // Patterns nobody has thought of.
    for _ in 0..10 {
        let parts = ["ein", "%", "_", "\\%", "\\_", "K", "s", "ß", "eed", " 1", "日", "\u{17f}to", "out", "use"];
        let pattern: String = (0..1 + random.below(4)).map(|_| random.of(&parts)).collect();
        let operator = random.of(&["like", "ilike", "not ilike"]);
        filters.push(format!("body {operator} '%{pattern}%' and severity_number < 12"));
    }
    for (at, filter) in filters.iter().enumerate() {
        let questions = [
            format!("select time, body, severity_number from logs where {filter} order by time desc limit 7"),
            format!("select count(*), min(time), max(body) from logs where {filter}"),
            format!("select * from logs where {filter} order by time desc, body limit 3 offset 2"),
            format!("select count(*) from (select body from logs where {filter} limit 4)"),
            format!("select body, time from logs where {filter} order by body, time limit 5"),
        ];
        // Two kinds of questions for each, in turn.
        for sql in [&questions[at % 5], &questions[(at + 2) % 5]] {
            let expected = plain.ask(sql).await.0;
            assert_eq!(with.ask(sql).await.0, expected, "with an index: {sql}");
            assert_eq!(without.ask(sql).await.0, expected, "without: {sql}");
        }
    }
}

#[tokio::test]
async fn blocks_that_cannot_match_are_not_read() {
    let (with, without) = (Shop::new(true), Shop::new(false));
    fill(&with);
    fill(&without);
    let count = "select count(*) from logs where body like '%absent from all%'";
    let ((_, read), (_, all)) = (with.ask(count).await, without.ask(count).await);
    assert!(read * 20 < all, "{read} of {all}");
    let needle = "select body from logs where body like '%needle 0%'";
    let ((found, read), (_, all)) = (with.ask(needle).await, without.ask(needle).await);
    assert_eq!(found.matches("needle 0").count(), 7);
    assert!(read * 3 < all * 2, "{read} of {all}");
    // The newest rows of one row group of each partition are enough, whatever columns are asked for.
    let newest = "select * from logs where body like '%timeout%' order by time desc limit 5";
    let ((_, read), (_, all)) = (with.ask(newest).await, with.ask("select * from logs where body <> ''").await);
    // How many partitions have begun before the first of them is done depends on who runs when.
    assert!(read * 2 < all, "{read} of {all}");
    // Statistics of an attribute's own column.
    let shop = "select count(*) from logs where attributes['shop'] = 'aarau'";
    let (found, read) = with.ask(shop).await;
    assert_eq!((found.as_str(), read), ("[[0]]", 0));
}

#[tokio::test]
async fn a_damaged_index_is_an_error_that_names_the_file() {
    let shop = Shop::new(true);
    fill(&shop);
    let snapshot = shop.store.snapshot(&shop.acme, &StreamName::new("logs").unwrap()).unwrap();
    let file = &snapshot.files[1];
    let metadata = file.metadata().unwrap();
    let index = weir_store::search::index::SearchIndex::of(&metadata, "body").unwrap();
    let at = index.bytes(0).unwrap().start + 100;
    assert!(file.path().starts_with(shop.dir.path()));
    let handle = std::fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
    let mut byte = [0];
    handle.read_exact_at(&mut byte, at).unwrap();
    handle.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let error = shop.try_ask("select body from logs where body like '%needle 12001%'").await.unwrap_err();
    let name = file.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(matches!(&error, SqlError::Corrupt { message } if message.contains(&name)), "{error:?}");
}
