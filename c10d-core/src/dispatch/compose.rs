//! The steps of a kernel that consists of several dense ops.

use super::validate;
use crate::backend::{Caller, Fingerprint, KernelContext, Request, fingerprint, nested};
use crate::buffer::{Buffers, Outcome};
use crate::call::Call;
use crate::{Result, Status};

impl KernelContext<'_> {
    /// Runs one dense op as step `step` (1 to 127) of a composed kernel, and waits for it within the remaining time of
    /// the call. All ranks must run the same steps. Ranks that make different steps get a mismatch at the first step
    /// that differs.
    ///
    /// # Errors
    /// The errors of the op, always with status `Failed`.
    pub fn run_step<B: Buffers>(&self, outer: &Request, step: u8, call: Call<B>) -> Result<B::Back> {
        let Call { op, params, error, mut buffers, .. } = call;
        let mut request = Request::new(op, Caller::Waits, params, outer.timeout);
        // The step has the deadline and the timeout of the call. So errors report the time since the outer call began.
        request.deadline = outer.deadline().into();
        let described = error.map_or(Ok(()), Err).and_then(|()| buffers.describe(&mut request.spans));
        let outcome = described.and_then(|()| self.step(outer, step, request)).map_err(|mut e| {
            // An earlier step may have sent bytes, so the status is `Failed`, not `Rejected`.
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
