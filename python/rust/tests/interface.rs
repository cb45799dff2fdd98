//! Tests that the C header matches the library.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};

use c10d::{DType, OpKind};
use c10d_rs::CError;
use c10d_rs::abi::*;

const HEADER: &str = include_str!("../../c10d_rs/c10d_rs.h");

/// The constants in the header whose names begin with `begin`, and their values.
fn numbers(begin: &str) -> Vec<(String, u8)> {
    let lines = HEADER.lines().filter_map(|line| line.trim().strip_prefix(begin)?.split_once(" = "));
    lines.map(|(name, n)| (name.to_owned(), n.split([',', ' ']).next().unwrap().parse().unwrap())).collect()
}

#[test]
fn codes_are_those_of_the_header() {
    let ops: Vec<_> = OpKind::ALL.iter().map(|op| (op.name().to_owned(), *op as u8)).collect();
    assert_eq!(numbers("C10DRS_OP_"), ops);
    let types: Vec<_> = DType::ALL.iter().map(|dtype| (dtype.name().to_owned(), *dtype as u8)).collect();
    assert_eq!(numbers("C10DRS_TYPE_"), types);
    assert!(HEADER.contains(&format!("#define C10DRS_ABI {ABI}\n")));
    assert_eq!(c10drs_abi(), ABI);
}

#[test]
fn every_function_of_the_header_is_defined() {
    let declared: Vec<&str> = HEADER.split("c10drs_").filter_map(|part| part.split_once('(')).map(|(n, _)| n).collect();
    let source = [
        include_str!("../src/abi/mod.rs"),
        include_str!("../src/abi/group.rs"),
        include_str!("../src/abi/calls.rs"),
        include_str!("../src/abi/works.rs"),
    ]
    .concat();
    for name in declared.into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
        assert!(source.contains(&format!("fn c10drs_{name}(")), "c10drs_{name} is declared but not defined");
    }
}

/// Reads an error as C would, and frees it.
fn words(error: *mut CError) -> (String, String, u32) {
    assert!(!error.is_null());
    // SAFETY: the library made the error, and only this function frees it.
    unsafe {
        let text = CStr::from_ptr((*error).text).to_str().unwrap().to_owned();
        let kind = CStr::from_ptr((*error).kind).to_str().unwrap().to_owned();
        let failed = (*error).failed;
        c10drs_error_free(error);
        (text, kind, failed)
    }
}

fn alone() -> *mut Group {
    let init = Init::alone();
    let (mut group, mut error) = (null_mut(), null_mut());
    // SAFETY: everything lives until the call returns.
    assert_eq!(unsafe { c10drs_open(&init, &mut group, &mut error) }, 0);
    group
}

#[test]
fn one_rank_runs_starts_and_is_notified() {
    unsafe extern "C" fn count(to: *mut c_void) {
        // SAFETY: `to` points to a counter of this test.
        unsafe { &*to.cast::<std::sync::atomic::AtomicU32>() }.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
    let group = alone();
    let mut data = [1f32, 2.0];
    let tensor = Tensor::new(data.as_mut_ptr().cast(), 2, DType::F32 as u32);
    let (released, told) = (std::sync::atomic::AtomicU32::new(0), std::sync::atomic::AtomicU32::new(0));
    let mut error = null_mut();
    // SAFETY: the data outlives the work, because this test waits for it.
    unsafe {
        let mut call = CallSpec::new(OpKind::AllReduce as u32);
        call.set_outputs(&tensor, 1);
        assert_eq!(c10drs_run(group, &call, null_mut(), &mut error), 0);
        let work = c10drs_start(group, &call, count, (&raw const released).cast_mut().cast(), &mut error);
        assert!(!work.is_null());
        let called = c10drs_work_notify(work, count, (&raw const told).cast_mut().cast());
        assert_eq!(c10drs_work_wait(work, -1, null_mut(), &mut error), 0);
        assert_eq!(c10drs_work_done(work), 1);
        assert_eq!(c10drs_work_wait(work, 0, null_mut(), &mut error), 0, "a finished op may be waited for again");
        c10drs_work_free(work);
        let seen = |n: &std::sync::atomic::AtomicU32| n.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!((seen(&released), seen(&told) as c_int), (1, called));
        // An invalid call returns an error, and the group can still be used.
        call.reduce = 77;
        assert_eq!(c10drs_run(group, &call, null_mut(), &mut error), 1);
        let (text, kind, failed) = words(error);
        assert!(text.contains("reduce operation with the code 77"), "{text}");
        assert_eq!((kind.as_str(), failed), ("InvalidArgument", 0));
        assert!(c10drs_failure(group).is_null());
        let work = c10drs_start(group, &call, count, (&raw const released).cast_mut().cast(), &mut error);
        assert!(work.is_null() && seen(&released) == 2, "the tensors are released although the call was rejected");
        words(error);
        assert_eq!(c10drs_shutdown(group, 1000, &mut error), 0);
        c10drs_close(group);
        c10drs_close(null_mut());
        c10drs_work_free(null_mut());
    }
}

#[test]
fn a_struct_of_another_size_is_refused() {
    let mut init = Init::alone();
    init.bytes -= 8;
    let (mut group, mut error) = (null_mut(), null_mut());
    // SAFETY: everything lives until the call returns.
    assert_eq!(unsafe { c10drs_open(&init, &mut group, &mut error) }, 1);
    assert!(words(error).0.contains("the versions differ"));
    assert!(group.is_null());
    let _: *const Group = null();
}
