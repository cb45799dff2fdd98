/* Sparse tensors: converts coordinates to keys and back, computes the union of the ranks' sorted keys, and copies rows
 * to their positions in the union. The key of an entry is its coordinates as one number: if the sparse dimensions are
 * 5 x 10, the key of (2, 3) is 2 * 10 + 3. */

#include "common.h"
#include "combine.h"

/* The number of values that one thread sums. */
#define CHUNK 64

/* Returns the quotient. If both numbers have at most 32 bits, uses the faster division of 32 bits. */
INLINE u64 over(u64 a, u64 b) {
    return (a | b) >> 32 ? a / b : (u32)a / (u32)b;
}

/* `keys` has one sorted list of keys per rank, one after another, each padded to the length of the longest. `counts` has
 * the lengths of the lists. A key counts if no earlier list has it. prefix[i] is the number of keys before position i
 * that count. */

#define SPARSE(key) \
    /* Returns the first position in a sorted list whose key is not less than `what`. */ \
    INLINE u64 lower_##key(const key *keys, u64 count, key what) { \
        u64 from = 0; \
        while (count > 0) { \
            u64 half = count / 2; \
            if (keys[from + half] < what) { \
                from += half + 1; \
                count -= half + 1; \
            } else { \
                count = half; \
            } \
        } \
        return from; \
    } \
\
    /* Returns how many keys that count are less than `what`, in all lists. */ \
    INLINE u64 rank_##key( \
        key what, const key *keys, u64 longest, const u64 *counts, u64 lists, const u64 *prefix) { \
        u64 sum = 0; \
        for (u64 list = 0; list < lists; list++) { \
            u64 at = list * longest; \
            sum += prefix[at + lower_##key(keys + at, counts[list], what)] - prefix[at]; \
        } \
        return sum; \
    } \
\
    /* Converts coordinates to keys. Sets flags[0] to the first entry that is outside the tensor. */ \
    KERNEL c10d_sparse_linearise_##key( \
        const i64 *indices, u64 count, const u64 *sizes, u64 dims, key *keys, u64 *flags) { \
        EACH(i, count) { \
            u64 number = 0, outside = 0; \
            for (u64 d = 0; d < dims; d++) { \
                u64 index = (u64)indices[d * count + i]; \
                outside |= index >= sizes[d]; \
                number = number * sizes[d] + index; \
            } \
            keys[i] = (key)number; \
            if (outside) { \
                atomicMin(&flags[0], i); \
            } \
        } \
    } \
\
    /* Sets flags[0] to the first key that is outside the tensor, and flags[1] to the first that is out of order. */ \
    KERNEL c10d_sparse_check_##key(const key *keys, u64 count, u64 space, u64 *flags) { \
        EACH(i, count) { \
            if (keys[i] >= space) { \
                atomicMin(&flags[0], i); \
            } \
            if (i > 0 && keys[i - 1] >= keys[i]) { \
                atomicMin(&flags[1], i); \
            } \
        } \
    } \
\
    /* Finds the positions of keys in one sorted list. Sets flags[2] to the first key that is not in the list. */ \
    KERNEL c10d_sparse_locate_##key( \
        const key *keys, u64 count, const key *known, u64 all, u64 *places, u64 *flags) { \
        EACH(i, count) { \
            u64 place = lower_##key(known, all, keys[i]); \
            places[i] = place; \
            if (place == all || known[place] != keys[i]) { \
                atomicMin(&flags[2], i); \
            } \
        } \
    } \
\
    /* Sets marks[i] to 1 if the key at i counts, else to 0. */ \
    KERNEL c10d_sparse_mark_##key(const key *keys, u64 longest, const u64 *counts, u64 lists, u64 *marks) { \
        EACH(i, longest * lists) { \
            u64 mine = over(i, longest), first = i - mine * longest < counts[mine]; \
            for (u64 list = 0; first && list < mine; list++) { \
                const key *others = keys + list * longest; \
                u64 place = lower_##key(others, counts[list], keys[i]); \
                first = place == counts[list] || others[place] != keys[i]; \
            } \
            marks[i] = first; \
        } \
    } \
\
    /* Finds the positions of keys in the union. */ \
    KERNEL c10d_sparse_place_##key( \
        const key *mine, u64 count, const key *keys, u64 longest, const u64 *counts, u64 lists, const u64 *prefix, \
        u64 *places) { \
        EACH(i, count) { \
            places[i] = rank_##key(mine[i], keys, longest, counts, lists, prefix); \
        } \
    } \
\
    /* Writes the sorted union. */ \
    KERNEL c10d_sparse_union_##key( \
        const key *keys, u64 longest, const u64 *counts, u64 lists, const u64 *prefix, key *all) { \
        EACH(i, longest * lists) { \
            if (prefix[i + 1] != prefix[i]) { \
                all[rank_##key(keys[i], keys, longest, counts, lists, prefix)] = keys[i]; \
            } \
        } \
    } \
\
    /* Converts keys to coordinates. */ \
    KERNEL c10d_sparse_gather_##key(const key *keys, u64 count, const u64 *sizes, u64 dims, i64 *indices) { \
        EACH(i, count) { \
            u64 number = keys[i]; \
            for (u64 d = dims; d-- > 0;) { \
                u64 line = over(number, sizes[d]); \
                indices[d * count + i] = (i64)(number - line * sizes[d]); \
                number = line; \
            } \
        } \
    }

SPARSE(u32)
SPARSE(u64)

/* Computes the sum of each chunk. */
KERNEL c10d_sparse_sums(const u64 *values, u64 count, u64 *sums) {
    EACH(chunk, (count + CHUNK - 1) / CHUNK) {
        u64 from = chunk * CHUNK, end = from + CHUNK < count ? from + CHUNK : count, sum = 0;
        for (u64 i = from; i < end; i++) {
            sum += values[i];
        }
        sums[chunk] = sum;
    }
}

/* Replaces each value by the sum of all values before it. `bases` has, for each chunk, the sum of all values before the
 * chunk; it is null if there is only one chunk. */
KERNEL c10d_sparse_scan(const u64 *bases, u64 *values, u64 count) {
    EACH(chunk, (count + CHUNK - 1) / CHUNK) {
        u64 from = chunk * CHUNK, end = from + CHUNK < count ? from + CHUNK : count;
        u64 sum = bases ? bases[chunk] : 0;
        for (u64 i = from; i < end; i++) {
            u64 value = values[i];
            values[i] = sum;
            sum += value;
        }
    }
}

#define ROWS(bits, type) \
    KERNEL c10d_sparse_fill_##bits(u64 value, type *to, u64 count) { \
        EACH(i, count) { \
            to[i] = (type)value; \
        } \
    } \
\
    /* Copies rows to their positions, which are all different. */ \
    KERNEL c10d_sparse_scatter_##bits(const type *values, const u64 *places, u64 count, u64 row, type *to) { \
        EACH(i, count * row) { \
            u64 entry = over(i, row); \
            to[places[entry] * row + (i - entry * row)] = values[i]; \
        } \
    }

ROWS(8, u8)
ROWS(16, u16)
ROWS(32, u32)
ROWS(64, u64)

/* Combines entries with the same coordinates, in their original order. Segment s consists of the entries
 * order[starts[s]] up to (but not including) order[starts[s + 1]]. */
#define MERGE(name, type, wide, from, to) \
    KERNEL c10d_sparse_merge_##name( \
        u64 op, const type *values, const u64 *order, const u64 *starts, u64 segments, u64 row, type *out) { \
        EACH(i, segments * row) { \
            u64 segment = over(i, row), column = i - segment * row, entry = starts[segment]; \
            wide sum = from(values[order[entry] * row + column]); \
            for (entry++; entry < starts[segment + 1]; entry++) { \
                sum = combine_##wide(op, sum, from(values[order[entry] * row + column])); \
            } \
            out[i] = to(sum); \
        } \
    }

MERGE(u8, u8, u8, SAME, SAME)
MERGE(i8, i8, i8, SAME, SAME)
MERGE(u32, u32, u32, SAME, SAME)
MERGE(i32, i32, i32, SAME, SAME)
MERGE(u64, u64, u64, SAME, SAME)
MERGE(i64, i64, i64, SAME, SAME)
MERGE(f16, u16, f32, from_f16, to_f16)
MERGE(bf16, u16, f32, from_bf16, to_bf16)
MERGE(f32, f32, f32, SAME, SAME)
MERGE(f64, f64, f64, SAME, SAME)
