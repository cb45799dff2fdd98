//! Measures the time of a link: `C10D_SPEED=1 cargo test --release -p c10d-gloo-like --lib -- --nocapture link::speed`.
//!
//! Two threads are pinned to two cores. `ping` is half a round trip. `both` is one block in each direction at once, as
//! in a large collective.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::*;
use crate::pause::{Interest, Pause};
use crate::shm::{Doorbell, Layout, Lend, RingKind, Segment};
use crate::tcp::{Listener, dial};

struct LinkEnd {
    link: Link,
    pause: Pause,
    block: Vec<u8>,
    into: Vec<u8>,
}

impl LinkEnd {
    fn new(link: Link, bell: Option<Doorbell>) -> LinkEnd {
        LinkEnd { link, pause: Pause::new(false, bell), block: vec![1; LARGEST], into: vec![0; LARGEST] }
    }

    /// Sends an item of `out` bytes and receives an item of `into` bytes, piece by piece. Each item also has a header
    /// of 32 bytes. 0 means no item.
    fn step(&mut self, out: usize, into: usize) {
        let (mut sent, mut got) = (0, 0);
        let total = |n: usize| if n == 0 { 0 } else { n + 32 };
        let (out_total, into_total) = (total(out), total(into));
        while sent < out_total || got < into_total {
            let mut progress = 0;
            if sent < out_total {
                let at = sent.min(32);
                let body = &self.block[sent - at..out];
                // SAFETY: the pointer and the length are those of a slice.
                let n = unsafe { self.link.write(&[0; 32][at..], body.as_ptr(), body.len(), Lend::Nothing) }.unwrap();
                sent += n;
                progress += n;
                if sent == out_total {
                    self.link.end_write();
                }
            }
            if got < into_total {
                if got < 32 {
                    let n = self.link.peek().unwrap().1;
                    if n >= 32 {
                        assert!(self.link.consume(32));
                        got = 32;
                        progress += 32;
                    }
                }
                if got >= 32 {
                    let to = &mut self.into[got - 32..into];
                    // SAFETY: the pointer and the length are those of a slice.
                    let n = unsafe { self.link.read(to.as_mut_ptr(), to.len(), false) }.unwrap();
                    got += n;
                    progress += n;
                }
                if got == into_total {
                    self.link.end_read();
                }
            }
            if progress > 0 {
                self.pause.reset();
            } else {
                self.pause.wait([Interest::of(&self.link, got < into_total, sent < out_total)]);
            }
        }
    }
}

const LARGEST: usize = 64 << 20;

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

fn measure(name: &str, sides: [LinkEnd; 2]) {
    let barrier = Barrier::new(2);
    let run = |me: usize, mut side: LinkEnd| {
        pin(me);
        for size in
            [8, 32, 64, 256, 1 << 10, 4 << 10, 8 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20, 64 << 20]
        {
            let iters = (200_000_000 / (size + 2000)).clamp(3, 20_000);
            let mut best = [Duration::MAX; 2];
            let mut all = [vec![], vec![]];
            for _ in 0..7 {
                barrier.wait();
                let start = Instant::now();
                for _ in 0..iters {
                    if me == 0 {
                        side.step(size, 0);
                        side.step(0, size);
                    } else {
                        side.step(0, size);
                        side.step(size, 0);
                    }
                }
                all[0].push(start.elapsed() / iters as u32 / 2);
                best[0] = best[0].min(*all[0].last().unwrap());
                barrier.wait();
                let start = Instant::now();
                (0..iters).for_each(|_| side.step(size, size));
                all[1].push(start.elapsed() / iters as u32);
                best[1] = best[1].min(*all[1].last().unwrap());
            }
            if me == 0 {
                let median = all.map(|mut v| {
                    v.sort();
                    v[v.len() / 2]
                });
                let us = |d: Duration| d.as_nanos() as f64 / 1000.0;
                println!(
                    "{name:>12} {size:>9} B  ping {:>10.3} us (best {:>10.3})  both {:>10.3} us (best {:>10.3})",
                    us(median[0]),
                    us(best[0]),
                    us(median[1]),
                    us(best[1])
                );
                std::io::stdout().flush().unwrap();
            }
        }
    };
    let [a, b] = sides;
    std::thread::scope(|s| {
        let t = s.spawn(|| run(1, b));
        s.spawn(|| run(0, a)).join().unwrap();
        t.join().unwrap();
    });
}

#[test]
fn shm() {
    if std::env::var_os("C10D_SPEED").is_none() {
        println!("skipped: this is a measurement; set C10D_SPEED=1 to run it");
        return;
    }
    for ring in [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20] {
        let segments = [(); 2].map(|_| Arc::new(Segment::create(Layout::with_rings(1, ring, ring)).unwrap()));
        measure(
            &format!("shm {}K", ring >> 10),
            [0, 1].map(|me: usize| {
                let (own, theirs) = (segments[me].clone(), segments[1 - me].clone());
                let bell = Doorbell::new(own.clone());
                LinkEnd::new(Link::Shm(ShmLink::new(0, RingKind::Collective, (own, 0), (theirs, 0))), Some(bell))
            }),
        );
    }
}

#[test]
fn tcp() {
    if std::env::var_os("C10D_SPEED").is_none() {
        println!("skipped: this is a measurement; set C10D_SPEED=1 to run it");
        return;
    }
    let listener = Listener::bind(IpAddr::from([127, 0, 0, 1])).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let a = dial(listener.address().unwrap(), deadline).unwrap();
    let b = listener.accept(deadline).unwrap().unwrap().0;
    measure("tcp", [a, b].map(|s| LinkEnd::new(Link::Tcp(TcpLink::new(s, 0)), None)));
}
