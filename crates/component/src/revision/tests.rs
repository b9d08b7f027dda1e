use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::*;
use crate::Batch;

fn revision(number: i64, is_final: bool, is_retracted: bool) -> Revision {
    Revision { number, is_final, is_retracted }
}

fn batch(revisions: &[Revision]) -> Batch {
    let numbers: ArrayRef = Arc::new((0..).take(revisions.len()).collect::<Int64Array>());
    let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let times: Vec<i64> = (0..).map(|row| 100 * row).take(revisions.len()).collect();
    Batch { revisions: Some(revisions.iter().copied().collect()), ..Batch::new(rows, times.into()) }
}

#[test]
fn what_is_packed_comes_out_again() {
    let said: Vec<Revision> = [i64::MIN >> MARKS, -1, 1, 2, 3_000_000_000, i64::MAX >> MARKS]
        .into_iter()
        .flat_map(|number| {
            [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| revision(number, a, b))
        })
        .collect();
    let packed: Revisions = said.iter().copied().collect();
    assert_eq!(packed.iter().collect::<Vec<_>>(), said);
    let finals = packed.finals();
    for (row, said) in said.iter().enumerate() {
        assert_eq!(finals.value(row), said.is_final && !said.is_retracted);
    }
}

#[test]
fn they_go_with_their_rows() {
    let all = [revision(1, false, false), revision(2, false, true), revision(7, true, false)];
    let whole = batch(&all);
    let check = |batch: &Batch, rows: &[usize]| {
        let said: Vec<Revision> = batch.revisions.as_ref().unwrap().iter().collect();
        assert_eq!(said, rows.iter().map(|row| all[*row]).collect::<Vec<_>>());
    };
    check(&whole.slice(1, 2), &[1, 2]);
    check(&whole.filter(&BooleanArray::from(vec![true, false, true])).unwrap(), &[0, 2]);
    check(&whole.take(&vec![2, 0].into()).unwrap(), &[2, 0]);
    check(&Batch::concat(whole.rows.schema_ref(), [&whole.slice(2, 1), &whole.slice(0, 1)]).unwrap(), &[2, 0]);
    check(&whole.clone().with_rows(whole.rows.clone()), &[0, 1, 2]);
    // Rows that were never revised, among others.
    let plain = Batch { revisions: None, ..whole.slice(0, 1) };
    let both = Batch::concat(whole.rows.schema_ref(), [&plain, &whole.slice(1, 1)]).unwrap();
    let said: Vec<Revision> = both.revisions.unwrap().iter().collect();
    assert_eq!(said, [revision(1, true, false), all[1]]);
}

#[test]
fn only_final_results_are_left_without_a_key() {
    let whole = batch(&[revision(1, false, false), revision(2, true, true), revision(3, true, false)]);
    let finals = whole.finals().unwrap();
    assert_eq!(finals.rows.column(0).as_primitive::<Int64Type>().values().as_ref(), [2]);
    assert!(finals.revisions.is_none());
}

#[test]
fn columns_say_what_rows_carry() {
    let whole = batch(&[revision(1, false, false), revision(4, true, true)]);
    let schema = with_columns(whole.rows.schema_ref());
    let text = |revisions: Option<&Revisions>| {
        let rows = in_columns(&schema, &whole.rows, &whole.times, revisions).unwrap();
        arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string()
    };
    expect_test::expect![[r#"
        +---+----------+----------+-----------+
        | n | is_final | revision | retracted |
        +---+----------+----------+-----------+
        | 0 | false    | 1        | false     |
        | 1 | true     | 4        | true      |
        +---+----------+----------+-----------+"#]]
    .assert_eq(&text(whole.revisions.as_ref()));
    // What no window has put out.
    expect_test::expect![[r#"
        +---+----------+----------+-----------+
        | n | is_final | revision | retracted |
        +---+----------+----------+-----------+
        | 0 | true     | 0        | false     |
        | 1 | true     | 100      | false     |
        +---+----------+----------+-----------+"#]]
    .assert_eq(&text(None));
}

#[test]
fn a_result_that_is_not_kept_is_taken_back_if_it_was_there() {
    let whole = batch(&[
        revision(1, false, false),
        revision(1, true, false),
        revision(2, false, false),
        revision(3, true, false),
        revision(4, true, true),
        revision(1, true, true),
    ]);
    let rows = |batch: &Batch| -> Vec<(i64, Revision)> {
        let numbers = batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
        numbers.into_iter().zip(batch.revisions.as_ref().unwrap().iter()).collect()
    };
    let none = whole.keep(&BooleanArray::from(vec![false; 6])).unwrap();
    assert_eq!(
        rows(&none),
        [(2, revision(2, false, true)), (3, revision(3, true, true)), (4, revision(4, true, true))]
    );
    let kept = whole.keep(&BooleanArray::from(vec![true, false, true, false, false, false])).unwrap();
    let expected = [
        (0, revision(1, false, false)),
        (2, revision(2, false, false)),
        (3, revision(3, true, true)),
        (4, revision(4, true, true)),
    ];
    assert_eq!(rows(&kept), expected);
    // Rows that are no results are kept or not.
    let plain = Batch { revisions: None, ..whole };
    assert_eq!(plain.keep(&BooleanArray::from(vec![true, false, true, false, false, false])).unwrap().len(), 2);
}
