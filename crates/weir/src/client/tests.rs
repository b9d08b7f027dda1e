#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::failure::exit_code;

#[test]
fn problem_documents_become_a_message_with_a_hint() {
    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let refused = Refused::new(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(refused.to_string(), expected);
    }
    check(
        400,
        r#"{"type":"urn:weir:problem:input","title":"Bad Request","status":400,"code":"input",
            "detail":"no column `tiem`","pointer":"/sql","hint":"did you mean `time`?","new_field":1}"#,
        "no column `tiem`, at /sql [input]\n  hint: did you mean `time`?",
    );
    check(
        429,
        r#"{"type":"urn:weir:problem:limit","title":"Too Many Requests","status":429,"code":"limit",
            "detail":"over rows_per_second","retry_after":2,"errors":[{"pointer":"/a","detail":"b","hint":"c"}]}"#,
        "over rows_per_second [limit]\n  /a: b (c)\n  try again in 2 s",
    );
    check(
        400,
        r#"{"type":"urn:weir:problem:input","title":"Bad Request","status":400,"code":"input",
            "detail":"there is no column `x` at line 1, column 26; did you mean `y`?","pointer":"line 1 column 26"}"#,
        "there is no column `x` at line 1, column 26; did you mean `y`? [input]",
    );
    check(502, "<html>bad gateway</html>", "the server answered 502 (Bad Gateway)");
    check(500, r#"["not", "a", "problem"]"#, "the server answered 500 (Internal Server Error)");
}

#[test]
fn a_path_segment_cannot_leave_its_place() {
    for (text, expected) in
        [("shop-1", "shop-1"), ("../x", "..%2Fx"), ("a b?c#d", "a%20b%3Fc%23d"), ("é", "%C3%A9"), ("a%2f", "a%252f")]
    {
        assert_eq!(path_segment(text), expected);
    }
}

#[test]
fn a_server_that_cannot_be_named_is_a_wrong_argument() {
    for url in ["localhost:8080", "ftp://x", "http://", "not a url"] {
        let target = Target { url: Some(url.to_owned()), key: Some("k".to_owned()), ..Target::default() };
        let error = Api::new(&target, None).unwrap_err();
        assert_eq!(exit_code(&error), 2, "{url}: {error:#}");
    }
    let target = Target { url: Some("http://x:1/".to_owned()), key: Some("k".to_owned()), ..Target::default() };
    assert_eq!(Api::new(&target, None).unwrap().base(), "http://x:1");
    assert_eq!(exit_code(&Api::new(&target, Some("Not-A-Tenant")).unwrap_err()), 2);
    let target = Target { url: Some("http://x:1".to_owned()), data_dir: "/nonexistent".into(), ..Target::default() };
    assert_eq!(exit_code(&Api::new(&target, None).unwrap_err()), 2, "an address without a key");
}

#[test]
fn the_local_server_is_found_through_its_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target { data_dir: dir.path().to_owned(), ..Target::default() };
    let error = Api::new(&target, None).unwrap_err();
    assert_eq!(exit_code(&error), 1);
    assert!(format!("{error:#}").contains("weir serve --data-dir"), "{error:#}");
    std::fs::write(
        dir.path().join("addresses.json"),
        r#"{"http":"127.0.0.1:18080","otlp_grpc":"127.0.0.1:14317","otlp_http":"127.0.0.1:14318"}"#,
    )
    .unwrap();
    assert!(Api::new(&target, None).unwrap_err().to_string().contains("admin.key"));
    std::fs::write(dir.path().join("admin.key"), "weir_adm_x\n").unwrap();
    let api = Api::new(&target, None).unwrap();
    assert_eq!((api.base(), api.key.expose().as_str()), ("http://127.0.0.1:18080", "weir_adm_x"));
}
