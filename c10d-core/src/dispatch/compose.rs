//! Kernels that are made of several dense ops: one of their steps.

use super::validate;
use crate::backend::{Caller, Fingerprint, KernelContext, Request, fingerprint, nested};
use crate::buffer::{Buffers, Outcome};
use crate::call::Call;
use crate::{Result, Status};

impl KernelContext<'_> {
    /// Runs one dense op as step `step` (1 to 127) of a composed kernel, and waits for it, for as long as the call that
    /// it is part of may still take. All ranks must run the same steps. Nothing is numbered: the step has the call's
    /// number, and its element type and reduce operation go before the step's payload, so that ranks that disagree about
    /// them learn it at the first step.
    ///
    /// # Errors
    /// As of the op; all of status `Failed`.
    pub fn run_step<B: Buffers>(&self, outer: &Request, step: u8, call: Call<B>) -> Result<B::Back> {
        let Call { op, params, error, mut buffers, .. } = call;
        let mut request = Request::new(op, Caller::Waits, params, outer.timeout);
        // So that errors count from the call, too, and not from the step.
        request.deadline = outer.deadline().into();
        let described = error.map_or(Ok(()), Err).and_then(|()| buffers.describe(&mut request.spans));
        let outcome = described.and_then(|()| self.step(outer, step, request)).map_err(|mut e| {
            // Something may have been sent, if not in this step.
            e.report_mut().status = Status::Failed;
            e
        })?;
        Ok(buffers.back(outcome))
    }

    fn step(&self, outer: &Request, step: u8, mut request: Request) -> Result<Outcome> {
        let span = request.outputs().first().or(request.inputs().first());
        request.key = span.map_or(outer.key.dense(), |s| s.device().key());
        validate(&request, self.info.rank, self.size)?;
        request.seq = outer.seq;
        let own = fingerprint(&request);
        request.fingerprint = Fingerprint {
            step: outer.fingerprint.step | step,
            count: own.count,
            root: own.root,
            rest: own.rest ^ (u32::from(own.op) << 8 | u32::from(own.dtype)) << 16,
            ..outer.fingerprint
        };
        nested(&**self.backend, Some(self.info), request)
    }
}
