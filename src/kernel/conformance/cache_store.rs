//! Suite of [`crate::cache_store::CacheStore`]. Any value may vanish early, so a store that
//! keeps nothing passes what [`run`] asks; [`run_keeping`] is for those that keep.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use bytes::Bytes;

use crate::cache_store::{CacheStore, SUBSCRIBER_QUEUE};

const LONG: Duration = Duration::from_secs(3600);

/// What every store promises, whatever it forgets.
pub fn run(store: &dyn CacheStore) {
    assert_eq!(store.get(b"never set").unwrap(), None);
    store.delete(b"never set").unwrap();
    let seen = |key: &[u8], allowed: &[&'static [u8]]| {
        let value = store.get(key).unwrap();
        assert!(
            value.as_ref().is_none_or(|value| allowed.contains(&&value[..])),
            "{value:?} was not the last value set"
        );
    };
    store.set(b"k", Bytes::from_static(b"one"), LONG).unwrap();
    seen(b"k", &[b"one"]);
    store.set(b"k", Bytes::from_static(b"two"), LONG).unwrap();
    seen(b"k", &[b"two"]);
    seen(b"K", &[]);
    store.delete(b"k").unwrap();
    seen(b"k", &[]);
    store.set(b"k", Bytes::from_static(b"gone"), Duration::ZERO).unwrap();
    seen(b"k", &[]);
    let taken = store.publish("nobody listens", Bytes::from_static(b"x")).unwrap();
    assert_eq!(taken, 0);
    let receiver = store.subscribe("c").unwrap();
    store.publish("other", Bytes::from_static(b"x")).unwrap();
    assert!(receiver.try_recv().is_err(), "a message of another channel");
}

/// What stores that keep values and carry messages promise as well. `advance` moves the time
/// that the store's values live by.
pub fn run_keeping(store: &dyn CacheStore, advance: &dyn Fn(Duration)) {
    run(store);
    time_to_live(store, advance);
    channels(store);
    slow_subscriber(store);
}

fn time_to_live(store: &dyn CacheStore, advance: &dyn Fn(Duration)) {
    let second = Duration::from_secs(1);
    store.set(b"short", Bytes::from_static(b"s"), 10 * second).unwrap();
    store.set(b"long", Bytes::from_static(b"l"), 100 * second).unwrap();
    advance(9 * second);
    assert_eq!(store.get(b"short").unwrap().unwrap(), "s");
    advance(second);
    assert_eq!(store.get(b"short").unwrap(), None, "a value outlived its time");
    assert_eq!(store.get(b"long").unwrap().unwrap(), "l");
    store.set(b"long", Bytes::from_static(b"again"), 5 * second).unwrap();
    advance(5 * second);
    assert_eq!(store.get(b"long").unwrap(), None, "setting anew sets the time anew");
    store.set(b"forever", Bytes::from_static(b"f"), Duration::MAX).unwrap();
    advance(second);
    assert_eq!(store.get(b"forever").unwrap().unwrap(), "f");
}

fn channels(store: &dyn CacheStore) {
    store.publish("news", Bytes::from_static(b"before")).unwrap();
    let (first, second, other) =
        (store.subscribe("news").unwrap(), store.subscribe("news").unwrap(), store.subscribe("else").unwrap());
    for n in 0..10u8 {
        assert_eq!(store.publish("news", Bytes::copy_from_slice(&[n])).unwrap(), 2);
    }
    for receiver in [&first, &second] {
        let got: Vec<u8> = receiver.try_iter().map(|message| message[0]).collect();
        assert_eq!(got, (0..10).collect::<Vec<u8>>());
    }
    assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
    drop(first);
    assert_eq!(store.publish("news", Bytes::from_static(b"x")).unwrap(), 1, "who went away takes nothing");
    assert_eq!(second.try_recv().unwrap(), "x");
}

fn slow_subscriber(store: &dyn CacheStore) {
    let slow = store.subscribe("flood").unwrap();
    let count = SUBSCRIBER_QUEUE + 10;
    let taken: usize =
        (0..count).map(|n| store.publish("flood", Bytes::copy_from_slice(&n.to_be_bytes())).unwrap()).sum();
    assert_eq!(taken, SUBSCRIBER_QUEUE, "the queue of a subscriber is bounded");
    let got: Vec<Bytes> = slow.try_iter().collect();
    let expected: Vec<Bytes> = (0..SUBSCRIBER_QUEUE).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
    assert_eq!(got, expected, "the newest are lost, the others come in order");
    assert_eq!(store.publish("flood", Bytes::from_static(b"y")).unwrap(), 1);
    assert_eq!(slow.try_recv().unwrap(), "y");
}
