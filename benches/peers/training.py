"""The peers of the benchmark `training`: DuckDB and Polars from PyPI, one run a process.

    training.py PEER CASE --events FILE --spine FILE --out FILE [--threads N] [--memory-mib N] [--sorted]

PEER and CASE: duckdb latest | duckdb windows | duckdb range-join | polars latest.
`--sorted`: the events lie in the order of their times (Polars is told so; it
has to sort them otherwise). Reads and writes Parquet. Prints one line of JSON:
the peer's version and the seconds from the first read to the last byte written,
without the start of Python. Exits with 3 where the peer is not installed.
"""

import argparse
import json
import sys
import time

ABSENT = 3

FEATURES = ["amount", "kind"] + [f"x{i}" for i in range(8)]

# (name, aggregate over events, days)
AGGREGATES = (
    [(f"count_{d}d", "count({event})", d) for d in (7, 30, 90)]
    + [(f"amount_{d}d", "sum(amount)", d) for d in (7, 30, 90)]
    + [
        ("x0_avg_30d", "avg(x0)", 30),
        ("x0_min_90d", "min(x0)", 90),
        ("x0_max_90d", "max(x0)", 90),
        ("x0_max_7d", "max(x0)", 7),
    ]
)


def duckdb_query(case, events, spine):
    events, spine = f"read_parquet('{events}')", f"read_parquet('{spine}')"
    if case == "latest":
        features = ", ".join(f"e.{name}" for name in FEATURES)
        return f"""
            SELECT s.*, {features} FROM {spine} s ASOF LEFT JOIN {events} e
            ON s.user_id = e.user_id AND s.event_time >= e.event_time"""
    if case == "windows":
        aggregates = ", ".join(
            f"{call.format(event='*')} FILTER (is_event) OVER d{days} AS {name}"
            for name, call, days in AGGREGATES
        )
        windows = ", ".join(
            f"d{d} AS (PARTITION BY user_id ORDER BY event_time"
            f" RANGE BETWEEN INTERVAL {d} DAYS PRECEDING AND CURRENT ROW)"
            for d in (7, 30, 90)
        )
        names = ", ".join(name for name, _, _ in AGGREGATES)
        return f"""
            WITH rows AS (
                SELECT user_id, event_time, amount, x0, true AS is_event,
                       NULL AS row_id, NULL AS label FROM {events}
                UNION ALL
                SELECT user_id, event_time, NULL, NULL, false, row_id, label FROM {spine}
            ), computed AS (SELECT *, {aggregates} FROM rows WINDOW {windows})
            SELECT row_id, user_id, event_time, label, {names} FROM computed
            WHERE NOT is_event"""
    aggregates = ", ".join(
        f"{call.format(event='e.user_id')}"
        f" FILTER (e.event_time >= s.event_time - INTERVAL {days} DAYS) AS {name}"
        for name, call, days in AGGREGATES
    )
    return f"""
        SELECT s.row_id, any_value(s.user_id) AS user_id, any_value(s.event_time) AS event_time,
               any_value(s.label) AS label, {aggregates}
        FROM {spine} s LEFT JOIN {events} e
        ON s.user_id = e.user_id AND e.event_time <= s.event_time
           AND e.event_time >= s.event_time - INTERVAL 90 DAYS
        GROUP BY s.row_id"""


def run_duckdb(options):
    try:
        import duckdb
    except ImportError:
        sys.exit(ABSENT)
    connection = duckdb.connect()
    connection.execute(f"SET threads = {options.threads}")
    if options.memory_mib:
        connection.execute(f"SET memory_limit = '{options.memory_mib}MiB'")
        connection.execute(f"SET temp_directory = '{options.out}.tmp'")
    query = duckdb_query(options.case, options.events, options.spine)
    started = time.monotonic()
    connection.execute(f"COPY ({query}) TO '{options.out}' (FORMAT parquet)")
    return duckdb.__version__, time.monotonic() - started


def run_polars(options):
    try:
        import polars
    except ImportError:
        sys.exit(ABSENT)
    if options.case != "latest":
        sys.exit(f"polars has no {options.case}")
    started = time.monotonic()
    events = polars.scan_parquet(options.events)
    if options.sorted:
        events = events.set_sorted("event_time")
    else:
        events = events.sort("event_time")
    spine = polars.scan_parquet(options.spine).sort("event_time")
    joined = spine.join_asof(events, on="event_time", by="user_id", strategy="backward")
    joined.collect().write_parquet(options.out, compression="snappy")
    return polars.__version__, time.monotonic() - started


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["duckdb", "polars"])
    parser.add_argument("case", choices=["latest", "windows", "range-join"])
    for name in ("--events", "--spine", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-mib", type=int)
    parser.add_argument("--sorted", action="store_true")
    options = parser.parse_args()
    run = {"duckdb": run_duckdb, "polars": run_polars}[options.peer]
    version, seconds = run(options)
    print(json.dumps({"version": version, "seconds": seconds}))


main()
