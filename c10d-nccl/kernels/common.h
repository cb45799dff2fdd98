/* Definitions for all CUDA kernels.
 *
 * The sources are both CUDA C++ and C11: they have no templates and no shared memory, and no thread waits for another.
 * So tests can run them on the CPU, one thread after another (../fake/host.h has the thread's index). They need no
 * header of CUDA, and all parameters have 64 bits. */

#ifdef __cplusplus
#define KERNEL extern "C" __global__ void
#else
#define KERNEL void
#endif
#define INLINE static __device__ __forceinline__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;

/* Runs over every i below count. The grid's threads share the work. */
#define EACH(i, count) \
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (u64)gridDim.x * blockDim.x)

/* c10d's codes of reduce operations. */
enum { SUM = 0, PRODUCT = 2, MIN = 3, MAX = 4, BAND = 5, BOR = 6, BXOR = 7 };

INLINE u32 bits_of(f32 value) {
    union { f32 value; u32 bits; } both;
    both.value = value;
    return both.bits;
}

INLINE f32 float_of(u32 bits) {
    union { f32 value; u32 bits; } both;
    both.bits = bits;
    return both.value;
}

INLINE f64 double_of(u64 bits) {
    union { f64 value; u64 bits; } both;
    both.bits = bits;
    return both.value;
}

/* Half precision has 5 bits of exponent and 10 of fraction. */
INLINE f32 from_f16(u16 half) {
    u32 sign = (u32)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) {
        return float_of(sign | 0x7f800000 | rest << 13);
    }
    if (rest >= 0x0400) {
        return float_of(sign | ((rest << 13) + (112u << 23)));
    }
    /* Subnormal numbers are multiples of 2^-24. */
    return float_of(sign | bits_of((f32)rest * 5.9604644775390625e-8f));
}

/* Rounds to nearest, ties to even. NaN stays NaN. */
INLINE u16 to_f16(f32 value) {
    u32 all = bits_of(value), sign = all >> 16 & 0x8000, rest = all & 0x7fffffff;
    if (rest > 0x7f800000) {
        return (u16)(sign | 0x7e00);
    }
    if (rest >= 0x47800000) {
        return (u16)(sign | 0x7c00);
    }
    if (rest >= 0x38800000) {
        rest -= 112u << 23;
        return (u16)(sign | (rest + 0xfff + (rest >> 13 & 1)) >> 13);
    }
    /* Floats from 1/2 to 1 are multiples of 2^-24, like all subnormal results. So adding 1/2 rounds to one of them. */
    return (u16)(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000));
}

/* A bfloat16 is the upper half of a float. */
INLINE f32 from_bf16(u16 half) {
    return float_of((u32)half << 16);
}

INLINE u16 to_bf16(f32 value) {
    u32 all = bits_of(value);
    if ((all & 0x7fffffff) > 0x7f800000) {
        return (u16)(all >> 16 | 0x40);
    }
    return (u16)((all + 0x7fff + (all >> 16 & 1)) >> 16);
}

/* The conversion for types that need none. */
#define SAME(value) (value)
