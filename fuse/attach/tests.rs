//! An attached bucket in memory, through the operations that a mount would ask for.

use std::time::Duration;

use nexus::cloud::Bucket;
use nexus_fuse_transport::SetAttr;
use nexus_kernel::Error;

use super::attached::{Attached, View};
use super::tree::ROOT;

fn attached(folder: &std::path::Path) -> Attached {
    let view = View { refresh: Duration::ZERO, read_only: false, uid: 0, gid: 0, folder: folder.to_owned() };
    Attached::new(Bucket::in_memory().unwrap(), view)
}

fn write(fs: &Attached, parent: u64, name: &str, content: &[u8]) -> u64 {
    let id = fs.create(parent, name.as_bytes(), false).unwrap();
    let handle = fs.open(id, true).unwrap();
    fs.write(id, 0, content).unwrap();
    fs.commit(id).unwrap();
    fs.release(id, handle);
    id
}

fn read(fs: &Attached, id: u64) -> Result<Vec<u8>, Error> {
    let handle = fs.open(id, false)?;
    let mut out = vec![0; 1 << 20];
    let read = fs.read(id, handle, 0, &mut out);
    fs.release(id, handle);
    out.truncate(read?);
    Ok(out)
}

#[test]
fn files_are_written_read_renamed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let fs = attached(folder.path());
    let dir = fs.mkdir(ROOT, b"d").unwrap();
    let id = write(&fs, dir, "f", b"content");
    assert_eq!(read(&fs, id).unwrap(), b"content");
    assert_eq!(fs.getattr(id).unwrap().size, 7);
    assert_eq!(fs.rmdir(ROOT, b"d"), Err(Error::NotEmpty));
    assert_eq!(fs.create(dir, b"f", true), Err(Error::Exists));
    fs.setattr(id, &SetAttr { size: Some(3), ..SetAttr::default() }).unwrap();
    assert_eq!(read(&fs, id).unwrap(), b"con");
    write(&fs, dir, "g", b"g");
    assert_eq!(fs.rename(dir, b"f", dir, b"g", 1), Err(Error::Exists));
    fs.rename(dir, b"f", dir, b"g", 0).unwrap();
    assert!(fs.lookup(dir, b"f").unwrap().is_none());
    fs.rename(ROOT, b"d", ROOT, b"e", 0).unwrap();
    assert!(fs.lookup(ROOT, b"d").unwrap().is_none());
    let (dir, _) = fs.lookup(ROOT, b"e").unwrap().unwrap();
    let (id, _) = fs.lookup(dir, b"g").unwrap().unwrap();
    assert_eq!(read(&fs, id).unwrap(), b"con");
    fs.unlink(dir, b"g").unwrap();
    fs.rmdir(ROOT, b"e").unwrap();
    assert!(fs.lookup(ROOT, b"e").unwrap().is_none());
}

#[test]
fn a_changed_object_never_gives_mixed_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut fs = attached(folder.path());
    fs.view.refresh = Duration::from_secs(1000);
    let id = write(&fs, ROOT, "f", &vec![1; 400_000]);
    let handle = fs.open(id, false).unwrap();
    let mut out = vec![0; 1000];
    assert_eq!(fs.read(id, handle, 0, &mut out), Ok(1000));
    let other = folder.path().join("other");
    std::fs::write(&other, vec![2; 400_000]).unwrap();
    fs.bucket.put("f", &std::fs::File::open(&other).unwrap(), 400_000, false).unwrap();
    assert_eq!(fs.read(id, handle, 300_000, &mut out), Err(Error::Stale));
    fs.release(id, handle);
    assert_eq!(read(&fs, id).unwrap(), vec![2; 400_000]);
}
