//! Sparse tensors in a device's memory.
#![allow(unsafe_code)]

use super::DeviceBuffer;
use crate::buffer::{Buf, CooLayout, Span, facts, sparse};
use crate::types::DType;
use crate::{Error, Result};

/// A sparse tensor in a device's memory; see [`Coo`](crate::Coo).
#[derive(Debug)]
pub struct DeviceCoo {
    layout: CooLayout,
    indices: DeviceBuffer,
    values: DeviceBuffer,
}

impl DeviceCoo {
    /// Makes a tensor of this shape, whose first `sparse_dim` dimensions are sparse. Both buffers must be on one
    /// device, and the indices must be of type `i64`.
    ///
    /// # Errors
    /// `InvalidArgument` if the indices are not of type `i64`, or in the cases of [`Coo::new`](crate::Coo::new). The op
    /// that uses the tensor checks the coordinates and the devices.
    pub fn new(
        shape: impl Into<Vec<usize>>,
        sparse_dim: usize,
        indices: DeviceBuffer,
        values: DeviceBuffer,
    ) -> Result<DeviceCoo> {
        if indices.dtype() != DType::I64 {
            return Err(Error::invalid(format!(
                "the indices of a sparse tensor must be of type i64; these are of {}",
                indices.dtype()
            )));
        }
        let layout = CooLayout::new(shape.into(), sparse_dim, indices.count(), values.count())?;
        Ok(DeviceCoo { layout, indices, values })
    }

    facts!();

    /// Returns the coordinates: `sparse_dim` rows of `nnz`.
    pub fn indices(&self) -> &DeviceBuffer {
        &self.indices
    }

    /// Returns the values: `nnz` rows.
    pub fn values(&self) -> &DeviceBuffer {
        &self.values
    }

    /// Returns the coordinates and the values.
    pub fn into_parts(self) -> (DeviceBuffer, DeviceBuffer) {
        (self.indices, self.values)
    }

    fn spans(&mut self) -> [Span; 2] {
        [self.values.span(), self.indices.span()]
    }
}

sparse! {
    [] DeviceCoo;
}
