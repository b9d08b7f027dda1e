//! Queries over several inputs, and those that are more than one row after another.

use expect_test::{Expect, expect};

use super::super::*;
use super::shown_steps;

const COLUMNS: [&str; 4] = ["at", "id", "amount", "items"];

/// Each query with its steps, or what is wrong with it. `orders` and `payments` have the same columns.
fn check(queries: &[&str], expected: Expect) {
    let columns = COLUMNS.map(str::to_owned);
    let of = |name| Input { name, time: Some("at"), columns: Some(&columns), is_table: false };
    let of_table = ["id", "name"].map(str::to_owned);
    let customers = Input { name: "customers", time: None, columns: Some(&of_table), is_table: true };
    let inputs = [of("orders"), of("payments"), customers];
    let text: String = queries.iter().map(|sql| format!("> {sql}\n{}", shown_steps(sql, &inputs))).collect();
    expected.assert_eq(&text);
}

#[test]
fn unions() {
    check(
        &[
            "SELECT at, id FROM orders UNION ALL SELECT at, amount FROM payments WHERE amount > 0",
            "SELECT * FROM orders UNION ALL SELECT * FROM payments UNION ALL (SELECT * FROM orders WHERE id = 1)",
            "SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT at, id FROM orders UNION ALL SELECT at, id FROM payments) GROUP BY 1",
            "SELECT * FROM payments",
            "SELECT id FROM orders UNION SELECT id FROM payments",
            "SELECT id FROM orders UNION ALL SELECT id, at FROM payments",
            "SELECT id FROM orders EXCEPT SELECT id FROM payments",
            "SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT at, id FROM orders UNION ALL SELECT id, at FROM payments) GROUP BY 1",
        ],
        expect![[r#"
            > SELECT at, id FROM orders UNION ALL SELECT at, amount FROM payments WHERE amount > 0
            keep at, id
            filter amount > 0 @1:75=
            keep at, amount
            rename [("amount", "id")]
            union Step(0) and [Step(3)]
            > SELECT * FROM orders UNION ALL SELECT * FROM payments UNION ALL (SELECT * FROM orders WHERE id = 1)
            union Input("orders") and [Input("payments")]
            filter id = 1 @1:93=
            union Step(0) and [Step(1)]
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT at, id FROM orders UNION ALL SELECT at, id FROM payments) GROUP BY 1
            keep at, id
            keep at, id
            union Step(0) and [Step(1)]
            window 3600s from 0ns @1:8
              by 
              select n: count(*) @1:31=
            rename [("window", "w")]
            > SELECT * FROM payments
            keep at, id, amount, items
            > SELECT id FROM orders UNION SELECT id FROM payments
            1:1: UNION has to remember every row there ever was, to leave out the same one later (write UNION ALL, and take out repeats with the step dedupe)
            > SELECT id FROM orders UNION ALL SELECT id, at FROM payments
            1:33: one side of UNION ALL has 1 columns and the other 2
            > SELECT id FROM orders EXCEPT SELECT id FROM payments
            1:1: EXCEPT and INTERSECT need all rows of both sides, and a stream never has all its rows
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT at, id FROM orders UNION ALL SELECT id, at FROM payments) GROUP BY 1
            1:15: the event time is not a column here: the query inside does not keep it as it is (select the column there, under any name)
        "#]],
    );
}

#[test]
fn joins() {
    check(
        &[
            "SELECT o.id, p.amount AS paid, p.at FROM orders o JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at AND o.at + interval '10 minutes' WHERE p.amount > o.amount",
            "SELECT orders.id FROM orders LEFT JOIN payments ON payments.id + 1 = lower(orders.id) AND payments.at > orders.at - interval '1 minute' AND orders.at >= payments.at - '5s'",
            "SELECT o.id, sum FROM orders o JOIN (SELECT at AS paid_at, id AS order_id, amount AS sum FROM payments) ON o.id = order_id AND paid_at = o.at AND sum > o.amount",
            "SELECT * FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at",
            "SELECT id FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at",
            "SELECT o.id FROM orders o JOIN payments p ON o.id = p.id",
            "SELECT o.id FROM orders o JOIN payments p ON p.at = o.at",
            "SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '1h' AND p.at >= o.at + '1m'",
            "SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at <= o.at + interval '6 seconds'",
            "SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '6s'",
            "SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at",
            "SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at AND p.amount > 3",
            "SELECT o.id, p.at FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at",
            "SELECT o.id, p.id AS paid FROM orders o FULL OUTER JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at - '1m' AND o.at",
            "SELECT o.id FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '6s'",
            "SELECT o.id FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at AND o.amount > 3",
            "SELECT o.id FROM orders o LEFT SEMI JOIN payments p ON o.id = p.id AND p.at = o.at",
            "SELECT o.id FROM orders o JOIN payments p USING (id)",
            "SELECT o.id FROM orders o, payments p WHERE o.id = p.id",
        ],
        expect![[r#"
            > SELECT o.id, p.amount AS paid, p.at FROM orders o JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at AND o.at + interval '10 minutes' WHERE p.amount > o.amount
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:70 = __0_id @1:77 from 0ns to 600s
            filter __0_amount > amount @1:143
            set paid: __0_amount @1:14, at: __0_at @1:32
            keep id, paid, at
            > SELECT orders.id FROM orders LEFT JOIN payments ON payments.id + 1 = lower(orders.id) AND payments.at > orders.at - interval '1 minute' AND orders.at >= payments.at - '5s'
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            left join Input("orders") with Step(0) on lower(id) @1:70 = __0_id + 1 @1:52 from 59.999999999s to 5s
            keep id
            > SELECT o.id, sum FROM orders o JOIN (SELECT at AS paid_at, id AS order_id, amount AS sum FROM payments) ON o.id = order_id AND paid_at = o.at AND sum > o.amount
            set paid_at: at @1:45=, order_id: id @1:60=, sum: amount @1:76=
            keep paid_at, order_id, sum
            join Input("orders") with Step(1) on id @1:108 = order_id @1:115= from 0ns to 0ns
            filter sum > amount @1:147
            keep id, sum
            > SELECT * FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at
            1:8: both sides of the join have columns of one name (write out the columns)
            > SELECT id FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at
            1:8: both sides of the join have a column `id` (write the name of one before it)
            > SELECT o.id FROM orders o JOIN payments p ON o.id = p.id
            1:46: how far the times of both sides may be apart, before and after, is not said (a JOIN b ON a.key = b.key AND b.time BETWEEN a.time AND a.time + interval '10 minutes')
            > SELECT o.id FROM orders o JOIN payments p ON p.at = o.at
            1:46: a join of streams has a key: something that is equal on both sides (a JOIN b ON a.key = b.key AND b.time BETWEEN a.time AND a.time + interval '10 minutes')
            > SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '1h' AND p.at >= o.at + '1m'
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:46 = __0_id @1:53 from 0ns to 3599.999999999s
            filter __0_at >= "at" + interval '60000000000 nanoseconds' @1:46
            keep id
            > SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at <= o.at + interval '6 seconds'
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:46 = __0_id @1:53 from 0ns to 6s
            filter __0_at > "at" @1:46
            keep id
            > SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '6s'
            1:51: in a LEFT JOIN rows of the same time are near enough (write >= and <=, or BETWEEN; a JOIN that is not LEFT may leave the same time out)
            > SELECT o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at
            1:46: no two rows have times that are so far apart (say from when to when, as in b.time BETWEEN a.time AND a.time + interval '10 minutes')
            > SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at AND p.amount > 3
            1:83: ON of a LEFT JOIN has keys and times and nothing else (put what belongs to one side into a query of its own)
            > SELECT o.id, p.at FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            right join Input("orders") with Step(0) on id @1:58 = __0_id @1:65 from 0ns to 0ns
            set at: __0_at @1:14
            keep id, at
            > SELECT o.id, p.id AS paid FROM orders o FULL OUTER JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at - '1m' AND o.at
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            full join Input("orders") with Step(0) on id @1:71 = __0_id @1:78 from 60s to 0ns
            set paid: __0_id @1:14
            keep id, paid
            > SELECT o.id FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at > o.at AND p.at < o.at + '6s'
            1:51: in a FULL JOIN rows of the same time are near enough (write >= and <=, or BETWEEN; a JOIN that is not FULL may leave the same time out)
            > SELECT o.id FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at AND o.amount > 3
            1:84: ON of a RIGHT JOIN has keys and times and nothing else (put what belongs to one side into a query of its own)
            > SELECT o.id FROM orders o LEFT SEMI JOIN payments p ON o.id = p.id AND p.at = o.at
            1:42: there are JOIN, LEFT JOIN, RIGHT JOIN and FULL JOIN of streams (a JOIN b ON a.key = b.key AND b.time BETWEEN a.time AND a.time + interval '10 minutes')
            > SELECT o.id FROM orders o JOIN payments p USING (id)
            1:32: a join of streams says with ON what is equal and how near the times are (a JOIN b ON a.key = b.key AND b.time BETWEEN a.time AND a.time + interval '10 minutes')
            > SELECT o.id FROM orders o, payments p WHERE o.id = p.id
            1:28: rows of all inputs with rows of all others have no end (write a JOIN b ON ... with the keys, and how far the times may be apart)
        "#]],
    );
}

#[test]
fn windows_over_joins() {
    check(
        &[
            "SELECT tumble(o.at, '1h') AS w, p.id, sum(p.amount) AS paid FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at WHERE o.amount > 1 GROUP BY 1, p.id HAVING count(*) > 1",
            "SELECT hop(p.at, '1h', '2h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at - '1m' AND o.at GROUP BY 1",
            "SELECT cumulate(greatest(p.at, o.at), '1h', '2h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1",
            "WITH x AS (SELECT o.at AS ordered, p.at AS paid, o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) SELECT session(paid, '1h') AS w, id, count(*) AS n FROM (SELECT * FROM x WHERE id > 1) GROUP BY 1, 2",
            "SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT coalesce(o.at, p.at) AS at FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1",
            "SELECT tumble(coalesce(b, a), '1h') AS w, count(*) AS n FROM (SELECT o.at AS a, p.at AS b FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1",
            "SELECT tumble(p.at, '1h') AS w, count(*) AS n FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1",
            "SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT o.at, p.at AS paid FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at UNION ALL SELECT at, at AS b FROM orders) GROUP BY 1",
            "SELECT tumble(c.at, '1h') AS w, o.amount, count(*) AS n FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at >= o.at AND c.at <= o.at + '1m' GROUP BY 1, 2",
            "SELECT id FROM (SELECT o.id, o.at AS t, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h'), o.id ORDER BY o.at) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n = 1",
            "SELECT id, n FROM (SELECT p.id, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h') ORDER BY p.amount DESC) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n <= 3",
        ],
        expect![[r#"
            > SELECT tumble(o.at, '1h') AS w, p.id, sum(p.amount) AS paid FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at WHERE o.amount > 1 GROUP BY 1, p.id HAVING count(*) > 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:94 = __0_id @1:101 from 0ns to 0ns at left
            filter amount > 1 @1:128
            window 3600s from 0ns @1:8
              by __key_1: __0_id @1:153
              select paid: sum(__0_amount) @1:39, __aggregate_1: count(*) @1:165=
            filter __aggregate_1 > 1 @1:165
            set id: __key_1 @1:33
            rename [("window", "w")]
            keep w, id, paid
            > SELECT hop(p.at, '1h', '2h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at BETWEEN o.at - '1m' AND o.at GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:83 = __0_id @1:90 from 60s to 0ns at right
            window 7200s every 3600s from 0ns @1:8
              by 
              select n: count(*) @1:36=
            rename [("window", "w")]
            > SELECT cumulate(greatest(p.at, o.at), '1h', '2h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:104 = __0_id @1:111 from 0ns to 0ns
            window up to 7200s every 3600s from 0ns @1:8
              by 
              select n: count(*) @1:57=
            rename [("window", "w")]
            > WITH x AS (SELECT o.at AS ordered, p.at AS paid, o.id FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) SELECT session(paid, '1h') AS w, id, count(*) AS n FROM (SELECT * FROM x WHERE id > 1) GROUP BY 1, 2
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:88 = __0_id @1:95 from 0ns to 0ns at right
            set ordered: at @1:19, paid: __0_at @1:36
            keep ordered, paid, id
            filter id > 1 @1:196=
            window until a gap of 3600s @1:124
              by id: id @1:150=
              select n: count(*) @1:154=
            rename [("window", "w")]
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT coalesce(o.at, p.at) AS at FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            full join Input("orders") with Step(0) on id @1:123 = __0_id @1:130 from 0ns to 0ns at left
            set at: coalesce(at, __0_at) @1:58
            keep at
            window 3600s from 0ns @1:8
              by 
              select n: count(*) @1:31=
            rename [("window", "w")]
            > SELECT tumble(coalesce(b, a), '1h') AS w, count(*) AS n FROM (SELECT o.at AS a, p.at AS b FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            full join Input("orders") with Step(0) on id @1:129 = __0_id @1:136 from 0ns to 0ns at right
            set a: at @1:70, b: __0_at @1:81
            keep a, b
            window 3600s from 0ns @1:8
              by 
              select n: count(*) @1:43=
            rename [("window", "w")]
            > SELECT tumble(p.at, '1h') AS w, count(*) AS n FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            right join Input("orders") with Step(0) on id @1:86 = __0_id @1:93 from 0ns to 0ns at right
            window 3600s from 0ns @1:8
              by 
              select n: count(*) @1:33=
            rename [("window", "w")]
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT o.at, p.at AS paid FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at UNION ALL SELECT at, at AS b FROM orders) GROUP BY 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:110 = __0_id @1:117 from 0ns to 0ns at left
            set paid: __0_at @1:64
            keep at, paid
            set b: at @1:159=
            keep at, b
            rename [("b", "paid")]
            union Step(3) and [Step(6)]
            window 3600s from 0ns @1:8
              by 
              select n: count(*) @1:31=
            rename [("window", "w")]
            > SELECT tumble(c.at, '1h') AS w, o.amount, count(*) AS n FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at >= o.at AND c.at <= o.at + '1m' GROUP BY 1, 2
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            left join Input("orders") with Step(0) on id @1:95 = __0_id @1:102 from 0ns to 0ns at left
            rename [("amount", "__2_amount"), ("at", "__2_at"), ("id", "__2_id"), ("items", "__2_items")]
            join Step(1) with Step(2) on id @1:147 = __2_id @1:140 from 0ns to 60s at right
            window 3600s from 0ns @1:8
              by amount: amount @1:33
              select n: count(*) @1:43=
            rename [("window", "w")]
            > SELECT id FROM (SELECT o.id, o.at AS t, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h'), o.id ORDER BY o.at) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n = 1
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:151 = __0_id @1:158 from 0ns to 0ns at left
            first 1 of 3600s by id: id @1:93
            set t: at @1:30
            keep id, t
            keep id
            > SELECT id, n FROM (SELECT p.id, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h') ORDER BY p.amount DESC) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n <= 3
            rename [("amount", "__0_amount"), ("at", "__0_at"), ("id", "__0_id"), ("items", "__0_items")]
            join Input("orders") with Step(0) on id @1:146 = __0_id @1:153 from 0ns to 0ns at left
            top 3 per 3600s from 0ns by  in order of __0_amount DESC as n
            set id: __0_id @1:27
            keep id, n
        "#]],
    );
}

#[test]
fn windows_go_by_a_time_every_row_has() {
    let joined = |call: &str, join: &str| {
        format!(
            "SELECT {call} AS w, count(*) AS n FROM orders o {join} payments p ON o.id = p.id AND p.at = o.at GROUP BY 1"
        )
    };
    let queries = [
        joined("tumble(p.at, '1h')", "LEFT JOIN"),
        joined("tumble(o.at, '1h')", "RIGHT JOIN"),
        joined("tumble(o.at, '1h')", "FULL JOIN"),
        joined("tumble(greatest(o.at, p.at), '1h')", "FULL JOIN"),
        joined("tumble(p.amount, '1h')", "JOIN"),
        joined("tumble(at, '1h')", "JOIN"),
        joined("tumble(date_trunc('day', p.at), '1h')", "LEFT JOIN"),
        "SELECT tumble(o.at, '1h') AS w, p.amount, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1".to_owned(),
        "SELECT count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at".to_owned(),
        "SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT o.id, least(o.at, p.at) AS at FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1".to_owned(),
        "SELECT tumble(paid, '1h') AS w, count(*) AS n FROM (SELECT p.at AS paid FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1".to_owned(),
        "SELECT tumble(p.at, '1h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at = o.at GROUP BY 1".to_owned(),
        "SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at = p.at".to_owned(),
        "SELECT tumble(b, '1h') AS w, count(*) AS n FROM (SELECT a, b FROM (SELECT o.at AS a, p.at AS b, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h') ORDER BY p.amount) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n = 1) GROUP BY 1".to_owned(),
    ];
    check(
        &queries.each_ref().map(String::as_str),
        expect![[r#"
            > SELECT tumble(p.at, '1h') AS w, count(*) AS n FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:17: rows of the LEFT JOIN for which there was none on the right have no `p.at` (take `o.at`, which every row has)
            > SELECT tumble(o.at, '1h') AS w, count(*) AS n FROM orders o RIGHT JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:17: rows of the RIGHT JOIN for which there was none on the left have no `o.at` (take `p.at`, which every row has)
            > SELECT tumble(o.at, '1h') AS w, count(*) AS n FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:17: rows of the FULL JOIN for which there was none on the left have no `o.at` (take `coalesce(o.at, p.at)`, which every row has)
            > SELECT tumble(greatest(o.at, p.at), '1h') AS w, count(*) AS n FROM orders o FULL JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:15: tumble cuts the event time, which of rows of the join is `coalesce(o.at, p.at)` or `coalesce(p.at, o.at)`, not greatest(at, p.at) (write tumble(coalesce(o.at, p.at), ...))
            > SELECT tumble(p.amount, '1h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:17: tumble cuts the event time, which of rows of the join is `o.at` or `p.at`, not p.amount (write tumble(o.at, ...))
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:15: both sides of the join have a column `at` (write the name of one before it)
            > SELECT tumble(date_trunc('day', p.at), '1h') AS w, count(*) AS n FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:15: tumble cuts the event time, which of rows of the join is `o.at`, not date_trunc('day', p.at) (write tumble(o.at, ...))
            > SELECT tumble(o.at, '1h') AS w, p.amount, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at GROUP BY 1
            1:35: the column `p.amount` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
            > SELECT count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at
            1:8: groups of a stream without end are never complete: there is no window of time in GROUP BY (GROUP BY tumble(time, interval '1 minute'), ...)
            > SELECT tumble(at, '1h') AS w, count(*) AS n FROM (SELECT o.id, least(o.at, p.at) AS at FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1
            1:15: the event time is not a column here: the query inside does not keep it as it is (select the column there, under any name)
            > SELECT tumble(paid, '1h') AS w, count(*) AS n FROM (SELECT p.at AS paid FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at) GROUP BY 1
            1:15: rows of the LEFT JOIN for which there was none on the right have no `p.at` (take `o.at`, which every row has)
            > SELECT tumble(p.at, '1h') AS w, count(*) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at = o.at GROUP BY 1
            1:17: tumble cuts the event time, which of rows of the join is `c.at` or `o.at`, not p.at (write tumble(c.at, ...))
            > SELECT o.id FROM orders o LEFT JOIN payments p ON o.id = p.id AND p.at = o.at JOIN orders c ON c.id = o.id AND c.at = p.at
            1:96: rows of the LEFT JOIN for which there was none on the right have no `p.at` (take `o.at`, which every row has)
            > SELECT tumble(b, '1h') AS w, count(*) AS n FROM (SELECT a, b FROM (SELECT o.at AS a, p.at AS b, ROW_NUMBER() OVER (PARTITION BY tumble(o.at, '1h') ORDER BY p.amount) AS n FROM orders o JOIN payments p ON o.id = p.id AND p.at = o.at) WHERE n = 1) GROUP BY 1
            1:15: rows of the join go by another time than `b` already (what reads them goes by the same time everywhere)
        "#]],
    );
}

/// To the parser `user` is a function.
#[test]
fn user_is_a_column_of_a_side() {
    let columns = ["at", "user"].map(str::to_owned);
    let of = |name| Input { name, time: Some("at"), columns: Some(&columns), is_table: false };
    let shown = |sql: &str| shown_steps(sql, &[of("orders"), of("payments")]);
    let joined = "FROM orders o JOIN payments p ON o.user = p.user AND p.at = o.at";
    expect![[r#"
        rename [("at", "__0_at"), ("user", "__0_user")]
        join Input("orders") with Step(0) on "user" @1:65 = __0_user @1:74 from 0ns to 0ns
        set payer: __0_user @1:16
        keep user, payer
    "#]]
    .assert_eq(&shown(&format!("SELECT o.user, p.user AS payer {joined}")));
    expect![[r#"
        1:8: both sides of the join have a column `user` (write the name of one before it)
    "#]]
    .assert_eq(&shown(&format!("SELECT user {joined}")));
}

#[test]
fn lists() {
    check(
        &[
            "SELECT *, unnest(items) AS item FROM orders WHERE id > 1",
            "SELECT id, upper(unnest(make_array(id, amount))) AS part FROM orders",
            "SELECT unnest(items) AS a, unnest(items) AS b FROM orders",
            "SELECT * FROM unnest(items)",
            "SELECT id FROM orders WHERE unnest(items) > 1",
        ],
        expect![[r#"
            > SELECT *, unnest(items) AS item FROM orders WHERE id > 1
            filter id > 1 @1:51=
            explode items as __element
            set item: __element @1:11
            drop __element
            > SELECT id, upper(unnest(make_array(id, amount))) AS part FROM orders
            set __list: make_array(id, amount) @1:25=
            explode __list as __element
            set part: upper(__element) @1:12
            keep id, part
            > SELECT unnest(items) AS a, unnest(items) AS b FROM orders
            1:28: unnest is called once, in a select list (unnest in a query inside, and go on from there)
            > SELECT * FROM unnest(items)
            1:22: unnest is called in the select list of a pipeline, not in FROM (SELECT *, unnest(items) AS item FROM input)
            > SELECT id FROM orders WHERE unnest(items) > 1
            1:29: unnest is called once, in a select list (unnest in a query inside, and go on from there)
        "#]],
    );
}

#[test]
fn first_rows() {
    check(
        &[
            "SELECT * EXCEPT (n) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h'), id ORDER BY at) AS n FROM orders) WHERE n = 1 AND amount > 3",
            "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY lower(id), tumble(o.at, interval '1 day') ORDER BY o.at ASC) AS n FROM orders o) AS x WHERE x.n <= 10",
            "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders) WHERE n < 3",
            "SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders)",
            "SELECT id, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders",
            "SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY at) AS n FROM orders) WHERE n = 1",
            "SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY amount DESC) AS n FROM orders) WHERE n = 1",
            "SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at DESC) AS n FROM orders) WHERE n = 1",
            "SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY hop(at, '1h', '2h') ORDER BY at) AS n FROM orders) WHERE n = 1",
            "SELECT id FROM (SELECT *, rank() OVER (PARTITION BY id ORDER BY at) AS n FROM orders) WHERE n = 1",
        ],
        expect![[r#"
            > SELECT * EXCEPT (n) FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h'), id ORDER BY at) AS n FROM orders) WHERE n = 1 AND amount > 3
            first 1 of 3600s by id: id @1:87=
            filter amount > 3 @1:137=
            > SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY lower(id), tumble(o.at, interval '1 day') ORDER BY o.at ASC) AS n FROM orders o) AS x WHERE x.n <= 10
            first 10 of 86400s by __key_1: lower(id) @1:60=
            keep id
            > SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders) WHERE n < 3
            top 2 per 3600s from 0ns by  in order of at as n
            > SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders)
            1:27: nothing says how many rows are wanted by `n` (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT id, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at) AS n FROM orders
            1:12: nothing says how many rows are wanted by `n` (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3)
            > SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY at) AS n FROM orders) WHERE n = 1
            1:27: the ranks of every key there ever was have to be remembered for ever (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3; or use the step `top` with `keep` after the query)
            > SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY amount DESC) AS n FROM orders) WHERE n = 1
            top 1 per 3600s from 0ns by  in order of amount DESC
            keep id
            > SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(at, '1h') ORDER BY at DESC) AS n FROM orders) WHERE n = 1
            top 1 per 3600s from 0ns by  in order of at DESC
            keep id
            > SELECT id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY hop(at, '1h', '2h') ORDER BY at) AS n FROM orders) WHERE n = 1
            1:27: rows are ranked in windows of tumble(time, size) (aggregate within the windows first, and rank their results)
            > SELECT id FROM (SELECT *, rank() OVER (PARTITION BY id ORDER BY at) AS n FROM orders) WHERE n = 1
            1:27: the ranks of every key there ever was have to be remembered for ever (ROW_NUMBER() OVER (PARTITION BY tumble(time, interval '1 hour'), key ORDER BY value DESC) AS n, and around it WHERE n <= 3; or use the step `top` with `keep` after the query)
        "#]],
    );
}

#[test]
fn joins_with_tables() {
    check(
        &[
            "SELECT o.*, c.name AS customer FROM orders o JOIN customers c ON c.id = o.id",
            "SELECT o.id, name FROM orders AS o LEFT JOIN customers ON lower(customers.id) = lower(o.id)",
            "SELECT tumble(o.at, '1h') AS w, c.name, count(*) AS n FROM orders o JOIN customers c ON o.id = c.id AND c.name <> 'x' GROUP BY 1, 2",
            "SELECT a.name, b.name AS other FROM orders o JOIN customers a ON a.id = o.id JOIN customers b ON b.id = o.amount",
            "SELECT o.id, o.at, c.name FROM orders o JOIN customers c ON c.id = o.id",
            "SELECT * FROM customers",
            "SELECT o.id FROM orders o JOIN customers c ON c.id > o.id",
            "SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.id AND c.name = 'x'",
            "SELECT o.id FROM orders o JOIN customers c USING (id)",
            "SELECT o.id FROM orders o RIGHT JOIN customers c ON c.id = o.id",
            "SELECT c.id FROM customers c JOIN orders o ON c.id = o.id",
            "SELECT o.id FROM orders o FULL JOIN customers c ON c.id = o.id",
            "SELECT tumble(w, '1d') AS w, c.name, max(n) AS n FROM (SELECT tumble(at, '1h') AS w, id, count(*) AS n FROM orders GROUP BY 1, 2) x JOIN customers c ON c.id = x.id GROUP BY 1, 2",
            "SELECT w, name FROM (SELECT w, name, ROW_NUMBER() OVER (PARTITION BY w ORDER BY n DESC) AS place FROM (SELECT tumble(at, '1h') AS w, id, count(*) AS n FROM orders GROUP BY 1, 2) x JOIN customers c ON c.id = x.id) WHERE place = 1",
            "SELECT tumble(o.at, '1h') AS w, c.id, count(*) AS n FROM orders o JOIN customers c ON c.id = o.id GROUP BY 1",
        ],
        expect![[r#"
            > SELECT o.*, c.name AS customer FROM orders o JOIN customers c ON c.id = o.id
            1:8: which columns `o.*` are is not known behind a join (write out the columns)
            > SELECT o.id, name FROM orders AS o LEFT JOIN customers ON lower(customers.id) = lower(o.id)
            left lookup in customers on lower(id) @1:81 = lower(id) @1:59 selecting [("id", "__0_id"), ("name", "name")]
            keep id, name
            > SELECT tumble(o.at, '1h') AS w, c.name, count(*) AS n FROM orders o JOIN customers c ON o.id = c.id AND c.name <> 'x' GROUP BY 1, 2
            lookup in customers on id @1:89 = id @1:96 selecting [("id", "__0_id"), ("name", "name")]
            filter name <> 'x' @1:105
            window 3600s from 0ns @1:8
              by name: name @1:33
              select n: count(*) @1:41=
            rename [("window", "w")]
            > SELECT a.name, b.name AS other FROM orders o JOIN customers a ON a.id = o.id JOIN customers b ON b.id = o.amount
            lookup in customers on id @1:73 = id @1:66 selecting [("id", "__0_id"), ("name", "name")]
            lookup in customers on amount @1:105 = id @1:98 selecting [("id", "__1_id"), ("name", "__1_name")]
            set other: __1_name @1:16
            keep name, other
            > SELECT o.id, o.at, c.name FROM orders o JOIN customers c ON c.id = o.id
            lookup in customers on id @1:68 = id @1:61 selecting [("id", "__0_id"), ("name", "name")]
            keep id, at, name
            > SELECT * FROM customers
            1:15: `customers` is a table that rows are looked up in, and gives none (FROM input JOIN customers ON customers.key = input.key)
            > SELECT o.id FROM orders o JOIN customers c ON c.id > o.id
            1:47: a join with a table has a key: something that is equal in the rows and in the table (a JOIN table ON table.key = a.key)
            > SELECT o.id FROM orders o LEFT JOIN customers c ON c.id = o.id AND c.name = 'x'
            1:68: ON of a LEFT JOIN with a table has keys and nothing else (put it into WHERE, or join without LEFT)
            > SELECT o.id FROM orders o JOIN customers c USING (id)
            1:32: a join with a table says with ON what is equal (a JOIN table ON table.key = a.key)
            > SELECT o.id FROM orders o RIGHT JOIN customers c ON c.id = o.id
            1:38: rows of a table that nobody looks up have no time, so they are in no stream (write JOIN, or LEFT JOIN where rows come that find nothing)
            > SELECT c.id FROM customers c JOIN orders o ON c.id = o.id
            1:18: `customers` is a table that rows are looked up in, and gives none (FROM input JOIN customers ON customers.key = input.key)
            > SELECT o.id FROM orders o FULL JOIN customers c ON c.id = o.id
            1:37: rows of a table that nobody looks up have no time, so they are in no stream (write JOIN, or LEFT JOIN where rows come that find nothing)
            > SELECT tumble(w, '1d') AS w, c.name, max(n) AS n FROM (SELECT tumble(at, '1h') AS w, id, count(*) AS n FROM orders GROUP BY 1, 2) x JOIN customers c ON c.id = x.id GROUP BY 1, 2
            window 3600s from 0ns @1:63
              by id: id @1:86=
              select n: count(*) @1:90=
            rename [("window", "w")]
            lookup in customers on id @1:160 = id @1:153 selecting [("id", "__2_id"), ("name", "name")]
            window 86400s from 0ns @1:8
              by name: name @1:30
              select n: max(n) @1:38=
            rename [("window", "w")]
            > SELECT w, name FROM (SELECT w, name, ROW_NUMBER() OVER (PARTITION BY w ORDER BY n DESC) AS place FROM (SELECT tumble(at, '1h') AS w, id, count(*) AS n FROM orders GROUP BY 1, 2) x JOIN customers c ON c.id = x.id) WHERE place = 1
            window 3600s from 0ns @1:111
              by id: id @1:134=
              select n: count(*) @1:138=
            rename [("window", "w")]
            lookup in customers on id @1:208 = id @1:201 selecting [("id", "__2_id"), ("name", "name")]
            top 1 per 1ns from 0ns by w: w @1:70= in order of n DESC
            keep w, name
            > SELECT tumble(o.at, '1h') AS w, c.id, count(*) AS n FROM orders o JOIN customers c ON c.id = o.id GROUP BY 1
            1:35: the column `c.id` is neither in GROUP BY nor inside an aggregate (group by it, too, or take max(...) of it)
        "#]],
    );
}
