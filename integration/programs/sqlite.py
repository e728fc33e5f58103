"""SQLite under several writers and readers. Arguments: write|check, journal mode,
transactions of each writer, path of the database."""

import multiprocessing
import os
import sqlite3
import sys

WRITERS = 4
READERS = 2


def connect(path, journal):
    connection = sqlite3.connect(path, timeout=120, isolation_level=None)
    mode = connection.execute(f"pragma journal_mode={journal}").fetchone()[0]
    if mode != journal:
        sys.exit(f"the journal mode is {mode}, not {journal}")
    connection.execute("pragma synchronous=full")
    return connection


def writer(path, journal, number, transactions):
    connection = connect(path, journal)
    for n in range(transactions):
        connection.execute("begin immediate")
        connection.execute("insert into rows values (?, ?, ?)", (number, n, os.urandom(200 + n % 4000)))
        connection.execute("update total set n = n + 1")
        connection.execute("rollback" if n % 10 == 9 else "commit")


def reader(path, journal, done):
    connection = connect(path, journal)
    while not done.is_set():
        connection.execute("begin")
        rows = connection.execute("select count(*) from rows").fetchone()[0]
        total = connection.execute("select n from total").fetchone()[0]
        connection.execute("commit")
        if rows != total:
            sys.exit(f"a torn read: {rows} rows, total {total}")


def write(path, journal, transactions):
    connection = connect(path, journal)
    connection.execute("create table rows (writer int, n int, pad blob)")
    connection.execute("create index by_writer on rows (writer, n)")
    connection.execute("create table total (n int)")
    connection.execute("insert into total values (0)")
    connection.close()
    done = multiprocessing.Event()
    writers = [
        multiprocessing.Process(target=writer, args=(path, journal, i, transactions)) for i in range(WRITERS)
    ]
    readers = [multiprocessing.Process(target=reader, args=(path, journal, done)) for _ in range(READERS)]
    for process in writers + readers:
        process.start()
    for process in writers:
        process.join()
    done.set()
    for process in readers:
        process.join()
    if any(process.exitcode for process in writers + readers):
        sys.exit("a process failed")
    expected = WRITERS * (transactions - transactions // 10)
    rows = connect(path, journal).execute("select count(*) from rows").fetchone()[0]
    if rows != expected:
        sys.exit(f"{rows} rows, not {expected}")


def check(path, journal):
    connection = connect(path, journal)
    verdict = connection.execute("pragma integrity_check").fetchone()[0]
    rows = connection.execute("select count(*) from rows").fetchone()[0]
    total = connection.execute("select n from total").fetchone()[0]
    if verdict != "ok" or rows != total:
        sys.exit(f"integrity: {verdict}; {rows} rows, total {total}")


if __name__ == "__main__":
    what, journal, transactions, path = sys.argv[1:]
    if what == "write":
        write(path, journal, int(transactions))
    else:
        check(path, journal)
