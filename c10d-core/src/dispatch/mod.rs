//! From a call to a kernel: key, validation, turn, number, fingerprint.

mod fingerprint;

pub use fingerprint::Fingerprint;
