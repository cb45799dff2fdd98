//! The registration of the init methods.

use c10d_core::backend::{InitMethod, Provider};

use crate::init::{init, rank_and_size};

/// The init methods `env://`, `tcp://` and `file://`. The facade includes this provider. A program without the facade
/// passes it to the builder.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    init_methods: &[
        method("env", "env://"),
        method("tcp", "tcp://host:port?rank=R&world_size=N"),
        method("file", "file:///path?rank=R&world_size=N"),
    ],
    ..Provider::EMPTY
};

const fn method(scheme: &'static str, form: &'static str) -> InitMethod {
    InitMethod { scheme, form, rank_and_size, join: init }
}
