#![allow(clippy::unwrap_used, reason = "tests")]

use super::write_string;

#[test]
fn a_written_string_reads_back_wherever_its_special_bytes_stand() {
    let specials =
        ["\"", "\\", "\n", "\r", "\t", "\u{1}", "\u{1f}", "\u{7f}", "é", "\u{10ffff}", " ", "!", "#", "[", "]"];
    for before in 0..18 {
        for after in 0..10 {
            for special in specials {
                let text = format!("{}{special}{}{special}", "x".repeat(before), "é".repeat(after));
                let mut out = String::from("=");
                write_string(&mut out, &text);
                assert_eq!(serde_json::from_str::<String>(&out[1..]).unwrap(), text, "{out}");
            }
        }
    }
}

#[test]
fn escapes_are_the_short_ones_and_nothing_else_is_escaped() {
    let mut out = String::new();
    write_string(&mut out, "a\"b\\c\nd\re\tf\u{0}g/é\u{7f}");
    assert_eq!(out, "\"a\\\"b\\\\c\\nd\\re\\tf\\u0000g/é\u{7f}\"");
}
