//! Tests in which order the threads of a rank and its peers learn why the group failed.

use std::sync::mpsc::channel;

use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind};

use super::*;
use crate::mesh::health::Path;

/// While one thread sends the cause to the peers, another thread finds a second error. The other thread gets the cause
/// only after the cause was sent to all peers.
#[test]
fn no_thread_gets_a_cause_before_the_peers() {
    let [one, other] = [0, 1].map(|rank| Health::new("g".into(), rank, 2, None));
    one.reach(1, Path::Here(Arc::downgrade(&other)));
    other.reach(0, Path::Here(Arc::downgrade(&one)));
    let ((is_sending, sends), (go, may_go)) = (channel(), channel::<()>());
    let may_go = Mutex::new(may_go);
    other.on_news(Box::new(move || {
        let _ = is_sending.send(());
        let _ = may_go.lock().recv();
    }));
    let one = &one;
    let fail = |what: &str| one.fail(Error::new(ErrorKind::Internal, what));
    std::thread::scope(|s| {
        let first = s.spawn(|| fail("first"));
        sends.recv().unwrap();
        let (tell, told) = channel();
        let also = tell.clone();
        s.spawn(move || tell.send((fail("second"), one.failed())));
        s.spawn(move || also.send((one.cause().unwrap(), one.failed())));
        // A thread that wrongly gets the cause at once does so within this time.
        let early = told.recv_timeout(Duration::from_millis(100));
        drop(go);
        for (cause, is_visible) in early.into_iter().chain(told) {
            assert_eq!(cause.report().what, "first");
            assert!(is_visible, "this thread got the cause before the peers");
        }
        assert_eq!(first.join().unwrap().report().what, "first");
    });
}
