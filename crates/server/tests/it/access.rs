//! Every route with everybody's key: what is another tenant's looks as if it did not exist.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use weir_server::routes::table::{Access, listed};

use crate::whole::{Whole, start};

/// A body each route would take from somebody who may.
fn body(path: &str) -> Option<Value> {
    match path {
        "/ingest" => Some(json!({"events": [{"type": "pageview"}]})),
        "/v1/{call}" => Some(json!({"event": "x", "userId": "u"})),
        "/api/v1/query" => Some(json!({"sql": "select 1"})),
        "/api/v1/pipelines" => Some(json!({"document": "pipeline: made"})),
        "/api/v1/pipelines/none/savepoints"
        | "/api/v1/pipelines/none/savepoints/none/restore"
        | "/api/v1/pipelines/none/deadletters/replay"
        | "/api/v1/pipelines/none/deadletters/purge" => Some(json!({})),
        "/api/v1/tenants" => Some(json!({"id": "made"})),
        "/api/v1/tenants/{id}" => Some(json!({"name": "x"})),
        "/api/v1/tenants/{id}/keys" => Some(json!({"scopes": ["admin"]})),
        _ => None,
    }
}

struct Keys {
    ingest: String,
    query: String,
    tenant_admin: String,
    revoked: String,
    deleted: String,
}

async fn keys(server: &Whole) -> Keys {
    for tenant in ["own", "other", "gone"] {
        server.tenant(tenant, json!({})).await;
    }
    let revoked = server.key("own", &["ingest", "query", "admin"]).await;
    let id = revoked.split('_').nth(2).unwrap().to_owned();
    server.call(Method::DELETE, &format!("/api/v1/tenants/own/keys/{id}"), &server.admin, None).await.expect(204);
    let deleted = server.key("gone", &["ingest", "query", "admin"]).await;
    server.call(Method::DELETE, "/api/v1/tenants/gone", &server.admin, None).await.expect(204);
    Keys {
        ingest: server.key("own", &["ingest"]).await,
        query: server.key("own", &["query"]).await,
        tenant_admin: server.key("own", &["admin"]).await,
        revoked,
        deleted,
    }
}

/// The reply without what differs between any two requests.
fn comparable(reply: &crate::whole::Reply) -> (u16, String) {
    let mut body: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    if let Some(object) = body.as_object_mut() {
        object.remove("request_id");
    }
    (reply.status.as_u16(), body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_with_every_key() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let keys = keys(&server).await;
    let invalid = [
        "weir_key_000000000000_0000000000000000000000000000000000000000000000000",
        "nonsense",
        &keys.revoked,
        &keys.deleted,
    ];
    for (method, path, access) in listed() {
        // Tails never end by themselves, and have their own test.
        if path.starts_with("/api/v1/tail") {
            continue;
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let concrete = path
            .replace("{call}", "track")
            .replace("{id}", "own")
            .replace("{key}", "000000000000")
            .replace("{stream}", "events")
            .replace("{name}", "none")
            .replace("{label}", "none")
            .replace("{write_key}", "nonsense");
        let call = async |key: &str, path: &str| server.call(method.clone(), path, key, body(&path_of(path))).await;
        fn path_of(concrete: &str) -> String {
            if concrete.starts_with("/v1/track") {
                return "/v1/{call}".to_owned();
            }
            match concrete.split('/').collect::<Vec<_>>().as_slice() {
                ["", "api", "v1", "tenants", _] => "/api/v1/tenants/{id}".to_owned(),
                ["", "api", "v1", "tenants", _, "keys"] => "/api/v1/tenants/{id}/keys".to_owned(),
                _ => concrete.to_owned(),
            }
        }
        if matches!(access, Access::Anyone | Access::WriteKey) {
            let expected =
                if access == Access::Anyone || path.starts_with("/sourceConfig") { [200, 400] } else { [404, 404] };
            let reply = call("", &concrete).await;
            assert!(expected.contains(&reply.status.as_u16()), "{method} {path}: {reply:?}");
            continue;
        }
        // Without a key and with any invalid one: the same refusal, whatever the reason.
        let nobody = comparable(&call("", &concrete).await);
        assert_eq!(nobody.0, 401, "{method} {path} without a key");
        for key in invalid {
            let mut reply = comparable(&call(key, &concrete).await);
            // So many invalid keys from one address that it has to wait for the last of them.
            while reply.0 == 429 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                reply = comparable(&call(key, &concrete).await);
            }
            assert_eq!(reply, nobody, "{method} {path} with an invalid key");
        }
        let status = async |key: &str| call(key, &concrete).await.status.as_u16();
        let (ingest, query, tenant_admin) =
            (status(&keys.ingest).await, status(&keys.query).await, status(&keys.tenant_admin).await);
        let refused = |status: u16| status == 403;
        let answered = |status: u16| ![401, 403].contains(&status);
        match access {
            Access::Ingest => assert!(
                answered(ingest) && refused(query) && refused(tenant_admin),
                "{method} {path}: {ingest} {query} {tenant_admin}"
            ),
            Access::Query => assert!(
                refused(ingest) && answered(query) && refused(tenant_admin),
                "{method} {path}: {ingest} {query} {tenant_admin}"
            ),
            Access::OwnTenant => {
                assert!(answered(ingest) && answered(query) && answered(tenant_admin), "{method} {path}")
            }
            Access::Admin | Access::TenantAdmin => assert!(
                refused(ingest) && refused(query) && answered(tenant_admin),
                "{method} {path}: {ingest} {query} {tenant_admin}"
            ),
            Access::Administrator => {
                assert!(refused(ingest) && refused(query) && refused(tenant_admin), "{method} {path}");
            }
            Access::Anyone | Access::WriteKey => unreachable!(),
        }
        // Another tenant's things, and things that are nobody's: the same answer to the letter.
        if path.contains("{id}") {
            for key in [&keys.ingest, &keys.query, &keys.tenant_admin] {
                let others = comparable(&call(key, &concrete.replace("/own", "/other")).await);
                for absent in ["/absent", "/gone", "/%6fther", "/..%2fother", "/OTHER", "/%256fther"] {
                    let nothing = comparable(&call(key, &concrete.replace("/own", absent)).await);
                    assert_eq!(nothing.0, 404, "{method} {path} {absent}");
                    assert_eq!(nothing, others, "{method} {path} {absent}");
                }
            }
        }
    }
    // Nothing above may have touched the other tenant.
    let other = server.get("/api/v1/tenants/other", &server.admin).await.expect(200).json();
    assert_eq!(other["name"], "other");
    assert_eq!(server.get("/api/v1/tenants/other/keys", &server.admin).await.expect(200).json(), json!({"keys": []}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_chosen_by_the_key_alone() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let shop = server.tenant_with_key("shop").await;
    let blog = server.tenant_with_key("blog").await;
    let canary = json!({"events": [{"type": "custom", "name": "canary-of-blog", "user_id": "blogger"}]});
    server.post("/ingest", &blog, canary).await.expect(200);

    // A tenant named anywhere but in the key must agree with it.
    let named = json!({"tenant_id": "blog", "events": [{"type": "pageview"}]});
    assert_eq!(server.post("/ingest", &shop, named).await.status, 403);
    let row_named =
        json!({"events": [{"type": "pageview", "tenant_id": "blog"}, {"type": "pageview", "tenant_id": "shop"}]});
    let reply = server.post("/ingest", &shop, row_named).await.expect(200).json();
    assert_eq!(reply["errors"][0]["code"], "wrong_tenant");
    assert_eq!((reply["stored"].as_u64(), reply["rejected"].as_u64()), (Some(1), Some(1)));
    let request = |tenant: &str, key: &str| {
        http::Request::post("/api/v1/query")
            .header("authorization", format!("Bearer {key}"))
            .header("x-weir-tenant", tenant)
            .body(http_body_util::Full::new(bytes::Bytes::from(r#"{"sql":"select count(*) from events"}"#)))
            .unwrap()
    };
    // An administrator's rows are somebody's, too.
    let rows = json!({"events": [{"type": "pageview"}]});
    assert_eq!(server.post("/ingest", &server.admin, rows).await.expect(400).json()["code"], "tenant_needed");
    // What is no path is a problem like any other.
    let wrong = server.get("/api/v1/tenants/%ff", &server.admin).await.expect(400);
    assert_eq!(wrong.headers["content-type"], "application/problem+json");
    assert_eq!((&wrong.json()["pointer"], wrong.json()["request_id"].is_string()), (&json!("the path"), true));
    assert_eq!(server.send(request("blog", &shop)).await.status, 403);
    assert_eq!(server.send(request("absent", &shop)).await.status, 403);
    server.send(request("shop", &shop)).await.expect(200);
    assert_eq!(server.send(request("absent", &server.admin)).await.status, 404);
    assert_eq!(server.send(request("blog", &server.admin)).await.expect(200).json()["rows"], json!([[1]]));

    // No way of naming the other tenant's table in SQL finds anything.
    for sql in [
        "select * from blog.events",
        "select * from blog.public.events",
        "select * from weir.blog.events",
        "select * from system.public.logs",
        "select * from '/etc/passwd'",
        "select * from read_parquet('../blog/events')",
        "create external table x stored as parquet location '/tmp'",
        "copy (select 1) to '/tmp/x.parquet'",
        "set datafusion.execution.batch_size = 1",
        "select * from information_schema.df_settings",
    ] {
        let reply = server.post("/api/v1/query", &shop, json!({"sql": sql})).await;
        assert_eq!(reply.status, 400, "{sql}: {reply:?}");
        let text = String::from_utf8_lossy(&reply.body).to_lowercase();
        assert!(!text.contains("canary") && !text.contains("blogger") && !text.contains("/tmp/."), "{sql}: {text}");
    }
    assert_eq!(server.query(&shop, "select count(*) from events where name = 'canary-of-blog'").await, json!([[0]]));
    // Metrics: without a key no tenant is named, with a tenant's key only its own.
    let open = server.get("/metrics", "").await.expect(200);
    assert!(!String::from_utf8_lossy(&open.body).contains("blog"));
    let own = server.get("/metrics", &shop).await.expect(200);
    let own = String::from_utf8_lossy(&own.body).into_owned();
    assert!(own.contains("tenant=\"shop\"") && !own.contains("blog"), "{own}");
    let all = server.get("/metrics", &server.admin).await.expect(200);
    assert!(String::from_utf8_lossy(&all.body).contains("tenant=\"blog\""));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_end_at_once_and_never_grow() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    server.tenant("shop", json!({})).await;
    let admin = server.key("shop", &["admin", "query"]).await;
    // A key makes keys that allow at most what it allows itself.
    let wider = server.post("/api/v1/tenants/shop/keys", &admin, json!({"scopes": ["ingest"]})).await;
    assert_eq!(wider.status, 403, "{wider:?}");
    let made = server.post("/api/v1/tenants/shop/keys", &admin, json!({"scopes": ["query"]})).await.expect(201).json();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    server.post("/api/v1/query", key, json!({"sql": "select 1"})).await.expect(200);
    server.call(Method::DELETE, &format!("/api/v1/tenants/shop/keys/{id}"), &admin, None).await.expect(204);
    assert_eq!(server.post("/api/v1/query", key, json!({"sql": "select 1"})).await.status, 401);
    // Nor longer than it lives itself.
    let bound = "2099-01-01T00:00:00Z";
    let until = json!({"scopes": ["admin", "query"], "expires_at": bound});
    let made = server.post("/api/v1/tenants/shop/keys", &admin, until).await.expect(201).json();
    let mortal = made["key"].as_str().unwrap();
    for (asked, expected) in
        [(None, bound), (Some("2100-01-01T00:00:00Z"), bound), (Some("2098-01-01T00:00:00Z"), "2098-01-01T00:00:00Z")]
    {
        let body = json!({"scopes": ["query"], "expires_at": asked});
        let made = server.post("/api/v1/tenants/shop/keys", mortal, body).await.expect(201).json();
        let expires_at = made["expires_at"].as_str().unwrap();
        assert!(expires_at.starts_with(expected.trim_end_matches('Z')), "{asked:?}: {made}");
    }
    // A key that has expired already cannot be made; lists never show a key.
    let expired = json!({"scopes": ["query"], "expires_at": "2020-01-01T00:00:00Z"});
    assert_eq!(server.post("/api/v1/tenants/shop/keys", &admin, expired).await.status, 400);
    let list = server.get("/api/v1/tenants/shop/keys", &admin).await.expect(200);
    assert!(!String::from_utf8_lossy(&list.body).contains("weir_key_"));
    // All the ways to send a key.
    for (name, value) in [
        ("authorization", format!("Bearer {admin}")),
        ("authorization", crate::whole::basic(&admin)),
        ("x-api-key", admin.clone()),
        ("x-api-key", format!("shop:{admin}")),
    ] {
        let request = http::Request::post("/api/v1/query")
            .header(name, value)
            .body(http_body_util::Full::new(bytes::Bytes::from(r#"{"sql":"select 1"}"#)))
            .unwrap();
        server.send(request).await.expect(200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_with_a_tenant_or_a_key_is_told_at_once() {
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let admin = server.admin.clone();
    server.tenant("shop", json!({})).await;
    let told = async |method: Method, path: &str, body: Value| {
        let problem = server.call(method, path, &admin, Some(body)).await.expect(400).json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let settings = json!({"allowed_origins": ["shop"], "sessions": {"gap": "2d"}});
    let limits = json!({"retention_by_stream": {"span": "3d"}});
    // Of its shape, and of what it says.
    let expected =
        ["/colour", "/tier", "/id", "/limits/bodies", "/settings/allowed_origins/0", "/settings/sessions/gap"];
    let body = json!({"id": "No Id", "tier": "gold", "colour": 1, "limits": {"bodies": 1}, "settings": settings});
    assert_eq!(told(Method::POST, "/api/v1/tenants", body).await, expected);
    let expected =
        ["/name", "/limits/retention_by_stream/span", "/settings/allowed_origins/0", "/settings/sessions/gap"];
    let body = json!({"id": "new", "name": 1, "limits": limits, "settings": settings});
    assert_eq!(told(Method::POST, "/api/v1/tenants", body).await, expected);
    let body = json!({"name": [], "limits": limits, "settings": {"durability": "paper"}});
    let expected = ["/name", "/settings/durability", "/limits/retention_by_stream/span"];
    assert_eq!(told(Method::PATCH, "/api/v1/tenants/shop", body).await, expected);
    let body = json!({"scopes": ["all"], "name": 1, "expires_at": "soon"});
    let expected = ["/name", "/scopes/0", "/expires_at"];
    assert_eq!(told(Method::POST, "/api/v1/tenants/shop/keys", body).await, expected);
    let body = json!({"scopes": [], "expires_at": "2001-01-01T00:00:00Z"});
    assert_eq!(told(Method::POST, "/api/v1/tenants/shop/keys", body).await, ["/scopes", "/expires_at"]);
    assert_eq!(server.get("/api/v1/tenants/new", &admin).await.status, 404);
    server.stop().await;
}

#[tokio::test]
async fn the_administrators_key_is_replaced_and_the_last_one_stays() {
    const KEYS: &str = "/api/v1/tenants/system/keys";
    let id_of = |key: &str| key.split('_').nth(2).unwrap().to_owned();
    let dir = TempDir::new().unwrap();
    let server = start(&dir).await;
    let (first, path) = (server.admin.clone(), |id: &str| format!("{KEYS}/{id}"));
    let refused = server.call(Method::DELETE, &path(&id_of(&first)), &first, None).await.expect(409).json();
    assert!(refused["detail"].as_str().unwrap().contains("last administrator's key"), "{refused}");

    let made = server.post(KEYS, &first, json!({"scopes": ["ingest", "query", "admin"]})).await.expect(201).json();
    assert_eq!(made["kind"], "admin");
    let second = made["key"].as_str().unwrap();
    server.call(Method::DELETE, &path(&id_of(&first)), second, None).await.expect(204);
    server.get("/api/v1/tenants", &first).await.expect(401);
    server.get("/api/v1/tenants", second).await.expect(200);
    server.call(Method::DELETE, &path(&id_of(second)), second, None).await.expect(409);
    // Without the scope it is a key of the tenant, as of any other.
    let made = server.post(KEYS, second, json!({"scopes": ["query"]})).await.expect(201).json();
    assert_eq!(made["kind"], "key");
    server.get("/api/v1/tenants", made["key"].as_str().unwrap()).await.expect(403);

    // Every key is lost, and who has the directory makes another.
    let data = dir.path().join("data");
    assert!(weir_server::stopped::Stopped::open(&data).is_err(), "the server runs");
    let second = second.to_owned();
    server.stop().await;
    weir_server::stopped::Stopped::open(&data).unwrap().unwrap().renew_admin_key(&data).unwrap();
    let server = start(&dir).await;
    assert!(![&first, &second].contains(&&server.admin));
    server.get("/api/v1/tenants", &server.admin).await.expect(200);
    server.get("/api/v1/tenants", &second).await.expect(200);
    server.stop().await;
}
