//! Conversion of 16-bit floats to `f32` and back, with rounding to nearest, ties to even. Each `if` only selects a
//! value, so compilers make vector code from loops over these functions. The results are bit-identical to those of the
//! `half` crate.

#[inline(always)]
pub(super) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

#[inline(always)]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    // Rounding could turn a NaN into another value, so a NaN is made quiet instead.
    let nan = bits >> 16 | 0x40;
    (if x.is_nan() { nan } else { rounded }) as u16
}

/// 2^112. The exponent bias of `f32` is larger than that of `f16` by 112.
const REBIAS: f32 = f32::from_bits((127 + 112) << 23);

#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7FFF) << 13;
    // The product is exact, also for subnormal numbers.
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    // Infinities and NaN. A signalling NaN becomes quiet.
    let quiet = if magnitude > 0x7C00 << 13 { 0x40_0000 } else { 0 };
    let special = magnitude | 0x7F80_0000 | quiet;
    let bits = if magnitude >= 0x7C00 << 13 { special } else { finite };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let sign = x.to_bits() >> 16 & 0x8000;
    let magnitude = x.to_bits() & 0x7FFF_FFFF;
    // Normal numbers: subtracts the difference of the biases, and rounds off the lowest 13 bits. A carry into the
    // exponent gives the correct result, up to 0x7C00, which is infinity.
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + (magnitude >> 13 & 1)) >> 13;
    // Subnormal numbers: in `f32`, the last bit of a number from 0.5 to 1 is worth 2^-24, which is also the smallest
    // step of `f16`. So adding 0.5 rounds to a multiple of 2^-24. Subtracting the bits of 0.5 leaves this multiple.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let nan = 0x7E00 | magnitude >> 13 & 0x3FF;
    let bits = if magnitude < 113 << 23 {
        subnormal
    } else if magnitude < 143 << 23 {
        normal
    } else if magnitude <= 0x7F80_0000 {
        0x7C00
    } else {
        nan
    };
    (bits | sign) as u16
}

#[cfg(test)]
mod tests {
    use ::half::{bf16, f16};

    use super::*;

    #[test]
    fn every_half_is_widened_like_the_half_crate() {
        for h in 0..=u16::MAX {
            assert_eq!(f16_to_f32(h).to_bits(), f16::from_bits(h).to_f32().to_bits(), "{h:#x}");
            assert_eq!(bf16_to_f32(h).to_bits(), u32::from(h) << 16);
        }
    }

    /// Tests every 16-bit value, its neighbours, and the midpoints between two values.
    #[test]
    fn narrowing_rounds_to_nearest_even() {
        let around =
            |base: u32| [0u32, 1, 2, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001].map(|d| base.wrapping_add(d));
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            assert_eq!(f32_to_bf16(x), bf16::from_f32(x).to_bits(), "bf16 of {bits:#x}");
            assert_eq!(f32_to_f16(x), f16::from_f32(x).to_bits(), "f16 of {bits:#x}");
        };
        for h in 0..=u16::MAX {
            around(u32::from(h) << 16).into_iter().for_each(check);
            around(f16::from_bits(h).to_f32().to_bits()).into_iter().for_each(check);
        }
    }
}
