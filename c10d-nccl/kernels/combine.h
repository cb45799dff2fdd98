/* Combines two values. Integers wrap; NaN propagates in min and max. */

#define INTEGER(name, type) \
    INLINE type combine_##name(u64 op, type a, type b) { \
        switch (op) { \
        case SUM: return (type)((u64)a + (u64)b); \
        case PRODUCT: return (type)((u64)a * (u64)b); \
        case MIN: return b < a ? b : a; \
        case MAX: return b > a ? b : a; \
        case BAND: return (type)(a & b); \
        case BOR: return (type)(a | b); \
        default: return (type)(a ^ b); \
        } \
    }

#define FLOAT(name, type) \
    INLINE type combine_##name(u64 op, type a, type b) { \
        switch (op) { \
        case SUM: return a + b; \
        case PRODUCT: return a * b; \
        case MIN: return a < b || a != a ? a : b; \
        default: return a > b || a != a ? a : b; \
        } \
    }

INTEGER(u8, u8)
INTEGER(i8, i8)
INTEGER(u16, u16)
INTEGER(i16, i16)
INTEGER(u32, u32)
INTEGER(i32, i32)
INTEGER(u64, u64)
INTEGER(i64, i64)
FLOAT(f32, f32)
FLOAT(f64, f64)
