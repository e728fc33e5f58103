//! A cache in this process's memory, bounded in bytes; the value that was set longest ago
//! goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use nexus_kernel::cache_store::{CacheStore, Message, SUBSCRIBER_QUEUE};
use nexus_kernel::clock::{Clock, Timestamp};
use nexus_kernel::error::Result;
use parking_lot::Mutex;

/// What an entry costs beside its key and value, in bytes, about.
const ENTRY_BYTES: usize = 160;

/// A cache in memory.
pub struct MemoryCacheStore {
    clock: Arc<dyn Clock>,
    capacity_bytes: usize,
    values: Mutex<Values>,
    channels: Mutex<HashMap<String, Vec<SyncSender<Message>>>>,
}

#[derive(Default)]
struct Values {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys in the order that they were set.
    ages: BTreeMap<u64, Arc<[u8]>>,
    next_age: u64,
    bytes: usize,
}

struct Entry {
    value: Bytes,
    /// The first moment that it is gone; `None` for beyond all time.
    expires: Option<Timestamp>,
    age: u64,
}

impl MemoryCacheStore {
    /// An empty cache of at most `capacity_bytes`, whose values live by `clock`.
    pub fn new(capacity_bytes: usize, clock: Arc<dyn Clock>) -> MemoryCacheStore {
        MemoryCacheStore { clock, capacity_bytes, values: Mutex::default(), channels: Mutex::default() }
    }

    /// Bytes that keys and values take now.
    pub fn used_bytes(&self) -> usize {
        self.values.lock().bytes
    }
}

impl CacheStore for MemoryCacheStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let now = self.clock.now();
        let mut values = self.values.lock();
        match values.entries.get(key) {
            Some(entry) if entry.expires.is_none_or(|expires| now < expires) => Ok(Some(entry.value.clone())),
            Some(_) => {
                values.remove(key);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn set(&self, key: &[u8], value: Bytes, ttl: Duration) -> Result<()> {
        let now = self.clock.now();
        let mut values = self.values.lock();
        values.remove(key);
        let bytes = cost(key, &value);
        if ttl.is_zero() || bytes > self.capacity_bytes {
            return Ok(());
        }
        values.bytes += bytes;
        while values.bytes > self.capacity_bytes
            && let Some((_, oldest)) = values.ages.first_key_value()
        {
            let oldest = oldest.clone();
            values.remove(&oldest);
        }
        let key: Arc<[u8]> = key.into();
        values.next_age += 1;
        let age = values.next_age;
        values.ages.insert(age, key.clone());
        values.entries.insert(key, Entry { value, expires: add(now, ttl), age });
        Ok(())
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        self.values.lock().remove(key);
        Ok(())
    }

    fn publish(&self, channel: &str, message: Message) -> Result<usize> {
        let mut channels = self.channels.lock();
        let Some(subscribers) = channels.get_mut(channel) else { return Ok(0) };
        let mut taken = 0;
        subscribers.retain(|subscriber| match subscriber.try_send(message.clone()) {
            Ok(()) => {
                taken += 1;
                true
            }
            Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Disconnected(_)) => false,
        });
        if subscribers.is_empty() {
            channels.remove(channel);
        }
        Ok(taken)
    }

    fn subscribe(&self, channel: &str) -> Result<Receiver<Message>> {
        let (sender, receiver) = sync_channel(SUBSCRIBER_QUEUE);
        self.channels.lock().entry(channel.to_owned()).or_default().push(sender);
        Ok(receiver)
    }
}

impl Values {
    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.ages.remove(&entry.age);
            self.bytes -= cost(key, &entry.value);
        }
    }
}

fn cost(key: &[u8], value: &Bytes) -> usize {
    ENTRY_BYTES + key.len() + value.len()
}

fn add(time: Timestamp, span: Duration) -> Option<Timestamp> {
    let nsec = time.nsec + span.subsec_nanos();
    let sec =
        time.sec.checked_add(i64::try_from(span.as_secs()).ok()?)?.checked_add(i64::from(nsec / 1_000_000_000))?;
    Some(Timestamp { sec, nsec: nsec % 1_000_000_000 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_kernel::cache_store::NullCacheStore;
    use nexus_kernel::conformance::cache_store::{run, run_keeping};

    struct HeldClock(Mutex<Timestamp>);

    impl HeldClock {
        fn new() -> Arc<HeldClock> {
            Arc::new(HeldClock(Mutex::new(Timestamp { sec: 1_000_000, nsec: 999_999_999 })))
        }

        fn advance(&self, by: Duration) {
            let mut now = self.0.lock();
            *now = add(*now, by).unwrap();
        }
    }

    impl Clock for HeldClock {
        fn now(&self) -> Timestamp {
            *self.0.lock()
        }
    }

    #[test]
    fn conforms() {
        let clock = HeldClock::new();
        let store = MemoryCacheStore::new(1 << 20, clock.clone());
        run_keeping(&store, &|by| clock.advance(by));
    }

    #[test]
    fn a_cache_without_room_and_the_null_cache_keep_the_promises_too() {
        run(&MemoryCacheStore::new(0, HeldClock::new()));
        run(&NullCacheStore);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let store = MemoryCacheStore::new(10 * (ENTRY_BYTES + 101), HeldClock::new());
        for n in 0..100u8 {
            store.set(&[n], Bytes::from(vec![n; 100]), Duration::from_secs(1)).unwrap();
            assert!(store.used_bytes() <= store.capacity_bytes);
        }
        let kept: Vec<u8> = (0..100).filter(|n| store.get(&[*n]).unwrap().is_some()).collect();
        assert_eq!(kept, (90..100).collect::<Vec<u8>>());
        store.set(b"large", Bytes::from(vec![0; 1 << 20]), Duration::from_secs(1)).unwrap();
        assert_eq!(store.get(b"large").unwrap(), None);
        assert_eq!(store.get(&[99]).unwrap().unwrap(), vec![99; 100]);
        for n in 90..100 {
            store.delete(&[n]).unwrap();
        }
        assert_eq!(store.used_bytes(), 0);
    }
}
