/* Computes acc[i] = op(acc[i], with[i]). */

#include "common.h"
#include "combine.h"

#define REDUCE(name, type, wide, from, to) \
    KERNEL c10d_reduce_##name(u64 op, type *acc, const type *with, u64 count) { \
        EACH(i, count) { \
            acc[i] = to(combine_##wide(op, from(acc[i]), from(with[i]))); \
        } \
    }

REDUCE(u8, u8, u8, SAME, SAME)
REDUCE(i8, i8, i8, SAME, SAME)
REDUCE(u16, u16, u16, SAME, SAME)
REDUCE(i16, i16, i16, SAME, SAME)
REDUCE(u32, u32, u32, SAME, SAME)
REDUCE(i32, i32, i32, SAME, SAME)
REDUCE(u64, u64, u64, SAME, SAME)
REDUCE(i64, i64, i64, SAME, SAME)
REDUCE(f16, u16, f32, from_f16, to_f16)
REDUCE(bf16, u16, f32, from_bf16, to_bf16)
REDUCE(f32, f32, f32, SAME, SAME)
REDUCE(f64, f64, f64, SAME, SAME)
