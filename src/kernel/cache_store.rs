//! The `CacheStore` pillar: ephemeral key-value pairs with a time to live, and
//! publish-subscribe. Optional: [`NullCacheStore`] keeps nothing and loses nothing.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;

/// A message on a channel.
pub type Message = Bytes;

/// A cache that others may share.
///
/// Implementors guarantee: a value is never served after its time to live; any value may
/// vanish before; a subscriber gets, in order, the messages of one publisher that are
/// published after `subscribe` returned, or, when it falls behind by more than
/// [`SUBSCRIBER_QUEUE`] messages, loses the newest.
pub trait CacheStore: Send + Sync {
    /// The value at `key`, if it is still there.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Stores `value` for `ttl` at the most.
    fn set(&self, key: &[u8], value: Bytes, ttl: Duration) -> Result<()>;
    /// Forgets `key`.
    fn delete(&self, key: &[u8]) -> Result<()>;
    /// Sends to all subscribers of `channel`; answers how many took it.
    fn publish(&self, channel: &str, message: Message) -> Result<usize>;
    /// Receives what is published on `channel` from now on, until the receiver is dropped.
    fn subscribe(&self, channel: &str) -> Result<Receiver<Message>>;
}

/// Messages that wait for one subscriber at the most.
pub const SUBSCRIBER_QUEUE: usize = 1024;

/// The cache of a system that has none: every get misses, every message goes nowhere.
#[derive(Debug, Default, Clone, Copy)]
pub struct NullCacheStore;

impl CacheStore for NullCacheStore {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>> {
        Ok(None)
    }

    fn set(&self, _key: &[u8], _value: Bytes, _ttl: Duration) -> Result<()> {
        Ok(())
    }

    fn delete(&self, _key: &[u8]) -> Result<()> {
        Ok(())
    }

    fn publish(&self, _channel: &str, _message: Message) -> Result<usize> {
        Ok(0)
    }

    fn subscribe(&self, _channel: &str) -> Result<Receiver<Message>> {
        let (_sender, receiver) = std::sync::mpsc::sync_channel(1);
        Ok(receiver)
    }
}
