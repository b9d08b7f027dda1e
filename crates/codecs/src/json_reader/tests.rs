#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::{Reader, Syntax, Text, Value};

fn read(text: &str) -> Result<Value<'_>, Syntax> {
    let mut reader = Reader::new(text);
    let value = reader.value()?;
    reader.end()?;
    Ok(value)
}

#[test]
fn values_and_their_compact_form() {
    let cases = [
        ("null", "null"),
        (" true\n", "true"),
        ("-0.5e+10", "-0.5e+10"),
        ("9223372036854775809", "9223372036854775809"),
        (r#""plain""#, r#""plain""#),
        (r#""a\u0062\/c\n""#, r#""ab/c\n""#),
        (r#""\ud83d\ude00 \u0000""#, "\"\u{1f600} \\u0000\""),
        ("[]", "[]"),
        ("[ ]", "[]"),
        ("{\"a\" : [ 1 , {\t} ] }", "{\"a\":[1,{}]}"),
        (r#"{ "a b": "c \" d", "e\\": " " }"#, r#"{"a b":"c \" d","e\\":" "}"#),
        (r#"{"a": 1}"#, r#"{"a":1}"#),
        (r#"{"a" :1}"#, r#"{"a":1}"#),
        (r#"{"a":1 }"#, r#"{"a":1}"#),
        (r#"[1 ,2]"#, "[1,2]"),
    ];
    for (text, compact) in cases {
        let value = read(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(value.compact(&mut String::new()), compact, "{text}");
    }
}

#[test]
fn what_is_not_json_is_refused_at_its_byte() {
    let cases = [
        ("", 0),
        ("nul", 0),
        ("01", 1),
        ("-", 1),
        ("1.", 2),
        ("1e+", 3),
        ("+1", 0),
        ("NaN", 0),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("{\"a\"}", 4),
        ("{\"a\":1,}", 7),
        ("{a:1}", 1),
        ("[}", 1),
        ("\"\u{1}\"", 1),
        ("\"\\x\"", 1),
        ("\"\\u12g4\"", 1),
        ("\"abc", 4),
        ("1 1", 2),
        ("[[[", 3),
    ];
    for (text, at) in cases {
        assert_eq!(read(text).map_err(|error| error.at), Err(at), "{text}");
    }
}

#[test]
fn nesting_costs_no_stack() {
    let depth = 1_000_000;
    let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(read(&text).unwrap().depth(), depth);
    assert_eq!(read(&"{\"a\":".repeat(depth)).unwrap_err().at, depth * 5);
}

#[test]
fn lone_surrogates_are_seen() {
    for (text, lone) in [
        (r#""\ud83d\ude00""#, false),
        (r#""\ud83d""#, true),
        (r#""\ude00\ud83d""#, true),
        (r#""\ud83d\ud83d\ude00""#, true),
        (r#"[{"a":["\udc00"]}]"#, true),
        (r#"{"\udc00":1}"#, true),
    ] {
        assert_eq!(read(text).unwrap().has_lone_surrogate(), lone, "{text}");
    }
}

#[test]
fn invalid_utf8_and_byte_order_marks() {
    assert_eq!(Reader::of_bytes(b"\"\xff\"").unwrap_err().at, 1);
    assert_eq!(Reader::of_bytes(b"\xef\xbb\xbf1").unwrap().value(), Ok(Value::Number("1")));
}

/// Texts that are JSON, nearly JSON, or made of JSON's tokens.
fn jsonish() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just(" ".to_owned()),
        Just("\"a\"".to_owned()),
        Just("\"\\u00e9\\ud83d\"".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("-1.5e3".to_owned()),
        Just("0".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        proptest::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat()),
        (valid(), any::<proptest::sample::Index>(), any::<char>()).prop_map(|(text, at, new)| {
            let mut characters: Vec<char> = text.chars().collect();
            let at = at.index(characters.len());
            characters[at] = new;
            characters.into_iter().collect()
        }),
    ]
}

/// Valid JSON, spaced and escaped in odd ways.
fn valid() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(|float| format!("{float:e}")),
        any::<i64>().prop_map(|int| int.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        "[a-z ]{0,20}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[ {}]", items.join(" ,"))),
            proptest::collection::vec((any::<String>(), inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, value)| format!("{}\n: {value}", serde_json::to_string(name).unwrap()))
                    .collect();
                format!("{{{}\t}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    /// serde_json is the oracle of what is JSON.
    #[test]
    fn accepts_what_serde_json_accepts(text in jsonish()) {
        let expected = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        prop_assert_eq!(read(&text).is_ok(), expected, "{}", text);
    }

    #[test]
    fn compact_form_says_the_same(text in valid()) {
        let value = read(&text).unwrap();
        let mut scratch = String::new();
        let compact = value.compact(&mut scratch);
        let given: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(compact).unwrap(), given.clone());
        prop_assert!(read(compact).unwrap().compact(&mut String::new()) == compact);
        if let Value::Text(text) = value {
            prop_assert_eq!(Some(&*text.decode()), given.as_str());
        }
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(mut reader) = Reader::of_bytes(&bytes) {
            let _ = reader.value();
        }
    }
}

proptest! {
    /// The quick ways read what the long way reads, or nothing.
    #[test]
    fn plain_values_are_values(
        text in prop_oneof![jsonish(), "[0-9]{0,3}(\\.[0-9]{0,2})?[eE,} x]?".prop_map(|text: String| text)]
    ) {
        let mut long = Reader::new(&text);
        let value = long.any_value();
        let mut quick = Reader::new(&text);
        if let Some(number) = quick.plain_number() {
            prop_assert_eq!(&value, &Ok(Value::Number(number)));
            prop_assert_eq!(quick.at(), long.at());
        } else {
            prop_assert_eq!(quick.at(), 0);
        }
        let mut quick = Reader::new(&text);
        if let Some(quoted) = quick.plain_string() {
            prop_assert_eq!(&value, &Ok(Value::Text(Text::of_plain(quoted))));
            prop_assert_eq!(quick.at(), long.at());
        } else {
            prop_assert_eq!(quick.at(), 0);
        }
    }
}

#[test]
fn ordinary_numbers_are_plain() {
    for (text, plain) in [("1,", Some("1")), ("0.5}", Some("0.5")), ("1763750000123", Some("1763750000123"))] {
        assert_eq!(Reader::new(text).plain_number(), plain);
    }
    for text in ["", "-1", "01", "1.", "1e5", "1.5E1", ".5", " 1", "x"] {
        assert_eq!(Reader::new(text).plain_number(), None, "{text}");
    }
}
