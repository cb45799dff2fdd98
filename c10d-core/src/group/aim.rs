//! The aim of a call: the lane and the kernel that run it.

use super::routes::Routes;
use super::{Group, Lane};
use crate::backend::{Kernel, Request, fingerprint};
use crate::catalog::OpKind;
use crate::dispatch;
use crate::options::Params;
use crate::types::DispatchKey;
use crate::{Error, Result, Status};

/// The lane and the kernel that run a validated request.
#[derive(Clone, Copy)]
pub(super) struct Aim<'a> {
    pub(super) lane: &'a Lane,
    pub(super) kernel: Kernel,
    /// Whether the kernel only passes the job to the backend.
    pub(super) forwards: bool,
}

impl Group {
    /// Finds dispatch key, lane and kernel of a request, validates the request, and computes its fingerprint.
    #[inline]
    pub(super) fn aim(&self, request: &mut Request) -> Result<Aim<'_>> {
        self.is_here()?;
        if let Some(cause) = self.failed.get() {
            return Err(self.again(cause));
        }
        if matches!(request.op, OpKind::Gather | OpKind::Scatter) && request.params.root == Params::ROOT_IS_ME {
            request.params.root = self.rank;
        }
        if let Some(aim) = self.aim_plain(request) {
            return Ok(aim);
        }
        if let Some(identity) = request.identity() {
            request.params.scale_splits(identity.bytes());
        }
        let (key, vendor) = self.device_of(request);
        let key = if request.sparse().is_some() { dispatch::sparse_key(key)? } else { key };
        request.key = key;
        dispatch::validate(request, self.rank, self.size)?;
        let (route, lane) = self.route(key, vendor)?;
        let offered = match request.dtype() {
            Some(dtype) => route.capabilities.offers(request.op, dtype, request.params.reduce),
            None => true,
        };
        match route.kernels[request.op as usize] {
            Some(kernel) if offered => {
                request.fingerprint = fingerprint(request);
                Ok(Aim { lane, kernel, forwards: route.forwarded.contains(request.op) })
            }
            kernel => Err(not_offered(request, lane, kernel.is_some())),
        }
    }

    /// Does the same as [`aim`](Self::aim), but faster, for the most common kind of call (see [`dispatch::plain`]).
    /// `None` if the call is of another kind or must be rejected; `aim` then handles it.
    #[inline]
    fn aim_plain(&self, request: &mut Request) -> Option<Aim<'_>> {
        let plain = dispatch::plain(request, self.rank, self.size)?;
        if request.op == OpKind::Barrier && self.bound.is_some() {
            return None;
        }
        let route = self.routes.cpu()?;
        let kernel = route.plain_kernel(request, plain.dtype)?;
        request.key = DispatchKey::Cpu;
        request.fingerprint = dispatch::plain_fingerprint(request, &plain);
        let lane = Routes::lane(route, &self.lanes);
        Some(Aim { lane, kernel, forwards: route.forwarded.contains(request.op) })
    }

    /// Returns the dispatch key and the vendor's slot (see [`vendor`](crate::device::vendor())) of a call. They decide
    /// its route.
    #[inline]
    fn device_of(&self, request: &Request) -> (DispatchKey, u8) {
        match request.outputs().first().or(request.inputs().first()) {
            Some(span) => (span.device().key(), span.device().vendor()),
            None if request.op == OpKind::MonitoredBarrier => (DispatchKey::Cpu, 0),
            None => self.device_of_barrier(request),
        }
    }

    /// Returns the dispatch key and the vendor's slot of a barrier, which has no buffer: those of the bound device if
    /// it is served, else those of the first of CPU, CUDA and PrivateUse1 that is served. If the call names device ids,
    /// only accelerators are considered.
    fn device_of_barrier(&self, request: &Request) -> (DispatchKey, u8) {
        let served = |device: &(DispatchKey, u8)| self.routes.get(device.0, device.1).is_ok();
        let private = (DispatchKey::PrivateUse1, self.routes.some_vendor());
        let devices = [(DispatchKey::Cpu, 0), (DispatchKey::Cuda, 0), private];
        let first = |devices: &[(DispatchKey, u8)]| devices.iter().copied().find(served);
        let bound = self.bound.map(|device| (device.key(), device.vendor()));
        if request.params.device_ids().is_empty() {
            return bound.filter(served).or_else(|| first(&devices)).unwrap_or(devices[0]);
        }
        // Device ids are numbers of accelerators. If no accelerator is served, the returned dispatch key has no route,
        // and so `aim` rejects the call.
        let accelerator = |device: &(DispatchKey, u8)| device.0 != DispatchKey::Cpu && served(device);
        bound.filter(accelerator).or_else(|| first(&devices[1..])).unwrap_or(devices[1])
    }

    /// Fills in the fields of the error of a call that no backend got. If the call was rejected, tells the backends, so
    /// that they can tell peers that wait for this call.
    #[cold]
    pub(super) fn refused(&self, op: OpKind, error: Error) -> Error {
        let mut error = self.described(error);
        error.report_mut().op.get_or_insert(op);
        if error.status() == Status::Rejected {
            error.report_mut().phase.get_or_insert(crate::Phase::Validate);
            self.lanes.iter().for_each(|lane| lane.backend.refused(op, &error));
        }
        error
    }
}

#[cold]
fn not_offered(request: &Request, lane: &Lane, has_kernel: bool) -> Error {
    let (backend, op, key) = (lane.info.backend, request.op, request.key);
    let what = match request.dtype() {
        Some(dtype) if has_kernel && op.reduces() => format!("{op} of {dtype} with {}", request.params.reduce),
        Some(dtype) if has_kernel => format!("{op} of {dtype}"),
        _ => format!("{op}"),
    };
    lane.info.described(Error::unsupported(format!("backend {backend} does not offer {what} on {key}")))
}
