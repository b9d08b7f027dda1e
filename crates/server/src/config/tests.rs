#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use expect_test::{Expect, expect};
use weir_base::quantity::{ByteSize, Span};
use weir_document::Syntax;
use weir_document::shape::{Field, Shape};

use super::*;

fn no_variables() -> impl Iterator<Item = (String, String)> {
    std::iter::empty()
}

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> + use<> {
    let pairs: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pairs.into_iter()
}

/// The problems, with the directory of the file taken out of them.
fn show(problems: &[Diagnostic], directory: &Path) -> String {
    let mut text = String::new();
    for problem in problems {
        writeln!(text, "{problem}").unwrap();
    }
    text.replace(&format!("{}/", directory.display()), "")
}

fn load_text(name: &str, text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    Config::load(Some(&path), no_variables(), Overrides::default()).map_err(|found| show(&found, directory.path()))
}

fn check_yaml(text: &str, expected: Expect) {
    expected.assert_eq(&load_text("weir.yaml", text).unwrap_err());
}

fn check_toml(text: &str, expected: Expect) {
    expected.assert_eq(&load_text("weir.toml", text).unwrap_err());
}

fn check_variables(pairs: &[(&str, &str)], expected: Expect) {
    let problems = Config::load(None, variables(pairs), Overrides::default()).unwrap_err();
    expected.assert_eq(&show(&problems, Path::new("/nowhere")));
}

#[test]
fn nothing_gives_the_defaults() {
    let config = Config::load(None, no_variables(), Overrides::default()).unwrap();
    assert_eq!(config, Config::default());
    for text in ["", "# nothing\n", "---\n", "{}", "http:\nlog:\n"] {
        assert_eq!(load_text("weir.yaml", text).unwrap(), Config::default(), "{text:?}");
    }
    for text in ["", "# nothing\n", "[http]\n"] {
        assert_eq!(load_text("weir.toml", text).unwrap(), Config::default(), "{text:?}");
    }
}

#[test]
fn both_formats_say_the_same() {
    let yaml = load_text(
        "weir.yml",
        "
data_dir: /var/lib/weir
http: { address: '0.0.0.0:80' }
trusted_proxies: [10.0.0.0/8, '::1']
log:
  segment_bytes: 16MiB
  retention: 12h
  producers_max: 7
tiers:
  free: { rows_per_second: 0, retention: 1d, retention_by_stream: { spans: 12h } }
telemetry: { log_format: json, traces_endpoint: http://collector:4318 }
shutdown_deadline: 0
",
    )
    .unwrap();
    let toml = load_text(
        "weir.toml",
        r#"
data_dir = "/var/lib/weir"
trusted_proxies = ["10.0.0.0/8", "::1"]
shutdown_deadline = 0
http.address = "0.0.0.0:80"
[log]
segment_bytes = 16_777_216
retention = "12h"
producers_max = 0x7
[tiers.free]
rows_per_second = 0
retention = "1d"
retention_by_stream.spans = "12h"
[telemetry]
log_format = "json"
traces_endpoint = "http://collector:4318"
"#,
    )
    .unwrap();
    assert_eq!(yaml, toml);
    assert_eq!(yaml.log.segment_bytes, ByteSize(16 << 20));
    assert_eq!(yaml.log.retention, Span(Duration::from_secs(12 * 3600)));
    assert_eq!(yaml.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!(yaml.tiers[&Tier::Free].rows_per_second, Some(0));
    assert_eq!(yaml.tables, Config::default().tables);
}

#[test]
fn flags_beat_variables_beat_the_file_beats_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weir.yaml");
    fs::write(
        &path,
        "{data_dir: file, http: {address: 'a:1'}, otlp_grpc: {address: 'a:2'}, otlp_http: {address: 'a:3'}, log: {retention: 1h, dedup_window: 1h}}",
    )
    .unwrap();
    let flags = Overrides { data_dir: Some("flag".into()), http: Some("c:1".into()), ..Overrides::default() };
    let environment = variables(&[
        ("WEIR_DATA_DIR", "variable"),
        ("WEIR_HTTP", "b:1"),
        ("WEIR_OTLP_GRPC", "b:2"),
        ("WEIR_LOG__RETENTION", "2h"),
        ("PATH", "/bin"),
    ]);
    let config = Config::load(Some(&path), environment, flags).unwrap();
    assert_eq!(config.data_dir, Path::new("flag"));
    assert_eq!([&config.http.address, &config.otlp_grpc.address, &config.otlp_http.address], ["c:1", "b:2", "a:3"]);
    assert_eq!(config.log.retention, Span(Duration::from_secs(7_200)));
    assert_eq!(config.log.dedup_window, Span(Duration::from_secs(3_600)));
    assert_eq!(config.tables, Config::default().tables);
}

#[test]
fn variables_of_every_kind() {
    let config = Config::load(
        None,
        variables(&[
            ("WEIR_TRUSTED_PROXIES", "10.0.0.0/8, 192.168.0.1"),
            ("WEIR_HTTP__ADDRESS", "0.0.0.0:1"),
            ("WEIR_LOG__PRODUCERS_MAX", "12"),
            ("WEIR_TELEMETRY__LOG_FORMAT", "json"),
            ("WEIR_TIERS__PAID__KEYS_MAX", "9"),
            ("WEIR_TIERS__FREE__RETENTION_BY_STREAM__SPANS", "3d"),
            ("WEIR_SHUTDOWN_DEADLINE", "5s"),
            // Empty counts as not set, and these are not ours.
            ("WEIR_OTLP_HTTP", ""),
            ("WEIR_URL", "http://x"),
            ("WEIR_KEY", "k"),
            ("WEIR_SERVICE_HOST", "10.1.2.3"),
            ("WEIR_PORT_8080_TCP", "tcp://10.1.2.3:8080"),
        ]),
        Overrides::default(),
    )
    .unwrap();
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.http.address, "0.0.0.0:1");
    assert_eq!(config.log.producers_max, 12);
    assert_eq!(config.telemetry.log_format, settings::LogFormat::Json);
    assert_eq!(config.tiers[&Tier::Paid].keys_max, Some(9));
    assert_eq!(config.tiers[&Tier::Free].retention_by_stream.as_ref().unwrap().len(), 1);
    assert_eq!(config.shutdown_deadline, Span(Duration::from_secs(5)));
    assert_eq!(config.otlp_http, Config::default().otlp_http);
}

#[test]
fn variables_that_may_be_misspelt_are_told() {
    let names = [
        "WEIR_LOG_RETENTION",
        "WEIR_DATADIR",
        "WEIR_NOPE",
        // Known, or known to be somebody else's.
        "WEIR_DATA_DIR",
        "WEIR_LOG__RETENTION",
        "WEIR_KEY",
        "WEIR_TENANT",
        "WEIR_SERVICE_HOST",
        "WEIR_GRAFANA_SERVICE_PORT_HTTP",
        "WEIR_PORT_8080_TCP",
        "WEIR_PORT",
        "PATH",
    ];
    let ignored = environment::ignored(names.into_iter().map(str::to_owned));
    let ignored: Vec<_> = ignored.iter().map(|(name, meant)| (name.as_str(), meant.as_deref())).collect();
    assert_eq!(
        ignored,
        [
            ("WEIR_DATADIR", Some("WEIR_DATA_DIR")),
            ("WEIR_LOG_RETENTION", Some("WEIR_LOG__RETENTION")),
            ("WEIR_NOPE", None)
        ]
    );
}

#[test]
fn every_problem_of_a_yaml_file_at_once() {
    check_yaml(
        "
datadir: /x
http:
  adress: 1.2.3.4:80
  tls: { certificate: /nowhere/a.pem, key: '' }
otlp_grpc: 4317
otlp_http:
  address: 4318
  tls: { key: Cargo.toml }
trusted_proxies:
  - 10.0.0.0/8
  - 10.0.0.0/33
  -
log:
  segment_bytes: 64 megabytes
  retention: 24
  shards: 65
  dedup_window: -5m
  flush_age: 5m
  segment_bytes: 1B
tables: [1]
queries: { threads: four, threads: '4', memory_bytes: 1KiB }
limits: { connections_max: 0, decoded_bytes_wait: 2m, rows_burst: 1.5 }
tiers:
  free: { keys_max: 0, key_max: 1, retention_by_stream: { Spans: 1d, logs: 1w } }
  pro: {}
telemetry: { log_format: xml, log_level: warning, traces_endpoint: collector:4318 }
shutdown_deadline: yes
",
        expect![[r#"
            weir.yaml:2:1: unknown field `datadir` (did you mean `data_dir`?)
            weir.yaml:4:3: unknown field `adress` in `http` (did you mean `address`?)
            weir.yaml:5:23: `http.tls.certificate`: `/nowhere/a.pem` cannot be read: it does not exist (a relative path starts at the working directory)
            weir.yaml:5:44: `http.tls.key` must be the path of a file, not an empty text
            weir.yaml:6:12: `otlp_grpc` must be a section with settings of its own, not the number 4317
            weir.yaml:8:12: `otlp_http.address` must be an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080, not the number 4318 (127.0.0.1:4318?)
            weir.yaml:9:8: `otlp_http.tls` needs `certificate` (PEM file with the certificate, followed by its intermediates)
            weir.yaml:12:5: `trusted_proxies.1` must be a network such as 10.0.0.0/8 or fd00::/8, or one address, not `10.0.0.0/33`
            weir.yaml:13:4: `trusted_proxies.2` must be a network such as 10.0.0.0/8 or fd00::/8, or one address, not nothing
            weir.yaml:15:18: `log.segment_bytes` must be a size such as 512KiB, 32MiB or 4GiB, not `64 megabytes`
            weir.yaml:16:14: `log.retention` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not the number 24 (a duration needs a unit: 24s, 24ms, ...)
            weir.yaml:17:11: `log.shards` must be a whole number from 1 to 64, not the number 65
            weir.yaml:18:17: `log.dedup_window` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `-5m`
            weir.yaml:19:3: unknown field `flush_age` in `log` (it belongs to tables.flush_age)
            weir.yaml:20:3: `log.segment_bytes` is set twice (first at weir.yaml:15:3)
            weir.yaml:20:18: `log.segment_bytes` must be at least 1MiB, not 1B
            weir.yaml:21:9: `tables` must be a section with settings of its own, not a list
            weir.yaml:22:21: `queries.threads` must be a whole number from 0 to 1024, not `four`
            weir.yaml:22:27: `queries.threads` is set twice (first at weir.yaml:22:12)
            weir.yaml:22:36: `queries.threads` must be a whole number from 0 to 1024, not `4` (remove the quotes)
            weir.yaml:22:55: `queries.memory_bytes` must be at least 16MiB, not 1KiB
            weir.yaml:23:28: `limits.connections_max` must be a whole number of at least 1, not the number 0
            weir.yaml:23:51: `limits.decoded_bytes_wait` must be at most 1m, not 2m
            weir.yaml:23:67: `limits.rows_burst` must be a whole number of at least 1, not the number 1.5
            weir.yaml:25:21: `tiers.free.keys_max` must be more than 0
            weir.yaml:25:24: unknown field `key_max` in `tiers.free` (did you mean `keys_max`?)
            weir.yaml:25:59: `Spans` is not a stream name: 1 to 64 of a-z, 0-9 and _, not beginning with a digit
            weir.yaml:25:76: `tiers.free.retention_by_stream.logs` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `1w`
            weir.yaml:26:3: unknown field `pro` in `tiers` (known are free, paid, enterprise)
            weir.yaml:27:26: `telemetry.log_format` must be one of text, json, not `xml`
            weir.yaml:27:42: `telemetry.log_level` must be one of error, warn, info, debug, trace, not `warning`
            weir.yaml:27:68: `telemetry.traces_endpoint` must be a URL such as http://collector:4318, not `collector:4318`
            weir.yaml:28:20: `shutdown_deadline` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `yes`
        "#]],
    );
}

#[test]
fn every_problem_of_a_toml_file_at_once() {
    check_toml(
        r#"
data_dir = 5
shutdown_deadline = 1979-05-27
[http]
address = "nonsense"
[log]
retention = "24 hours"
retention = "24h"
segment_size = "64MiB"
shards = "1"
[log.more]
[[tables]]
flush_bytes = true
"#,
        expect![[r#"
            weir.toml:2:12: `data_dir` must be a path, not the number 5
            weir.toml:3:21: `shutdown_deadline` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not a date
            weir.toml:5:11: `http.address` must be an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080, not `nonsense`
            weir.toml:7:13: `log.retention` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `24 hours`
            weir.toml:8:1: this is set twice
            weir.toml:9:1: unknown field `segment_size` in `log` (did you mean `segment_bytes`?)
            weir.toml:10:10: `log.shards` must be a whole number from 1 to 64, not `1` (remove the quotes)
            weir.toml:11:6: unknown field `more` in `log` (known are shards, segment_bytes, commit_bytes_max, queue_bytes_max, retention, retention_bytes, dedup_window, producers_max, reserve_bytes)
            weir.toml:12:1: `tables` must be a section with settings of its own, not a list
        "#]],
    );
}

#[test]
fn a_file_that_is_not_well_formed() {
    check_yaml(
        "http:\n  address: 'a:1\nlogg: 1\n",
        expect![[r#"
        weir.yaml:3:1: this is not YAML: invalid indentation in multiline quoted scalar
    "#]],
    );
    check_yaml(
        "http: [1, 2\n",
        expect![[r#"
        weir.yaml:1:7: this is not YAML: unclosed bracket '['
    "#]],
    );
    check_yaml(
        "logg: 1\nhttp:\n\taddress: 1\n",
        expect![[r#"
        weir.yaml:1:1: unknown field `logg` (did you mean `log`?)
        weir.yaml:3:2: this is not YAML: tabs disallowed within this context (block indentation)
    "#]],
    );
    check_yaml(
        "a: 1\n---\nb: 1\n",
        expect![[r#"
            weir.yaml:1:1: unknown field `a` (known are data_dir, http, otlp_grpc, otlp_http, trusted_proxies, log, tables, queries, pipelines, sessions, limits, tiers, telemetry, shutdown_deadline)
            weir.yaml:2:1: a second document begins here (keep one in a file)
        "#]],
    );
    check_yaml(
        "http: &a { address: 'a:1' }\notlp_http: *a\nlog: !x { shards: 2 }\n",
        expect![[r#"
        weir.yaml:1:10: anchors are not supported (write the value out where it is needed)
        weir.yaml:2:12: aliases are not supported (write the value out)
        weir.yaml:3:9: tags are not supported (remove the `!...`)
    "#]],
    );
    check_yaml(
        "- http\n",
        expect![[r#"
        weir.yaml:1:1: a configuration must be a section with settings of its own, not a list
    "#]],
    );
    check_yaml(
        "just text\n",
        expect![[r#"
        weir.yaml:1:1: a configuration must be a section with settings of its own, not `just text`
    "#]],
    );
    check_yaml(
        "? [a]\n: b\n",
        expect![[r#"
        weir.yaml:1:3: a name must be text
    "#]],
    );
    check_toml(
        "[http\naddress = 1\nlog = { shards = }\n[logg]\n",
        expect![[r#"
        weir.toml:1:6: this is not TOML: unclosed table, expected `]`
        weir.toml:4:2: unknown field `logg` (did you mean `log`?)
    "#]],
    );
    check_toml(
        "http = 'a\n",
        expect![[r#"
        weir.toml:1:10: this is not TOML: invalid literal string, expected `'`
    "#]],
    );
}

#[test]
fn problems_with_the_file_itself() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("weir.conf"), "").unwrap();
    fs::write(at("latin.yaml"), b"http:\n  address: \xFF\n").unwrap();
    fs::write(at("large.yaml"), "#".repeat((1 << 20) + 1)).unwrap();
    fs::create_dir(at("dir.yaml")).unwrap();
    let mut text = String::new();
    for name in ["absent.yaml", "weir.conf", "latin.yaml", "large.yaml", "dir.yaml"] {
        // The problems of other sources are reported beside it.
        let environment = variables(&[("WEIR_LOG__SHARDS", "x")]);
        let problems = Config::load(Some(&at(name)), environment, Overrides::default()).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        text.push_str(&show(&problems[..1], directory.path()));
        assert_eq!(check_file(&at(name)), problems[..1]);
    }
    expect![[r#"
        absent.yaml: the configuration file does not exist
        weir.conf: a configuration file ends in .yaml, .yml, .toml or .json
        latin.yaml:2:1: the configuration file is not UTF-8 here
        large.yaml: the configuration file is larger than 1048576 bytes
        dir.yaml: the configuration file cannot be read: Is a directory (os error 21)
    "#]]
    .assert_eq(&text);
}

#[test]
fn problems_of_variables_and_flags() {
    check_variables(
        &[
            ("WEIR_LOG__RETENTIO", "1h"),
            ("WEIR_LOG__SHARDS", "none"),
            ("WEIR_LOGS__RETENTION", "1h"),
            ("WEIR_HTTP__TLS", "cert.pem"),
            ("WEIR_HTTP", "8080"),
            ("WEIR_TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.0/99"),
            ("WEIR_TELEMETRY__LOG_LEVEL", "DEBUG"),
            ("WEIR_OTLP_GRPC__TLS__KEY", "/nowhere/key.pem"),
            ("WEIR_TIERS__FREE__RETENTION_BY_STREAM__SPANS", "3 days"),
        ],
        expect![[r#"
            WEIR_HTTP__TLS: `http.tls` is a section, not a setting (did you mean `WEIR_HTTP__TLS__KEY`?)
            WEIR_LOGS__RETENTION: there is no setting `logs.retention` (did you mean `WEIR_LOG__RETENTION`?)
            WEIR_LOG__RETENTIO: there is no setting `log.retentio` (did you mean `WEIR_LOG__RETENTION`?)
            WEIR_HTTP: `http.address` must be an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080, not `8080`
            WEIR_LOG__SHARDS: `log.shards` must be a whole number from 1 to 64, not `none`
            WEIR_OTLP_GRPC__TLS__KEY: `otlp_grpc.tls.key`: `key.pem` cannot be read: it does not exist (a relative path starts at the working directory)
            WEIR_TELEMETRY__LOG_LEVEL: `telemetry.log_level` must be one of error, warn, info, debug, trace, not `DEBUG` (did you mean `debug`?)
            WEIR_TIERS__FREE__RETENTION_BY_STREAM__SPANS: `tiers.free.retention_by_stream.spans` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `3 days`
            WEIR_TRUSTED_PROXIES: `trusted_proxies.1` must be a network such as 10.0.0.0/8 or fd00::/8, or one address, not `10.0.0.0/99`
            WEIR_OTLP_GRPC__TLS__KEY: `otlp_grpc.tls` needs `certificate` (PEM file with the certificate, followed by its intermediates)
        "#]],
    );
    let flags = Overrides {
        data_dir: Some("".into()),
        http: Some("1.2.3:80".into()),
        otlp_grpc: Some("host:70000".into()),
        otlp_http: Some("[::1]:0".into()),
    };
    let problems = Config::load(None, no_variables(), flags).unwrap_err();
    expect![[r#"
        --data-dir: `data_dir` must be a path, not an empty text
        --http: `http.address` must be an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080, not `1.2.3:80`
        --otlp-grpc: `otlp_grpc.address` must be an address such as 127.0.0.1:8080, [::1]:8080 or localhost:8080, not `host:70000`
    "#]].assert_eq(&show(&problems, Path::new("/nowhere")));
}

#[test]
fn settings_that_contradict_each_other() {
    check_yaml(
        "
otlp_http: { address: '127.0.0.1:8080' }
log:
  commit_bytes_max: 128MiB
tables:
  compaction_bytes_max: 32MiB
tiers:
  enterprise:
    rows_burst: 0
",
        expect![[r#"
            weir.yaml:2:23: `otlp_http` and `http` have the same address 127.0.0.1:8080 (give each listener a port of its own)
            weir.yaml:4:21: `log.commit_bytes_max` is 128MiB, more than `log.queue_bytes_max`, which is 64MiB
            weir.yaml:6:25: `tables.compaction_bytes` is 48MiB, more than `tables.compaction_bytes_max`, which is 32MiB
            weir.yaml:9:17: `tiers.enterprise.rows_burst` must be more than 0
        "#]],
    );
    let same = "{http: {address: 'a:0'}, otlp_http: {address: 'a:0'}}";
    assert!(load_text("weir.yaml", same).is_ok(), "port 0 is another port each time");
}

#[test]
fn certificates_are_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("a.crt");
    fs::write(&certificate, "").unwrap();
    let text = |certificate: &Path| format!("http: {{ tls: {{ certificate: {0}, key: {0} }} }}", certificate.display());
    let config = load_text("weir.yaml", &text(&certificate)).unwrap();
    assert_eq!(config.http.tls.unwrap().key, certificate);
    assert_eq!(config.http.address, "127.0.0.1:8080");
    assert!(load_text("weir.yaml", &text(directory.path())).unwrap_err().contains("it is not a file"));

    // Its parts may come from several sources.
    let path = directory.path().join("weir.yaml");
    fs::write(&path, format!("http: {{ tls: {{ certificate: {} }} }}", certificate.display())).unwrap();
    let key = certificate.to_str().unwrap();
    let config = Config::load(Some(&path), variables(&[("WEIR_HTTP__TLS__KEY", key)]), Overrides::default()).unwrap();
    assert_eq!(config.http.tls.unwrap().key, certificate);
    let both = variables(&[("WEIR_HTTP__TLS__KEY", key), ("WEIR_HTTP__TLS__CERTIFICATE", key)]);
    assert!(Config::load(None, both, Overrides::default()).unwrap().http.tls.is_some());
}

/// Every setting can be given by a variable, and what its default is written as reads as the default.
#[test]
fn every_setting_has_a_variable_that_works() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let mut n_settings = 0;
    for path in schema::root().paths() {
        let Some(value) = defaults.pointer(&weir_document::check::pointer(&path)).filter(|value| !value.is_null())
        else {
            continue;
        };
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Array(_) => continue,
            value => value.to_string(),
        };
        n_settings += 1;
        let name = environment::variable(&path);
        let config = Config::load(None, variables(&[(&name, &text)]), Overrides::default());
        assert_eq!(config.as_ref(), Ok(&Config::default()), "{name}={text}");
    }
    assert!(n_settings > 40, "only {n_settings} settings");
}

#[test]
fn every_setting_is_documented() {
    fn walk(fields: &[Field], path: &str, missing: &mut Vec<String>) {
        for field in fields {
            let path = format!("{path}.{}", field.name);
            if !field.doc.ends_with('.') {
                missing.push(path.clone());
            }
            if let Shape::Section(inner) = &field.shape {
                walk(inner, &path, missing);
            }
        }
    }
    let Shape::Section(fields) = schema::root() else { panic!("a section") };
    let mut missing = Vec::new();
    walk(fields, "", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_example_is_the_defaults_and_so_is_each_line_of_it() {
    let example = annotated_example_yaml();
    assert_eq!(load_text("weir.yaml", &example).unwrap(), Config::default());
    // All settings at once, without their `#`; a comment has a space after it.
    let uncommented: String = example
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            // The certificates of the example do not exist.
            Some(setting) if setting.contains("/etc/weir/") => String::new(),
            Some(setting) if !setting.starts_with(' ') && !setting.is_empty() => {
                format!("{}{setting}\n", &line[..line.len() - setting.len() - 1])
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = load_text("weir.yaml", &uncommented).unwrap_or_else(|problems| panic!("{problems}\n{uncommented}"));
    for tier in Tier::ALL {
        let limits = weir_meta::limits::Limits::of_tier(tier);
        assert_eq!(limits.with(&config.tiers[&tier]), limits);
    }
    assert_eq!(config.telemetry.traces_endpoint.as_deref(), Some("http://collector:4318"));
    let telemetry = settings::TelemetryConfig { traces_endpoint: None, ..config.telemetry.clone() };
    assert_eq!(Config { tiers: Config::default().tiers, telemetry, ..config }, Config::default());
}

/// The pages in the book are those the structs make. `WEIR_GEN=1` writes them, as `cargo xtask gen` does.
#[test]
fn the_pages_are_fresh() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/reference");
    let openapi = serde_json::to_string_pretty(&crate::routes::table::document()).unwrap() + "\n";
    let pages = [
        ("configuration.md", reference_markdown()),
        ("weir.example.yaml", annotated_example_yaml()),
        ("http-api.md", crate::routes::table::reference_markdown()),
        ("openapi.json", openapi),
    ];
    for (name, expected) in pages {
        let path = directory.join(name);
        if std::env::var_os("WEIR_GEN").is_some() {
            fs::create_dir_all(directory.as_path()).unwrap();
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{name} is not what the structs say: run the tests with WEIR_GEN=1");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(text in "[ a-z:{}\\[\\]'\"#\\n\\-&*!|>0-9äß€=.,]{0,80}") {
            for syntax in [Syntax::Yaml, Syntax::Toml, Syntax::Json] {
                let _ = schema().check_file(&syntax.parse("f", &text), &mut Vec::new());
            }
        }

        #[test]
        fn every_value_is_right_or_reported(value in "[a-zA-Z0-9:./,' -]{1,20}") {
            for path in ["data_dir", "http.address", "log.shards", "log.retention", "log.segment_bytes", "trusted_proxies", "telemetry.log_level"] {
                let names: Vec<String> = path.split('.').map(str::to_owned).collect();
                let name = environment::variable(&names);
                let result = Config::load(None, variables(&[(&name, &value)]), Overrides::default());
                if let Err(problems) = result {
                    prop_assert_eq!(problems[0].place.as_str(), name.as_str());
                }
            }
        }
    }
}
