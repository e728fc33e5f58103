//! Suite of [`crate::record_store::RecordStore`]. Its statements are plain SQL with the
//! column types INTEGER, REAL, TEXT and BLOB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::record_store::{RecordStore, RecordTransaction, Row, Value};

/// How often each of two threads adds to a counter.
const ADDITIONS: i64 = 100;

/// What every store promises. `new` gives empty stores.
pub fn run(new: &dyn Fn() -> Arc<dyn RecordStore>) {
    values(&*new());
    parameters(&*new());
    rows_changed(&*new());
    commits_are_atomic(&*new());
    failed_transactions_leave_nothing(&*new());
    unique_keys(&*new());
    transactions_are_serializable(&*new());
    bad_statements(&*new());
}

/// What stores that outlive the process promise as well. `open` opens one store that is empty
/// at first, each time after the last opening was dropped.
pub fn run_durable(open: &dyn Fn() -> Arc<dyn RecordStore>) {
    let store = open();
    done(&*store, "CREATE TABLE kept (id INTEGER PRIMARY KEY, body BLOB)", &[]);
    let blob = Value::Blob((0..=255).cycle().take(100_000).collect());
    done(&*store, "INSERT INTO kept VALUES (?1, ?2)", &[int(1), blob.clone()]);
    let failed = store.transaction(&mut |transaction| {
        transaction.execute("DELETE FROM kept", &[])?;
        Err(Error::Stale)
    });
    assert_eq!(failed, Err(Error::Stale));
    drop(store);
    let store = open();
    assert_eq!(store.query("SELECT id, body FROM kept", &[]).unwrap(), [[int(1), blob]], "after the first reopening");
    done(&*store, "UPDATE kept SET body = NULL", &[]);
    drop(store);
    assert_eq!(open().query("SELECT id, body FROM kept", &[]).unwrap(), [[int(1), Value::Null]]);
}

fn int(value: i64) -> Value {
    Value::Integer(value)
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

/// One statement in a transaction of its own.
fn done(store: &dyn RecordStore, sql: &str, params: &[Value]) -> u64 {
    let mut changed = 0;
    store
        .transaction(&mut |transaction| {
            changed = transaction.execute(sql, params)?;
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    changed
}

fn one(rows: Vec<Row>) -> Value {
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{rows:?} is not one value");
    rows[0][0].clone()
}

fn values(store: &dyn RecordStore) {
    let long = "ä\u{10ffff}".repeat(50_000);
    let kinds: [(&str, Vec<Value>); 4] = [
        ("INTEGER", [0, 1, -1, i64::MAX, i64::MIN].map(int).to_vec()),
        (
            "REAL",
            [0.0, 1.0, -1.5, 0.1, 9_007_199_254_740_993.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::NEG_INFINITY]
                .map(Value::Real)
                .to_vec(),
        ),
        ("TEXT", ["", "a", "12", "1e3", "it's \"quoted\"", "nul \0 within", "NULL", &long].map(text).to_vec()),
        ("BLOB", [vec![], vec![0], vec![0xff; 3], b"text".to_vec(), vec![7; 1 << 20]].map(Value::Blob).to_vec()),
    ];
    for (kind, mut values) in kinds {
        values.push(Value::Null);
        done(store, &format!("CREATE TABLE of_{kind} (id INTEGER PRIMARY KEY, value {kind})"), &[]);
        for (id, value) in values.iter().enumerate() {
            let params = [int(id as i64), value.clone()];
            assert_eq!(done(store, &format!("INSERT INTO of_{kind} (id, value) VALUES (?1, ?2)"), &params), 1);
        }
        let rows = store.query(&format!("SELECT value FROM of_{kind} ORDER BY id"), &[]).unwrap();
        let expected: Vec<Row> = values.into_iter().map(|value| vec![value]).collect();
        assert!(rows == expected, "a value of kind {kind} came back as another");
    }
    let id = int(100);
    let kept = store.transaction(&mut |transaction| {
        let sql = "INSERT INTO of_REAL (id, value) VALUES (?1, ?2)";
        transaction.execute(sql, &[id.clone(), Value::Real(f64::NAN)]).map(|_| ())
    });
    let rows = store.query("SELECT value FROM of_REAL WHERE id = ?1", &[id]).unwrap();
    match kept {
        Ok(()) => assert!(matches!(one(rows), Value::Real(real) if real.is_nan()), "NaN became something else"),
        Err(_) => assert_eq!(rows, Vec::<Row>::new()),
    }
}

fn parameters(store: &dyn RecordStore) {
    done(store, "CREATE TABLE p (a INTEGER, b TEXT, c INTEGER)", &[]);
    done(store, "INSERT INTO p (a, b, c) VALUES (?2, ?1, ?2)", &[text("'); DROP TABLE p; --"), int(7)]);
    let all = store.query("SELECT a, b, c FROM p", &[]).unwrap();
    assert_eq!(all, [[int(7), text("'); DROP TABLE p; --"), int(7)]], "parameters go by their number");
    let found = |a| store.query("SELECT b FROM p WHERE a = ?1 AND c = ?1", &[int(a)]).unwrap().len();
    assert_eq!((found(7), found(8)), (1, 0));
    for params in [&[][..], &[int(1), int(2)]] {
        let result = store.query("SELECT a FROM p WHERE a = ?1", params);
        assert!(result.is_err(), "{} parameters for one: {result:?}", params.len());
    }
    assert_eq!(store.query("SELECT a FROM p WHERE a IS NULL", &[]).unwrap(), Vec::<Row>::new());
}

fn rows_changed(store: &dyn RecordStore) {
    done(store, "CREATE TABLE n (id INTEGER PRIMARY KEY, v INTEGER)", &[]);
    store
        .transaction(&mut |transaction| {
            let insert = "INSERT INTO n VALUES (1, 0), (2, 0), (3, 5)";
            assert_eq!(transaction.execute(insert, &[])?, 3);
            assert_eq!(transaction.execute("CREATE TABLE other (id INTEGER)", &[])?, 0, "no row was changed");
            assert_eq!(transaction.execute("UPDATE n SET v = 9 WHERE v = ?1", &[int(0)])?, 2);
            assert_eq!(transaction.execute("UPDATE n SET v = 9 WHERE v = ?1", &[int(0)])?, 0);
            assert_eq!(transaction.execute("DELETE FROM n", &[])?, 3);
            Ok(())
        })
        .unwrap();
}

fn commits_are_atomic(store: &dyn RecordStore) {
    done(store, "CREATE TABLE a (id INTEGER)", &[]);
    store
        .transaction(&mut |transaction| {
            for id in 0..10 {
                transaction.execute("INSERT INTO a VALUES (?1)", &[int(id)])?;
                assert_eq!(one(transaction.query("SELECT COUNT(*) FROM a", &[])?), int(id + 1), "it sees its own rows");
            }
            transaction.execute("CREATE TABLE made_within (id INTEGER)", &[])?;
            Ok(())
        })
        .unwrap();
    assert_eq!(one(store.query("SELECT COUNT(*) FROM a", &[]).unwrap()), int(10));
    assert_eq!(store.query("SELECT id FROM made_within", &[]).unwrap(), Vec::<Row>::new());
    // A reader beside a writer sees all of a transaction or none of it.
    let finished = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                retried(store, &mut |transaction| {
                    transaction.execute("INSERT INTO a VALUES (1)", &[])?;
                    transaction.execute("INSERT INTO a VALUES (2)", &[])?;
                    Ok(())
                });
            }
            finished.store(1, Ordering::Release);
        });
        while finished.load(Ordering::Acquire) == 0 {
            match one(store.query("SELECT COUNT(*) FROM a", &[]).unwrap()) {
                Value::Integer(count) => assert_eq!(count % 2, 0, "half of a transaction was seen"),
                other => panic!("{other:?} is no count"),
            }
        }
    });
    assert_eq!(one(store.query("SELECT COUNT(*) FROM a", &[]).unwrap()), int(110));
}

fn failed_transactions_leave_nothing(store: &dyn RecordStore) {
    done(store, "CREATE TABLE f (id INTEGER PRIMARY KEY)", &[]);
    done(store, "INSERT INTO f VALUES (1)", &[]);
    let given = Error::Unavailable("the closure's own".into());
    let failed = store.transaction(&mut |transaction| {
        transaction.execute("INSERT INTO f VALUES (2)", &[])?;
        transaction.execute("DELETE FROM f WHERE id = 1", &[])?;
        transaction.execute("CREATE TABLE never (id INTEGER)", &[])?;
        Err(given.clone())
    });
    assert_eq!(failed, Err(given));
    let unchanged = |after: &str| {
        assert_eq!(store.query("SELECT id FROM f", &[]).unwrap(), [[int(1)]], "after {after}");
        assert!(store.query("SELECT id FROM never", &[]).is_err(), "after {after}");
    };
    unchanged("an error");
    let failed = store.transaction(&mut |transaction| {
        transaction.execute("INSERT INTO f VALUES (3)", &[])?;
        transaction.execute("INSERT INTO nowhere VALUES (1)", &[])?;
        Ok(())
    });
    assert!(failed.is_err());
    unchanged("a bad statement");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.transaction(&mut |transaction| {
            transaction.execute("INSERT INTO f VALUES (4)", &[])?;
            std::panic::resume_unwind(Box::new("the closure's own"))
        })
    }));
    assert!(panicked.is_err());
    unchanged("a panic");
    done(store, "INSERT INTO f VALUES (5)", &[]);
}

fn unique_keys(store: &dyn RecordStore) {
    done(store, "CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT UNIQUE)", &[]);
    done(store, "INSERT INTO u VALUES (1, 'a')", &[]);
    for sql in ["INSERT INTO u VALUES (1, 'b')", "INSERT INTO u VALUES (2, 'a')"] {
        let result = store.transaction(&mut |transaction| transaction.execute(sql, &[]).map(|_| ()));
        assert_eq!(result, Err(Error::Exists), "{sql}");
    }
    assert_eq!(store.query("SELECT id, name FROM u", &[]).unwrap(), [[int(1), text("a")]]);
}

/// A transaction that is tried until no other one is in its way.
fn retried(store: &dyn RecordStore, work: &mut dyn FnMut(&mut dyn RecordTransaction) -> Result<()>) {
    while let Err(error) = store.transaction(work) {
        assert_eq!(error, Error::Conflict, "not a reason to try again");
        std::thread::yield_now();
    }
}

fn transactions_are_serializable(store: &dyn RecordStore) {
    done(store, "CREATE TABLE counter (value INTEGER)", &[]);
    done(store, "INSERT INTO counter VALUES (0)", &[]);
    add_concurrently(&[store, store]);
}

/// Adds to the only row of the table `counter`, which is 0, from a thread for each of
/// `stores`, which are openings of one store.
pub fn add_concurrently(stores: &[&dyn RecordStore]) {
    std::thread::scope(|scope| {
        for store in stores {
            scope.spawn(|| {
                for _ in 0..ADDITIONS {
                    retried(*store, &mut |transaction| {
                        let Value::Integer(value) = one(transaction.query("SELECT value FROM counter", &[])?) else {
                            panic!("the counter is no number");
                        };
                        std::thread::yield_now();
                        transaction.execute("UPDATE counter SET value = ?1", &[int(value + 1)])?;
                        Ok(())
                    });
                }
            });
        }
    });
    let sum = one(stores[0].query("SELECT value FROM counter", &[]).unwrap());
    assert_eq!(sum, int(ADDITIONS * stores.len() as i64), "an addition was lost");
}

fn bad_statements(store: &dyn RecordStore) {
    done(store, "CREATE TABLE b (id INTEGER)", &[]);
    let said = |error: Error, sql: &str| {
        let Error::Io(message) = error else { panic!("{sql}: {error:?} has no text that says what is bad") };
        message
    };
    for (sql, named) in [
        ("SELEC id FROM b", "SELEC"),
        ("SELECT id FROM nowhere", "nowhere"),
        ("SELECT missing FROM b", "missing"),
        ("SELECT id FROM b WHERE (", ""),
        ("SELECT 'open", ""),
        ("SELECT id FROM b \0 WHERE id = 1", ""),
        ("SELECT 1; SELECT 2", ""),
        ("", ""),
        ("-- only a comment", ""),
    ] {
        let message = said(store.query(sql, &[]).expect_err(sql), sql);
        assert!(message.contains(named), "{sql:?}: {message:?} does not name {named:?}");
        let mut run = |transaction: &mut dyn RecordTransaction| transaction.execute(sql, &[]).map(|_| ());
        said(store.transaction(&mut run).expect_err(sql), sql);
    }
    for sql in ["INSERT INTO b VALUES (1)", "DROP TABLE b", "CREATE TABLE c (id INTEGER)"] {
        said(store.query(sql, &[]).expect_err("a query that writes"), sql);
    }
    for sql in ["BEGIN", "COMMIT", "ROLLBACK", "/* it */ END", "SAVEPOINT s"] {
        let result = store.transaction(&mut |transaction| {
            transaction.execute("INSERT INTO b VALUES (1)", &[])?;
            transaction.execute(sql, &[]).map(|_| ())
        });
        said(result.expect_err(sql), sql);
        said(store.query(sql, &[]).expect_err(sql), sql);
    }
    assert_eq!(store.query("SELECT id FROM b", &[]).unwrap(), Vec::<Row>::new(), "and nothing was done");
    done(store, "INSERT INTO b VALUES (1)", &[]);
}
