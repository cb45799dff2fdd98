//! The providers that the cargo features of the facade link.

#[cfg(all(feature = "gloo-like", feature = "mpi"))]
use std::sync::Arc;

use c10d_core::backend::Provider;
#[cfg(all(feature = "gloo-like", feature = "mpi"))]
use c10d_core::{DispatchKey, backend::Registration, tiered, tiered::Tiered};

/// Returns the providers of this build: the backends that cargo features chose, the loader of plugins, and the init
/// methods.
pub fn builtin() -> &'static [&'static Provider] {
    static BUILTIN: &[&Provider] = &[
        #[cfg(feature = "gloo-like")]
        &c10d_gloo_like::PROVIDER,
        #[cfg(feature = "mpi")]
        &c10d_mpi::PROVIDER,
        #[cfg(all(feature = "gloo-like", feature = "mpi"))]
        &TIERED,
        #[cfg(feature = "nccl")]
        &c10d_nccl::PROVIDER,
        #[cfg(feature = "sparse")]
        &c10d_sparse::PROVIDER,
        #[cfg(feature = "plugins")]
        &c10d_privateuse::PROVIDER,
        &c10d_rendezvous::PROVIDER,
        &SETTINGS,
    ];
    BUILTIN
}

/// One backend that uses two: `gloo-like` for shared memory within a host, and MPI between hosts.
#[cfg(all(feature = "gloo-like", feature = "mpi"))]
static TIERED: Provider = {
    const NAME: &str = "gloo-like+mpi";
    Provider {
        source: env!("CARGO_PKG_NAME"),
        backends: &[Registration {
            name: NAME,
            keys: &[DispatchKey::Cpu],
            // Both backends have higher priorities, so a group uses the pair only if the backend map names it.
            priority: 10,
            // A probe knows no hints, such as the path of the MPI library, so it may fail although a group could use
            // the pair. Core does not call the probe if the backend map names the pair.
            probe: &|| {
                let both = [&c10d_gloo_like::PROVIDER, &c10d_mpi::PROVIDER];
                both.iter().flat_map(|provider| provider.backends).try_for_each(|backend| (backend.probe)())
            },
            create: &|init| Ok(Arc::new(Tiered::connect(NAME, init)?)),
        }],
        hints: &[tiered::HOST_HINT, tiered::LEAST_HINT],
        ..Provider::EMPTY
    }
};

/// The variables that this build accepts without a warning, even if it lacks the crate that reads them, and the
/// backends that this build lacks.
static SETTINGS: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    variables: &[
        "C10D_CUDA_KERNELS",
        "C10D_CMA",
        "C10D_LOG",
        "C10D_MPI_LIB",
        "C10D_NCCL_LIB",
        "C10D_PLUGINS",
        "C10D_PLUGIN_PATH",
        "C10D_RS_CACHE",
        "C10D_RS_LIBRARY",
        "C10D_RS_SHIM",
        "C10D_SOCKET_ADDR",
        "C10D_SOCKET_IFNAME",
        "C10D_TRANSPORT",
        "C10D_TUNING",
    ],
    absent: &[
        #[cfg(not(feature = "gloo-like"))]
        ("gloo-like", "build the program with the cargo feature `gloo-like` of the crate c10d"),
        #[cfg(not(feature = "mpi"))]
        ("mpi", "build the program with the cargo feature `mpi` of the crate c10d"),
        #[cfg(not(all(feature = "gloo-like", feature = "mpi")))]
        ("gloo-like+mpi", "build the program with the cargo features `gloo-like` and `mpi` of the crate c10d"),
        #[cfg(not(feature = "nccl"))]
        ("nccl", "build the program with the cargo feature `nccl` of the crate c10d"),
    ],
    ..Provider::EMPTY
};
