//! A stranger in place of the data plane hands over what a data plane never would.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::layout::Sizes;

/// Attaches to somebody who hands over these descriptors, in the place of a data plane with one worker.
fn attach_to(fds: &[BorrowedFd]) -> Result<Master, AttachError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = fd::listen(&path, 0o600).unwrap();
    listener.set_nonblocking(false).unwrap();
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| Master::attach(&path));
        let (socket, _) = listener.accept().unwrap();
        let greeting = Greeting::Welcome { layout: LAYOUT_VERSION, workers: 1 }.encode();
        fd::send_with_fds(socket.as_fd(), &greeting, fds).unwrap();
        attaching.join().unwrap()
    })
}

/// The memory of a data plane with one worker, up to its header, in as many bytes as asked for.
fn memory(bytes: u64) -> OwnedFd {
    let layout = Layout::new(Sizes::default()).unwrap();
    let words: Vec<_> = (0..PAGE_BYTES / 8).map(|_| crate::AtomicU64::new(0)).collect();
    layout.write_header(&words, 0);
    let memory = File::from(shm::create_sealed(bytes).unwrap());
    let header: Vec<u8> = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
    memory.write_all_at(&header, 0).unwrap();
    memory.into()
}

#[test]
fn of_memory_that_is_larger_than_its_header_says_one_page_is_touched() {
    let memory = File::from(memory(256 << 20));
    let (up, wake) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let refused = attach_to(&[memory.as_fd(), up.as_fd(), wake.as_fd()]);
    assert!(matches!(refused, Err(AttachError::Corrupt("its sizes"))), "{refused:?}");
    let held = memory.metadata().unwrap().blocks() * 512;
    assert_eq!(held, PAGE_BYTES as u64);
}

#[test]
fn memory_that_cannot_be_written_to_is_refused_as_corrupt() {
    let memory = shm::create(1 << 20, shm::SEALS | libc::F_SEAL_WRITE).unwrap();
    let (up, wake) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    let refused = attach_to(&[memory.as_fd(), up.as_fd(), wake.as_fd()]);
    assert!(matches!(refused, Err(AttachError::Corrupt("it cannot be mapped"))), "{refused:?}");
}

#[test]
fn what_is_no_event_counter_is_refused() {
    let info = PlaneInfo {
        pid: 1,
        version: "test".into(),
        tap: "adit0".into(),
        mode: adit_proto::control::Mode::Ethernet,
        tap_mac: [2; 6],
        listen: "192.0.2.1:4500".parse().unwrap(),
        workers: 1,
        max_peers: 4,
        sa_slots: Sizes::default().sa_slots,
        cpu_features: String::new(),
        crypto: "aws-lc".into(),
        io: "poll".into(),
        memory_bytes: 0,
        arguments: Vec::new(),
        protections: Default::default(),
    };
    let (region, _ports) = crate::plane::Region::create(&Sizes::default(), &info).unwrap();
    let counter = EventFd::new().unwrap();
    let (_reader, pipe) = io::pipe().unwrap();
    for (up, wake, good) in
        [(counter.as_fd(), counter.as_fd(), true), (pipe.as_fd(), counter.as_fd(), false), (counter.as_fd(), pipe.as_fd(), false)]
    {
        match attach_to(&[region.memory(), up, wake]) {
            Ok(_) => assert!(good),
            Err(AttachError::Corrupt("what should be event counters")) => assert!(!good),
            Err(error) => panic!("{error}"),
        }
    }
}
