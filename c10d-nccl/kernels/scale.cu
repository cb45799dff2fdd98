/* Computes at[i] = at[i] * factor (for premul_sum), or at[i] / factor (for avg). */

#include "common.h"

/* `factor` has the bits of a double. */
#define SCALE(name, type, wide, from, to) \
    KERNEL c10d_scale_##name(u64 divides, u64 factor, type *at, u64 count) { \
        wide by = (wide)double_of(factor); \
        EACH(i, count) { \
            wide value = from(at[i]); \
            at[i] = to(divides ? value / by : value * by); \
        } \
    }

SCALE(f16, u16, f32, from_f16, to_f16)
SCALE(bf16, u16, f32, from_bf16, to_bf16)
SCALE(f32, f32, f32, SAME, SAME)
SCALE(f64, f64, f64, SAME, SAME)
