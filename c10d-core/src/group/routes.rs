//! Routes: the lane and the kernels that run the calls of a dispatch key, or of a vendor's devices.

use std::sync::Arc;

use super::Lane;
use super::builder::GroupSpec;
use super::deferred::sparse_lane;
use crate::backend::registry::{Choice, Offer, forwards, key_and_slot};
use crate::backend::{Backend, Capabilities, GroupInit, Kernel, Origin, Registry, Request};
use crate::catalog::{OpKind, OpSet};
use crate::staged::Staged;
use crate::types::{DType, DTypeSet, DispatchKey, ReduceOp, vendor_name};
use crate::{Error, Result};

/// The lane and the kernels for the calls of one dispatch key, or of one vendor's devices.
#[derive(Clone)]
pub(super) struct Route {
    lane: usize,
    pub(super) kernels: [Option<Kernel>; OpKind::ALL.len()],
    /// The ops whose kernel only passes the job to the backend.
    pub(super) forwarded: OpSet,
    pub(super) capabilities: Capabilities,
    /// For each op and each code of a reduce operation, the element types that [`Route::plain_kernel`] accepts.
    plain: [[DTypeSet; ReduceOp::COUNT]; OpKind::ALL.len()],
}

impl Route {
    fn new(lane: usize, kernels: [Option<Kernel>; OpKind::ALL.len()], capabilities: Capabilities) -> Route {
        let all = |fits: &dyn Fn(&OpKind) -> bool| -> OpSet {
            OpSet::of(&OpKind::ALL.iter().copied().filter(fits).collect::<Vec<_>>())
        };
        let forwarded = all(&|op| kernels[*op as usize].is_some_and(forwards));
        let mut plain = [[DTypeSet::NONE; ReduceOp::COUNT]; OpKind::ALL.len()];
        for op in OpKind::ALL.iter().filter(|op| kernels[**op as usize].is_some()) {
            for code in 0..ReduceOp::COUNT as u8 {
                // A factor is part of the fingerprint, so a call with a factor is not plain.
                let Some(reduce) = ReduceOp::from_code(code, 1.0).filter(|r| !matches!(r, ReduceOp::PreMulSum(_)))
                else {
                    continue;
                };
                let fits = |dtype: &DType| {
                    capabilities.offers(*op, *dtype, reduce) && (!op.reduces() || reduce.is_defined_on(*dtype))
                };
                let types: Vec<DType> = DType::ALL.iter().copied().filter(fits).collect();
                plain[*op as usize][code as usize] = DTypeSet::of(&types);
            }
        }
        Route { lane, kernels, forwarded, capabilities, plain }
    }

    /// Returns the kernel of a [plain](crate::dispatch::plain) call with this element type, if the op is offered on the
    /// type, and its reduce operation is defined on the type and has no factor.
    #[inline]
    pub(super) fn plain_kernel(&self, request: &Request, dtype: Option<DType>) -> Option<Kernel> {
        let types = self.plain[request.op as usize][request.params.reduce.code() as usize];
        let kernel = self.kernels[request.op as usize];
        kernel.filter(|_| dtype.is_none_or(|dtype| types.contains(dtype)))
    }
}

/// All routes of a group. An `Err` says why a route does not exist.
pub(super) struct Routes {
    /// The routes, indexed by dispatch key. The route of PrivateUse1 is for the default slot (slot 0).
    keys: [Result<Route, String>; DispatchKey::ALL.len()],
    /// The routes of vendors' devices, each with the slot of the vendor (see [`vendor`](crate::device::vendor)).
    vendors: Vec<(u8, Result<Route, String>)>,
}

impl Routes {
    /// Makes the backends on which the ranks agreed, in the same order on all ranks, and the routes to them.
    pub(super) fn lay(
        spec: &GroupSpec,
        init: &GroupInit,
        offers: &[Offer],
        served: &[(String, String)],
    ) -> Result<(Vec<Lane>, Routes)> {
        let mut lanes = Vec::new();
        // The lanes by name: devices with the same backend share a lane. Lanes for sparse tensors are not shared.
        let mut named: Vec<(String, usize)> = Vec::new();
        let mut routes =
            Routes { keys: DispatchKey::ALL.map(|key| Err(format!("{key} is not served"))), vendors: Vec::new() };
        for offer in offers.iter().filter(|o| !served.iter().any(|(word, _)| *word == o.word)) {
            let why = offer.choices.as_ref().map_or_else(Clone::clone, |_| {
                format!("{} is not served: no backend for it is common to all ranks", offer.word)
            });
            routes.set(&offer.word, |_| Err(why.clone()));
        }
        for (word, name) in served {
            let choices = offers.iter().find(|o| o.word == *word).and_then(|o| o.choices.as_ref().ok());
            let choice = choices.and_then(|c| c.iter().find(|c| c.name() == *name));
            // The leader chooses only backends that this rank has offered, so without a choice the session was damaged.
            let choice = choice.ok_or_else(|| Error::invalid(format!("this rank has no backend {name} for {word}")))?;
            let best = choices.and_then(|c| c.first()).map_or(String::new(), Choice::name);
            if best != *name && spec.rank == 0 {
                tracing::info!(target: "c10d", group = %spec.name, "{word} is served by {name}: not all ranks can use {best}");
            }
            let unique = match choice {
                Choice::Native(_) => name.clone(),
                Choice::Staged { device, .. } => format!("{}/{name}", device.name),
            };
            let lane = match named.iter().find(|(name, _)| *name == unique) {
                Some((_, lane)) => *lane,
                None => {
                    let (backend, made) = make(init, &spec.registry, choice)?;
                    let (group, global) = (spec.name.clone(), spec.global.clone());
                    lanes.push(Lane::new(Origin { group, rank: spec.rank, backend, global }, made));
                    named.push((unique, lanes.len() - 1));
                    lanes.len() - 1
                }
            };
            let backend = lanes[lane].info.backend;
            let cpu = match choice {
                Choice::Staged { cpu, .. } => Some(cpu.name),
                Choice::Native(r) if r.keys.contains(&DispatchKey::Cpu) => Some(r.name),
                Choice::Native(_) => served.iter().find(|(word, _)| word == "cpu").map(|(_, name)| name.as_str()),
            };
            routes.set(word, |key| {
                let kernel = |op: OpKind| spec.registry.kernel(op, key, backend).map(|k| k.0);
                if !OpKind::ALL.iter().any(|op| kernel(*op).is_some()) {
                    return Err(format!(
                        "{key} is declared without a kernel: the crate that provides the kernel is not linked"
                    ));
                }
                if key.is_sparse() {
                    // A sparse kernel for all backends runs its dense ops on the CPU backend. A kernel for this backend
                    // runs them on this backend.
                    let own = spec.registry.has_own_kernel(OpKind::AllReduce, key, backend);
                    lanes.push(sparse_lane(
                        init,
                        &spec.registry,
                        key,
                        &lanes[lane],
                        if own { Some(backend) } else { cpu },
                    )?);
                    let mut kernels = [None; OpKind::ALL.len()];
                    kernels[OpKind::AllReduce as usize] = kernel(OpKind::AllReduce);
                    return Ok(Route::new(lanes.len() - 1, kernels, Capabilities::ALL));
                }
                let capabilities = *lanes[lane].backend.capabilities_on(key);
                let mut kernels = [None; OpKind::ALL.len()];
                for op in OpKind::ALL.iter().filter(|op| capabilities.ops.contains(**op)) {
                    kernels[*op as usize] = kernel(*op);
                }
                Ok(Route::new(lane, kernels, capabilities))
            });
        }
        Ok((lanes, routes))
    }

    /// Sets the dense and sparse routes of the device that the backend map calls `word`.
    fn set(&mut self, word: &str, mut route: impl FnMut(DispatchKey) -> Result<Route, String>) {
        let (dense, vendor) = key_and_slot(word);
        if vendor != 0 {
            self.vendors.push((vendor, route(dense)));
            return;
        }
        for key in DispatchKey::ALL.into_iter().filter(|k| k.dense() == dense) {
            self.keys[key as usize] = route(key);
        }
    }

    /// Returns the route of a dispatch key for the devices with this vendor slot (0 is the default slot).
    #[inline]
    pub(super) fn get(&self, key: DispatchKey, vendor: u8) -> Result<&Route> {
        let route = match vendor {
            0 => Some(&self.keys[key as usize]),
            _ => self.vendors.iter().find(|(v, _)| *v == vendor).map(|(_, route)| route),
        };
        match route {
            Some(Ok(route)) => Ok(route),
            Some(Err(why)) => Err(Error::unsupported(why.clone())),
            None => Err(unknown(vendor)),
        }
    }

    /// Returns the route of the dispatch key CPU, if there is one.
    #[inline]
    pub(super) fn cpu(&self) -> Option<&Route> {
        self.keys[DispatchKey::Cpu as usize].as_ref().ok()
    }

    #[inline]
    pub(super) fn lane<'a>(route: &Route, lanes: &'a [Lane]) -> &'a Lane {
        &lanes[route.lane]
    }

    /// Returns the vendor slot for PrivateUse1 if no buffer or device names one (in a barrier, or in
    /// `ProcessGroup::backend`): the default slot if it is served, else the first slot that is served.
    pub(super) fn some_vendor(&self) -> u8 {
        let served = self.vendors.iter().find(|(_, route)| route.is_ok()).map_or(0, |(vendor, _)| *vendor);
        if self.keys[DispatchKey::PrivateUse1 as usize].is_ok() { 0 } else { served }
    }
}

/// Makes the backend of a choice. Returns the backend, and the name that it has in errors.
fn make(init: &GroupInit, registry: &Registry, choice: &Choice) -> Result<(&'static str, Arc<dyn Backend>)> {
    match choice {
        Choice::Native(r) => Ok((r.name, init.backend(r.name)?)),
        Choice::Staged { device, cpu } => {
            let name = lasting(format!("{} staged by {}", device.name, cpu.name));
            let (runtime, cpu) = (registry.device(device.name)?, init.own_backend(cpu.name, device.name)?);
            Ok((name, Arc::new(Staged::new(name, runtime, cpu, init)?)))
        }
    }
}

#[cold]
fn unknown(vendor: u8) -> Error {
    let name = vendor_name(vendor).unwrap_or("of an unknown vendor");
    Error::unsupported(format!("device {name} is not served by this group; name it in the backend map"))
}

/// Returns the text as a string that lives as long as the program. Equal texts return the same string.
fn lasting(text: String) -> &'static str {
    static TEXTS: crate::sync::Mutex<Vec<&'static str>> = crate::sync::Mutex::new(Vec::new());
    let mut texts = TEXTS.lock();
    if let Some(known) = texts.iter().find(|t| **t == text) {
        return known;
    }
    let text = text.leak();
    texts.push(text);
    text
}
