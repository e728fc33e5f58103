//! One number for the whole state of a zone, to compare replicas, recoveries and stores.

use std::ops::ControlFlow;

use nexus_kernel::model::keys;
use nexus_kernel::zone::APPLIED_KEY;
use nexus_kernel::{MetaRead, Result, Table};
use xxhash_rust::xxh3::Xxh3;

/// Longer than any key, and above all that start with another byte than 255; keys start
/// with inode or blob numbers, or are text.
const LAST: [u8; 300] = [0xff; 300];

/// XXH3-128 over every pair of every table, but for `sys/applied`, which tells how far this
/// node's metastore has come and is no part of the state.
pub fn digest(state: &dyn MetaRead) -> Result<u128> {
    let mut hash = Xxh3::new();
    let applied = keys::sys(APPLIED_KEY);
    for table in Table::ALL {
        hash.update(&[table as u8]);
        state.scan(table, &[], &LAST, &mut |key, value| {
            if table != Table::Sys || key != applied.as_slice() {
                hash.update(&(key.len() as u32).to_be_bytes());
                hash.update(key);
                hash.update(&(value.len() as u32).to_be_bytes());
                hash.update(value);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(hash.digest128())
}
