//! Tests that the host works with plugins that were built with the header of an older, the same or the next minor
//! version.
#![allow(unsafe_code)]

use crate::common;

use std::time::{Duration, Instant};

use c10d_core::backend::Registry;
use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime, Elements};
use c10d_core::{Builder, DType, DTypeSet, Device, ReduceOp, op};
use c10d_privateuse::{LoadReport, Search, Verdict, abi};

const CAP: Duration = Duration::from_secs(20);

/// Makes the header of an older minor version, which lacks the members that later versions appended.
fn older(header: &str, minor: u16) -> String {
    let mut text = version(header, minor);
    for later in minor + 1..=abi::MINOR {
        let new = format!("/* since 1.{later} */");
        while let Some(mark) = text.find(&new) {
            let end = mark + text[mark..].find('\n').unwrap();
            let this = text[..mark].rfind(';').unwrap();
            let before = text[..this].rfind(';').unwrap();
            let begin = before + text[before..].find('\n').unwrap();
            text.replace_range(begin..end, "");
        }
    }
    text
}

fn version(header: &str, minor: u16) -> String {
    let define = |minor: u16| format!("#define C10D_ABI_MINOR {minor}\n");
    assert_eq!(header.matches(&define(abi::MINOR)).count(), 1);
    header.replace(&define(abi::MINOR), &define(minor))
}

/// Makes a possible header of the next minor version: every struct that a plugin or the host fills is longer.
fn newer(header: &str) -> String {
    let text = version(header, abi::MINOR + 1);
    let longer = |text: String, end: &str| {
        assert_eq!(text.matches(end).count(), 1, "{end}");
        text.replace(end, &format!("    uint64_t future;\n{end}"))
    };
    let ends = [
        "} c10d_why;",
        "} c10d_span;",
        "} c10d_request;",
        "} c10d_result;",
        // The end of c10d_host, with the next line to distinguish it from other ends.
        "};\n\n/* ---- What a plugin offers",
        "} c10d_device;",
        "} c10d_capabilities;",
        "} c10d_group_init;",
        "} c10d_collectives;",
        "} c10d_plugin;",
    ];
    // `c10d_note` also has a `struct_size`, but is not in the list: its length is fixed (64 bytes).
    let tables = header.matches("    uint32_t struct_size;").count();
    assert_eq!(tables, ends.len() + 1, "a struct of the header is missing in `ends`");
    ends.into_iter().fold(text, longer)
}

/// Builds a C file with the header, and loads it.
fn load(source: &str, name: &str, header: &str, minor: u16, definitions: &[&str]) -> LoadReport {
    let dir = common::directory();
    std::fs::write(dir.path().join("c10d_plugin.h"), header).unwrap();
    let name_is = format!("NAME=\"{name}\"");
    let words: Vec<&str> = definitions.iter().copied().chain([name_is.as_str()]).collect();
    let file = common::plugin_against(dir.path(), source, &dir.path().join("plugin.so"), &words);
    let report = Search::new().file(file).load();
    let decision = &report.decisions[0];
    assert_eq!((decision.verdict, decision.abi), (Verdict::Loaded, Some((1, minor))), "{decision}");
    report
}

/// Loads `device.c` with these definitions, and uses it. `adds` is whether its devices reduce, and `named` whether they
/// have an identity.
fn drives(name: &str, header: &str, minor: u16, definitions: &[&str], (adds, named): (bool, bool)) {
    let cuda = definitions.contains(&"DEVICE_TYPE=C10D_DEVICE_CUDA");
    let word = if cuda { "cuda" } else { name };
    let mut providers = load("device.c", name, header, minor, definitions).providers;
    providers.push(&c10d_gloo_like::PROVIDER);
    let device = Registry::collect(&providers).unwrap().device(word).unwrap();
    assert_eq!(device.count().unwrap(), 2);
    assert_eq!(device.device(1) == Device::cuda(1), cuda, "{name}");
    assert_eq!(device.identity(1), named.then(|| format!("{name} 1")));
    let sums = device.reduction().map(|reduction| reduction.reduces(ReduceOp::Sum));
    assert_eq!(sums, adds.then(|| DTypeSet::of(&[DType::F32])), "{name}");

    let builder = Builder::new().providers(&providers).backend(&format!("{word}:gloo-like")).timeout(CAP);
    builder
        .run_ranks(2, |pg| {
            let mut x = DeviceBuffer::from_slice(&device, pg.rank() as u16, &[pg.rank() as f32 + 1.0; 5000], CAP)?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x.to_vec::<f32>(CAP)?, [3.0; 5000]);
            pg.shutdown()
        })
        .unwrap();
    if adds {
        adds_parts_of_an_allocation(&*device);
    }
}

/// Adds elements of an allocation to other elements of the same allocation.
fn adds_parts_of_an_allocation(device: &dyn DeviceRuntime) {
    let (elements, mut out) = ([1f32, 2.0, 3.0, 40.0, 50.0, 60.0], [0f32; 6]);
    let bytes = size_of_val(&elements);
    let at = DevicePtr { base: device.allocate(0, bytes).unwrap(), offset: 0 };
    // SAFETY: all bytes are within the allocation and the arrays, and the work of this device's calls is done on
    // return.
    unsafe {
        device.copy_in(0, 0, at, elements.as_ptr().cast(), bytes).unwrap();
        let reduction = device.reduction().unwrap();
        reduction
            .reduce(0, 0, ReduceOp::Sum, Elements { dtype: DType::F32, count: 2 }, at.after(4), at.after(16))
            .unwrap();
        device.copy_out(0, 0, out.as_mut_ptr().cast(), at, bytes).unwrap();
        device.free(0, at.base);
    }
    assert_eq!(out, [1.0, 52.0, 63.0, 40.0, 50.0, 60.0]);
}

/// Loads `sum.c`, and uses it. `splits` is the value that the plugin writes to the store for a sub-group: `split` if it
/// has the function `split`, else `anew`.
fn works(name: &str, header: &str, minor: u16, definitions: &[&str], splits: &str) {
    let report = load("sum.c", name, header, minor, definitions);
    let builder = Builder::new().providers(&report.providers).backend(&format!("cpu:{name}"));
    builder
        .run_ranks(2, |pg| {
            let mut x = [pg.rank() as f32 + 1.0; 100];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, [3.0; 100]);
            let other = 1 - pg.rank();
            let (sent, got) = pg.batch(vec![op::send(vec![7f32], other, 1)], vec![op::recv(vec![0f32], other, 1)]);
            assert_eq!(got.into_iter().map(|w| w.wait()).collect::<Result<Vec<_>, _>>()?, [[7.0]]);
            sent.into_iter().try_for_each(|w| w.wait().map(drop))?;
            let part = pg.new_group(&[1, 0])?.unwrap();
            part.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, [6.0; 100]);
            let soon = Instant::now() + CAP;
            assert_eq!(part.store().get(&format!("{name}/made/{}", part.rank()), soon)?, splits.as_bytes());
            assert!(pg.failure().is_none());
            part.shutdown()?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn plugins_of_the_versions_before_and_after_work() {
    let header = std::fs::read_to_string(common::include().join("c10d_plugin.h")).unwrap();
    assert_eq!(abi::MINOR, 2, "these headers are made for minor version 2");
    let (first, before) = (older(&header, 0), older(&header, 1));
    for gone in ["store_add", "(*now)", "(*reduces)", "(*reduce)", "(*shutdown)", "/* since 1.1 */"] {
        assert!(before.contains(gone) && !first.contains(gone), "{gone}");
    }
    for gone in ["(*identity)", "by_op;", "(*split)", "(*submit_batch)", "(*async_error)", "/* since 1.2 */"] {
        assert!(header.contains(gone) && !before.contains(gone), "{gone}");
    }
    for kept in ["(*store_wait)", "(*free_host)", "(*abort)", "op_count;"] {
        assert!(first.contains(kept), "{kept}");
    }
    works("first", &first, 0, &[], "anew");
    works("before", &before, 1, &[], "anew");
    works("same", &header, 2, &[], "split");
    works("newer", &newer(&header), 3, &["FUTURE"], "split");
    let (private, cuda) = ("DEVICE_TYPE=C10D_DEVICE_PRIVATE", "DEVICE_TYPE=C10D_DEVICE_CUDA");
    drives("first-device", &first, 0, &[], (false, false));
    drives("device-before", &before, 1, &[], (true, false));
    drives("same-device", &header, 2, &[private], (true, true));
    drives("same-cuda", &header, 2, &[cuda], (true, true));
    drives("newer-device", &newer(&header), 3, &["FUTURE", private], (true, true));
    drives("newer-cuda", &newer(&header), 3, &["FUTURE", cuda], (true, true));
}
