//! Tests operations and their handles, with backends that are made of closures.
#![allow(unsafe_code)]

mod buffers;
mod cancel;
mod failures;
mod foreign_code;
mod order;
mod waiting;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use c10d_core::backend::Job;
use c10d_core::{Buf, BufMut, ProcessGroup, ReduceOp, Span};

use crate::common::{self, block_on, group, puppet, within};

const SUM: ReduceOp = ReduceOp::Sum;

/// Adds 1 to every `f32` of the outputs.
fn add_one(job: &Job) {
    for span in job.request().outputs() {
        let p = span.host_ptr().unwrap().cast::<f32>();
        for i in 0..span.count() {
            // SAFETY: the address is within the span, and the job is not complete.
            unsafe { *p.add(i) += 1.0 };
        }
    }
}

/// Completes the job on another thread, when the caller probably waits.
fn later(job: Job) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        add_one(&job);
        job.complete(Ok(()));
    });
}

fn at_once(job: Job) {
    add_one(&job);
    job.complete(Ok(()));
}

/// Makes a group whose backend sends its jobs to the returned receiver.
fn held() -> (ProcessGroup, Receiver<Job>) {
    let (tx, rx) = channel();
    let tx: Mutex<Sender<Job>> = Mutex::new(tx);
    (group(puppet(move |job| tx.lock().unwrap().send(job).unwrap())), rx)
}
