//! Checks that the PTX has exactly the CUDA kernels that this crate uses.

use std::collections::BTreeMap;

use c10d_core::{DType, ReduceOp};

use super::{Kernel, Module, reducer, reduces, scaler};

/// Returns the functions of a module, with the number of their parameters.
fn entries(module: Module) -> BTreeMap<String, usize> {
    let text = module.ptx().to_str().unwrap();
    text.split(".entry ")
        .skip(1)
        .map(|entry| {
            let (name, rest) = entry.split_once('(').unwrap();
            let parameters: Vec<&str> =
                rest.split_once(')').unwrap().0.lines().filter(|l| l.contains(".param")).collect();
            assert!(parameters.iter().all(|p| p.contains(".param .u64 ")), "{name}: {parameters:?}");
            (name.to_owned(), parameters.len())
        })
        .collect()
}

fn all() -> Vec<&'static Kernel> {
    super::reduce::all().chain(super::sparse::all()).collect()
}

#[test]
fn every_kernel_is_in_its_ptx_and_nothing_else() {
    for module in [Module::Reduce, Module::Scale, Module::Sparse] {
        let asked = all().into_iter().filter(|k| k.module == module);
        let asked: BTreeMap<String, usize> = asked.map(|k| (k.name.to_owned(), k.parameters)).collect();
        assert_eq!(asked, entries(module));
        let text = module.ptx().to_str().unwrap();
        // The oldest driver and device that are accepted can use PTX of this version and target.
        assert!(text.contains(".version 8.0\n") && text.contains(".target sm_70\n"));
    }
}

#[test]
fn every_offered_reduction_has_a_kernel() {
    for code in 0..ReduceOp::COUNT as u8 {
        let op = ReduceOp::from_code(code, 1.0).unwrap();
        assert!(reduces(op).iter().all(|dtype| reducer(dtype).is_some() && op.is_defined_on(dtype)));
    }
    assert!(super::SCALED.iter().all(|dtype| scaler(dtype).is_some()));
    assert!(reducer(DType::Bool).is_none() && scaler(DType::I32).is_none());
}
