#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use proptest::prelude::*;
use serde_json::json;
use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_base::disk::Disk;
use weir_component::source::{Next, SourcePosition, SourceReject};
use weir_data::json_rows;
use weir_testkit::sim_disk::SimDisk;

use super::*;
use crate::ready as run;

struct Bench {
    disk: Arc<SimDisk>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d/in")).unwrap();
        Self { disk, clock: ManualClock::new(Timestamp(1_700_000_000_000_000_000)) }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = Path::new("/d/in").join(name);
        if self.disk.peek(&path).is_err() {
            self.disk.create_dir_all(path.parent().unwrap()).unwrap();
            self.disk.create(&path).unwrap();
        }
        self.disk.poke(&path, bytes).unwrap();
    }

    fn context(&self) -> PlanContext {
        PlanContext {
            tenant: None,
            checkpoint_interval: std::time::Duration::from_secs(10),
            directory: "/d".into(),
            pipeline: "test".to_owned(),
            disk: Arc::clone(&self.disk) as Arc<dyn Disk>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            streams: None,
        }
    }

    fn plan(&self, config: &Json) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
        plan(config, &self.context())
    }

    fn open(&self, config: &Json, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        run(self.plan(config).unwrap().open(position))
    }
}

/// Everything a source has until it is done or has nothing; after each part, where it stood.
struct Got {
    rows: Vec<RecordBatch>,
    rejects: Vec<SourceReject>,
    positions: Vec<SourcePosition>,
    partitions: Vec<String>,
    open: Vec<usize>,
}

fn drain(source: &mut dyn Source) -> Result<Got, SourceError> {
    let mut got = Got { rows: vec![], rejects: vec![], positions: vec![], partitions: vec![], open: vec![] };
    loop {
        match run(source.next(None))? {
            Next::Rows(rows) => {
                got.rows.push(rows.rows);
                got.rejects.extend(rows.rejects);
                got.partitions.push(rows.partition.to_string());
                got.positions.push(source.position());
                got.open.push(source.partitions().map_or(0, |open| open.len()));
            }
            Next::Nothing(Duration::ZERO) | Next::Time(..) => {}
            Next::Nothing(_) | Next::Done => return Ok(got),
        }
    }
}

fn shown(rows: &[RecordBatch]) -> String {
    rows.iter().map(lines).collect()
}

fn lines(rows: &RecordBatch) -> String {
    let names: Vec<String> = rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    String::from_utf8(json_rows::lines(rows, &names)).unwrap()
}

fn places(rejects: &[SourceReject]) -> Vec<&str> {
    rejects.iter().map(|reject| reject.place.as_str()).collect()
}

fn config(more: Json) -> Json {
    let mut config = json!({ "path": "in/*", "format": "ndjson", "schema": { "a": "int64" } });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn a_file_that_was_emptied_lacks_its_header() {
    for (bytes, header, lacks) in
        [("", true, true), ("id,note\n", true, false), ("id,note", true, false), ("", false, false)]
    {
        let bench = Bench::new();
        bench.write("a.csv", bytes.as_bytes());
        let schema = json!([{ "id": "int64" }, { "note": "text" }]);
        let config = json!({ "path": "in/a.csv", "format": "csv", "header": header, "schema": schema });
        let mut source = bench.open(&config, None).unwrap();
        assert_eq!(source.lacks(), None, "it was not read yet");
        while !matches!(run(source.next(None)).unwrap(), Next::Done) {}
        assert_eq!(source.lacks(), lacks.then_some("in/a.csv has no header: it is empty"), "{bytes:?} {header}");
    }
}

#[test]
fn an_empty_file_beside_a_whole_one_is_one_without_rows() {
    let bench = Bench::new();
    bench.write("a.csv", b"");
    bench.write("b.csv", b"id\n1\n");
    let config = json!({ "path": "in/*.csv", "format": "csv", "schema": [{ "id": "int64" }] });
    let mut source = bench.open(&config, None).unwrap();
    while !matches!(run(source.next(None)).unwrap(), Next::Done) {}
    assert_eq!(source.lacks(), None);
}

#[test]
fn files_are_read_in_the_order_of_their_names_and_bad_lines_are_named() {
    let bench = Bench::new();
    bench.write("b.ndjson", b"{\"a\":3}\n{\"a\":\"x\"}\n{\"a\":4}");
    bench.write("a.ndjson", b"{\"a\":1}\n\n{\"a\":2\n");
    bench.write("c.ndjson", b"");
    bench.write(".hidden.ndjson", b"{\"a\":9}\n");
    let mut source = bench.open(&config(json!({})), None).unwrap();
    assert_eq!(source.partitions().unwrap().len(), 3);
    let got = drain(source.as_mut()).unwrap();
    assert_eq!(shown(&got.rows), "{\"a\":1}\n{\"a\":3}\n{\"a\":4}\n");
    assert_eq!(places(&got.rejects), ["in/a.ndjson:3", "in/b.ndjson:2"]);
    assert_eq!(got.rejects[0].payload, "{\"a\":2");
    assert_eq!(got.partitions, ["in/a.ndjson", "in/b.ndjson"]);
    assert_eq!(got.open, [2, 1], "a file that was read to its end holds no time back");
    assert_eq!(source.partitions().unwrap().len(), 0);
    // A position at the end has nothing more, also if the files are gone or have grown.
    let end = source.position();
    bench.disk.vanish(Path::new("/d/in/a.ndjson")).unwrap();
    bench.write("b.ndjson", b"{\"a\":3}\n{\"a\":\"x\"}\n{\"a\":4}\n{\"a\":5}\n");
    let mut source = bench.open(&config(json!({})), Some(end)).unwrap();
    assert_eq!(shown(&drain(source.as_mut()).unwrap().rows), "");

    let mut source = bench.open(&config(json!({ "partitions": "single" })), None).unwrap();
    assert!(source.partitions().is_none());
    assert_eq!(drain(source.as_mut()).unwrap().partitions, ["files"]);
}

const MANY: usize = 20_000;

/// Files of every format with many rows, and the configuration to read them.
fn formats(rows: usize) -> Vec<(&'static str, Vec<u8>, Json)> {
    let columns = json!({ "a": "int64", "t": "text" });
    let text: String = (0..rows)
        .map(|n| if n % 5000 == 7 { "bad\n".to_owned() } else { format!("{{\"a\":{n},\"t\":\"row {n}\"}}\n") })
        .collect();
    let csv: String = std::iter::once("t,a\n".to_owned())
        .chain((0..rows).map(|n| if n % 5000 == 7 { "bad\n".to_owned() } else { format!("\"row\n {n}\",{n}\n") }))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(csv.as_bytes()).unwrap();
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    vec![
        (
            "x.ndjson",
            text.clone().into_bytes(),
            json!({ "path": "in/x.ndjson", "format": "ndjson", "schema": columns }),
        ),
        ("x.ndjson.zst", zstd, json!({ "path": "in/*.zst", "format": "ndjson", "schema": columns })),
        ("x.csv", csv.clone().into_bytes(), json!({ "path": ["in/x.csv"], "format": "csv", "schema": columns })),
        ("x.csv.gz", gzip.finish().unwrap(), json!({ "path": "**/x.csv.gz", "format": "csv", "schema": columns })),
        (
            "x.parquet",
            parquet_file(rows, 3000),
            json!({ "path": "in/x.parquet", "format": "parquet", "schema": columns }),
        ),
    ]
}

fn parquet_file(rows: usize, rows_a_group: usize) -> Vec<u8> {
    use ::parquet::arrow::ArrowWriter;
    use ::parquet::file::properties::WriterProperties;
    use arrow::array::{Int64Array, StringArray};
    let a = Int64Array::from_iter_values(0..i64::try_from(rows).unwrap());
    let t = StringArray::from_iter_values((0..rows).map(|n| format!("row {n}")));
    let batch = RecordBatch::try_from_iter([("a", Arc::new(a) as _), ("t", Arc::new(t) as _)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_a_group)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn reading_goes_on_from_any_position() {
    for (name, bytes, config) in formats(MANY) {
        let bench = Bench::new();
        bench.write(name, &bytes);
        let mut source = bench.open(&config, None).unwrap();
        let whole = drain(source.as_mut()).unwrap();
        let schema = whole.rows[0].schema();
        let all = concat_batches(&schema, &whole.rows).unwrap();
        let bad = if name.ends_with("parquet") { 0 } else { 4 };
        assert_eq!((all.num_rows(), whole.rejects.len()), (MANY - bad, bad), "{name}");
        assert!(whole.rows.len() > 2 && whole.rows.iter().all(|rows| rows.num_rows() <= 8192), "{name}");
        for (at, position) in whole.positions.iter().enumerate() {
            // As it is in a checkpoint.
            let position = serde_json::from_str(&serde_json::to_string(position).unwrap()).unwrap();
            let mut source = bench.open(&config, Some(position)).unwrap();
            let rest = drain(source.as_mut()).unwrap();
            let parts: Vec<_> = whole.rows[..=at].iter().chain(&rest.rows).cloned().collect();
            assert_eq!(concat_batches(&schema, &parts).unwrap(), all, "{name} from part {at}");
            let told = places(&rest.rejects);
            assert_eq!(
                told,
                places(&whole.rejects)[whole.rejects.len() - told.len()..],
                "{name}: lines are counted on"
            );
        }
        // Another file under the name, of the same length.
        let position = whole.positions[0].clone();
        let mut other = bytes.clone();
        other[20] ^= 1;
        bench.write(name, &other);
        let result = bench.open(&config, Some(position.clone())).and_then(|mut source| drain(source.as_mut()));
        let error = result.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Conflict, "{name}: {error}");
        assert!(error.message.contains("was replaced"), "{error}");
        // And no file.
        bench.disk.vanish(&Path::new("/d/in").join(name)).unwrap();
        let error = bench.open(&config, Some(position)).err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("is gone"), "{error}");
    }
}

/// The engine asks for the file that holds back time; each file's rows come in order and once
/// nevertheless, also if there are more files than may be open.
#[test]
fn the_file_that_is_behind_is_read_first() {
    const FILES: usize = 20;
    for (name, bytes, mut config) in formats(9000) {
        let bench = Bench::new();
        let names: Vec<String> = (10..10 + FILES).map(|n| format!("in/{n}{name}")).collect();
        names.iter().for_each(|name| bench.write(&name[3..], &bytes));
        config["path"] = json!(names);
        let mut source = open::FileSource::open(make(&config, &bench.context()).unwrap(), None).unwrap();
        let mut rows: std::collections::BTreeMap<String, Vec<RecordBatch>> = std::collections::BTreeMap::new();
        let mut order = Vec::new();
        loop {
            // Whatever has come least, and now and then something that is no file or no more.
            let behind = match order.len() % 5 {
                0 => None,
                1 => Some("in/none".to_owned()),
                2 => Some(names[0].clone()),
                _ => names.iter().min_by_key(|name| rows.get(*name).map_or(0, Vec::len)).cloned(),
            };
            match source.step(behind.as_deref()).unwrap() {
                Next::Rows(next) => {
                    order.push(next.partition.to_string());
                    rows.entry(next.partition.to_string()).or_default().push(next.rows);
                    // Started again in the middle.
                    if order.len() == 30 {
                        let position = Some(source.position());
                        source = open::FileSource::open(make(&config, &bench.context()).unwrap(), position).unwrap();
                    }
                }
                Next::Nothing(_) | Next::Time(..) => {}
                Next::Done => break,
            }
        }
        let expected = drain(bench.open(&config, None).unwrap().as_mut()).unwrap();
        assert_eq!(expected.partitions.iter().collect::<std::collections::BTreeSet<_>>().len(), FILES, "{name}");
        assert!(expected.partitions.is_sorted() && !order.is_sorted(), "{name}");
        let all = concat_batches(&expected.rows[0].schema(), &expected.rows).unwrap();
        let got: Vec<RecordBatch> = rows.into_values().flatten().collect();
        assert_eq!(concat_batches(&all.schema(), &got).unwrap(), all, "{name}");
    }
}

#[test]
fn a_file_that_was_cut_or_grew_within_a_line_is_refused() {
    let bench = Bench::new();
    let (name, bytes, config) = formats(MANY).remove(0);
    bench.write(name, &bytes);
    let position = drain(bench.open(&config, None).unwrap().as_mut()).unwrap().positions[0].clone();
    bench.write(name, &bytes[..5000]);
    let error = bench.open(&config, Some(position)).and_then(|mut source| drain(source.as_mut())).err().unwrap();
    assert!(error.message.contains("in/x.ndjson was cut: it had at least"), "{error}");

    // The last line lacks its end, and is a row when the source does not follow.
    let bench = Bench::new();
    bench.write(name, b"{\"a\":1}\n{\"a\":2}");
    let mut position = drain(bench.open(&config, None).unwrap().as_mut()).unwrap().positions[0].clone();
    position.partitions.get_mut("in/x.ndjson").unwrap()["done"] = json!(false);
    bench.write(name, b"{\"a\":1}\n{\"a\":2} \n");
    let error = bench.open(&config, Some(position)).and_then(|mut source| drain(source.as_mut())).err().unwrap();
    assert!(error.message.contains("grew within a line"), "{error}");
}

#[test]
fn compressed_files_that_are_damaged_are_errors() {
    for (name, bytes, config) in
        formats(MANY).into_iter().filter(|(name, ..)| name.ends_with('z') || name.ends_with("zst"))
    {
        let bench = Bench::new();
        bench.write(name, &bytes[..bytes.len() / 2]);
        let error = drain(bench.open(&config, None).unwrap().as_mut()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Input, "{error}");
    }
}

#[test]
fn followed_files_give_what_is_appended_and_new_ones_are_found() {
    let bench = Bench::new();
    let config = config(json!({ "follow": true }));
    let mut source = bench.open(&config, None).unwrap();
    let more = |source: &mut Box<dyn Source>| {
        bench.clock.advance(Duration::from_secs(3));
        shown(&drain(source.as_mut()).unwrap().rows)
    };
    // The first call looks, and from then on the clock decides.
    assert_eq!(more(&mut source), "");
    bench.write("a", b"{\"a\":1}\n{\"a\":2");
    assert_eq!(more(&mut source) + &more(&mut source), "{\"a\":1}\n");
    bench.write("a", b"{\"a\":1}\n{\"a\":2}\n");
    bench.write("b", b"{\"a\":10}\n");
    assert_eq!(more(&mut source) + &more(&mut source), "{\"a\":2}\n{\"a\":10}\n");
    assert_eq!(source.partitions().unwrap().len(), 2, "it may go on");
    bench.write("a", b"{\"a\":1}\n{\"a\":2}\n{\"a\":3}\nx\n");
    let mut again = bench.open(&config, Some(source.position())).unwrap();
    let got = drain(again.as_mut()).unwrap();
    assert_eq!((shown(&got.rows).as_str(), places(&got.rejects)), ("{\"a\":3}\n", vec!["in/a:4"]));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(shown(&drain(source.as_mut()).unwrap().rows), "{\"a\":3}\n");
    assert!(matches!(run(source.next(None)).unwrap(), Next::Nothing(wait) if wait > Duration::ZERO));

    bench.write("b", b"{\"a\":99}\n{\"a\":98}\n");
    bench.clock.advance(Duration::from_secs(1));
    assert!(drain(source.as_mut()).err().unwrap().message.contains("in/b is not the file"));
    bench.write("b", b"{}\n");
    let error =
        bench.open(&config, Some(source.position())).and_then(|mut source| drain(source.as_mut())).err().unwrap();
    assert!(error.message.contains("in/b was cut"), "{error}");
}

#[test]
fn columns_are_guessed_when_they_are_not_declared() {
    let bench = Bench::new();
    bench.write("0.ndjson", b"");
    bench.write("a.ndjson", b"{\"n\":1,\"at\":\"2026-01-02T03:04:05Z\",\"x\":{\"y\":1}}\n");
    bench.write("a.csv", b"n,s\n1,x\n");
    bench.write("a.parquet", &parquet_file(3, 10));
    for (path, format, expected) in [
        ("in/*.ndjson", "ndjson", "n Int64, at Timestamp(ns, \"UTC\"), x Utf8"),
        ("in/*.csv", "csv", "n Int64, s Utf8"),
        ("in/*.parquet", "parquet", "a Int64, t Utf8"),
    ] {
        let plan = bench.plan(&json!({ "path": path, "format": format })).unwrap();
        let fields: Vec<String> =
            plan.schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        assert_eq!(fields.join(", "), expected);
        assert!(plan.is_bounded());
        let mut source = run(plan.open(None)).unwrap();
        assert!(drain(source.as_mut()).unwrap().rows.iter().all(|rows| rows.schema() == plan.schema()));
    }
}

#[test]
fn parquet_columns_become_those_that_were_declared() {
    let bench = Bench::new();
    bench.write("a.parquet", &parquet_file(2, 10));
    let read = |schema: Json| {
        let config = json!({ "path": "in/*", "format": "parquet", "schema": schema });
        drain(bench.open(&config, None).unwrap().as_mut()).map(|got| shown(&got.rows))
    };
    assert_eq!(
        read(json!({ "t": "text", "a": "float64", "z": "bool" })).unwrap(),
        "{\"a\":0,\"t\":\"row 0\",\"z\":null}\n{\"a\":1,\"t\":\"row 1\",\"z\":null}\n"
    );
    let error = read(json!({ "t": "int64" })).unwrap_err();
    assert!(error.message.starts_with("in/a.parquet: column `t` is Utf8 and cannot be read as Int64"), "{error}");
}

#[test]
fn what_is_wrong_with_a_configuration_is_said_at_once() {
    let bench = Bench::new();
    bench.write("empty.ndjson", b"\n");
    for (config, expected) in [
        (
            json!({ "path": "in/*.ndjson", "format": "ndjson" }),
            vec![
                "/path: there is no row to tell the columns from in in/*.ndjson (1 file) (declare the columns: `schema: {name: type}`)",
            ],
        ),
        (
            json!({ "path": "in/*.log", "format": "ndjson" }),
            vec!["/path: no file matches in/*.log (paths start at /d; or declare the columns: `schema: {name: type}`)"],
        ),
        (
            json!({ "path": [], "format": "csv", "header": false, "delimiter": "--", "schema": { "a": "int", "b/c": "text" } }),
            vec![
                "/path: there is no path (name a file or a pattern, such as in/*.ndjson)",
                "/delimiter: `--` cannot separate cells (one ASCII character, such as \",\", \";\" or \"\\t\")",
                "/schema/a: there is no type `int` (one of int64, float64, bool, text, timestamp, timestamp_s, timestamp_ms, timestamp_us, timestamp_ns, json)",
                "/schema: the order of the columns is not known (without a header columns are told by their order: `[{id: int64}, {name: text}]`)",
            ],
        ),
        (
            json!({ "path": "x.gz", "format": "ndjson", "follow": true, "header": false, "record_bytes_max": "1GiB", "schema": [] }),
            vec![
                "/header: only csv has a header ()",
                "/record_bytes_max: 1GiB is not between 1B and 64MiB ()",
                "/follow: a compressed file cannot be followed (leave out `follow`)",
                "/schema: there are no columns (name at least one, such as `id: int64`)",
            ],
        ),
        (
            json!({ "path": "x", "format": "xml" }),
            vec![": unknown variant `xml`, expected one of `ndjson`, `csv`, `parquet` ()"],
        ),
        (
            json!({ "path": "x", "format": "csv", "colour": 1, "schema": [{ "a": "text" }, { "a": "text" }] }),
            vec![
                ": unknown field `colour`, expected one of `path`, `format`, `schema`, `follow`, `partitions`, `compression`, `header`, `delimiter`, `record_bytes_max` ()",
            ],
        ),
    ] {
        let faults = bench.plan(&config).err().unwrap();
        let told: Vec<String> =
            faults.iter().map(|fault| format!("{}: {} ({})", fault.pointer, fault.message, fault.hint)).collect();
        assert_eq!(told, expected);
    }
    let missing = bench.open(&config(json!({ "path": "in/none" })), None).err().unwrap();
    assert_eq!((missing.kind, missing.message.as_str()), (ErrorKind::NotFound, "no file matches in/none"));
}

#[test]
fn patterns_match_as_in_a_shell() {
    for (pattern, name, expected) in [
        ("*", "a", true),
        ("*", ".a", false),
        (".*", ".a", true),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("*a*b", "xaxaxb", true),
        ("?.x", "é.x", true),
        ("?", "", false),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[]]", "]", true),
        ("[a", "[a", true),
        ("a[", "a[", true),
        ("***", "a", true),
    ] {
        assert_eq!(glob::matches(pattern, name), expected, "{pattern} {name}");
    }
    let bench = Bench::new();
    for name in ["a/x.log", "a/b/y.log", "z.log", "a/.h/n.log"] {
        bench.write(name, b"");
    }
    for (pattern, expected) in [
        ("in/**/*.log", vec!["in/a/b/y.log", "in/a/x.log", "in/z.log"]),
        ("**/y.log", vec!["in/a/b/y.log"]),
        ("/d/in/*/x.log", vec!["/d/in/a/x.log"]),
        ("./in//z.log", vec!["in/z.log"]),
        ("nowhere/*", vec![]),
    ] {
        let found = glob::expand(bench.disk.as_ref(), Path::new("/d"), &[pattern.to_owned()]).unwrap();
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{pattern}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_parquet_is_an_error(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in 0_usize..40) {
        let mut bytes = parquet_file(100, 30);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut);
        let bench = Bench::new();
        bench.write("a", &bytes);
        let config = json!({ "path": "in/a", "format": "parquet", "schema": { "a": "int64", "t": "text" } });
        // Whatever comes of it comes as rows or as an error.
        let _ = drain(bench.open(&config, None).unwrap().as_mut());
    }
}

#[test]
fn what_could_not_be_read_can_be_read_again_once_it_is_described_rightly() {
    let bench = Bench::new();
    bench.write("a.csv", b"id;note\n1;x\n2,5;\"a;\n\"\"b\"\"\"\nmany;y;z\n");
    let config = |id: &str, more: Json| {
        let mut config = json!({ "path": "in/a.csv", "format": "csv", "delimiter": ";", "schema": { "id": id } });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let rejects = drain(bench.open(&config("int64", json!({})), None).unwrap().as_mut()).unwrap().rejects;
    let payloads: Vec<&str> = rejects.iter().map(|reject| reject.payload.as_str()).collect();
    assert_eq!(payloads, ["id;note\n2,5;\"a;\n\"\"b\"\"\"", "id;note\nmany;y;z"]);
    let again = |config: &Json, payload: &str| make(config, &bench.context()).unwrap().again(payload).unwrap();
    assert!(again(&config("int64", json!({})), payloads[0]).unwrap_err().contains("int64"));
    let rows = again(&config("text", json!({})), payloads[0]).unwrap();
    assert_eq!(shown(&[rows]), "{\"id\":\"2,5\"}\n");
    assert_eq!(again(&config("text", json!({})), payloads[1]).unwrap_err(), "expected 2 cells, got 3");
    // Records that were kept without their header, or are more than one, are not taken for something else.
    assert!(again(&config("text", json!({})), "2,5;x").unwrap_err().contains("the header has no column `id`"));
    assert_eq!(again(&config("text", json!({})), "id;note\n1;x\n2;y").unwrap_err(), "it is not one record");
    assert_eq!(again(&config("text", json!({})), "id;note\n").unwrap_err(), "it is not one record");
    let cut = format!("id;note\n1;{}", "x".repeat(weir_codecs::rows::REJECT_PAYLOAD_BYTES_MAX));
    assert!(again(&config("text", json!({})), &cut).unwrap_err().contains("longer than"));

    // Without a header the columns are told by their order.
    let bare = json!({ "header": false, "schema": [{ "id": "int64" }, { "note": "text" }] });
    bench.write("a.csv", b"1;x\nmany;y\n");
    let rejects = drain(bench.open(&config("int64", bare.clone()), None).unwrap().as_mut()).unwrap().rejects;
    assert_eq!(rejects[0].payload, "many;y");
    let repaired = json!({ "header": false, "schema": [{ "id": "text" }, { "note": "text" }] });
    let rows = again(&config("int64", repaired), "many;y").unwrap();
    assert_eq!(shown(&[rows]), "{\"id\":\"many\",\"note\":\"y\"}\n");
}

/// Who has read all is told of what comes afterwards, and whether it is still the same that was read.
#[test]
fn what_comes_after_the_end_is_noticed() {
    for (name, bytes, config) in formats(4000) {
        let bench = Bench::new();
        bench.write(name, &bytes);
        let mut source = bench.open(&config, None).unwrap();
        drain(source.as_mut()).unwrap();
        let end = source.position();
        let look = || bench.open(&config, Some(end.clone())).unwrap().come_since();
        assert_eq!(look(), Ok(None), "{name}");
        for at in [20, bytes.len() - 3] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            bench.write(name, &other);
            let is_known = at < 1024 || !(name.ends_with("json") || name.ends_with("csv"));
            assert_eq!(look().is_err_and(|error| error.message.contains("was replaced")), is_known, "{name} at {at}");
        }
        bench.write(name, &[&bytes[..], b"7,more\n"].concat());
        let came = look();
        if name.ends_with("json") || name.ends_with("csv") {
            assert_eq!(came, Ok(Some(format!("in/{name} has grown since all input was read"))));
            bench.write(name, &bytes[..bytes.len() - 1]);
            assert!(look().unwrap_err().message.contains("was cut"), "{name}");
        } else {
            assert!(came.unwrap_err().message.contains("was replaced"), "{name}");
        }
        bench.write(name, &bytes);
        assert_eq!(look(), Ok(None), "{name}");
    }
    let bench = Bench::new();
    bench.write("a.csv", b"a\n1\n");
    let config = json!({ "path": "in/*.csv", "format": "csv", "schema": { "a": "int64" } });
    let mut source = bench.open(&config, None).unwrap();
    drain(source.as_mut()).unwrap();
    bench.write("b.csv", b"a\n2\n");
    let source = bench.open(&config, Some(source.position())).unwrap();
    assert_eq!(source.come_since(), Ok(Some("in/b.csv has come since all input was read".to_owned())));
}
