use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::Resource;

use super::*;

#[test]
fn layouts_stay_small_and_disjoint() {
    for peers in [0, 1, 2, 3, 7, 15, 31, 63, 127] {
        let layout = Layout::new(peers);
        assert!(
            layout.size() <= LARGEST_SEGMENT + SMALLEST_MULTICAST || layout.rings[..2] == [SMALLEST_RING; 2],
            "{layout:?}"
        );
        let mut used: Vec<(usize, usize)> = vec![(0, size_of::<Header>())];
        for peer in 0..peers {
            for kind in [RingKind::Collective, RingKind::PointToPoint] {
                let (cursors, data, capacity) = layout.ring(peer, kind);
                assert!(capacity.is_power_of_two() && data % 64 == 0 && cursors % 128 == 0);
                used.push((cursors, cursors + size_of::<Cursors>()));
                used.push((data, data + capacity));
                let mailbox = layout.mailbox(peer, kind);
                assert!(mailbox.is_multiple_of(128));
                used.push((mailbox, mailbox + slots::size(layout.slots())));
            }
            let (cursors, data, capacity) = layout.ring(peer, RingKind::Multicast);
            used.push((cursors, cursors + size_of::<Cursors>()));
            // All peers share the bytes of this ring.
            assert_eq!((data, capacity), (layout.ring(0, RingKind::Multicast).1, layout.rings[2]));
            assert!(capacity.is_power_of_two() || peers == 1);
            if peer == 0 {
                used.push((data, data + capacity));
            }
        }
        used.sort_unstable();
        assert!(used.windows(2).all(|w| w[0].1 <= w[1].0));
        assert!(used.last().unwrap().1 <= layout.size());
    }
    assert_eq!(Layout::new(1).rings, [Layout::COLLECTIVE, Layout::POINT_TO_POINT, 0]);
    assert_eq!(Layout::new(10).rings, [Layout::COLLECTIVE, Layout::POINT_TO_POINT, SMALLEST_MULTICAST]);
    assert_eq!(Layout::new(2).without_multicast().rings, Layout::with_rings(1, 256 << 10, 128 << 10).rings);
    assert_eq!(Layout::new(2).rings, [Layout::COLLECTIVE, Layout::POINT_TO_POINT, Layout::MULTICAST]);
}

#[test]
fn only_sealed_segments_of_the_right_size_are_mapped() {
    let layout = Layout::new(1);
    let refused = |fd: OwnedFd| {
        let error = Segment::attach(fd, layout).map(|_| ()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Protocol, "{error}");
        error.to_string()
    };
    let unsealed = memfd().unwrap();
    rustix::fs::ftruncate(&unsealed, layout.size() as u64).unwrap();
    assert!(refused(unsealed).contains("not sealed"));
    let short = memfd().unwrap();
    rustix::fs::ftruncate(&short, 4096).unwrap();
    rustix::fs::fcntl_add_seals(&short, SEALS).unwrap();
    assert!(refused(short).contains("4096 bytes"));
    assert!(refused(File::open("/proc/self/exe").unwrap().into()).contains("not a memfd"));
}

#[test]
fn nobody_can_shrink_a_segment() {
    let segment = Segment::create(Layout::new(1)).unwrap();
    assert_eq!(rustix::fs::ftruncate(segment.fd(), 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(segment.fd(), 1 << 30), Err(Errno::PERM));
    assert_eq!(rustix::fs::fcntl_add_seals(segment.fd(), SealFlags::WRITE), Err(Errno::PERM));
    let again = Segment::attach(segment.fd().try_clone_to_owned().unwrap(), Layout::new(1)).unwrap();
    segment.header().revoked.store(7, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(again.header().revoked.load(std::sync::atomic::Ordering::Relaxed), 7);
}

#[test]
fn segments_are_allocated_when_they_are_made() {
    let segment = Segment::create(Layout::new(3)).unwrap();
    let stat = rustix::fs::fstat(segment.fd()).unwrap();
    assert!(stat.st_blocks * 512 >= Layout::new(3).size() as i64);
    let full = memfd().unwrap();
    rustix::fs::fcntl_add_seals(&full, SealFlags::GROW).unwrap();
    assert_eq!(reserve(full.as_fd(), 4096), Err(Errno::PERM));
}

/// This runs in a separate process, since the limit cannot be raised again. Without the check of the limit, the process
/// would be killed by SIGXFSZ.
#[test]
fn a_file_size_limit_is_an_error() {
    const CHILD: &str = "C10D_TEST_FSIZE_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let limit = rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) };
        rustix::process::setrlimit(Resource::Fsize, limit).unwrap();
        let error = Segment::create(Layout::new(1)).map(|_| ()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Resource);
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shm::segment::tests::a_file_size_limit_is_an_error"])
        .env(CHILD, "1")
        // The output of this test may be a long file, to which the limit would also apply.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn no_descriptor_left_is_an_error() {
    const CHILD: &str = "C10D_TEST_NOFILE_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let limit = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        let error = Segment::create(Layout::new(1)).map(|_| ()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Resource);
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shm::segment::tests::no_descriptor_left_is_an_error"])
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
