#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;

use weir_base::Timestamp;

use super::columns::IdMaker;
use super::{ENRICHED_COLUMNS, FLOAT_COLUMNS, TEXT_COLUMNS, TextColumn, keep_last, pointer_token};
use crate::json_reader::Value;

/// The decoder builds columns by position, so the positions must be those of the schema.
#[test]
fn columns_stand_where_the_schema_has_them() {
    let schema = &weir_data::streams::stream("events").unwrap().schema;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names[..3], ["time", "received_at", "time_flag"]);
    let texts = &names[3..3 + TEXT_COLUMNS];
    assert_eq!(
        (texts[0], texts[TextColumn::GroupId as usize], texts[TextColumn::UserAgent as usize], texts[TEXT_COLUMNS - 1]),
        ("event_id", "group_id", "user_agent", "selector")
    );
    let floats = &names[3 + TEXT_COLUMNS..][..FLOAT_COLUMNS];
    assert_eq!(floats, ["x", "y", "depth", "ttfb_ms", "fcp_ms", "lcp_ms", "inp_ms", "load_ms", "cls"]);
    let rest = &names[3 + TEXT_COLUMNS + FLOAT_COLUMNS..];
    assert_eq!(rest[..ENRICHED_COLUMNS], ["country", "city", "browser", "os", "device", "is_bot"]);
    assert_eq!(rest[ENRICHED_COLUMNS..], ["sent_at", "properties", "context"]);
}

#[test]
fn the_last_of_equal_keys_stays() {
    for count in [3, 10, 100] {
        let numbers: Vec<String> = (0..count).map(|number: usize| number.to_string()).collect();
        let mut entries: Vec<(Cow<'_, str>, Value<'_>)> =
            numbers.iter().map(|number| (Cow::Owned(format!("k{}", number.len())), Value::Number(number))).collect();
        entries.push((Cow::Borrowed("single"), Value::Null));
        keep_last(&mut entries);
        let lengths = (count - 1).to_string().len();
        assert_eq!(entries.len(), lengths + 1, "{count}");
        assert_eq!(entries[lengths - 1].1.raw(), (count - 1).to_string());
    }
}

#[test]
fn made_ids_are_version_7_and_count_up() {
    let at = Timestamp::from_millis(1_700_000_000_000);
    let mut maker = IdMaker { next: Some(u128::MAX) };
    let ids: Vec<uuid::Uuid> = (0..3).map(|_| maker.make(at)).collect();
    assert!(ids.iter().all(|id| id.get_version_num() == 7));
    assert!(ids[1] < ids[2] && ids[0] != ids[1]);
    let other = IdMaker::default().make(at);
    assert!(!ids.contains(&other));
}

#[test]
fn pointer_tokens_are_escaped() {
    assert_eq!(pointer_token("a/b~c"), "a~1b~0c");
    assert_eq!(pointer_token(&"x".repeat(1000)).len(), 128);
}
