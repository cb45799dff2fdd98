//! The name of PrivateUse1's default slot (slot 0, see [`vendor`](super::vendor())).

use crate::types::rename_default;
use crate::{Error, Result};

/// Gives the default slot of PrivateUse1 another name, which is used in backend maps and errors. This function is the
/// equivalent of PyTorch's `rename_privateuse1_backend`. A process can rename the slot once; another call with the same
/// name does nothing.
///
/// # Errors
/// `InvalidArgument` if the name is taken or cannot be written in a backend map, or if the slot was renamed to another
/// name before.
pub fn rename_private_use1(name: &str) -> Result {
    rename_default(name).map_err(Error::invalid)
}
