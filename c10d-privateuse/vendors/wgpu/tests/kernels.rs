//! Compares copies and reductions on the device, at different alignments, with a simple reference.
#![allow(unsafe_code)]

mod common;

use std::time::{Duration, Instant};

use c10d_core::device::{DevicePtr, DeviceReduce, DeviceRuntime, Elements};
use c10d_core::{DType, ReduceOp};
use c10d_wgpu::Wgpu;
use half::{bf16, f16};

const CAP: Duration = Duration::from_secs(60);
const ROOM: usize = 4096;

/// Makes device memory with these bytes at `offset`, and 0xee around them.
fn put(gpu: &Wgpu, offset: usize, bytes: &[u8]) -> DevicePtr {
    let mut all = vec![0xee; ROOM];
    all[offset..offset + bytes.len()].copy_from_slice(bytes);
    let base = gpu.allocate(0, ROOM).unwrap();
    let place = DevicePtr { base, offset: 0 };
    // SAFETY: both sides have this number of bytes, and exist until the copy is done.
    unsafe { gpu.copy_in(0, 0, place, all.as_ptr(), ROOM) }.unwrap();
    place.after(offset)
}

/// Waits for all earlier work, returns the bytes at `from`, and frees the memory. Checks that all other bytes of the
/// memory are unchanged.
fn get(gpu: &Wgpu, from: DevicePtr, bytes: usize) -> Vec<u8> {
    let mut all = vec![0u8; ROOM];
    let whole = DevicePtr { offset: 0, ..from };
    // SAFETY: both sides have this number of bytes, and exist until the copy is done. The handle is freed once.
    unsafe {
        gpu.copy_out(0, 0, all.as_mut_ptr(), whole, ROOM).unwrap();
        gpu.synchronize(0, 0, Instant::now() + CAP).unwrap();
        gpu.free(0, from.base);
    }
    let at = from.offset as usize;
    assert!(all[..at].iter().chain(&all[at + bytes..]).all(|b| *b == 0xee), "bytes outside the range were written");
    all[at..at + bytes].to_vec()
}

#[test]
fn copies_are_exact_at_every_alignment() {
    let Some(gpu) = common::runtime() else { return };
    let data: Vec<u8> = (1..=40).collect();
    for (to, from, bytes) in
        [(0, 0, 8), (0, 0, 0), (1, 0, 1), (3, 0, 2), (5, 2, 30), (4, 8, 33), (258, 511, 40), (2, 2, 4)]
    {
        if bytes == 0 {
            continue;
        }
        let source = put(&gpu, from, &data[..bytes]);
        let target = put(&gpu, to, &vec![0; bytes]);
        // SAFETY: both ranges are inside their buffers.
        unsafe { gpu.copy(0, 0, target, source, bytes) }.unwrap();
        assert_eq!(get(&gpu, target, bytes), data[..bytes], "{bytes} bytes from {from} to {to}");
        assert_eq!(get(&gpu, source, bytes), data[..bytes]);
        // Copies from and to the host are tested at the offset `to`.
        let target = put(&gpu, to, &vec![0; bytes]);
        let mut back = vec![0u8; bytes];
        // SAFETY: the range is inside its buffer, and the host's memory exists until the copies are done.
        unsafe {
            gpu.copy_in(0, 0, target, data.as_ptr(), bytes).unwrap();
            gpu.copy_out(0, 0, back.as_mut_ptr(), target, bytes).unwrap();
        }
        assert_eq!(get(&gpu, target, bytes), data[..bytes]);
        assert_eq!(back, data[..bytes]);
    }
}

#[test]
fn copies_inside_one_buffer_and_over_many_pieces_are_exact() {
    let Some(gpu) = common::runtime() else { return };
    let bytes = (33 << 20) + 7;
    let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let base = gpu.allocate(0, 2 * bytes + 9).unwrap();
    // One copy begins inside a word, the other consists of whole words.
    for (gap, bytes) in [(1, bytes), (0, bytes - 7)] {
        let (first, second) = (DevicePtr { base, offset: 0 }, DevicePtr { base, offset: (bytes + gap) as u64 });
        let mut back = vec![0u8; bytes];
        // SAFETY: the two ranges of the buffer do not overlap, and the host's memory exists until the copy is done.
        unsafe {
            gpu.copy_in(0, 0, first, data.as_ptr(), bytes).unwrap();
            gpu.copy(0, 0, second, first, bytes).unwrap();
            gpu.copy_out(0, 0, back.as_mut_ptr(), second, bytes).unwrap();
            gpu.synchronize(0, 0, Instant::now() + CAP).unwrap();
        }
        assert!(back == data[..bytes]);
    }
    // SAFETY: the handle is freed once.
    unsafe { gpu.free(0, base) };
}

/// Returns the bytes of 200 values: special values, mixed with random values.
fn bits(dtype: DType, seed: u64) -> Vec<u8> {
    let special: &[u32] = match dtype {
        DType::F32 => {
            &[0, 0x8000_0000, 1, 0x8000_0001, 0x0040_0000, 0x0080_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000]
        }
        DType::F16 => &[0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0xfc00, 0x7e00],
        DType::BF16 => &[0, 0x8000, 1, 0x8001, 0x7f, 0x80, 0x7f7f, 0x7f80, 0xff80, 0x7fc0],
        _ => &[0, 1, 0xff, 0x80, 0x7f, 0x7fff_ffff, 0x8000_0000, u32::MAX],
    };
    let mut out = Vec::new();
    let mut state = seed;
    for i in 0..200u64 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let random = (state >> 33) as u32;
        let value = match dtype {
            _ if (state >> 20).is_multiple_of(3) => special[(random % special.len() as u32) as usize],
            DType::F32 => (random as i32 as f32 / 1e6 * if i % 2 == 0 { 1.0 } else { 1e-38 }).to_bits(),
            DType::F16 => u32::from(f16::from_f32(random as i32 as f32 / 1e6 - 900.0).to_bits()),
            DType::BF16 => u32::from(bf16::from_f32(random as i32 as f32 / 1e6 - 900.0).to_bits()),
            _ => random,
        };
        out.extend_from_slice(&value.to_le_bytes()[..dtype.size()]);
    }
    out
}

fn float(op: ReduceOp, a: f32, b: f32) -> f32 {
    match op {
        _ if a.is_nan() || b.is_nan() => f32::NAN,
        ReduceOp::Sum => a + b,
        // -0.0 is smaller than 0.0.
        ReduceOp::Min => {
            if b.total_cmp(&a).is_lt() {
                b
            } else {
                a
            }
        }
        _ => {
            if b.total_cmp(&a).is_gt() {
                b
            } else {
                a
            }
        }
    }
}

fn integer(op: ReduceOp, a: i64, b: i64) -> i64 {
    match op {
        ReduceOp::Sum => a.wrapping_add(b),
        ReduceOp::Product => a.wrapping_mul(b),
        ReduceOp::Min => a.min(b),
        ReduceOp::Max => a.max(b),
        ReduceOp::Band => a & b,
        ReduceOp::Bor => a | b,
        _ => a ^ b,
    }
}

fn one(op: ReduceOp, dtype: DType, a: &[u8], b: &[u8]) -> Vec<u8> {
    let word = |x: &[u8]| x.iter().rev().fold(0u32, |acc, byte| acc << 8 | u32::from(*byte));
    let (x, y) = (word(a), word(b));
    let result = match dtype {
        DType::F32 => float(op, f32::from_bits(x), f32::from_bits(y)).to_bits(),
        DType::F16 => {
            let wide = |x: u32| f16::from_bits(x as u16).to_f32();
            u32::from(f16::from_f32(float(op, wide(x), wide(y))).to_bits())
        }
        DType::BF16 => {
            let wide = |x: u32| bf16::from_bits(x as u16).to_f32();
            u32::from(bf16::from_f32(float(op, wide(x), wide(y))).to_bits())
        }
        DType::I8 => integer(op, i64::from(x as u8 as i8), i64::from(y as u8 as i8)) as u32,
        DType::I32 => integer(op, i64::from(x as i32), i64::from(y as i32)) as u32,
        _ => integer(op, i64::from(x), i64::from(y)) as u32,
    };
    result.to_le_bytes()[..dtype.size()].to_vec()
}

fn is_nan(dtype: DType, bytes: &[u8]) -> bool {
    match (dtype, bytes) {
        (DType::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]).is_nan(),
        (DType::F16, [a, b]) => f16::from_le_bytes([*a, *b]).is_nan(),
        (DType::BF16, [a, b]) => bf16::from_le_bytes([*a, *b]).is_nan(),
        _ => false,
    }
}

#[test]
fn every_reduction_equals_the_reference() {
    let Some(gpu) = common::runtime() else { return };
    let ops =
        [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Min, ReduceOp::Max, ReduceOp::Band, ReduceOp::Bor, ReduceOp::Bxor];
    let mut kinds = 0;
    for op in ops {
        for dtype in gpu.reduces(op).iter() {
            kinds += 1;
            let size = dtype.size();
            // The operands begin at elements 5 and 514 of their buffers: small types begin inside a 32-bit word.
            let (acc, with) = (bits(dtype, 3), bits(dtype, 4));
            let (at, other) = (put(&gpu, 5 * size, &acc), put(&gpu, 514 * size, &with));
            // SAFETY: both ranges are inside their buffers.
            unsafe { gpu.reduce(0, 0, op, Elements { dtype, count: acc.len() / size }, at, other) }.unwrap();
            let got = get(&gpu, at, acc.len());
            assert_eq!(get(&gpu, other, with.len()), with);
            for (i, got) in got.chunks(size).enumerate() {
                let (a, b) = (&acc[i * size..][..size], &with[i * size..][..size]);
                let want = one(op, dtype, a, b);
                let both_nan = is_nan(dtype, got) && is_nan(dtype, &want);
                assert!(got == want || both_nan, "{op} {dtype} of {a:x?} and {b:x?} is {got:x?}, must be {want:x?}");
            }
        }
    }
    assert_eq!(kinds, 3 * 7 + 4 * 4);
}

#[test]
fn errors_name_the_device_and_the_size() {
    let Some(gpu) = common::runtime() else { return };
    let text = gpu.allocate(9, 8).unwrap_err().to_string();
    assert!(text.contains("no wgpu device 9"), "{text}");
    let text = gpu.allocate(0, 1 << 50).unwrap_err().to_string();
    assert!(text.contains("no buffer of"), "{text}");
}
