#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{Int64Array, StringViewArray};

use super::*;

/// Large enough to be looked at, in one buffer.
fn texts() -> StringViewArray {
    StringViewArray::from_iter_values((0..1_000).map(|at| format!("a text that is longer than twelve bytes {at:04}")))
        .gc()
}

#[test]
fn texts_are_copied_only_where_most_of_what_they_hold_is_something_else() {
    let all = texts();
    let check = |first: usize, rows: usize, is_copied: bool| {
        let part: ArrayRef = Arc::new(all.slice(first, rows));
        let compact = compacted(&part);
        assert_eq!(&compact, &part, "the values stay");
        let buffers = compact.as_string_view().data_buffers();
        assert_eq!(buffers[0].ptr_eq(&all.data_buffers()[0]), !is_copied, "{rows} of 1000");
        if is_copied {
            assert!(compact.get_buffer_memory_size() < part.get_buffer_memory_size() / 2);
        }
    };
    check(0, 1_000, false);
    check(300, 600, false);
    check(300, 400, true);
    check(999, 1, true);
    let small: ArrayRef = Arc::new(all.slice(0, 100).gc().slice(0, 1));
    let same = compacted(&small);
    let (before, after) = (&small.as_string_view().data_buffers()[0], &same.as_string_view().data_buffers()[0]);
    assert!(before.ptr_eq(after), "4 kB are not worth a copy");
    let other: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert!(Arc::ptr_eq(&compacted(&other), &other));
}
