//! Many messages that nobody receives yet: the sender must wait, and the receiving rank must store only some of them.

use crate::jobs;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use c10d::{ProcessGroup, Result, op};
use jobs::{failures, join, launch, lines, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};

/// The number of tags. Message i has the tag i % TAGS.
const TAGS: u32 = 7;
/// Messages whose number is a multiple of this have contents. All others are empty.
const FULL: u32 = 1000;
/// The tag of the message that tells a rank to continue.
const GO: u32 = 99;
/// The memory of the receiving rank must grow by less than this, in KiB.
const MEMORY: usize = 16 << 10;

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(Duration::from_secs(60))?;
    match part.split_once(':') {
        Some((way, count)) => {
            flood(&pg, way, count.parse().expect("a number"))?;
            pg.shutdown()
        }
        None => late(&pg),
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let flood = |name: &str, part: &'static str, transport: &'static str| {
        Trial::test(format!("floods/{name}"), move || is_bounded(part, transport))
    };
    vec![
        flood("empty_messages_over_shm", "named:300000", "shm"),
        // So many messages do not fit into the operating system's socket buffers.
        flood("empty_messages_over_tcp", "named:2000000", "tcp"),
        flood("empty_messages_for_any_source", "any:300000", "shm"),
        Trial::test("floods/a_receiver_that_takes_nothing_is_named", || names_the_receiver("shm")),
        Trial::test("floods/a_receiver_that_takes_nothing_is_named_tcp", || names_the_receiver("tcp")),
    ]
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

fn contents(i: u32) -> Vec<u32> {
    if i.is_multiple_of(FULL) { vec![i] } else { Vec::new() }
}

/// Rank 0 sends to rank 1, which receives nothing until rank 2 tells it to. Rank 2 does this when rank 0 has sent all
/// messages, or has been unable to send for 2 s.
fn flood(pg: &ProcessGroup, way: &str, count: u32) -> Result {
    match pg.rank() {
        0 => {
            let sent = AtomicU32::new(0);
            std::thread::scope(|s| {
                let sender = s.spawn(|| {
                    (0..count).try_for_each(|i| -> Result {
                        pg.send(&contents(i), 1, i % TAGS)?;
                        sent.store(i + 1, Ordering::Relaxed);
                        Ok(())
                    })
                });
                let (mut last, mut since) = (0, Instant::now());
                while last < count && since.elapsed() < Duration::from_secs(2) {
                    std::thread::sleep(Duration::from_millis(50));
                    let now = sent.load(Ordering::Relaxed);
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                }
                report_line(format!("sent {last}"));
                pg.send(&[last], 2, GO)?;
                sender.join().expect("the sender does not panic")
            })?;
        }
        1 => {
            let before = resident_kib();
            pg.recv(vec![0u32], 2, GO)?;
            report_line(format!("kept {}", resident_kib().saturating_sub(before)));
            for i in 0..count {
                let got = contents(i).iter().map(|_| 0).collect::<Vec<u32>>();
                let got = match way {
                    "any" => pg.run(op::recv_any_source(got, i % TAGS))?.0,
                    _ => pg.recv(got, 0, i % TAGS)?,
                };
                assert_eq!(got, contents(i), "message {i}");
            }
            report_line("all came");
        }
        _ => {
            let last = pg.recv(vec![0u32], 0, GO)?;
            pg.send(&last, 1, GO)?;
        }
    }
    Ok(())
}

fn is_bounded(part: &'static str, transport: &str) -> Result<(), Failed> {
    let report = launch(part, 3, transport).run().map_err(|e| e.to_string())?;
    let count: u32 = part.split_once(':').and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
    let number = |rank: u32, word: &str| -> Option<usize> {
        lines(&report, rank).iter().find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
    };
    let (sent, kept) = (number(0, "sent"), number(1, "kept"));
    println!(
        "{transport}: {sent:?} of {count} messages were sent before the first receive; the receiver grew by {kept:?} KiB"
    );
    let waited = sent.is_some_and(|sent| sent < count as usize);
    let small = kept.is_some_and(|kib| kib < MEMORY);
    let arrived = lines(&report, 1).contains(&"all came".to_owned());
    if waited && small && arrived && report.exits.iter().all(|exit| exit.success()) {
        Ok(())
    } else {
        Err(shown(&report).into())
    }
}

fn late(pg: &ProcessGroup) -> Result {
    if pg.rank() == 1 {
        while pg.failure().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    } else {
        let empty: [u32; 0] = [];
        let end = loop {
            if let Err(e) = pg.run(op::send(&empty, 1, 1).timeout(Duration::from_secs(2))) {
                break e;
            }
        };
        report_error("late", &end.error);
    }
    Ok(())
}

fn names_the_receiver(transport: &str) -> Result<(), Failed> {
    let report = launch("late", 2, transport).run().map_err(|e| e.to_string())?;
    let reported = failures(&report, 0);
    let right = reported.iter().any(|t| t.about == "late" && t.kind == "Timeout" && t.guilty == [1]);
    if right { Ok(()) } else { Err(shown(&report).into()) }
}
