//! Tests that fork this test program. A child does little and ends at once: it has only the forking thread, and locks
//! that other threads held stay held.

use std::future::Future;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::*;
use crate::Store;

/// Runs `f` in a forked child, and returns whether `f` returned `true`. If `bare` is set, the bare system call `clone`
/// makes the child.
fn in_child(bare: bool, f: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child does not need other threads, and ends in this function.
    let pid =
        unsafe { if bare { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 } else { libc::fork() } };
    if pid == 0 {
        // SAFETY: the timer's signal ends a child that hangs.
        unsafe { libc::alarm(20) };
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: the child ends without the exit handlers, which belong to the parent.
        unsafe { libc::_exit(i32::from(!held)) };
    }
    assert!(pid > 0, "the fork failed");
    let mut status = -1;
    // SAFETY: this waits for the child that was forked above.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status == 0
}

#[test]
fn a_child_is_another_process_and_so_is_its_child() {
    for bare in [false, true] {
        let me = Process::current();
        assert!(me.is_current() && Process::current().is_current() && me.check("it").is_ok());
        assert!(in_child(bare, || {
            let foreign = !me.is_current();
            let child = Process::current();
            let grandchild = in_child(bare, || {
                !me.is_current() && !child.is_current() && Process::current().is_current() && !me.is_current()
            });
            foreign && grandchild && child.is_current() && !me.is_current()
        }));
        assert!(me.is_current());
        let text = me.foreign("the group").to_string();
        assert!(text.contains(&format!("the group was made in process {}", me.id())), "{text}");
    }
}

#[test]
fn a_per_process_value_is_new_in_a_child() {
    static NUMBERS: PerProcess<StdMutex<u32>> = PerProcess::new();
    *NUMBERS.get().lock().unwrap() = 7;
    // The child's value is new, even while a lock of the parent's value is held.
    let held = NUMBERS.get().lock().unwrap();
    assert!(in_child(false, || {
        let fresh = *NUMBERS.get().lock().unwrap() == 0;
        *NUMBERS.get().lock().unwrap() = 9;
        fresh && *NUMBERS.get().lock().unwrap() == 9
    }));
    drop(held);
    assert_eq!(*NUMBERS.get().lock().unwrap(), 7);
}

#[test]
fn all_threads_get_the_same_per_process_value() {
    static MADE: PerProcess<AtomicU32> = PerProcess::new();
    let places: Vec<usize> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8).map(|_| s.spawn(|| std::ptr::from_ref(MADE.get()) as usize)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(places.iter().all(|p| *p == places[0]));
}

#[test]
fn a_child_keeps_no_private_descriptor() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let private = Private::new(&here);
    let many: Vec<Private> = (0..3000).map(|_| Private::new(&here)).collect();
    let (mut done, mut ready) = UnixStream::pair().unwrap();
    ready.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // SAFETY: the child only reads, writes and waits for a signal that ends it.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // The child's copy refers to a closed socket: a read returns the end at once, and a write fails.
        let dead = matches!(here.read(&mut [0; 1]), Ok(0)) && here.write(b"x").is_err();
        let _ = done.write(&[u8::from(dead)]);
        // SAFETY: the child waits for the signal that the parent sends, or that of the timer.
        unsafe {
            libc::alarm(30);
            loop {
                libc::pause();
            }
        }
    }
    let mut dead = [0];
    ready.read_exact(&mut dead).unwrap();
    drop(many);
    drop(private);
    here.write_all(b"y").unwrap();
    drop(here);
    // The child still has a descriptor with this number, but the peer sees the end of the connection.
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = Vec::new();
    let ended = there.read_to_end(&mut text);
    // SAFETY: this ends the child that was forked above.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
    assert_eq!((ended.unwrap(), &text[..], dead), (1, &b"y"[..], [1]));
}

/// A backend that keeps all jobs except barriers, which it completes. Its abort or drop writes to a socket, from which
/// the test reads.
struct Holds(StdMutex<Vec<crate::backend::Job>>, UnixStream);

// SAFETY: it does not use spans. The test drops the jobs, or the process ends.
unsafe impl crate::backend::Backend for Holds {
    fn name(&self) -> &'static str {
        "holds"
    }
    fn capabilities(&self) -> &crate::backend::Capabilities {
        &crate::backend::Capabilities::ALL
    }
    fn submit(&self, job: crate::backend::Job) {
        match job.request().op {
            crate::OpKind::Barrier => job.complete(Ok(())),
            _ => self.0.lock().unwrap().push(job),
        }
    }
    fn abort(&self, _: &Error) {
        let _ = (&self.1).write(b"abort");
        self.0.lock().unwrap().clear();
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        let _ = self.1.write(b"drop");
    }
}

/// Makes a group with the backend [`Holds`], which writes to `tell`.
fn group(tell: UnixStream) -> crate::ProcessGroup {
    use crate::backend::{Provider, Registration};
    let tell = StdMutex::new(Some(tell));
    let create = move |_: &crate::backend::GroupInit| {
        let backend = Holds(StdMutex::default(), tell.lock().unwrap().take().unwrap());
        Ok(std::sync::Arc::new(backend) as std::sync::Arc<dyn crate::backend::Backend>)
    };
    let (name, keys) = ("holds", &[crate::DispatchKey::Cpu][..]);
    let create: &'static _ = Box::leak(Box::new(create));
    let backends = Box::leak(Box::new([Registration { name, keys, priority: 1, probe: &|| Ok(()), create }]));
    let provider = Box::leak(Box::new(Provider { source: "tests", backends, ..Provider::EMPTY }));
    crate::Builder::new().providers(&[provider]).build().unwrap()
}

#[test]
fn in_a_child_every_use_of_a_group_is_an_error_and_drop_does_nothing() {
    let (tell, mut told) = UnixStream::pair().unwrap();
    let pg = group(tell);
    pg.barrier().unwrap();
    let flying = [(); 4].map(|()| pg.start(crate::op::all_reduce(vec![1f32; 4], crate::ReduceOp::Sum)));
    let over = pg.start(crate::op::barrier(crate::options::BarrierOptions::default()));
    let (me, store, mut pg) = (std::process::id(), crate::HashStore::new(), Some(pg));
    assert!(in_child(false, || {
        let pg = pg.take().unwrap();
        let foreign = |e: &Error| {
            let text = e.to_string();
            text.contains(&format!("made in process {me}")) && text.contains("fork") && text.contains("make a new one")
        };
        let began = Instant::now();
        let [a, b, mut c, d] = flying;
        let calls = [
            pg.barrier().unwrap_err(),
            pg.all_reduce(vec![1f32], crate::ReduceOp::Sum).unwrap_err(),
            pg.send(&[1u8], 0, 0).unwrap_err(),
            pg.monitored_barrier(crate::options::MonitoredBarrierOptions::default()).unwrap_err(),
            pg.start(crate::op::all_reduce(vec![1f32], crate::ReduceOp::Sum)).wait().unwrap_err().error,
            pg.scope(|s| s.start(crate::op::all_reduce(vec![1f32], crate::ReduceOp::Sum)).wait()).unwrap_err(),
            pg.new_group(&[0]).unwrap_err(),
            pg.split(Some(0), 0).unwrap_err(),
            pg.shrink_to_survivors(Duration::from_secs(100)).unwrap_err(),
            pg.failure().cloned().unwrap(),
            // These ops were started before the fork, and no thread of this process completes them.
            a.wait().unwrap_err().error,
            b.wait_timeout(Duration::from_secs(100)).unwrap().unwrap_err().error,
            match std::pin::Pin::new(&mut c).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                std::task::Poll::Ready(Err(e)) => e.error,
                _ => Error::invalid("pending"),
            },
            store.set("k", b"v", Instant::now()).unwrap_err(),
            pg.clone().shutdown().unwrap_err(),
        ];
        pg.abort("not ours");
        let all = calls.iter().all(|e| foreign(e) && e.status() == crate::Status::Rejected);
        let finished = d.is_done() && over.wait().is_ok();
        drop(pg);
        all && finished && began.elapsed() < Duration::from_secs(10)
    }));
    told.set_nonblocking(true).unwrap();
    assert!(told.read(&mut [0; 16]).is_err(), "the child called the backend");
}
