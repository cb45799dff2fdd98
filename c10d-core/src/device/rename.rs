//! The name of PrivateUse1's default slot.

use crate::types::rename_default;
use crate::{Error, Result};

/// Gives the default slot of PrivateUse1 another name, for backend maps and messages, as PyTorch's
/// `rename_privateuse1_backend` does. Once per process; the same name again is no error.
///
/// # Errors
/// `InvalidArgument` if the name is taken or cannot be written in a backend map, or if the slot has another name already.
pub fn rename_private_use1(name: &str) -> Result {
    rename_default(name).map_err(Error::invalid)
}
