//! Compares the CUDA kernels that reduce and scale, for each type, with their definition. c10d loads the kernels' PTX
//! into the fake driver, which runs the kernels' sources, compiled for the CPU. With `C10D_HARDWARE=1` a real device
//! runs the PTX. The tests of an old driver and of wrong launches always need the fake.
#![allow(unsafe_code)]

use crate::common;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use c10d_core::device::{DeviceReduce, Elements, Scale};
use c10d_core::{Element, ErrorKind, ReduceOp};
use c10d_rendezvous::tcp_store::ServerOptions;
use c10d_rendezvous::{TcpStore, TcpStoreServer};
use common::{SECOND, cuda, on, place, with_fake};
use half::{bf16, f16};

/// Lengths that are no multiple of a block, and one that needs more threads than a grid has.
const LENGTHS: [usize; 6] = [1, 2, 31, 255, 1001, 1 << 20 | 7];

fn random(i: usize) -> u64 {
    let x = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(17)
}

/// Returns the kernel's result for these inputs.
fn reduced<T: Element>(r: &dyn DeviceReduce, op: ReduceOp, acc: &[T], with: &[T]) -> Vec<T> {
    let (mut x, mut y) = (on(0, acc), on(0, with));
    // SAFETY: both have this number of elements, and are read after the stream has finished the kernel.
    unsafe { r.reduce(0, 0, op, Elements { dtype: T::DTYPE, count: acc.len() }, place(&mut x), place(&mut y)) }
        .unwrap();
    x.to_vec(60 * SECOND).unwrap()
}

fn agrees<T: Element + Debug>(op: ReduceOp, make: fn(u64) -> T, bits: fn(T) -> u64, combine: fn(T, T) -> T) {
    let cuda = cuda();
    let r = cuda.reduction().unwrap();
    assert!(r.reduces(op).contains(T::DTYPE), "{op} of {}", T::DTYPE);
    for n in LENGTHS {
        let (a, b): (Vec<T>, Vec<T>) = (0..n).map(|i| (make(random(i)), make(random(i + n)))).unzip();
        let got = reduced(r, op, &a, &b);
        for i in 0..n {
            let want = combine(a[i], b[i]);
            assert_eq!(bits(got[i]), bits(want), "{op} of {:?} and {:?} ({}) is {:?}", a[i], b[i], T::DTYPE, got[i]);
        }
    }
}

macro_rules! integers {
    ($($name:ident $t:ty;)*) => {$(
        #[test]
        fn $name() {
            with_fake(stringify!($name), "", || {
                let make: fn(u64) -> $t = |x| x as $t;
                let bits: fn($t) -> u64 = |x| x as u64;
                agrees(ReduceOp::Sum, make, bits, <$t>::wrapping_add);
                agrees(ReduceOp::Product, make, bits, <$t>::wrapping_mul);
                agrees(ReduceOp::Min, make, bits, <$t>::min);
                agrees(ReduceOp::Max, make, bits, <$t>::max);
                agrees(ReduceOp::Band, make, bits, |a, b| a & b);
                agrees(ReduceOp::Bor, make, bits, |a, b| a | b);
                agrees(ReduceOp::Bxor, make, bits, |a, b| a ^ b);
            });
        }
    )*};
}
integers! {
    reduce_u8 u8;
    reduce_i8 i8;
    reduce_u16 u16;
    reduce_i16 i16;
    reduce_u32 u32;
    reduce_i32 i32;
    reduce_u64 u64;
    reduce_i64 i64;
}

/// The inputs include floats of random bits, which can be infinite, NaN or subnormal. All NaN are treated as equal,
/// whatever their bits.
macro_rules! floats {
    ($($reduce:ident $scale:ident $t:ty, $uint:ty, $wide:ty, $widen:expr, $narrow:expr;)*) => {$(
        #[test]
        fn $reduce() {
            with_fake(stringify!($reduce), "", || {
                let make: fn(u64) -> $t = |x| if x % 3 == 0 { <$t>::from_bits(x as $uint) } else { $narrow(x as i8 as $wide / 8.0) };
                let bits: fn($t) -> u64 = |x| if x.is_nan() { u64::MAX } else { x.to_bits() as u64 };
                agrees(ReduceOp::Sum, make, bits, |a, b| $narrow($widen(a) + $widen(b)));
                agrees(ReduceOp::Product, make, bits, |a, b| $narrow($widen(a) * $widen(b)));
                agrees(ReduceOp::Min, make, bits, |a, b| if $widen(a) < $widen(b) || a.is_nan() { a } else { b });
                agrees(ReduceOp::Max, make, bits, |a, b| if $widen(a) > $widen(b) || a.is_nan() { a } else { b });
            });
        }

        #[test]
        fn $scale() {
            with_fake(stringify!($scale), "", || {
                let cuda = cuda();
                let r = cuda.reduction().unwrap();
                for (n, by) in LENGTHS.iter().flat_map(|n| [(*n, Scale::Times(0.3)), (*n, Scale::Over(3.0))]) {
                    let data: Vec<$t> = (0..n).map(|i| <$t>::from_bits(random(i) as $uint)).collect();
                    let mut x = on(0, &data);
                    // SAFETY: there is this number of elements, and they are read after the stream has finished the
                    // kernel.
                    unsafe { r.scale(0, 0, by, Elements { dtype: <$t as Element>::DTYPE, count: n }, place(&mut x)) }.unwrap();
                    for (got, was) in x.to_vec::<$t>(60 * SECOND).unwrap().into_iter().zip(data) {
                        let want = $narrow(match by {
                            Scale::Times(f) => $widen(was) * f as $wide,
                            Scale::Over(f) => $widen(was) / f as $wide,
                        });
                        assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{was:?}: {got:?} {want:?}");
                    }
                }
            });
        }
    )*};
}
floats! {
    reduce_f16 scale_f16 f16, u16, f32, f16::to_f32, f16::from_f32;
    reduce_bf16 scale_bf16 bf16, u16, f32, bf16::to_f32, bf16::from_f32;
    reduce_f32 scale_f32 f32, u32, f32, |x: f32| x, |x: f32| x;
    reduce_f64 scale_f64 f64, u64, f64, |x: f64| x, |x: f64| x;
}

/// Tests every value of f16. A product with 1 tests whether the value is read and written correctly, and sums with four
/// small values test the rounding.
#[test]
fn all_halves_are_read_and_written() {
    with_fake("all_halves_are_read_and_written", "", || {
        let cuda = cuda();
        let r = cuda.reduction().unwrap();
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let got = reduced(r, ReduceOp::Product, &all, &vec![f16::ONE; all.len()]);
        assert!(all.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        for small in [1u16, 0x0400, 0x1400, 0x3c00] {
            let small = f16::from_bits(small);
            let got = reduced(r, ReduceOp::Sum, &all, &vec![small; all.len()]);
            for (a, b) in all.iter().zip(got) {
                let want = f16::from_f32(a.to_f32() + small.to_f32());
                assert!(b.to_bits() == want.to_bits() || b.is_nan() && want.is_nan(), "{a:?} + {small:?} = {b:?}");
            }
        }
    });
}

/// The CPU reduces if CUDA kernels cannot run, here because the driver is too old.
#[test]
fn without_kernels_the_host_reduces() {
    with_fake("without_kernels_the_host_reduces", "driver=11080", || {
        assert!(cuda().reduction().is_none());
        let builder = common::with_cpu().backend("cuda:gloo-like");
        let sums = builder.run_ranks(2, |pg| {
            let mut x = on(pg.rank(), &[1.5f32, f32::from(pg.rank() as u8)]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            x.to_vec::<f32>(60 * SECOND)
        });
        assert_eq!(sums.unwrap(), vec![vec![3.0, 1.0]; 2]);
    });
}

const PORT: &str = "C10D_NCCL_TEST_PORT";
const RANK: &str = "C10D_NCCL_TEST_RANK";

/// A rank of `ranks_that_reduce_elsewhere_disagree`, in a separate process.
#[test]
fn rank() {
    let (Ok(rank), Ok(port)) = (std::env::var(RANK), std::env::var(PORT)) else { return };
    let (rank, port): (u32, u16) = (rank.parse().unwrap(), port.parse().unwrap());
    let store = Arc::new(TcpStore::connect("127.0.0.1", port, Instant::now() + 20 * SECOND).unwrap());
    let builder = common::with_cpu().backend("cuda:gloo-like").rank(rank).size(2).store(store);
    let e = builder.build().unwrap().all_reduce(&mut on(rank, &[1f32; 10]), ReduceOp::Sum).unwrap_err();
    let differs = matches!(e.kind(), ErrorKind::Mismatch { field: "op", .. });
    println!("rank {rank} saw {}: {e}", if differs { "another op" } else { "something else" });
}

/// If one rank's driver is too old for kernels, the ranks get an error instead of a wrong result or a hang.
#[test]
fn ranks_that_reduce_elsewhere_disagree() {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let dir = common::folder("elsewhere");
    let start = |rank: u32| {
        let mut command = common::command(&dir, if rank == 0 { "" } else { "driver=11080" });
        command.env(RANK, rank.to_string()).env(PORT, server.local_addr().port().to_string());
        command.args(["kernels::rank", "--exact", "--nocapture"]);
        std::thread::spawn(|| common::output(command))
    };
    for (rank, ended) in [start(0), start(1)].into_iter().enumerate() {
        let output = ended.join().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(out.contains(&format!("rank {rank} saw another op: Mismatch")), "{out}\n{err}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn wrong_launches_are_refused() {
    with_fake("wrong_launches_are_refused", "", || {
        let fake = Fake::open();
        let text = std::ffi::CString::new(include_str!("../kernels/generated/reduce.ptx")).unwrap();
        let (mut x, mut y) = (on(0, &[1f32; 8]), on(1, &[1f32; 8]));
        let (x, y) = (place(&mut x).base as u64, place(&mut y).base as u64);
        assert_eq!(fake.load(0, c"no PTX").unwrap_err(), 218);
        let module = fake.load(0, &text).unwrap();
        assert_eq!(fake.function(module, c"c10d_reduce_f99").unwrap_err(), 500);
        assert_eq!(fake.function(module, c"c10d_scale_f32").unwrap_err(), 500, "of another module");
        let function = fake.function(module, c"c10d_reduce_f32").unwrap();
        assert_eq!(fake.launch(function, 1, 256, 0, [0, x, x, 8]), 0);
        assert_eq!(fake.launch(function + 16, 1, 256, 0, [0, x, x, 8]), 400, "no such function");
        assert_eq!(fake.launch(function, 0, 256, 0, [0, x, x, 8]), 1, "no blocks");
        assert_eq!(fake.launch(function, 1, 0, 0, [0, x, x, 8]), 1, "no threads");
        assert_eq!(fake.launch(function, 1, 1025, 0, [0, x, x, 8]), 1, "too many threads");
        assert_eq!(fake.launch(function, 1, 256, 7, [0, x, x, 8]), 400, "no such stream");
        let other = cuda().create_stream(1).unwrap();
        fake.enter(0);
        assert_eq!(fake.launch(function, 1, 256, other, [0, x, x, 8]), 400, "another device's stream");
        assert_eq!(fake.launch(function, 1, 256, 0, [0, x, y, 8]), 719, "another device's memory");
        assert_eq!(fake.launch(function, 1, 256, 0, [0, x, 64, 8]), 719, "no device's memory");
        let side = cuda().create_stream(0).unwrap();
        fake.enter(0);
        assert_eq!(fake.launch(function, 1, 256, side, [0, x, x, 8]), 719, "a race with the stream used before");
        fake.enter(1);
        assert_eq!(fake.launch(function, 1, 256, other, [0, y, y, 8]), 400, "a module of another device");
    });
}

/// The fake driver, called directly.
struct Fake(libloading::Library);

impl Fake {
    fn open() -> Fake {
        // SAFETY: the bindings have already loaded this library.
        Fake(unsafe { libloading::Library::new("libcuda.so.1") }.unwrap())
    }

    fn enter(&self, device: u16) {
        let context = 0x1000 + u64::from(device);
        // SAFETY: the type is that of the driver's function.
        let code = unsafe { self.0.get::<unsafe extern "C" fn(u64) -> i32>(b"cuCtxSetCurrent").unwrap()(context) };
        assert_eq!(code, 0);
    }

    fn load(&self, device: u16, image: &std::ffi::CStr) -> Result<u64, i32> {
        self.enter(device);
        type Load = unsafe extern "C" fn(*mut u64, *const std::ffi::c_char) -> i32;
        let mut module = 0;
        // SAFETY: the type is that of the driver's function.
        let code = unsafe { self.0.get::<Load>(b"cuModuleLoadData").unwrap()(&mut module, image.as_ptr()) };
        if code == 0 { Ok(module) } else { Err(code) }
    }

    fn function(&self, module: u64, name: &std::ffi::CStr) -> Result<u64, i32> {
        type Get = unsafe extern "C" fn(*mut u64, u64, *const std::ffi::c_char) -> i32;
        let mut function = 0;
        // SAFETY: the type is that of the driver's function.
        let code = unsafe { self.0.get::<Get>(b"cuModuleGetFunction").unwrap()(&mut function, module, name.as_ptr()) };
        if code == 0 { Ok(function) } else { Err(code) }
    }

    fn launch(&self, function: u64, blocks: u32, threads: u32, stream: u64, arguments: [u64; 4]) -> i32 {
        type Launch = unsafe extern "C" fn(
            u64,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u32,
            u64,
            *const *const u64,
            *const std::ffi::c_void,
        ) -> i32;
        let places = arguments.each_ref().map(std::ptr::from_ref);
        // SAFETY: wrong arguments are rejected.
        unsafe {
            let launch = self.0.get::<Launch>(b"cuLaunchKernel").unwrap();
            launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, places.as_ptr(), std::ptr::null())
        }
    }
}
