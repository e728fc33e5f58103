//! The SQLite driver: conformance on a file and in memory, two openings, damage, a full
//! database and what statements may not do.

use super::*;
use nexus_kernel::conformance::record_store::{add_concurrently, run, run_durable};
use tempfile::TempDir;

fn shared(store: Result<SqliteRecordStore>) -> Arc<dyn RecordStore> {
    Arc::new(store.unwrap())
}

fn done(store: &SqliteRecordStore, sql: &str) -> Result<()> {
    store.transaction(&mut |transaction| transaction.execute(sql, &[]).map(|_| ()))
}

fn count(store: &SqliteRecordStore) -> Value {
    store.query("SELECT COUNT(*) FROM t", &[]).unwrap().remove(0).remove(0)
}

/// A store in a file of a folder, with the table `t`.
fn store_with_table(folder: &TempDir) -> SqliteRecordStore {
    let store = SqliteRecordStore::open(&folder.path().join("records.db")).unwrap();
    done(&store, "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)").unwrap();
    store
}

#[test]
fn conforms_in_a_file() {
    let folder = TempDir::new().unwrap();
    let made = std::cell::Cell::new(0);
    run(&|| {
        made.set(made.get() + 1);
        shared(SqliteRecordStore::open(&folder.path().join(format!("{}.db", made.get()))))
    });
    let path = folder.path().join("kept.db");
    run_durable(&|| shared(SqliteRecordStore::open(&path)));
}

#[test]
fn conforms_in_memory() {
    run(&|| shared(SqliteRecordStore::open_in_memory()));
}

#[test]
fn two_openings_of_a_file_are_serializable() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (store_with_table(&folder), SqliteRecordStore::open(&folder.path().join("records.db")));
    let second = second.unwrap();
    done(&first, "CREATE TABLE counter (value INTEGER)").unwrap();
    done(&second, "INSERT INTO counter VALUES (0)").unwrap();
    add_concurrently(&[&first, &second]);
}

#[test]
fn a_writer_elsewhere_is_a_conflict() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (store_with_table(&folder), SqliteRecordStore::open(&folder.path().join("records.db")));
    let second = second.unwrap();
    second.own(|connection| connection.busy_timeout(Duration::ZERO)).unwrap();
    first
        .transaction(&mut |transaction| {
            transaction.execute("INSERT INTO t (id) VALUES (1)", &[])?;
            assert_eq!(done(&second, "INSERT INTO t (id) VALUES (2)"), Err(Error::Conflict));
            assert_eq!(count(&second), Value::Integer(0), "readers go on, and see what is committed");
            Ok(())
        })
        .unwrap();
    assert_eq!(count(&second), Value::Integer(1));
}

#[test]
fn what_is_committed_survives_a_kill() {
    let (folder, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = store_with_table(&folder);
    done(&store, "INSERT INTO t (id) VALUES (1)").unwrap();
    store
        .transaction(&mut |transaction| {
            transaction.execute("INSERT INTO t (id) VALUES (2)", &[])?;
            // What the next process finds when this one ends here, without a word.
            for name in ["records.db", "records.db-wal"] {
                std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
            }
            Ok(())
        })
        .unwrap();
    let found = SqliteRecordStore::open(&copy.path().join("records.db")).unwrap();
    assert_eq!(found.query("SELECT id FROM t", &[]).unwrap(), [[Value::Integer(1)]]);
}

#[test]
fn every_commit_is_synced() {
    let folder = TempDir::new().unwrap();
    let store = store_with_table(&folder);
    let ask = |name: &str| {
        store.own(|connection| {
            connection.pragma_query_value(None, name, |row| Ok(store.value(row.get_ref(0)?).unwrap()))
        })
    };
    assert_eq!(ask("synchronous").unwrap(), Value::Integer(2));
    assert_eq!(ask("journal_mode").unwrap(), Value::Text("wal".into()));
    assert_eq!(ask("foreign_keys").unwrap(), Value::Integer(1));
    for sql in ["PRAGMA synchronous = OFF", "PRAGMA journal_mode = MEMORY", "ATTACH ':memory:' AS other"] {
        assert!(matches!(store.query(sql, &[]), Err(Error::Io(_))), "{sql}");
        assert!(matches!(done(&store, sql), Err(Error::Io(_))), "{sql}");
    }
    assert_eq!(ask("synchronous").unwrap(), Value::Integer(2));
    done(&store, "PRAGMA user_version = 3").unwrap();
    assert_eq!(store.query("PRAGMA user_version", &[]).unwrap(), [[Value::Integer(3)]]);
}

#[test]
fn damage_is_told_apart() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("records.db");
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    let Err(Error::Corrupt(text)) = SqliteRecordStore::open(&path) else { panic!("a file of x is a database") };
    assert!(text.contains("records.db"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 8192], "and it is left as it is");
    std::fs::remove_file(&path).unwrap();

    let store = store_with_table(&folder);
    store
        .transaction(&mut |transaction| {
            let insert = "INSERT INTO t (body) VALUES (?1)";
            (0..100).try_for_each(|n| transaction.execute(insert, &[Value::Blob(vec![n; 1000])]).map(|_| ()))
        })
        .unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let store = SqliteRecordStore::open(&path).unwrap();
    let result = store.query("SELECT body FROM t", &[]);
    assert!(matches!(result, Err(Error::Corrupt(_))), "{result:?}");

    let error = SqliteRecordStore::open(&folder.path().join("no folder/records.db")).err().unwrap();
    assert!(matches!(&error, Error::Io(text) if text.contains("no folder/records.db")), "{error:?}");
}

#[test]
fn a_text_that_is_none_is_damage() {
    let store = SqliteRecordStore::open_in_memory().unwrap();
    let result = store.query("SELECT CAST(x'ff' AS TEXT)", &[]);
    assert!(matches!(result, Err(Error::Corrupt(_))), "{result:?}");
}

#[test]
fn a_full_database_says_so_and_goes_on() {
    let folder = TempDir::new().unwrap();
    let store = store_with_table(&folder);
    let limit = |pages: u32| {
        store.own(|connection| connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))).unwrap();
    };
    limit(20);
    let result = store.transaction(&mut |transaction| {
        transaction.execute("INSERT INTO t (id) VALUES (1)", &[])?;
        let full = transaction.execute("INSERT INTO t (body) VALUES (zeroblob(1000000))", &[]);
        assert_eq!(full, Err(Error::NoSpace));
        // Whatever became of the first row, the transaction never commits by halves.
        transaction.execute("INSERT INTO t (id) VALUES (3)", &[]).map(|_| ())
    });
    let expected = if result.is_ok() { 2 } else { 0 };
    assert_eq!(count(&store), Value::Integer(expected), "{result:?}");
    limit(1 << 20);
    done(&store, "INSERT INTO t (body) VALUES (zeroblob(1000000))").unwrap();
}

#[test]
fn a_rollback_by_a_statement_ends_the_transaction() {
    let store = SqliteRecordStore::open_in_memory().unwrap();
    done(&store, "CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    done(&store, "INSERT INTO t VALUES (1)").unwrap();
    for goes_on in [true, false] {
        let result = store.transaction(&mut |transaction| {
            transaction.execute("INSERT INTO t VALUES (2)", &[])?;
            assert_eq!(transaction.execute("INSERT OR ROLLBACK INTO t VALUES (1)", &[]), Err(Error::Exists));
            if goes_on {
                assert!(transaction.execute("INSERT INTO t VALUES (3)", &[]).is_err());
                assert!(transaction.query("SELECT id FROM t", &[]).is_err());
            }
            Ok(())
        });
        assert!(matches!(&result, Err(Error::Io(text)) if text.contains("rolled back")), "{result:?}");
        assert_eq!(count(&store), Value::Integer(1));
    }
}

#[test]
fn foreign_keys_hold_at_the_commit() {
    let store = SqliteRecordStore::open_in_memory().unwrap();
    done(&store, "CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    done(&store, "CREATE TABLE child (of INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)").unwrap();
    let result = store.transaction(&mut |transaction| {
        assert_eq!(transaction.execute("INSERT INTO child VALUES (1)", &[]), Ok(1));
        Ok(())
    });
    assert!(matches!(&result, Err(Error::Io(text)) if text.contains("FOREIGN KEY")), "{result:?}");
    assert_eq!(store.query("SELECT of FROM child", &[]).unwrap(), Vec::<Row>::new());
    done(&store, "INSERT INTO t VALUES (1)").unwrap();
    done(&store, "INSERT INTO child VALUES (1)").unwrap();
}

#[test]
fn the_store_within_its_own_transaction_is_refused() {
    let store = SqliteRecordStore::open_in_memory().unwrap();
    done(&store, "CREATE TABLE t (id INTEGER PRIMARY KEY)").unwrap();
    store
        .transaction(&mut |transaction| {
            transaction.execute("INSERT INTO t VALUES (1)", &[])?;
            assert!(matches!(store.query("SELECT id FROM t", &[]), Err(Error::Io(_))));
            assert!(matches!(done(&store, "INSERT INTO t VALUES (2)"), Err(Error::Io(_))));
            Ok(())
        })
        .unwrap();
    assert_eq!(count(&store), Value::Integer(1));
}
