//! Tests of the real library, if there is one: the file that `C10D_NCCL_LIB` names, or an installed library, or the
//! library of the active Python environment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mock::cuda_api;
use crate::bootstrap;
use crate::communicator::Comms;
use crate::communicator::Communicator;
use crate::nccl::{Comm, Library, NcclApi, Optional};

fn real() -> Option<Arc<dyn NcclApi>> {
    match Library::get(None) {
        Ok(library) => Some(library),
        Err(e) => {
            println!("skipped: {e}");
            None
        }
    }
}

#[test]
fn ids_are_made_and_differ() {
    let Some(nccl) = real() else { return };
    let ids = [(); 2].map(|()| bootstrap::make(&*nccl).unwrap());
    assert_ne!(ids[0], ids[1]);
    assert_eq!(bootstrap::parse(&ids[0].0).unwrap(), ids[0]);
    println!("NCCL {}, scalable: {}", nccl.version(), nccl.has(Optional::InitRankScalable));
}

#[test]
fn init_without_a_device_returns_the_librarys_error() {
    let Some(nccl) = real() else { return };
    if crate::available().is_ok() {
        return println!("skipped: this machine has CUDA");
    }
    let comms = Arc::new(Comms::new(nccl.clone(), cuda_api(), 0));
    let id = bootstrap::make(&*nccl).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let e = match Communicator::begin(&nccl, &comms, (0, 1), &[id]) {
        Err(e) => e,
        // The library may report the failure later.
        Ok(comm) => loop {
            match comm.ready() {
                Err(e) => break e,
                Ok(ready) => assert!(!ready && Instant::now() < until),
            }
            std::thread::sleep(Duration::from_millis(10));
        },
    };
    let text = e.to_string();
    println!("{text}");
    let last = nccl.last_error(Comm::NULL);
    assert!(text.contains("NCCL 2.") && text.contains("CUDA"), "{text}");
    assert!(!last.is_empty() && text.contains(&last), "{text}\n{last}");
}
