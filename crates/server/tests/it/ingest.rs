//! From a request to the row: stored once, counted, queryable at once, there after a restart.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_base::ErrorKind;
use weir_base::error::Kinded;

use crate::harness::until;
use crate::whole::{config, grpc, send_to, start, start_with};

fn event(id: u64, name: &str) -> Value {
    json!({"id": format!("00000000-0000-4000-8000-{id:012}"), "type": "custom", "name": name})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_accounted_for() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let mixed = json!({"events": [
        event(1, "a"),
        event(1, "a"),
        {"type": "custom"},
        {"type": "nonsense"},
        {"type": "scroll", "depth": 101},
        {"type": "pageview", "url": "https://a.example/x", "properties": {"plan": "pro", "deep": {"a": [1, 2]}}},
    ]});
    let reply = server.post("/ingest", &key, mixed).await.expect(200).json();
    assert_eq!(reply["received"], 6);
    assert_eq!(reply["stored"], 2);
    assert_eq!(reply["deduplicated"], 1);
    assert_eq!(reply["rejected"], 3);
    let codes: Vec<_> = reply["errors"].as_array().unwrap().iter().map(|error| &error["code"]).collect();
    assert_eq!(codes, ["missing_field", "unknown_type", "out_of_range"]);
    let rejected =
        server.query(&key, "select code, stream, source, key_id is not null from _rejected order by code").await;
    assert_eq!(
        rejected,
        json!([
            ["missing_field", "events", "ingest", true],
            ["out_of_range", "events", "ingest", true],
            ["unknown_type", "events", "ingest", true]
        ])
    );
    // Every row bad: 422 with the same body, and the rows are in `_rejected` all the same.
    let bad = server.post("/ingest", &key, json!({"events": [{"type": "nonsense"}]})).await.expect(422).json();
    assert_eq!((bad["received"].as_u64(), bad["rejected"].as_u64()), (Some(1), Some(1)));
    assert_eq!(server.query(&key, "select count(*) from _rejected").await, json!([[4]]));
    // Not JSON at all: a problem with the place, and nothing stored.
    let request =
        Request::post("/ingest").header("x-api-key", &key).body(Full::new(Bytes::from("{\"events\": [}"))).unwrap();
    let problem = server.send(request).await.expect(400).json();
    assert!(problem["pointer"].as_str().unwrap().contains("byte"), "{problem}");
    assert_eq!(server.query(&key, "select count(*) from events").await, json!([[2]]));
    assert_eq!(
        server.query(&key, "select properties['plan'], properties['deep'] from events where type = 'pageview'").await,
        json!([["pro", "{\"a\":[1,2]}"]])
    );
    // The same figures in the metrics.
    let metrics = server.get("/metrics", &server.admin).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for (outcome, rows) in [("received", 7), ("stored", 2), ("rejected", 4), ("deduplicated", 1)] {
        let line = format!(
            "weir_ingest_rows_total{{tenant=\"shop\",stream=\"events\",source=\"ingest\",outcome=\"{outcome}\"}} {rows}"
        );
        assert!(metrics.contains(&line), "no {line}");
    }
    server.stop().await;
}

/// It is kept, and costs no other row anything: strict clients refuse all of an answer that has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_no_double_holds_is_null_in_answers() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let long = "9".repeat(400);
    let events = format!(
        r#"{{"events": [{{"type": "custom", "name": "a", "properties": {{"n": 1e400, "of": {{"m": [-1e999, 1]}}, "l": {long}}}}},
            {{"type": "custom", "name": "b", "properties": {{"n": 1}}}}]}}"#
    );
    let track = r#"{"type": "track", "event": "c", "userId": "u", "properties": {"n": 1e400}}"#;
    for (path, body) in [("/ingest", events.as_str()), ("/v1/track", track)] {
        let request = Request::post(path)
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        server.send(request).await.expect(200);
    }
    let rows = server
        .query(&key, "select properties, properties['n'], attribute_text(properties, 'n') from events order by name")
        .await;
    let first = json!({"n": null, "of": {"m": [null, 1]}, "l": null});
    assert_eq!(rows, json!([[first, null, "1e400"], [{"n": 1}, 1, "1"], [{"n": null}, null, "1e400"]]));
    server.stop().await;
}

/// Small requests of one tenant share batches of rows, and each is told of its own.
#[tokio::test(flavor = "multi_thread")]
async fn small_requests_at_the_same_time_get_their_own_answers() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let keys = [server.tenant_with_key("shop").await, server.tenant_with_key("mall").await];
    // Each event is sent by three requests, of one to three events; one of the three has a bad event,
    // too, and goes its own way.
    let requests = (0..240_u64).map(|number| {
        let first = number % 80 * 3;
        let mut events: Vec<Value> = (first..=first + number % 80 % 3).map(|id| event(id, "a")).collect();
        let bad = u64::from(number % 3 == 0);
        if bad == 1 {
            events.push(json!({"type": "nonsense"}));
        }
        let (server, key) = (&server, &keys[(number % 2) as usize]);
        async move {
            let n_events = events.len() as u64;
            let reply = server.post("/ingest", key, json!({"events": events})).await.expect(200).json();
            let count = |name: &str| reply[name].as_u64().unwrap();
            assert_eq!((count("received"), count("rejected")), (n_events, bad), "{reply}");
            assert_eq!(count("stored") + count("deduplicated"), n_events - bad, "{reply}");
            (number % 2, count("stored"), count("deduplicated"))
        }
    });
    let replies = futures::future::join_all(requests).await;
    for (tenant, key) in keys.iter().enumerate() {
        let own = replies.iter().filter(|(number, ..)| *number == tenant as u64);
        let (stored, known) = own.fold((0, 0), |sum, (_, stored, known)| (sum.0 + stored, sum.1 + known));
        assert_eq!(known, stored * 2, "of three requests with the same event one stores it");
        assert_eq!(
            server.query(key, "select count(*), count(distinct event_id) from events").await,
            json!([[stored, stored]])
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_harmless_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let other = server.tenant_with_key("blog").await;
    let batch = json!({"events": [event(1, "a"), event(2, "b")]});
    // At the same time, many times over: stored once.
    let replies = futures::future::join_all((0..16).map(|_| server.post("/ingest", &key, batch.clone()))).await;
    let mut stored = 0;
    for reply in replies {
        let reply = reply.expect(200).json();
        assert_eq!(reply["stored"].as_u64().unwrap() + reply["deduplicated"].as_u64().unwrap(), 2);
        stored += reply["stored"].as_u64().unwrap();
    }
    assert_eq!(stored, 2);
    // Ids are each tenant's own.
    assert_eq!(server.post("/ingest", &other, batch.clone()).await.expect(200).json()["stored"], 2);
    // Requests with an idempotency key.
    let logs = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../codecs/tests/data/otlp/logs.json")).unwrap();
    let send_logs = async |address: &str, idempotency_key: &str| {
        let request = Request::post("/v1/logs")
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .header("idempotency-key", idempotency_key)
            .body(Full::new(Bytes::from(logs.clone())))
            .unwrap();
        send_to(address, request).await.expect(200)
    };
    for idempotency_key in ["one", "one", "two", "one"] {
        send_logs(&server.otlp_http, idempotency_key).await;
    }
    assert_eq!(server.query(&key, "select count(*) from logs").await, json!([[2]]));
    // The same key on another route is another request.
    let request = Request::post("/ingest")
        .header("x-api-key", &other)
        .header("idempotency-key", "three")
        .body(Full::new(Bytes::from(json!({"events": [event(3, "c")]}).to_string())))
        .unwrap();
    server.send(request).await.expect(200);
    let request = Request::post("/v1/logs")
        .header("x-api-key", &other)
        .header("content-type", "application/json")
        .header("idempotency-key", "three")
        .body(Full::new(Bytes::from(logs.clone())))
        .unwrap();
    server.send(request).await.expect(200);
    let stored = server.query(&other, "select count(*) from logs").await;
    assert_ne!(stored, json!([[0]]));
    // With another body it is another request, whose rows nobody may take for stored.
    let request = Request::post("/v1/logs")
        .header("x-api-key", &other)
        .header("content-type", "application/json")
        .header("idempotency-key", "three")
        .body(Full::new(Bytes::from([logs.as_slice(), b" "].concat())))
        .unwrap();
    let refused = server.send(request).await.expect(422).json();
    assert!(refused["message"].as_str().unwrap().contains("the idempotency key was used for"), "{refused}");
    assert_eq!(server.query(&other, "select count(*) from logs").await, stored);
    let request = Request::post("/ingest")
        .header("x-api-key", &other)
        .header("idempotency-key", "three")
        .body(Full::new(Bytes::from(json!({"events": [event(4, "d")]}).to_string())))
        .unwrap();
    let refused = server.send(request).await.expect(422).json();
    assert_eq!((&refused["code"], &refused["pointer"]), (&"idempotency_key_reused".into(), &"Idempotency-Key".into()));
    server.stop().await;

    let server = start(&dir).await;
    assert_eq!(server.query(&key, "select count(*), count(distinct event_id) from events").await, json!([[2, 2]]));
    let reply = server.post("/ingest", &key, batch).await.expect(200).json();
    assert_eq!((reply["stored"].as_u64(), reply["deduplicated"].as_u64()), (Some(0), Some(2)));
    send_logs(&server.http, "two").await;
    assert_eq!(server.query(&key, "select count(*) from logs").await, json!([[2]]));
    server.stop().await;
}

/// Rows that were refused have no id, so only the key of their request tells them from others.
#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_of_a_request_that_is_sent_again_are_kept_once() {
    let bad_log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"body": {"stringValue": "a"}}, {"body": {"stringValue": "b"}, "traceId": "0102"}]}]}]});
    let mixed = json!({"events": [event(1, "a"), {"type": "nonsense"}, {"type": "custom"}]});
    let all_bad = json!({"events": [{"type": "nonsense"}]});
    let track = json!({"type": "track", "event": "a", "userId": "u", "messageId": "m1"});
    let segment = json!({"batch": [track, {"type": "nonsense", "messageId": "m2"}]});
    let requests = [
        ("/ingest", mixed, 200, 2),
        ("/ingest", all_bad, 422, 1),
        ("/v1/logs", bad_log, 200, 1),
        ("/v1/batch", segment, 200, 1),
    ];
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let head = |path: &str, name: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n\
             idempotency-key: {name}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let send = async |http: &str, path: &str, name: &str, body: &str| {
        let mut socket = tokio::net::TcpStream::connect(http).await.unwrap();
        socket.write_all(format!("{}{body}", head(path, name, body.len())).as_bytes()).await.unwrap();
        socket
    };
    let answered = async |http: &str, path: &str, name: &str, body: &str, status: u16| {
        let mut reply = [0; 12];
        send(http, path, name, body).await.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply, *format!("HTTP/1.1 {status}").as_bytes(), "{path} {name}");
    };
    let mut expected = 0;
    for (number, (path, body, status, refused)) in requests.iter().enumerate() {
        let body = body.to_string();
        for (name, gone) in [("answered", 0), ("gone", 1), ("gone often", 8)] {
            let name = format!("{name} {number}");
            for _ in 0..gone {
                // The client is gone before the reply, and perhaps before its request was looked at.
                drop(send(&server.http, path, &name, &body).await);
            }
            // Beside each other, and after each other.
            let both = [(); 2].map(|()| answered(&server.http, path, &name, &body, *status));
            futures::future::join_all(both).await;
            answered(&server.http, path, &name, &body, *status).await;
            expected += refused;
            let kept = server.query(&key, "select count(*) from _rejected").await;
            assert_eq!(kept, json!([[expected]]), "{path} {name}");
        }
    }
    server.app.store.flush_all().unwrap();
    server.stop().await;
    let server = start(&dir).await;
    for (number, (path, body, status, _)) in requests.iter().enumerate() {
        for name in ["answered", "gone", "gone often"] {
            answered(&server.http, path, &format!("{name} {number}"), &body.to_string(), *status).await;
        }
    }
    assert_eq!(server.query(&key, "select count(*) from _rejected").await, json!([[expected]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_move_from_the_tail_into_files_unseen() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    for id in 0..5 {
        server.post("/ingest", &key, json!({"events": [event(id, "a")]})).await.expect(200);
    }
    server.app.store.flush_all().unwrap();
    for id in 3..8 {
        server.post("/ingest", &key, json!({"events": [event(id, "b")]})).await.expect(200);
    }
    let both = server.query(&key, "select name, count(*) from events group by 1 order by 1").await;
    assert_eq!(both, json!([["a", 5], ["b", 3]]));
    server.stop().await;
    let server = start(&dir).await;
    assert_eq!(server.query(&key, "select name, count(*) from events group by 1 order by 1").await, both);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_says_what_its_protocol_asks_for() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    let service = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    // An empty request is a success; a missing key and broken bytes are permanent errors.
    let (status, _, _) = grpc(&server.otlp_grpc, service, &[("x-api-key", &key)], b"").await;
    assert_eq!(status, "0");
    let (status, _, _) = grpc(&server.otlp_grpc, service, &[], b"").await;
    assert_eq!(status, "16");
    let (status, trailers, _) = grpc(&server.otlp_grpc, service, &[("x-api-key", &key)], b"\x0a\xff\xff").await;
    assert_eq!(status, "3", "{trailers:?}");
    // One good and one bad record: partial success with the number and the reason.
    // LogRecord { trace_id: 3 bytes } beside LogRecord { body: "x" }.
    let record_bad = [&[0x4a, 0x03][..], b"abc"].concat();
    let record_good = [&[0x2a, 0x03, 0x0a, 0x01][..], b"x"].concat();
    let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
    let scope = [field(0x12, &record_bad), field(0x12, &record_good)].concat();
    let resource = field(0x12, &scope);
    let request = field(0x0a, &resource);
    let (status, _, message) = grpc(&server.otlp_grpc, service, &[("x-api-key", &key)], &request).await;
    assert_eq!(status, "0");
    assert_eq!(&message[..1], b"\x0a", "no partial_success in {message:?}");
    assert_eq!(&message[2..4], b"\x08\x01", "not one rejected row in {message:?}");
    assert_eq!(server.query(&key, "select body from logs").await, json!([["x"]]));
    assert_eq!(
        server.query(&key, "select code, stream, source from _rejected").await,
        json!([["malformed", "logs", "otlp_grpc"]])
    );
    // Over HTTP the error comes in the encoding of the request.
    let send = async |content_type: &str, body: &'static [u8]| {
        let request = Request::post("/v1/traces")
            .header("x-api-key", &key)
            .header("content-type", content_type)
            .body(Full::new(Bytes::from_static(body)))
            .unwrap();
        send_to(&server.otlp_http, request).await
    };
    let reply = send("application/json", b"{").await.expect(400);
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(reply.json()["code"], 3);
    let reply = send("application/x-protobuf", b"\x0a\xff").await.expect(400);
    assert_eq!(reply.headers["content-type"], "application/x-protobuf");
    send("text/plain", b"x").await.expect(415);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_name_themselves_and_harm_nobody_else() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server
        .tenant("small", json!({"limits": {"rows_per_second": 10, "rows_burst": 10, "rows_per_request_max": 8, "body_bytes_max": "4KiB", "row_bytes_max": "1KiB", "value_bytes_max": "256B"}}))
        .await;
    let small = server.key("small", &["ingest", "query"]).await;
    let big = server.tenant_with_key("big").await;
    let events =
        |count: u64, from: u64| json!({"events": (from..from + count).map(|id| event(id, "a")).collect::<Vec<_>>()});

    let reply = server.post("/ingest", &small, events(9, 0)).await.expect(413).json();
    assert_eq!(reply["limit"]["value"], 8, "{reply}");
    server.post("/ingest", &small, events(8, 0)).await.expect(200);
    let refused = server.post("/ingest", &small, events(8, 100)).await.expect(429);
    assert!(refused.headers.contains_key("retry-after"));
    let refused = refused.json();
    assert_eq!(refused["limit"]["name"], "rows_per_second");
    assert_eq!(refused["limit"]["value"], 10);
    // What is too large in one row refuses that row alone.
    let long = json!({"events": [{"type": "custom", "name": "x", "properties": {"text": "x".repeat(300)}}]});
    assert_eq!(server.post("/ingest", &big, long.clone()).await.expect(200).json()["stored"], 1);
    let padded = json!({"events": [{"type": "pageview", "title": "x".repeat(5000)}]});
    let reply = server.post("/ingest", &small, padded).await.expect(413).json();
    assert_eq!(reply["limit"]["name"], "body_bytes_max");
    // Nobody else notices.
    server.post("/ingest", &big, events(100, 0)).await.expect(200);
    assert_eq!(server.query(&small, "select count(*) from events").await, json!([[8]]));
    let (status, trailers, _) = grpc(
        &server.otlp_grpc,
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        &[("x-api-key", &small)],
        &vec![0; 5000],
    )
    .await;
    assert_eq!(status, "3", "too large is permanent: {trailers:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weaker_durability_is_said() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("fast", json!({"settings": {"durability": "memory"}})).await;
    let key = server.key("fast", &["ingest", "query"]).await;
    let reply = server.post("/ingest", &key, json!({"events": [event(1, "a")]})).await.expect(200);
    assert_eq!(reply.headers["weir-durability"], "memory");
    assert_eq!(reply.json()["durability"], "memory");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_directory_serves_one_process() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let Err(error) = start_with(config(dir.path())).await else { panic!("two servers on one directory") };
    assert!(error.to_string().contains("in use by another weir"), "{error}");
    let key = server.tenant_with_key("shop").await;
    server.post("/ingest", &key, json!({"events": [event(1, "a")]})).await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tenant_is_gone() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    server.post("/ingest", &key, json!({"events": [event(1, "a")]})).await.expect(200);
    server.app.store.flush_all().unwrap();
    server.call(http::Method::DELETE, "/api/v1/tenants/shop", &server.admin, None).await.expect(204);
    assert_eq!(server.post("/ingest", &key, json!({"events": [event(2, "a")]})).await.status, 401);
    assert_eq!(server.get("/api/v1/tenants/shop", &server.admin).await.status, 404);
    // Files go once no query reads them.
    let files = dir.path().join("data/tables/shop/events");
    until("its files are removed", || !files.exists()).await;
    // Its id is never used again, because rows of it may still be in the log.
    assert_eq!(server.post("/api/v1/tenants", &server.admin, json!({"id": "shop"})).await.status, 409);
    server.stop().await;
    let server = start(&dir).await;
    assert_eq!(server.get("/api/v1/tenants/shop", &server.admin).await.status, 404);
    server.stop().await;
}

/// Killed after it was decided, before anything was removed.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_deletion_is_finished_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    for tenant in ["vanished", "here"] {
        let key = server.tenant_with_key(tenant).await;
        server.post("/ingest", &key, json!({"events": [event(1, "a")]})).await.expect(200);
        for kind in ["pipelines", "files", "deadletters"] {
            std::fs::create_dir_all(dir.path().join("data").join(kind).join(tenant)).unwrap();
        }
    }
    server.app.store.flush_all().unwrap();
    server.app.meta.delete_tenant(&"vanished".parse().unwrap()).unwrap();
    server.stop().await;
    let server = start(&dir).await;
    assert_eq!(server.app.meta.tenants_to_purge(), []);
    let metrics = server.get("/metrics", &server.admin).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(!metrics.contains("vanished"), "{metrics}");
    for kind in ["pipelines", "files", "deadletters"] {
        let folder = dir.path().join("data").join(kind);
        assert!(!folder.join("vanished").exists() && folder.join("here").exists(), "{kind}");
    }
    server.stop().await;
    let server = start(&dir).await;
    assert!(!dir.path().join("data/tables/vanished").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weir_stores_what_it_says_about_itself() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("shop").await;
    server.post("/ingest", &key, json!({"events": [event(1, "a"), {"type": "nonsense"}]})).await.expect(200);
    // The feed stores what is left when the server stops.
    server.stop().await;
    let server = start(&dir).await;
    let usage = server.query(&key, "select stream, source, requests, rows_received, rows_stored, rows_rejected from _usage where source = 'ingest'").await;
    assert_eq!(usage, json!([["events", "ingest", 1, 2, 1, 1]]));
    let request = Request::post("/api/v1/query")
        .header("x-api-key", &server.admin)
        .body(Full::new(Bytes::from(
            r#"{"sql":"select value_int from metrics where name = 'weir_ingest_rows_total' and attributes['tenant'] = 'shop' and attributes['outcome'] = 'stored'"}"#,
        )))
        .unwrap();
    assert_eq!(server.send(request).await.expect(200).json()["rows"], json!([[1]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_stores_as_much_as_it_may() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("small", json!({"limits": {"storage_bytes_max": "1KiB"}})).await;
    let small = server.key("small", &["ingest", "query"]).await;
    let other = server.tenant_with_key("other").await;
    server.post("/ingest", &small, json!({"events": [event(1, "a")]})).await.expect(200);
    server.app.store.flush_all().unwrap();
    server.app.ingest.storage().refresh(&server.app.store);
    let refused = server.post("/ingest", &small, json!({"events": [event(2, "a")]})).await.expect(429).json();
    assert_eq!((&refused["limit"]["name"], &refused["limit"]["value"]), (&json!("storage_bytes_max"), &json!(1024)));
    server.post("/ingest", &other, json!({"events": [event(2, "a")]})).await.expect(200);
    assert_eq!(server.query(&small, "select count(*) from events").await, json!([[1]]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_takes_no_room_in_metrics_and_logs() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let method = "M".repeat(5_000);
    let path = format!("/nothing/{}", "p".repeat(5_000));
    let request = Request::builder().method(method.as_str()).uri(&path).body(Full::new(Bytes::new())).unwrap();
    assert!(server.send(request).await.status.is_client_error());
    let metrics = server.get("/metrics", "").await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("method=\"other\"") && !metrics.contains("MMMM"), "{metrics}");
    // A write key in an address is not in any log line: the route stands there.
    let key = server.tenant_with_key("shop").await;
    server.get(&format!("/v1/projects/{key}/settings"), "").await.expect(200);
    let query = server.key("shop", &["query"]).await;
    server.get(&format!("/v1/projects/{query}/settings"), "").await.expect(404);
    server.stop().await;
}

/// Without the metadata database every table file would look like a leftover.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_metadata_database_costs_no_rows() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let key = server.tenant_with_key("acme").await;
    server.post("/ingest", &key, json!({"events": [event(1, "kept")]})).await.expect(200);
    server.app.store.flush_all().unwrap();
    server.stop().await;
    let config = config(dir.path());
    let database = config.data_dir.join("meta.db");
    let backup = std::fs::read(&database).unwrap();
    for beside in ["meta.db-wal", "meta.db-shm"] {
        let _ = std::fs::remove_file(config.data_dir.join(beside));
    }
    for lost in [None, Some(&[][..]), Some(&backup[..100])] {
        std::fs::remove_file(&database).unwrap();
        if let Some(bytes) = lost {
            std::fs::write(&database, bytes).unwrap();
        }
        let error = start_with(config.clone()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let shown = weir_base::error::chain(&error);
        assert!(shown.contains(&database.display().to_string()), "{shown}");
        std::fs::write(&database, &backup).unwrap();
    }
    let server = start_with(config).await.unwrap();
    assert_eq!(server.query(&key, "SELECT count(*) FROM events").await, json!([[1]]));
    server.stop().await;
}
