#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use weir_base::disk::Disk;

use super::{Choices, Fault, SimDisk};

fn dir() -> &'static Path {
    Path::new("/d")
}

/// Every state a crash may leave: the contents of `/d/a` (`None` if it is gone).
fn states(disk: &SimDisk) -> BTreeSet<Option<Vec<u8>>> {
    let mut choices = Choices::exhaustive();
    let mut states = BTreeSet::new();
    loop {
        let after = disk.after_crash(&mut choices);
        states.insert(after.peek(&dir().join("a")).ok());
        if !choices.next() {
            return states;
        }
    }
}

#[test]
fn unsynced_names_and_writes_may_be_lost_and_synced_ones_stay() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let file = disk.create(&dir().join("a")).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(states(&disk), [None, Some(b"one".to_vec())].into(), "the name is not synced");
    disk.sync_dir(dir()).unwrap();
    assert_eq!(states(&disk), [Some(b"one".to_vec())].into());
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(states(&disk), [Some(b"one".to_vec()), Some(b"two".to_vec())].into());
    file.sync_data().unwrap();
    assert_eq!(states(&disk), [Some(b"two".to_vec())].into());
}

#[test]
fn writes_are_torn_by_sectors() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let file = disk.create(&dir().join("a")).unwrap();
    file.write_all_at(&[0; 1024], 0).unwrap();
    file.sync_all().unwrap();
    disk.sync_dir(dir()).unwrap();
    file.write_all_at(&[1; 1024], 0).unwrap();
    let halves: BTreeSet<(u8, u8)> = states(&disk).into_iter().flatten().map(|bytes| (bytes[0], bytes[1023])).collect();
    assert!(halves.is_superset(&[(0, 0), (1, 1), (1, 0), (0, 1)].into()));
}

#[test]
fn a_failed_sync_loses_what_was_pending_though_reads_still_see_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let file = disk.create(&dir().join("a")).unwrap();
    disk.sync_dir(dir()).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    disk.fail_at(Fault::Io, 1);
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok(), "the second sync lies, as on Linux");
    assert_eq!(disk.peek(&dir().join("a")).unwrap(), b"new");
    assert_eq!(states(&disk), [Some(vec![])].into(), "it had nothing to write any more");
}

#[test]
fn capacity_is_enforced_and_allocation_guarantees_room() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    disk.set_capacity(Some(1000));
    let file = disk.create(&dir().join("a")).unwrap();
    file.allocate(800).unwrap();
    assert_eq!(disk.free_bytes(dir()).unwrap(), 200);
    let other = disk.create(&dir().join("b")).unwrap();
    assert!(weir_base::disk::is_full(&other.write_all_at(&[0; 300], 0).unwrap_err()));
    file.write_all_at(&[1; 800], 0).unwrap();
}

#[test]
fn power_loss_stops_everything() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let file = disk.create(&dir().join("a")).unwrap();
    disk.fail_at(Fault::PowerLoss, 2);
    file.write_all_at(b"x", 0).unwrap();
    assert!(file.sync_data().is_err());
    assert!(disk.list(dir()).is_err());
    assert_eq!(states(&disk), [None, Some(vec![]), Some(b"x".to_vec())].into());
}

#[test]
fn locks_exclude_each_other() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let path = dir().join("lock");
    let lock = disk.lock(&path).unwrap();
    assert_eq!(disk.lock(&path).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(lock);
    disk.lock(&path).unwrap();
}

#[test]
fn a_link_never_replaces_and_may_be_lost_until_its_directory_is_synced() {
    let disk = SimDisk::new();
    disk.create_dir_all(dir()).unwrap();
    let (aside, name) = (dir().join("aside"), dir().join("a"));
    let file = disk.create(&aside).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    file.sync_all().unwrap();
    disk.link(&aside, &name).unwrap();
    assert_eq!(disk.link(&aside, &name).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(states(&disk), [None, Some(b"one".to_vec())].into());
    disk.sync_dir(dir()).unwrap();
    disk.remove(&aside).unwrap();
    disk.sync_dir(dir()).unwrap();
    assert_eq!(states(&disk), [Some(b"one".to_vec())].into(), "the file has its other name");
}

#[test]
fn a_directory_with_something_in_it_is_not_removed() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/a/b")).unwrap();
    disk.create(Path::new("/a/b/file")).unwrap();
    for path in ["/a", "/a/b"] {
        assert_eq!(disk.remove_dir(Path::new(path)).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty, "{path}");
    }
    disk.remove(Path::new("/a/b/file")).unwrap();
    disk.remove_dir(Path::new("/a/b")).unwrap();
    disk.remove_dir(Path::new("/a")).unwrap();
}
