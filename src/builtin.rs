//! What this build of the facade was given by its features.

use c10d_core::backend::Provider;

/// The providers of the backends that cargo features chose, of the loader of plugins, and of the init methods.
///
/// Named here, and not only submitted at link time, because a crate that nobody names is not linked, and because a
/// `staticlib` loses its constructors.
pub fn builtin() -> &'static [&'static Provider] {
    static BUILTIN: &[&Provider] = &[
        #[cfg(feature = "gloo-like")]
        &c10d_gloo_like::PROVIDER,
        #[cfg(feature = "mpi")]
        &c10d_mpi::PROVIDER,
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

/// The variables of the project's parts and programs, which a cluster may set for all programs, whatever this one was
/// built with.
static SETTINGS: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    variables: &[
        "C10D_CUDA_KERNELS",
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
    ..Provider::EMPTY
};
