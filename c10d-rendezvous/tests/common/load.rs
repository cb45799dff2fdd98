//! Attacks by strangers (clients that are no ranks of the job) on a store, and measurements of honest clients during
//! the attacks.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_rendezvous::TcpStore;
use rustix::process::setpriority_process;

use super::{Raw, client, soon};

/// Whether the attackers' threads keep their normal priority, as if strangers ran on the store's own machine.
pub static SAME_MACHINE: AtomicBool = AtomicBool::new(false);

/// Gives the calling thread the lowest priority, as if it ran on another machine. Does nothing if [`SAME_MACHINE`] is
/// set.
pub fn elsewhere() {
    if !SAME_MACHINE.load(Ordering::Relaxed) {
        let _ = setpriority_process(None, 19);
    }
}

/// Keeps as many threads busy as [`flooded`] has, without any connection, while `f` runs.
pub fn busy<R>(f: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                elsewhere();
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = f();
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// The distribution of times: half of them are below `p50`, and 99 % are below `p99`.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
}

impl Latency {
    /// Measures a set and a get of an honest client together, with the given clock.
    pub fn by(clock: impl Fn() -> Duration, addr: SocketAddr, rounds: usize) -> Latency {
        let store = client(addr);
        Latency::among(rounds, clock, |i| set_and_get(&store, i))
    }

    pub fn among(rounds: usize, clock: impl Fn() -> Duration, mut f: impl FnMut(usize)) -> Latency {
        Latency::of((0..rounds).map(|i| {
            let start = clock();
            f(i);
            clock().saturating_sub(start)
        }))
    }

    pub fn of(times: impl Iterator<Item = Duration>) -> Latency {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        let n = times.len();
        Latency { p50: times[n / 2], p99: times[n * 99 / 100], worst: times[n - 1] }
    }
}

/// What an honest client does in round `i`.
pub fn set_and_get(store: &TcpStore, i: usize) {
    store.set("honest", &[i as u8; 64], soon()).unwrap();
    assert_eq!(store.get("honest", soon()).unwrap(), [i as u8; 64]);
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        write!(f, "p50 {:8.3} ms, p99 {:8.3} ms, worst {:8.3} ms", ms(self.p50), ms(self.p99), ms(self.worst))
    }
}

/// Sends the same request repeatedly over four connections, and reads the answers, while `f` runs.
pub fn flooded<R>(addr: SocketAddr, request: &[u8], f: impl FnOnce() -> R) -> R {
    let block = request.repeat((64 << 10) / request.len() + 1);
    let floods: Vec<Raw> = (0..4).map(|_| Raw::valid(addr)).collect();
    let answered: [AtomicBool; 4] = Default::default();
    std::thread::scope(|scope| {
        for (raw, answered) in floods.iter().zip(&answered) {
            let (mut sender, mut receiver, block) = (&raw.0, &raw.0, &block[..]);
            scope.spawn(move || {
                elsewhere();
                while sender.write_all(block).is_ok() {}
            });
            scope.spawn(move || {
                elsewhere();
                let mut buffer = vec![0; 256 << 10];
                while receiver.read(&mut buffer).is_ok_and(|n| n > 0) {
                    answered.store(true, Ordering::Relaxed);
                }
            });
        }
        // `f` begins when the server has answered on all four connections, or after 200 ms (some requests have no
        // answer).
        let begun = Instant::now();
        let processed = || answered.iter().all(|answered| answered.load(Ordering::Relaxed));
        while !processed() && begun.elapsed() < Duration::from_millis(200) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = f();
        for raw in &floods {
            let _ = raw.0.shutdown(Shutdown::Both);
        }
        result
    })
}
