//! What a copy that was broken off leaves of a record.

use super::*;

/// A process that dies within a copy into a mapped segment may leave any part of a record:
/// its front, its end, both without the middle; around it whatever was there before.
#[test]
fn a_last_record_of_which_any_part_is_missing_is_cut() {
    for left_over in [0x00, 0xa5] {
        let disk = SimDisk::new();
        let log = open(&disk).unwrap();
        append_all(&log, 1..=8);
        let (path, offset, last) = records(&disk).pop().unwrap();
        let (start, end) = (offset, offset + 32 + u64::from(last.len));
        for from in start..end {
            for to in [from + 1, from + 8, from + 16, end].map(|to| to.min(end)) {
                let torn = disk.fork();
                let file = torn.open(&path).unwrap();
                let mut whole = vec![0; (to - from) as usize];
                file.read_at(&mut whole, from).unwrap();
                if whole.iter().all(|byte| *byte == left_over) {
                    continue;
                }
                file.write_at(&vec![left_over; (to - from) as usize], from).unwrap();
                let log = open(&torn).unwrap();
                assert_eq!(log.last(), Lsn(7), "{left_over:#x} at {from}..{to} of {start}..{end}");
                append(&log, 8).unwrap();
                assert_eq!(replay(&open(&torn.fork()).unwrap(), ZONE, 0).unwrap(), expected(1..=8));
            }
        }
    }
}
