//! Tests of Rust plugins.
#![allow(unsafe_code)]

use crate::common;

use std::ffi::{CStr, c_char};

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::Registry;
use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::options::MonitoredBarrierOptions;
use c10d_core::{Builder, DType, DTypeSet, ErrorKind, ReduceOp, op};
use c10d_privateuse::{LoadReport, Search, Verdict};

const CAP: Duration = Duration::from_secs(30);

fn load(library: &str) -> LoadReport {
    let report = Search::new().file(common::rust_plugin(library)).load();
    assert_eq!(report.decisions[0].verdict, Verdict::Loaded, "{}", report.decisions[0]);
    report
}

fn elsewhere() -> Builder {
    let report = load("c10d_elsewhere_plugin");
    Builder::new().providers(&report.providers).backend("cpu:elsewhere").timeout(CAP)
}

#[test]
fn a_backend_works_as_a_plugin() {
    elsewhere()
        .run_ranks(3, |pg| {
            let me = pg.rank();
            let mut x = vec![me as f64; 100_000];
            pg.all_reduce(&mut x, ReduceOp::Avg)?;
            assert_eq!(x, vec![1f64; 100_000]);
            let all = pg.start(op::all_gather_into(vec![me as i32; 5], vec![0i32; 15]));
            // Rank r sends r elements to rank 0, 1 element to rank 1 and 2 elements to rank 2.
            let given = [me as usize, 1, 2];
            let got = if me == 0 { [0, 1, 2] } else { [me as usize; 3] };
            let mut parts = vec![0u8; got.iter().sum()];
            let sent: usize = given.iter().sum();
            pg.run(op::all_to_all_single(&vec![me as u8 + 1; sent], &mut parts[..]).splits(&given, &got))?;
            let want: Vec<u8> = (0..3u8).flat_map(|r| vec![r + 1; got[r as usize]]).collect();
            assert_eq!(parts, want);
            let (_, all) = all.wait()?;
            assert_eq!(all, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
            if me == 0 {
                pg.send(&[7u16, 8], 2, 5)?;
            } else if me == 2 {
                let (got, from) = pg.run(op::recv_any_source(vec![0u16; 2], 5))?;
                assert_eq!((got, from), (vec![7, 8], 0));
            }
            pg.run(op::monitored_barrier(MonitoredBarrierOptions::default()))?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn a_mismatch_found_in_a_plugin_keeps_its_fields() {
    let errors = elsewhere()
        .run_ranks(2, |pg| {
            let mut x = vec![0f32; 8 + pg.rank() as usize];
            Ok(pg.all_reduce(&mut x, ReduceOp::Sum).unwrap_err())
        })
        .unwrap();
    let ErrorKind::Mismatch { field, mine, theirs } = errors[0].kind() else { panic!("{}", errors[0]) };
    assert_eq!((*field, mine.as_str(), theirs.as_str()), ("count", "8", "9"));
    assert_eq!(errors[0].report().guilty, [1]);
}

#[test]
fn panics_in_a_plugin_are_errors() {
    let e = elsewhere().name("panics in create").build().unwrap_err();
    assert!(e.to_string().contains("create was told to panic") && e.to_string().contains("elsewhere"), "{e}");
    let e = elsewhere().name("panics in split").build().unwrap().new_group(&[0]).map(drop).unwrap_err();
    assert!(e.to_string().contains("split was told to panic") && e.to_string().contains("elsewhere"), "{e}");
    let pg = elsewhere().name("panics in submit").build().unwrap();
    let e = pg.all_reduce(&mut [1f32; 4], ReduceOp::Sum).unwrap_err();
    assert!(e.to_string().contains("elsewhere"), "{e}");
    elsewhere().build().unwrap().barrier().unwrap();
}

#[test]
fn a_plugin_splits_groups_and_reports_errors_while_no_call_runs() {
    elsewhere()
        .name("divided")
        .run_ranks(3, |pg| {
            // This is the first division of the group. Rank 1 is not in the sub-group.
            if let Some(pair) = pg.new_group(&[2, 0])? {
                let mut x = [pair.rank(); 100];
                pair.all_reduce(&mut x, ReduceOp::Sum)?;
                assert_eq!(x, [1; 100]);
                assert!(pair.failure().is_none());
                pair.shutdown()?;
            }
            let alone = pg.split(Some(pg.rank()), 0)?.unwrap();
            assert!(alone.failure().is_none());
            // The sub-group fails after its first call, possibly before the call ends.
            let _ = alone.barrier();
            let end = Instant::now() + CAP;
            let error = loop {
                assert!(Instant::now() < end, "the sub-group does not report the error");
                match alone.failure() {
                    Some(error) => break error.clone(),
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            let words = format!("division 2: the part of [{}] has failed", pg.rank());
            assert!(error.to_string().contains(&words) && error.to_string().contains("elsewhere"), "{error}");
            assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Device, &[0][..]));
            pg.barrier()?;
            assert!(pg.failure().is_none());
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn messages_of_a_batch_reach_a_plugin_together() {
    elsewhere()
        .name("batches only")
        .run_ranks(2, |pg| {
            let other = 1 - pg.rank();
            let sends = (0..3).map(|tag| op::send(vec![tag; 2], other, tag)).collect();
            let receives = (0..3).rev().map(|tag| op::recv(vec![9; 2], other, tag)).collect();
            let (sent, received) = pg.batch(sends, receives);
            let received: Vec<Vec<u32>> = received.into_iter().map(|work| work.wait()).collect::<Result<_, _>>()?;
            assert_eq!(received, [[2; 2], [1; 2], [0; 2]]);
            sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
            pg.shutdown()
        })
        .unwrap();
}

#[test]
fn a_plugins_shutdown_gets_the_hosts_deadline() {
    let pg = elsewhere().timeout(Duration::from_secs(3600)).name("tells its time").build().unwrap();
    let e = pg.shutdown_within(Duration::from_secs(10)).unwrap_err();
    let text = e.to_string();
    let left = text.split(" seconds are left").next().and_then(|t| t.split(' ').next_back()?.parse::<u64>().ok());
    assert!(left.is_some_and(|left| left <= 10), "{e}");
}

#[test]
fn a_device_works_as_a_plugin() {
    let report = load("c10d_guarded_plugin");
    let mut providers = report.providers.clone();
    providers.push(&c10d_gloo_like::PROVIDER);
    let device: Arc<dyn DeviceRuntime> = Registry::collect(&providers).unwrap().device("guarded").unwrap();
    assert!(device.count().unwrap() > 0);
    let builder = Builder::new().providers(&providers).backend("guarded:gloo-like").timeout(CAP);
    builder
        .run_ranks(2, |pg| {
            let index = pg.rank() as u16;
            let mut x = DeviceBuffer::from_slice(&device, index, &[pg.rank() as f32 + 1.0; 5000], CAP)?;
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x.to_vec::<f32>(CAP)?, [3.0; 5000]);
            pg.shutdown()
        })
        .unwrap();
    let e = device.allocate(9999, 8).unwrap_err();
    assert_eq!(*e.kind(), ErrorKind::Device, "{e}");
    assert!(e.to_string().contains("guarded"), "{e}");
    let reduces = device.reduction().map(|reduction| reduction.reduces(ReduceOp::Sum));
    assert!(reduces.is_none_or(|types| types == DTypeSet::NONE), "the host reduces for this device");
}

/// The functions that the plugin `guarded-reduces` exports besides its entry.
struct Asked {
    library: libloading::Library,
}

impl Asked {
    /// Opens the library, which is already loaded.
    fn of(report: &LoadReport) -> Asked {
        // SAFETY: the library's constructors have already run.
        Asked { library: unsafe { libloading::Library::new(&report.decisions[0].path) }.unwrap() }
    }

    /// Returns the number of reductions since the last call of this method.
    fn reductions(&self) -> u64 {
        // SAFETY: the plugin has a function with this name and type.
        unsafe { self.library.get::<extern "C" fn() -> u64>(b"reductions").unwrap()() }
    }

    fn panics(&self, call: Option<&CStr>) {
        let call = call.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: the plugin has a function with this name and type; the argument is a name or null.
        unsafe { self.library.get::<unsafe extern "C" fn(*const c_char)>(b"panics").unwrap()(call) }
    }
}

/// Two ranks use devices of a plugin. The devices run reductions, or panic.
#[test]
fn a_device_reduces_in_a_plugin_and_its_panics_are_errors() {
    let report = load("c10d_reduces_plugin");
    let mut providers = report.providers.clone();
    providers.push(&c10d_gloo_like::PROVIDER);
    let device: Arc<dyn DeviceRuntime> = Registry::collect(&providers).unwrap().device("guarded-reduces").unwrap();
    let asked = Asked::of(&report);
    let builder = || Builder::new().providers(&providers).backend("guarded-reduces:gloo-like").timeout(CAP);

    let reduction = device.reduction().unwrap();
    assert!(reduction.reduces(ReduceOp::Sum).contains(DType::F32));
    assert!(!reduction.reduces(ReduceOp::Sum).contains(DType::F8E4M3));
    for (factor, on_device) in [(None, true), (Some(2.0), false)] {
        asked.reductions();
        let op = factor.map_or(ReduceOp::Sum, ReduceOp::PreMulSum);
        builder()
            .run_ranks(2, |pg| {
                let mut x = DeviceBuffer::from_slice(&device, pg.rank() as u16, &[pg.rank() as f32 + 1.0; 5000], CAP)?;
                pg.all_reduce(&mut x, op)?;
                assert_eq!(x.to_vec::<f32>(CAP)?, [factor.map_or(3.0, |_| 6.0); 5000]);
                pg.shutdown()
            })
            .unwrap();
        assert_eq!(asked.reductions() > 0, on_device, "a plugin's device reduces sums, but no sums with a factor");
    }

    for call in [c"create_stream", c"create_event", c"record", c"wait", c"query", c"copy_in", c"copy_out", c"reduce"] {
        let errors = builder().run_ranks(2, |pg| {
            let mut x = DeviceBuffer::from_slice(&device, pg.rank() as u16, &[1f32; 5000], CAP)?;
            pg.barrier()?;
            if pg.rank() == 1 {
                asked.panics(Some(call));
            }
            Ok(pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).err())
        });
        asked.panics(None);
        let errors = errors.unwrap();
        let name = call.to_str().unwrap();
        let e = errors[1].as_ref().unwrap_or_else(|| panic!("{name} did not panic, or its panic was not reported"));
        let words = format!("the plugin panicked: {name} was told to panic");
        assert!(e.to_string().contains(&words) && e.to_string().contains("guarded-reduces"), "{e}");
        assert_eq!(errors[0].as_ref().unwrap().report().guilty, [1], "{name}");
    }
    // A panic in `retain` is not an error: the memory counts as not retained.
    asked.panics(Some(c"retain"));
    // SAFETY: the device panics before it uses the address.
    assert!(!unsafe { device.retain(1, std::ptr::dangling_mut()) });
    asked.panics(Some(c"allocate"));
    let e = device.allocate(1, 64).unwrap_err();
    assert!(e.to_string().contains("the plugin panicked: allocate was told to panic"), "{e}");
    asked.panics(None);
    // A panic in a function that cannot return an error is ignored.
    let base = device.allocate(1, 64).unwrap();
    asked.panics(Some(c"free"));
    // SAFETY: the memory was allocated. This call panics before it frees the memory, so the memory is freed once,
    // below.
    unsafe { device.free(1, base) };
    asked.panics(None);
    // SAFETY: the memory was allocated and is not freed yet.
    unsafe { device.free(1, base) };
}
