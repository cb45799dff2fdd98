// Computes acc[i] = combine(acc[i], other[i]) over elements of SIZE bytes, at any alignment. There is one invocation
// for each 32-bit word of acc. The other bytes of a word are not changed.

struct Params { acc: u32, other: u32, bytes: u32, pad: u32 }

@group(0) @binding(0) var<storage, read_write> acc: array<u32>;
@group(0) @binding(1) var<storage, read> other: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

const SIZE: u32 = $SIZEu;
const MASK: u32 = $MASKu;

fn is_nan(x: u32) -> bool { return (x & 0x7fffffffu) > 0x7f800000u; }

// Floats are kept as bits, because devices may flush subnormal numbers and may assume that there are no NaNs.

// Returns a number below 2^-63 multiplied by 2^96.
fn grow(x: u32) -> f32 {
    if ((x & 0x7f800000u) == 0u) {
        let m = f32(x & 0x7fffffu) * bitcast<f32>(0x25000000u);
        return bitcast<f32>(bitcast<u32>(m) | (x & 0x80000000u));
    }
    return bitcast<f32>(x + (96u << 23u));
}

// Returns the bits of a value divided by 2^96. This undoes `grow`.
fn shrink(value: f32) -> u32 {
    let x = bitcast<u32>(value);
    if (((x >> 23u) & 0xffu) > 96u) { return x - (96u << 23u); }
    // The result is subnormal: a multiple of the smallest positive number.
    return (x & 0x80000000u) | u32(abs(value) * bitcast<f32>(0x5a000000u));
}

fn add(a: u32, b: u32) -> u32 {
    if (is_nan(a)) { return a; }
    if (is_nan(b)) { return b; }
    if (((a >> 23u) & 0xffu) < 64u && ((b >> 23u) & 0xffu) < 64u) { return shrink(grow(a) + grow(b)); }
    // The sum of opposite infinities is NaN.
    if ((a & 0x7fffffffu) == 0x7f800000u && (a ^ b) == 0x80000000u) { return 0x7fc00000u; }
    return bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b));
}

// Maps the bits of a float to an unsigned number. These numbers have the same order as the floats.
fn order(x: u32) -> u32 { return select(x | 0x80000000u, ~x, (x >> 31u) == 1u); }
fn least(a: u32, b: u32) -> u32 {
    if (is_nan(a)) { return a; }
    return select(a, b, is_nan(b) || order(b) < order(a));
}
fn most(a: u32, b: u32) -> u32 {
    if (is_nan(a)) { return a; }
    return select(a, b, is_nan(b) || order(b) > order(a));
}

fn from_bf16(x: u32) -> u32 { return x << 16u; }
fn to_bf16(x: u32) -> u32 {
    if (is_nan(x)) { return (x >> 16u) | 0x40u; }
    return (x + 0x7fffu + ((x >> 16u) & 1u)) >> 16u;
}

fn from_f16(x: u32) -> u32 {
    let sign = (x & 0x8000u) << 16u;
    let e = (x >> 10u) & 31u;
    let m = x & 0x3ffu;
    if (e == 31u) { return sign | 0x7f800000u | (m << 13u); }
    if (e == 0u) { return sign | bitcast<u32>(f32(m) * bitcast<f32>(0x33800000u)); }
    return sign | ((e + 112u) << 23u) | (m << 13u);
}
fn to_f16(x: u32) -> u32 {
    let sign = (x >> 16u) & 0x8000u;
    let a = x & 0x7fffffffu;
    if (a > 0x7f800000u) { return sign | 0x7e00u; }
    if (a >= 0x477ff000u) { return sign | 0x7c00u; }
    if (a < 0x38800000u) {
        // The result is a multiple of 2^-24, rounded to even.
        let value = bitcast<f32>(a) * bitcast<f32>(0x4b800000u);
        let whole = u32(value);
        let rest = value - f32(whole);
        let up = rest > 0.5 || (rest == 0.5 && (whole & 1u) == 1u);
        return sign | (whole + select(0u, 1u, up));
    }
    return sign | ((a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u)) >> 13u);
}

fn signed(x: u32) -> i32 { return bitcast<i32>(x << (32u - 8u * SIZE)) >> (32u - 8u * SIZE); }

fn combine(a: u32, b: u32) -> u32 { return $COMBINE; }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let word = params.acc / 4u + id.x;
    let end = params.acc + params.bytes;
    if (word * 4u >= end) { return; }
    let old = acc[word];
    var new_ = old;
    for (var lane = 0u; lane < 4u; lane += SIZE) {
        let at = word * 4u + lane;
        if (at >= params.acc && at < end) {
            let from_ = params.other + at - params.acc;
            let a = (old >> (lane * 8u)) & MASK;
            let b = (other[from_ / 4u] >> ((from_ % 4u) * 8u)) & MASK;
            new_ = (new_ & ~(MASK << (lane * 8u))) | ((combine(a, b) & MASK) << (lane * 8u));
        }
    }
    acc[word] = new_;
}
