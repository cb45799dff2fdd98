//! The manual.
//!
//! Read [`concepts`] and [`first_program`] first. If you know PyTorch or MPI, see the tables in [`from_torch`] or
//! [`from_mpi`]. If something goes wrong, see [`errors`] and [`troubleshooting`].

#[doc = include_str!("concepts.md")]
pub mod concepts {}

#[doc = include_str!("first_program.md")]
pub mod first_program {}

#[doc = include_str!("from_torch.md")]
pub mod from_torch {}

#[doc = include_str!("from_mpi.md")]
pub mod from_mpi {}

#[doc = include_str!("settings.md")]
pub mod settings {}

#[doc = include_str!("errors.md")]
pub mod errors {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}

#[doc = include_str!("security.md")]
pub mod security {}
