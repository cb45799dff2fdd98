//! `run_ranks`: every rank is a thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn run_ranks_returns_the_cause() {
    assert_eq!(builder().run_ranks(4, |pg| Ok(pg.rank() * 10)).unwrap(), [0, 10, 20, 30]);
    // The other ranks report that the failed rank ended, but `run_ranks` returns the failed rank's error.
    let died = AtomicUsize::new(0);
    let e = builder().run_ranks(3, |pg| -> Result {
        if pg.rank() == 2 {
            died.store(1, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::Resource, "no more memory"));
        }
        while died.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        Err(Error::new(ErrorKind::PeerDead { how: "left".into() }, "").guilty([2]))
    });
    assert_eq!(*e.unwrap_err().kind(), ErrorKind::Resource);
    let panicked = std::panic::catch_unwind(|| {
        builder().run_ranks(2, |pg| if pg.rank() == 1 { panic!("rank 1 fell over") } else { Ok(()) })
    });
    assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"rank 1 fell over"));
    assert_eq!(*builder().run_ranks(0, |_| Ok(())).unwrap_err().kind(), ErrorKind::InvalidArgument);
}
