#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn the_nearest_name_is_near() {
    let names = ["time", "severity_text", "service_name", "body"];
    let check = |wanted: &str, expected: Option<&str>| {
        assert_eq!(nearest(wanted, names).as_deref(), expected, "{wanted}");
    };
    check("tiem", Some("time"));
    check("Body", Some("body"));
    check("severity", Some("severity_text"));
    check("servicename", Some("service_name"));
    check("zzz", None);
    // Of two that are as near, the first by name, in whatever order they come.
    assert_eq!(nearest("lot", ["lit", "lat"]).as_deref(), Some("lat"));
    assert_eq!(nearest("lot", ["lat", "lit"]).as_deref(), Some("lat"));
}

#[test]
fn the_function_that_was_meant_is_always_the_same() {
    let said = |name: &str| unknown_function(&format!("Invalid function '{name}'.\nDid you mean 'any'?")).unwrap();
    assert_eq!(said("lenght"), "invalid function 'lenght'. Did you mean 'length'?");
    assert_eq!(said("sim"), "invalid function 'sim'. Did you mean 'sin'?", "and not sum");
    assert_eq!(said("generate_series"), "invalid function 'generate_series'");
    assert_eq!(unknown_function("No function matches"), None);
}

#[test]
fn messages_lose_what_the_engine_puts_around_them() {
    assert_eq!(clean("Error during planning: Execution error: Bad thing"), "bad thing");
    assert_eq!(clean("type_coercion\ncaused by\nError during planning: Cannot infer"), "cannot infer");
    assert_eq!(
        clean(
            "Error during planning: Function 'f' user-defined coercion failed with: Error during planning: Takes one value"
        ),
        "takes one value"
    );
    assert_eq!(clean("UInt8 is weir.public.logs"), "UInt8 is logs");
    let (message, position) = parser_position("Expected: end, found: x at Line: 2, Column: 17");
    assert_eq!(message, "Expected: end, found: x");
    assert_eq!(position, Some(TextPosition { line: 2, column: 17 }));
}

#[test]
fn an_error_of_ours_survives_the_way_through_the_engine() {
    let own = SqlError::Corrupt { message: "file 7 is damaged at 65536".to_owned() };
    let wrapped = DataFusionError::ParquetError(Box::new(parquet::errors::ParquetError::External(Box::new(
        std::io::Error::other(own.clone()),
    ))));
    let context = ErrorContext::alone(1);
    assert_eq!(from_datafusion(&wrapped, context), own);
    let nested = DataFusionError::Context("while reading /srv/weir".to_owned(), Box::new(wrapped));
    assert_eq!(from_datafusion(&nested, context), own);
    let secret = DataFusionError::External("cannot open /srv/weir/tables/other".into());
    assert_eq!(from_datafusion(&secret, context), SqlError::Internal);
}
