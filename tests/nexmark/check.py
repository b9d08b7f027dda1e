"""Checks results of the benchmark of pipelines: the same question is asked of DuckDB, over the same events.

    check.py FOLDER QUERY...

FOLDER has the events (person.parquet, auction.parquet, bid.parquet) and for each query its results
(QUERY.parquet). What the results should be is in QUERY.sql beside this program; QUERY.results.sql, where it is there,
brings both into one form. A line a query: its name, `same` or what differs. The exit code is 0 if all are the same.
"""

import pathlib
import sys

import duckdb

HERE = pathlib.Path(__file__).parent


def columns(connection, relation):
    """Names and types, in order."""
    return [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {relation}").fetchall()]


def time(name):
    """A column with times as one without a zone, in microseconds."""
    return f'make_timestamp_ns(epoch_ns("{name}"))::TIMESTAMP'


def value(name, data_type):
    """A column in a form in which equal values are the same, whoever computed them."""
    if data_type in ("DOUBLE", "FLOAT"):
        # Sums are not added up in the same order.
        return f'round("{name}", 4)'
    if data_type.startswith("TIMESTAMP"):
        return time(name)
    if data_type in ("BIGINT", "UBIGINT", "HUGEINT", "INTEGER"):
        return f'"{name}"::HUGEINT'
    return f'"{name}"'


def check(connection, folder, query):
    results = folder / f"{query}.parquet"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW results AS FROM read_parquet('{results}')")
    form = HERE / f"{query}.results.sql"
    found = f"({form.read_text()})" if form.exists() else "results"
    expected = f"({(HERE / f'{query}.sql').read_text()})"
    names = columns(connection, f"FROM {expected}")
    have = dict(columns(connection, f"FROM {found}"))
    missing = [name for name, _ in names if name not in have]
    if missing:
        return f"no column {', '.join(missing)}"
    ours = ", ".join(value(name, have[name]) for name, _ in names)
    theirs = ", ".join(value(name, data_type) for name, data_type in names)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE ours AS SELECT {ours} FROM {found}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE theirs AS SELECT {theirs} FROM {expected}")
    count = lambda sql: connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()[0]
    rows = count("FROM theirs")
    more = count("FROM ours EXCEPT ALL FROM theirs")
    less = count("FROM theirs EXCEPT ALL FROM ours")
    if more or less:
        example = connection.execute("FROM theirs EXCEPT ALL FROM ours LIMIT 1").fetchone()
        other = connection.execute("FROM ours EXCEPT ALL FROM theirs LIMIT 1").fetchone()
        return f"{rows} rows, {less} of them missing, {more} others; such as {example} and {other}"
    return f"same {rows}"


def main():
    folder = pathlib.Path(sys.argv[1])
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for table in ("person", "auction", "bid"):
        connection.execute(f"CREATE VIEW {table}_file AS FROM read_parquet('{folder / table}.parquet')")
        names = columns(connection, f"FROM {table}_file")
        cast = lambda name, kind: f'{time(name)} AS "{name}"' if kind.startswith("TIMESTAMP") else f'"{name}"'
        selected = ", ".join(cast(name, kind) for name, kind in names)
        connection.execute(f"CREATE TABLE {table} AS SELECT {selected} FROM {table}_file")
    is_same = True
    for query in sys.argv[2:]:
        verdict = check(connection, folder, query)
        is_same = is_same and verdict.startswith("same")
        print(f"{query} {verdict}", flush=True)
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
