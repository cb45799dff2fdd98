//! The thread that calls CUDA for a sparse call, so that a CUDA call that does not return does not block the caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::{Request, let_go};
use c10d_core::process::spawn;
use c10d_core::{Error, ErrorKind, Phase, Result};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::bench::{Bench, PATIENCE, Tensor};
use crate::cuda::{CudaApi, release, retain};

type Order = Box<dyn FnOnce(&mut Result<Bench>) + Send>;

/// The handle of the thread. When it is dropped, the thread frees the resources and ends.
pub(super) struct Worker {
    orders: Sender<Order>,
    /// The time at which the caller stops waiting for a CUDA call.
    patience: Instant,
    pub(super) index: u16,
    /// The error if the request's tensors cannot be used.
    refused: Option<Error>,
}

impl Worker {
    /// Starts the thread. The thread retains the memory of the request's tensors until the device has finished with it.
    pub(super) fn start(cuda: Arc<dyn CudaApi>, request: &Request) -> Result<Worker> {
        let index = request.inputs().first().map_or(0, |span| span.device().index());
        let mut refused = None;
        let mut held = RetainedTensors { cuda: cuda.clone(), index, addresses: Vec::new() };
        for tensor in request.inputs().iter().filter_map(Tensor::of).filter(|t| t.bytes() > 0) {
            if retain(&*cuda, index, tensor.at) {
                held.addresses.push(tensor.at);
            } else {
                let what = "a sparse tensor on a GPU must be in memory that c10d allocated (DeviceBuffer)";
                refused = Some(Error::invalid(what));
            }
        }
        let (orders, todo) = unbounded::<Order>();
        let (deadline, caller) = (request.deadline(), request.stream);
        let run = move || serve(Bench::new(cuda, index, caller, deadline), todo, held, PATIENCE);
        spawn("c10d-nccl-sparse", run)?;
        Ok(Worker { orders, patience: deadline + let_go(request.timeout) / 4, index, refused })
    }

    /// Returns an error if the request's tensors must not be used.
    pub(super) fn is_open(&self) -> Result {
        self.refused.clone().map_or(Ok(()), Err)
    }

    /// Runs a function on the thread, and returns its result. If the result arrives too late, the thread drops it.
    pub(super) fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        order: impl FnOnce(&mut Bench) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = bounded(1);
        let run = move |bench: &mut Result<Bench>| {
            let done = match bench {
                Ok(bench) => order(bench),
                Err(e) => Err(e.clone()),
            };
            // The caller may have stopped waiting.
            let _ = answer.send(done);
        };
        let gone = || Error::new(ErrorKind::Internal, "the thread that calls CUDA for a sparse call ended early");
        self.orders.send(Box::new(run)).map_err(|_| gone())?;
        let since = Instant::now();
        match answered.recv_deadline(self.patience) {
            Ok(done) => done,
            Err(e) if e.is_disconnected() => Err(gone()),
            Err(_) => {
                let what = format!("CUDA has not returned from {what} after {:.1?}", since.elapsed());
                Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Transfer))
            }
        }
    }
}

/// Tensors whose memory is not freed as long as this value exists, even if their owner frees them.
struct RetainedTensors {
    cuda: Arc<dyn CudaApi>,
    index: u16,
    addresses: Vec<u64>,
}

impl Drop for RetainedTensors {
    fn drop(&mut self) {
        self.addresses.iter().for_each(|at| release(&*self.cuda, self.index, *at));
    }
}

fn serve(mut bench: Result<Bench>, todo: Receiver<Order>, held: RetainedTensors, patience: Duration) {
    todo.into_iter().for_each(|order| order(&mut bench));
    if bench.is_ok_and(|bench| !bench.end(patience)) {
        // The device may use the tensors for ever.
        std::mem::forget(held);
    }
}

#[cfg(test)]
mod tests {
    use c10d_core::DType;

    use super::*;
    use crate::tests::mock::MockCuda;

    /// Returns how many allocations are freed at the end of a call, if the device is busy for this number of polls.
    fn freed(questions: u64, patience: Duration) -> u64 {
        let cuda = Arc::new(MockCuda::at_work(questions));
        let mut bench = Bench::new(cuda.clone(), 0, 0, Instant::now());
        bench.as_mut().unwrap().allocate(DType::F32, 5).unwrap();
        let held = RetainedTensors { cuda: cuda.clone(), index: 0, addresses: vec![1 << 20] };
        // There is no sender, as at the end of a call.
        let (_, todo) = unbounded();
        serve(bench, todo, held, patience);
        cuda.freed()
    }

    /// The mock panics if memory is freed earlier.
    #[test]
    fn memory_is_freed_when_the_device_has_finished() {
        assert_eq!(freed(100, PATIENCE), 2, "the call's own memory and the caller's");
    }

    #[test]
    fn memory_is_leaked_if_the_device_never_finishes() {
        assert_eq!(freed(u64::MAX, Duration::ZERO), 0);
    }
}
