#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// Entries of one row, in order; `None` is a null map.
type Row = Option<Vec<(String, String)>>;

fn logs() -> &'static StreamDef {
    streams::stream("logs").unwrap()
}

fn column(rows: &[Row]) -> ArrayRef {
    let mut builder = MapBuilder::with_capacity(rows.len());
    for row in rows {
        for (key, value) in row.iter().flatten() {
            builder.push(key, value);
        }
        builder.end_row(row.is_some()).unwrap();
    }
    builder.finish().unwrap()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let field = logs().schema.field_with_name("attributes").unwrap().clone();
    RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column(rows)]).unwrap()
}

/// The rows of a map column, entries in the order of their keys (repeated keys in their own order).
fn rows(batch: &RecordBatch) -> Vec<Row> {
    let maps = Maps::of(batch.column_by_name("attributes").unwrap()).unwrap();
    (0..batch.num_rows())
        .map(|row| {
            maps.array.is_valid(row).then(|| {
                let entry = |at: usize| (maps.keys.value(at).to_owned(), maps.values.value(at).to_owned());
                let mut entries: Vec<_> = maps.entries(row).map(entry).collect();
                entries.sort_by(|left, right| left.0.cmp(&right.0));
                entries
            })
        })
        .collect()
}

fn sorted(rows: &[Row]) -> Vec<Row> {
    let mut rows = rows.to_vec();
    for row in rows.iter_mut().flatten() {
        row.sort_by(|left, right| left.0.cmp(&right.0));
    }
    rows
}

fn key(key: &str, kind: AttributeKind) -> PromotedKey {
    PromotedKey {
        column: "attributes".to_owned(),
        key: key.to_owned(),
        kind: kind.as_str().to_owned(),
        file_column: format!("attributes.{key}"),
    }
}

/// Promotes and answers what is left in the map and what the column of `k` shows.
fn promoted(kind: AttributeKind, json: &str) -> (usize, Option<String>) {
    let keys = [key("k", kind)];
    let before = batch(&[Some(vec![("k".to_owned(), json.to_owned())])]);
    let schema = file_schema(&before.schema(), &keys);
    let after = promote(&before, &keys, &schema).unwrap();
    let shown = arrow::util::display::array_value_to_string(after.column(1), 0).unwrap();
    let shown = after.column(1).is_valid(0).then_some(shown);
    let left = Maps::of(after.column(0)).unwrap().entries(0).len();
    assert_eq!(rows(&restore(&after, &keys, Some(logs())).unwrap()), rows(&before), "{json}");
    (left, shown)
}

#[test]
fn values_leave_the_map_only_if_the_column_says_it_all() {
    use AttributeKind::{Bool, Number, Text};
    let check = |kind, json: &str, left: usize, shown: Option<&str>| {
        assert_eq!(promoted(kind, json), (left, shown.map(str::to_owned)), "{json} as {kind:?}");
    };
    check(Bool, "true", 0, Some("true"));
    check(Bool, "1", 1, None);
    check(Bool, "null", 1, None);
    check(Number, "200", 0, Some("200.0"));
    check(Number, "-7", 0, Some("-7.0"));
    check(Number, "0.5", 0, Some("0.5"));
    check(Number, "1e300", 0, Some("1e300"));
    check(Number, "9007199254740992", 0, Some("9007199254740992.0"));
    // Read as numbers, but written in another way than the column would be.
    check(Number, "1.0", 1, Some("1.0"));
    check(Number, "-0.0", 1, Some("-0.0"));
    check(Number, "9007199254740993", 1, Some("9007199254740992.0"));
    check(Number, "1E2", 1, Some("100.0"));
    check(Number, "\"200\"", 1, None);
    check(Number, "true", 1, None);
    check(Number, "NaN", 0, Some("NaN"));
    check(Text, "\"red\"", 0, Some("red"));
    check(Text, "\"\"", 0, Some(""));
    check(Text, "\"a\\\"b\\n\"", 0, Some("a\"b\n"));
    check(Text, "\"\\u00e9\"", 1, Some("é"));
    check(Text, "[1,2]", 1, Some("[1,2]"));
    check(Text, "\"[1,2]\"", 0, Some("[1,2]"));
    check(Text, "{\"a\":1}", 1, Some("{\"a\":1}"));
    check(Text, "5", 1, None);
    check(Text, "null", 1, None);
}

#[test]
fn null_and_empty_maps_stay_apart() {
    let keys = [key("k", AttributeKind::Number)];
    let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let before = batch(&[
        None,
        Some(vec![]),
        Some(vec![entry("k", "1")]),
        Some(vec![entry("k", "1"), entry("z", "2")]),
        Some(vec![entry("k", "1"), entry("k", "2")]),
        Some(vec![entry("k", "\"text\""), entry("k", "2")]),
    ]);
    let schema = file_schema(&before.schema(), &keys);
    let after = promote(&before, &keys, &schema).unwrap();
    let numbers = after.column(1).as_primitive::<Float64Type>();
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [None, None, Some(1.0), Some(1.0), Some(1.0), None]);
    assert_eq!(rows(&restore(&after, &keys, Some(logs())).unwrap()), rows(&before));
}

#[test]
fn frequent_keys_with_a_kind_are_chosen() {
    let all: Vec<Row> = (0..100)
        .map(|row| {
            let mut entries = vec![("always".to_owned(), "1".to_owned()), ("unknown".to_owned(), "1".to_owned())];
            if row % 9 == 0 {
                entries.push(("often".to_owned(), "true".to_owned()));
            }
            if row % 13 == 0 {
                entries.push(("seldom".to_owned(), "1".to_owned()));
            }
            Some(entries)
        })
        .collect();
    let batches = [batch(&all)];
    let at: Vec<RowAt> = (0..100).map(|row| (0, row)).collect();
    let kind = |_: &str, key: &str| match key {
        "unknown" => None,
        "often" => Some(AttributeKind::Bool),
        _ => Some(AttributeKind::Number),
    };
    let names = |keys_max: usize| -> Vec<String> {
        choose(logs(), &batches, &at, keys_max, &kind).into_iter().map(|key| key.file_column).collect()
    };
    assert_eq!(names(10), ["attributes.always", "attributes.often"]);
    assert_eq!(names(1), ["attributes.always"]);
    assert_eq!(names(0), [""; 0]);
}

fn any_json() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("NaN".to_owned()),
        Just("-Infinity".to_owned()),
        any::<i64>().prop_map(|value| value.to_string()),
        (-20..20_i64).prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| {
            let mut out = String::new();
            json::write_f64(&mut out, value);
            out
        }),
        "-?[0-9]{1,18}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        any::<String>().prop_map(|value| {
            let mut out = String::new();
            json::write_string(&mut out, &value);
            out
        }),
        Just("\"\\u0041\"".to_owned()),
        Just("[\"a\"]".to_owned()),
        Just("{}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What is restored is what was there, whatever was promoted, and the columns read as the map
    /// would have.
    #[test]
    fn rows_in_are_rows_out(
        all in prop::collection::vec(
            prop::option::weighted(0.8, prop::collection::vec(("[a-e]", any_json()), 0..6)),
            0..20,
        ),
        kinds in prop::collection::btree_map("[a-f]", 0..3_usize, 0..5),
    ) {
        let kinds: Vec<(String, AttributeKind)> = kinds
            .into_iter()
            .map(|(name, kind)| (name, [AttributeKind::Bool, AttributeKind::Number, AttributeKind::Text][kind]))
            .collect();
        let keys: Vec<PromotedKey> = kinds.iter().map(|(name, kind)| key(name, *kind)).collect();
        let before = batch(&all);
        let schema = file_schema(&before.schema(), &keys);
        let after = promote(&before, &keys, &schema).unwrap();
        prop_assert_eq!(rows(&restore(&after, &keys, Some(logs())).unwrap()), sorted(&all));
        for (at, (name, kind)) in kinds.iter().enumerate() {
            for (row, entries) in all.iter().enumerate() {
                let first = entries.iter().flatten().find(|(key, _)| key == name).map(|(_, json)| json.as_str());
                let column = after.column(at + 1);
                match kind {
                    AttributeKind::Bool => {
                        let column = column.as_boolean();
                        prop_assert_eq!(column.is_valid(row).then(|| column.value(row)), first.and_then(as_bool));
                    }
                    AttributeKind::Number => {
                        let column = column.as_primitive::<Float64Type>();
                        let found = column.is_valid(row).then(|| column.value(row).to_bits());
                        prop_assert_eq!(found, first.and_then(as_number).map(f64::to_bits));
                    }
                    AttributeKind::Text => {
                        let column = column.as_string::<i32>();
                        let found = column.is_valid(row).then(|| column.value(row).to_owned());
                        prop_assert_eq!(found, first.and_then(as_kind_text).map(std::borrow::Cow::into_owned));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// The quick way to a number says nothing else than the slow one.
    #[test]
    fn plain_numbers_are_what_they_read_as(text in "-?(0|[1-9][0-9]{0,16}|0[0-9]|)(\\.[0-9]{0,16})?") {
        if let Some(value) = plain_number(&text) {
            let mut out = String::new();
            write_number(&mut out, value);
            prop_assert_eq!(out, &*text);
            prop_assert_eq!(value.to_bits(), text.parse::<f64>().unwrap().to_bits());
        }
    }
}

#[test]
fn ordinary_numbers_are_plain() {
    for text in ["0", "7", "-7", "0.5", "-0.25", "129.5", "999999999999999", "0.001", "12345678.9012345"] {
        assert_eq!(plain_number(text), text.parse().ok(), "{text}");
    }
    for text in ["-0", "1.0", "1.50", "01", "0.0001", ".5", "5.", "", "-", "1e3", "9999999999999999", "NaN"] {
        assert_eq!(plain_number(text), None, "{text}");
    }
}
