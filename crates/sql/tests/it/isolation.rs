//! Whatever a tenant writes, there is nothing but its own tables.

use weir_base::{ErrorKind, Kinded};

use crate::support::{NOON, World, logs, request, tenant};

fn world() -> World {
    let world = World::new();
    world.tail("acme", "logs", logs(&[(NOON, 9, "mine", "{}")]));
    world.tail("rival", "logs", logs(&[(NOON, 9, "theirs", r#"{"secret":1}"#)]));
    world
}

#[tokio::test]
async fn each_tenant_sees_its_own_rows() {
    let world = world();
    assert_eq!(world.rows("acme", "select body from logs").await, r#"[["mine"]]"#);
    assert_eq!(world.rows("rival", "select body from logs").await, r#"[["theirs"]]"#);
    assert_eq!(world.rows("nobody", "select body from logs").await, "[]");
}

/// Each of these fails as if the thing did not exist, and says nothing of any path or tenant.
#[tokio::test]
async fn there_is_no_way_out() {
    let world = world();
    let spill = world.dir.path().to_string_lossy().into_owned();
    for sql in [
        // Other tables, schemas and catalogues.
        "select * from rival.logs",
        "select * from rival.public.logs",
        "select * from weir.rival.logs",
        "select * from datafusion.public.logs",
        "select * from \"rival/logs\"",
        "select * from pg_catalog.pg_tables",
        "select * from information_schema.df_settings",
        "select * from information_schema.routines",
        "select * from information_schema.parameters",
        "select * from information_schema.views",
        "select * from sqlite_master",
        "table rival.logs",
        // Files and places.
        "select * from '/etc/passwd'",
        "select * from 'file:///etc/passwd'",
        "select * from \"/etc/passwd\"",
        "select * from 'https://example.com/x.parquet'",
        "select * from \"weir://tables/1\"",
        "select * from read_parquet('/etc/passwd')",
        "select * from read_csv('/etc/passwd')",
        "select * from parquet_metadata('/etc/passwd')",
        "select * from generate_series(1, 10)",
        "select * from range(1, 10)",
        "select * from table(generate_series(1, 3))",
        "select * from unnest(generate_series(1, 10))",
        "select * from lateral generate_series(1, 3)",
        // Functions about the process or out of the plan.
        "select version()",
        "select generate_series(1, 10)",
        "select range(1, 10)",
        "select input_file_name() from logs",
        "select file_row_index() from logs",
        "select current_setting('x')",
        "select current_database()",
        "select weir_attribute_value(attributes, 'k') from logs",
        "select weir_join_text('a', 'b')",
        "select arrow_metadata(attributes) from logs",
        "select with_metadata(body, 'weir.stream', 'logs') from logs",
        "select @@version",
        "select @x",
        // Statements that are no queries.
        "create table x (a int)",
        "create external table x stored as parquet location '/etc/passwd'",
        "create view v as select 1",
        "create function f(int) returns int return 1",
        "create schema s",
        "create database d",
        "drop table logs",
        "alter table logs add column x int",
        "insert into logs select * from logs",
        "update logs set body = 'x'",
        "delete from logs",
        "truncate table logs",
        "merge into logs using logs l on true when matched then delete",
        "copy logs to '/tmp/x.parquet'",
        "copy (select 1) to '/tmp/x.csv'",
        "select * into x from logs",
        "with x as (insert into logs select * from logs returning *) select * from x",
        "with x as (delete from logs returning *) select * from x",
        "set datafusion.execution.batch_size = 1",
        "reset datafusion.execution.batch_size",
        "show all",
        "show datafusion.execution.batch_size",
        "show functions",
        "show databases",
        "show create table logs",
        "explain analyze select 1",
        "explain analyze verbose select 1",
        "explain create table x (a int)",
        "explain copy logs to '/tmp/x'",
        "explain insert into logs select * from logs",
        "explain explain select 1",
        "prepare p as select 1",
        "execute p",
        "deallocate p",
        "begin",
        "commit",
        "use rival",
        "vacuum",
        "attach '/tmp/x' as y",
        "pragma table_info('x')",
        "load 'x'",
        "install x",
        "call f()",
        "grant select on logs to public",
        "kill 1",
        "select 1; select 2",
        "select 1; drop table logs",
        "with recursive r as (select 1 as n union all select n + 1 from r) select * from r",
        "select * from logs for update",
        "",
        ";",
        "-- nothing",
    ] {
        let error = match world.engine.query(&tenant("acme"), request(sql)).await {
            Ok(_) => panic!("{sql} was answered"),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::Input, "{sql}: {error:?}");
        let said = error.to_string();
        // What was asked for may be named; nothing that was not.
        for secret in ["theirs", "secret", "datafusion-", spill.as_str(), "TableScan", "DataSource"] {
            assert!(!said.contains(secret) || sql.contains(secret), "{sql}: {said}");
        }
        if !sql.contains("rival") {
            assert!(!said.contains("rival"), "{sql}: {said}");
        }
    }
}

#[tokio::test]
async fn plans_and_errors_tell_nothing_about_the_machine() {
    let world = world();
    world.file(
        "acme",
        "logs",
        crate::support::file(7, weir_data::streams::stream("logs").unwrap(), &logs(&[(NOON, 9, "x", "{}")]), 10),
    );
    let plan = world.rows("acme", "explain verbose select * from logs where body = 'x'").await;
    assert!(!plan.starts_with("error"), "{plan}");
    for secret in ["/secret/place", "rival", world.dir.path().to_str().unwrap()] {
        assert!(!plan.contains(secret), "{plan}");
    }
}

#[tokio::test]
async fn the_description_shows_the_tenants_tables_only() {
    let world = world();
    assert_eq!(
        world.rows("acme", "select table_schema, table_name from information_schema.tables order by 1, 2").await,
        r#"[["information_schema","columns"],["information_schema","schemata"],["information_schema","tables"],["public","_rejected"],["public","_usage"],["public","events"],["public","logs"],["public","metrics"],["public","sessions"],["public","sessions_history"],["public","spans"]]"#
    );
    assert_eq!(
        world.rows("acme", "select catalog_name, schema_name from information_schema.schemata order by 2").await,
        r#"[["weir","information_schema"],["weir","public"]]"#
    );
    let tables = world.json("acme", "show tables").await.unwrap();
    assert_eq!(tables["rows"].as_array().unwrap().len(), 8);
    for sql in ["describe logs", "desc logs", "show columns from logs", "describe public.logs"] {
        let described = world.rows("acme", sql).await;
        assert!(described.starts_with(r#"[["time","timestamp",false],["received_at""#), "{sql}: {described}");
        assert!(described.contains(r#"["attributes","map",true]"#), "{sql}: {described}");
    }
    assert!(world.rows("acme", "describe rival").await.starts_with("error: there is no table `rival`"));
}

#[tokio::test]
async fn qualified_names_of_ones_own_work() {
    let world = world();
    for sql in ["select body from public.logs", "select body from weir.public.logs", "select LOGS.Body from LOGS"] {
        assert_eq!(world.rows("acme", sql).await, r#"[["mine"]]"#, "{sql}");
    }
}
