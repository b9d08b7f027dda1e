//! The smallest and the largest of numbers among which is a NaN, and what is refused because it would be counted wrongly.

use crate::support::World;

/// A NaN is greater than every number, wherever it stands and however its sign is.
#[tokio::test]
async fn a_nan_is_the_greatest_number_in_any_order() {
    let world = World::new();
    let nan = "cast('NaN' as double)";
    let orders = [
        [nan, "3.0", "9.0", "-5.0"],
        ["3.0", nan, "9.0", "-5.0"],
        ["3.0", "9.0", nan, "-5.0"],
        ["3.0", "9.0", "-5.0", nan],
        ["-5.0", "-cast('NaN' as double)", "3.0", "9.0"],
    ];
    for values in orders {
        for kind in ["double", "real"] {
            let rows: Vec<String> = values.iter().map(|value| format!("('a', cast({value} as {kind}))")).collect();
            let from = format!("from (values {}, ('b', null), ('c', cast(-0.5 as {kind}))) t(g, x)", rows.join(", "));
            // A NaN is null in JSON, so it is asked for.
            let both =
                "min(x), isnan(max(x)), max(x) filter (where not isnan(x)), min(x) filter (where isnan(x)) is null";
            let grouped = format!("select g, {both} {from} group by g order by g");
            let expected = r#"[["a",-5,true,9,false],["b",null,null,null,true],["c",-0.5,false,-0.5,true]]"#;
            assert_eq!(world.rows("acme", &grouped).await.replace(".0", ""), expected, "{grouped}");
            let whole = format!("select {both} {from}");
            assert_eq!(world.rows("acme", &whole).await.replace(".0", ""), "[[-5,true,9,false]]", "{whole}");
            let sliding = format!(
                "select count(*) filter (where isnan(high)), min(low) from (select max(x) over w as high, min(x) over w as low \
                 {from} where g = 'a' window w as (order by x rows between 1 preceding and current row))"
            );
            // A NaN with the sign stands first in an order, and so in the frame of the row after it, too.
            let frames = if values[1].starts_with('-') { 2 } else { 1 };
            let expected = format!("[[{frames},-5]]");
            assert_eq!(world.rows("acme", &sliding).await.replace(".0", ""), expected, "{sliding}");
        }
    }
}

#[tokio::test]
async fn operators_that_count_repeated_rows_are_refused() {
    let world = World::new();
    for (op, sql) in [
        ("EXCEPT", "select 1 except all select 2"),
        ("INTERSECT", "select 1 intersect all select 2"),
        ("EXCEPT", "select 3 union all (select 1 except all select 2)"),
        ("EXCEPT", "select * from (select 3 union select 1 except all select 2)"),
    ] {
        let error = world.json("acme", sql).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{op} ALL is not supported")), "{sql}: {error}");
    }
    assert_eq!(world.rows("acme", "select 1 except select 2").await, "[[1]]");
}
