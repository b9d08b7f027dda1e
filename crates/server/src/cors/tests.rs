#![allow(clippy::unwrap_used, reason = "tests")]

use http::{HeaderMap, HeaderValue, Request, Response};

use super::{check, expose, matches, preflight};

#[test]
fn origins_match_as_written_or_by_wildcard() {
    for (allowed, origin, expected) in [
        ("https://shop.example", "https://shop.example", true),
        ("https://Shop.example", "https://shop.example", true),
        ("https://shop.example", "http://shop.example", false),
        ("https://shop.example", "https://shop.example:8443", false),
        ("https://shop.example", "https://shop.example.evil.example", false),
        ("*", "https://anything.example", true),
        ("*", "null", true),
        ("https://*.shop.example", "https://www.shop.example", true),
        ("https://*.shop.example", "https://a.b.shop.example", true),
        ("https://*.shop.example", "https://shop.example", false),
        ("https://*.shop.example", "https://.shop.example", false),
        ("https://*.shop.example", "https://evilshop.example", false),
        ("https://*.shop.example", "http://www.shop.example", false),
        ("https://*.shop.example", "https://evil.example/.shop.example", false),
        ("https://*.shop.example", "https://evil.example?.shop.example", false),
        ("https://*.shop.example", "https://evil.example#é.shop.example", false),
        ("https://*.shop.example:8443", "https://www.shop.example:8443", true),
        ("https://*.shop.example:8443", "https://www.shop.example", false),
        ("https://shop.example", "null", false),
    ] {
        assert_eq!(matches(allowed, origin), expected, "{allowed} {origin}");
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

#[test]
fn a_tenants_list_is_applied_to_pages_of_other_sites_only() {
    let list = ["https://shop.example".to_owned()];
    for (headers, expected) in [
        (headers(&[]), true),
        (headers(&[("origin", "https://shop.example")]), true),
        (headers(&[("origin", "https://other.example")]), false),
        (headers(&[("origin", "null")]), false),
        (headers(&[("origin", "https://weir.example"), ("host", "weir.example")]), true),
        (headers(&[("origin", "https://weir.example"), ("host", "weir.example:8080")]), false),
        (headers(&[("origin", "garbage here"), ("host", "garbage here")]), false),
    ] {
        assert_eq!(check(&list, &headers).is_ok(), expected, "{headers:?}");
        assert!(check(&[], &headers).is_ok(), "an empty list allows every site");
    }
    let problem = check(&list, &headers(&[("origin", "https://other.example")])).unwrap_err();
    assert_eq!((problem.http_status().as_u16(), problem.code_text()), (403, "origin_not_allowed"));
}

#[test]
fn preflights_are_answered_for_everybody_but_not_for_management() {
    let ask = |method: &str, path: &str, lines: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        preflight::<_, ()>(&request.body(()).unwrap())
    };
    let lines = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,anonymousid"),
    ];
    let reply = ask("OPTIONS", "/v1/batch", &lines).unwrap();
    assert_eq!(reply.status().as_u16(), 204);
    assert_eq!(reply.headers()["access-control-allow-origin"], "https://shop.example");
    assert_eq!(reply.headers()["access-control-allow-headers"], "content-type,anonymousid");
    assert_eq!(reply.headers()["access-control-max-age"], "7200");
    assert!(!reply.headers().contains_key("access-control-allow-credentials"));
    // It goes the way of every reply, too.
    let mut headers = reply.headers().clone();
    expose(Some(&HeaderValue::from_static("https://shop.example")), "/v1/batch", false, &mut headers);
    let vary: Vec<_> = headers.get_all("vary").iter().collect();
    assert_eq!(vary, ["origin, access-control-request-headers"]);
    let reply = ask("OPTIONS", "/api/v1/tenants/shop/keys", &lines).unwrap();
    assert!(!reply.headers().contains_key("access-control-allow-origin"));
    assert!(ask("POST", "/v1/batch", &lines).is_none());
    assert!(ask("OPTIONS", "/v1/batch", &lines[..1]).is_none(), "a plain OPTIONS is no preflight");
}

#[test]
fn replies_are_shown_to_the_page_unless_it_was_refused() {
    let origin = HeaderValue::from_static("https://shop.example");
    let shown = |origin: Option<&HeaderValue>, path: &str, is_refused| {
        let mut response = Response::new(());
        expose(origin, path, is_refused, response.headers_mut());
        let headers = response.headers();
        (headers.contains_key("vary"), headers.contains_key("access-control-allow-origin"))
    };
    assert_eq!(shown(None, "/ingest", false), (false, false));
    assert_eq!(shown(Some(&origin), "/ingest", false), (true, true));
    assert_eq!(shown(Some(&origin), "/ingest", true), (true, false));
    assert_eq!(shown(Some(&origin), "/metrics", false), (true, false));
}
