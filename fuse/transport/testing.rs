//! Messages as the kernel would send them, for tests.

use crate::abi::IN_HEADER;

/// A request of that opcode about `node`, number 99, from user 1000 in group 1001 and process 4242.
pub fn message(opcode: u32, node: u64, arguments: &[u8]) -> Vec<u8> {
    let len = (IN_HEADER + arguments.len()) as u32;
    let mut bytes = Vec::new();
    bytes.extend(len.to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(99_u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    for id in [1000_u32, 1001, 4242, 0] {
        bytes.extend(id.to_ne_bytes());
    }
    bytes.extend(arguments);
    bytes
}
