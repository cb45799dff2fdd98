//! The backends that this build of the facade was given by its features.

use c10d_core::registry::Provider;

/// The providers of the backends that cargo features chose.
///
/// Named here, and not only submitted at link time, because a crate that nobody names is not linked, and because a
/// `staticlib` loses its constructors.
pub fn builtin() -> &'static [&'static Provider] {
    static BUILTIN: &[&Provider] = &[
        #[cfg(feature = "gloo-like")]
        &c10d_gloo_like::PROVIDER,
        #[cfg(feature = "nccl")]
        &c10d_nccl::PROVIDER,
        #[cfg(feature = "sparse")]
        &c10d_sparse::PROVIDER,
    ];
    BUILTIN
}
