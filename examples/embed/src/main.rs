//! A Rust program that embeds Python. A tensor of PyTorch is used in a collective in Rust, and a buffer of Rust becomes
//! a tensor of PyTorch, both without a copy.
//!
//! ```console
//! $ cargo build --manifest-path examples/embed/Cargo.toml
//! $ c10d run -n 2 -- examples/embed/target/debug/embed
//! ```
//!
//! Python must find torch and `c10d_rs` (`PYTHONPATH`). An extension module can do the same with the tensors that
//! Python passes to it.

use std::error::Error;
use std::ptr::NonNull;

use c10d::ReduceOp;
use c10d::dlpack::{Imported, ManagedTensorVersioned, export};
use pyo3::prelude::*;

/// Makes a buffer of a Python tensor. Dropping the buffer releases the tensor.
fn from_python(tensor: &Bound<'_, PyAny>) -> Result<Imported, Box<dyn Error>> {
    let dlpack = tensor.py().import("c10d_rs.dlpack")?;
    let address: usize = dlpack.call_method1("to_address", (tensor,))?.extract()?;
    let tensor = NonNull::new(address as *mut ManagedTensorVersioned).ok_or("there is no tensor")?;
    // SAFETY: `to_address` passes ownership, and Python does not use the tensor until the buffer is dropped.
    Ok(unsafe { Imported::versioned(tensor) }?)
}

/// Makes a Python tensor of a buffer. The buffer is freed when the last tensor that uses it is freed.
fn to_python<'py>(py: Python<'py>, values: Vec<f32>, shape: &[usize]) -> Result<Bound<'py, PyAny>, Box<dyn Error>> {
    let address = export(values, shape)?.as_ptr() as usize;
    Ok(py.import("c10d_rs.dlpack")?.call_method1("from_address", (address,))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let pg = c10d::builder().init("env://").build()?;
    let (rank, size) = (pg.rank(), pg.size());
    Python::attach(|py| {
        let torch = py.import("torch")?;
        let tensor = torch.call_method1("full", ((2, 3), f64::from(rank)))?;
        let buffer = from_python(&tensor)?.writable()?;
        // While this thread waits for the peers, other threads may use Python.
        drop(py.detach(|| pg.all_reduce(buffer, ReduceOp::Sum))?);
        let sum: f64 = tensor.call_method0("sum")?.call_method0("item")?.extract()?;
        assert_eq!(sum, f64::from(6 * size * (size - 1) / 2));

        let ours = to_python(py, vec![0.5; 6], &[2, 3])?;
        let total: f64 = tensor.call_method1("add_", (ours,))?.call_method0("sum")?.call_method0("item")?.extract()?;
        assert_eq!(total, sum + 3.0);

        // A tensor that is not contiguous is rejected and released.
        let refused = from_python(&tensor.call_method0("t")?).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|words| words.contains("make it contiguous")));
        println!("rank {rank}: PyTorch and Rust see the same memory");
        Ok(())
    })
}
