/* c10d_plugin.h: the contract between c10d and a plugin `libc10d_<name>.so`. It needs only C11 or C++11.
 *
 * A plugin
 *   - has one line  C10D_PLUGIN_NOTE("name");  which puts the name and the ABI's version where c10d can read them
 *     without running any code of the plugin;
 *   - exports one function, c10d_plugin_v1, which returns a c10d_plugin table with a `device` part (memory, copies,
 *     streams), a `collectives` part, or both. If it has only a device part, every collective works on the device's
 *     buffers: c10d copies them through host memory.
 *
 * General rules:
 *   - Every struct begins with its size. Minor versions only append fields: read and write only the fields that both
 *     sides have (up to the smaller size). If a function is missing or null, its feature is missing.
 *   - Codes are fixed-width integers. Answer a code that you do not know with C10D_UNSUPPORTED.
 *   - Text is UTF-8, given by pointer and length, without a nul at the end. The callee copies it during the call.
 *   - Neither side frees the memory of the other.
 *   - No exception, panic or longjmp may leave a function: in C++, catch everything in every function.
 *   - Tables, and all that they point to, must not change until the process ends. Plugins are never unloaded.
 *   - Functions may be called from any thread, several at once, unless stated otherwise.
 *   - Functions that return int32_t return a C10D_ status. Any other value breaks the contract, and c10d reports it
 *     with the plugin's name.
 */
#ifndef C10D_PLUGIN_H
#define C10D_PLUGIN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The major version is also in the entry's name. */
#define C10D_ABI_MAJOR 1
#define C10D_ABI_MINOR 2

/* ---- Codes -------------------------------------------------------------------------------------------------- */

/* Status. C10D_OK is the only success. The guilty ranks are the ranks at fault, which c10d_result lists. */
#define C10D_OK 0
#define C10D_INVALID 1     /* The call is not valid. Nothing was sent. */
#define C10D_UNSUPPORTED 2 /* The call is valid, but the callee does not offer it. Nothing was sent. */
#define C10D_MISMATCH 3    /* The guilty rank issued a different call. */
#define C10D_PEER_DEAD 4   /* The guilty rank is dead, or has left the group. */
#define C10D_TIMEOUT 5     /* The deadline passed while this rank waited for the guilty ranks. */
#define C10D_ABORTED 6     /* The group was aborted. */
#define C10D_RESOURCE 7    /* Memory, descriptors, threads or ports ran out; or a buffer of the caller is too small. */
#define C10D_DEVICE 8      /* The device, or the software that drives it, failed. */
#define C10D_PROTOCOL 9    /* A peer broke the protocol. */
#define C10D_STORE 10      /* The store refused the request, or could not be reached. */
#define C10D_INTERNAL 11   /* A bug in c10d or in the plugin. */

/* Kinds of devices: DLPack's DLDeviceType. */
#define C10D_DEVICE_CPU 1
#define C10D_DEVICE_CUDA 2
#define C10D_DEVICE_PRIVATE 12 /* kDLExtDev: the plugin's own device. */

/* Element types: c10d's code, then DLPack's DLDataType {code, bits}; lanes is always 1. */
#define C10D_U8 0          /* {1, 8} */
#define C10D_I8 1          /* {0, 8} */
#define C10D_U16 2         /* {1, 16} */
#define C10D_I16 3         /* {0, 16} */
#define C10D_U32 4         /* {1, 32} */
#define C10D_I32 5         /* {0, 32} */
#define C10D_U64 6         /* {1, 64} */
#define C10D_I64 7         /* {0, 64} */
#define C10D_F16 8         /* {2, 16} */
#define C10D_BF16 9        /* {4, 16} */
#define C10D_F32 10        /* {2, 32} */
#define C10D_F64 11        /* {2, 64} */
#define C10D_BOOL 12       /* {6, 8}: one byte, 0 or 1 */
#define C10D_COMPLEX64 13  /* {5, 64}: two f32 */
#define C10D_COMPLEX128 14 /* {5, 128}: two f64 */
#define C10D_F8E4M3 15     /* {10, 8}: kDLFloat8_e4m3fn; moved, never reduced */
#define C10D_F8E5M2 16     /* {12, 8}: kDLFloat8_e5m2; moved, never reduced */
#define C10D_NO_DTYPE 0xffffffffu

/* A set of element types or ops is a mask with the bit C10D_BIT(code) for each member. */
#define C10D_BIT(code) (1u << (code))
#define C10D_ALL_DTYPES 0x1ffffu

/* Reduce operations. Integer sums and products wrap. NaN propagates in min and max. Sums of f16 and bf16 are computed
 * in f32. */
#define C10D_SUM 0
#define C10D_AVG 1
#define C10D_PRODUCT 2
#define C10D_MIN 3
#define C10D_MAX 4
#define C10D_BAND 5
#define C10D_BOR 6
#define C10D_BXOR 7
#define C10D_PREMUL_SUM 8 /* Each rank's values are multiplied by the request's `factor`, then summed. */
#define C10D_REDUCE_OPS 9
#define C10D_NO_REDUCE 0xffffffffu

/* Ops. `in` and `out` are the numbers of input and output spans, and n is the world size. A list with one span per
 * rank is in rank order. */
#define C10D_SEND 0                /* in: 1, sent to `peer` with `tag`. */
#define C10D_RECV 1                /* out: 1, received from `peer` with `tag`. */
#define C10D_RECV_ANY_SOURCE 2     /* out: 1, from the first rank that sends with `tag`; c10d_result has the rank. */
#define C10D_BROADCAST 3           /* out: 1, read on the root, written on the other ranks. */
#define C10D_ALL_REDUCE 4          /* out: 1, read and written. */
#define C10D_ALL_REDUCE_COALESCED 5 /* out: several, each as in C10D_ALL_REDUCE. */
#define C10D_REDUCE 6              /* out: 1, read on every rank, written on the root only. */
#define C10D_ALL_GATHER 7          /* in: 1; out: one per rank. Their lengths may differ. */
#define C10D_ALL_GATHER_INTO 8     /* in: 1; out: 1, n times as long. */
#define C10D_ALL_GATHER_COALESCED 9 /* in: k; out: k rows of `output_row` (= n) spans, row-major. */
#define C10D_ALL_GATHER_INTO_COALESCED 10 /* in: k; out: k, each n times as long as its input. */
#define C10D_REDUCE_SCATTER 11     /* in: one per rank, whose lengths may differ; out: 1. */
#define C10D_REDUCE_SCATTER_INTO 12 /* in: 1; out: 1, an n-th as long. */
#define C10D_REDUCE_SCATTER_INTO_COALESCED 13 /* in: k; out: k, each an n-th as long as its input. */
#define C10D_GATHER 14             /* in: 1; out: one per rank on the root, none on the other ranks. */
#define C10D_SCATTER 15            /* in: one per rank on the root, none on the other ranks; out: 1. */
#define C10D_ALL_TO_ALL 16         /* in: one per rank; out: one per rank. Their lengths may differ. */
#define C10D_ALL_TO_ALL_SINGLE 17  /* in: 1; out: 1; divided by the splits, or into n equal parts if there are none. */
#define C10D_BARRIER 18            /* No spans. */
#define C10D_MONITORED_BARRIER 19  /* No spans. Its error names the first missing rank, or with
                                    * C10D_WAIT_ALL_RANKS all missing ranks. CPU only. */
#define C10D_ALL_OPS 0xfffffu
#define C10D_OPS 20

/* Request flags. */
#define C10D_WAIT_ALL_RANKS 1u
#define C10D_CALLER_WAITS 2u /* The caller waits for the op: its latency matters more than overlap with other work. */

/* Levels of log lines. */
#define C10D_LOG_ERROR 1
#define C10D_LOG_WARN 2
#define C10D_LOG_INFO 3
#define C10D_LOG_DEBUG 4

/* ---- What both sides use ------------------------------------------------------------------------------------ */

/* Room for the reason of a failure. The caller provides `capacity` bytes at `text`; the callee writes the reason there
 * and sets `len`. A pointer to a c10d_why may be null. See c10d_fail. */
typedef struct c10d_why {
    uint32_t struct_size;
    uint32_t len;
    uint64_t capacity;
    char *text;
} c10d_why;

/* The elements of one contiguous tensor. On the CPU, `data + offset` is their address (null if there are none). On
 * a C10D_DEVICE_PRIVATE, `data` is the value that `allocate` returned, and the elements begin `offset` bytes after
 * the start of this allocation. On CUDA, `data + offset` is the address of the elements, and `data` is the address at
 * which the caller's buffer begins. In an array of spans, each span begins `struct_size` bytes after the previous span,
 * see c10d_span_at. */
typedef struct c10d_span {
    uint32_t struct_size;
    uint32_t dtype; /* C10D_U8 .. */
    void *data;
    uint64_t offset; /* Bytes. */
    uint64_t count;  /* Elements. */
    int32_t device_type; /* DLDevice */
    int32_t device_id;
    uint8_t type_code; /* DLDataType */
    uint8_t type_bits;
    uint16_t type_lanes;
    uint32_t reserved;
} c10d_span;

/* One operation. The request, its arrays and the memory of its spans stay valid until the operation is done. Do not
 * write to inputs. c10d checks shapes, types, roots, splits and overlap before it submits an operation. */
typedef struct c10d_request {
    uint32_t struct_size;
    uint32_t op;
    uint32_t dtype;  /* The type of all spans; C10D_NO_DTYPE for barriers. */
    uint32_t reduce; /* C10D_NO_REDUCE unless the op reduces. */
    double factor;   /* For C10D_PREMUL_SUM. */
    uint32_t root;
    uint32_t peer;
    uint32_t tag;
    uint32_t flags;
    uint64_t seq;        /* The collective's number, the same on all ranks. Point-to-point: local to the rank. */
    uint64_t timeout_ns; /* The time limit, counted from the call of `submit`. */
    uint64_t stream;     /* The device's stream that produced the inputs and will use the outputs; 0 = default. */
    const c10d_span *inputs; /* Null if there are none. */
    uint64_t input_count;
    const c10d_span *outputs; /* In-place ops have only outputs. */
    uint64_t output_count;
    uint64_t output_row;
    const uint64_t *input_splits; /* Elements per rank; null: equal parts. */
    const uint64_t *output_splits;
    /* The fingerprint: 24 bytes of the call on which all ranks must agree. Exchange it with the peers before using
     * their payload. If a peer's fingerprint differs, end the operation with C10D_MISMATCH and pass the peer's bytes in
     * c10d_result. For an op in which this rank receives nothing, c10d itself compares the calls of the ranks. */
    uint8_t fingerprint[24];
} c10d_request;

/* The result of an operation. All fields except the size and the status may be zero. */
typedef struct c10d_result {
    uint32_t struct_size;
    int32_t status;
    uint32_t source; /* The sender, for C10D_RECV_ANY_SOURCE. */
    uint32_t guilty_count;
    const uint32_t *guilty; /* The ranks at fault. */
    const char *message;
    uint64_t message_len;
    /* For C10D_MISMATCH: either the guilty rank's 24 bytes in `fingerprint`, or the name of the field that differs in
     * `field`, and both ranks' values as text in `mine` and `theirs`. */
    const uint8_t *fingerprint;
    const char *field;
    uint64_t field_len;
    const char *mine;
    uint64_t mine_len;
    const char *theirs;
    uint64_t theirs_len;
} c10d_result;

/* ---- What the host offers ----------------------------------------------------------------------------------- */

typedef struct c10d_host c10d_host;

/* Ends an operation. Call it exactly once for each operation that `submit` or `submit_batch` accepted with C10D_OK. You
 * may call it from any thread, also before `submit` returns. Never call it for an operation for which `submit` returned
 * an error. After the call, do not touch the operation's memory. */
typedef void (*c10d_done)(const c10d_host *host, uint64_t token, const c10d_result *result);

/* The host's functions: one table per plugin, valid until the process ends. Every function that can wait has the
 * parameter `timeout_ns`, and returns within this time. */
struct c10d_host {
    uint32_t struct_size;
    uint32_t abi_minor;
    void (*log)(const c10d_host *host, uint32_t level, const char *text, uint64_t len);
    /* The store_ functions use the store that the ranks of a group share. Pass c10d_group_init.store for `store`. The
     * plugin may use any keys, except those that begin with "c10d.". */
    int32_t (*store_set)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len, const void *value,
                         uint64_t len, uint64_t timeout_ns, c10d_why *why);
    /* Waits for the key. Sets `len` to the value's length. Returns C10D_RESOURCE if the length is above `capacity`. */
    int32_t (*store_get)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len, void *value,
                         uint64_t capacity, uint64_t *len, uint64_t timeout_ns, c10d_why *why);
    int32_t (*store_wait)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len,
                          uint64_t timeout_ns, c10d_why *why);
    /* Adds `delta` to the decimal number that is the key's value (0 if the key does not exist). Sets `sum` to the new
     * value. */
    int32_t (*store_add)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len, int64_t delta,
                         int64_t *sum, uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    /* Sets the key to `desired` if its value is `expected`, or if the key does not exist and `expected` is empty.
     * Then writes the key's value to `value`. If this value is longer than `capacity`, the function returns
     * C10D_RESOURCE, although it may have set the key. */
    int32_t (*store_compare_set)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len,
                                 const void *expected, uint64_t expected_len, const void *desired,
                                 uint64_t desired_len, void *value, uint64_t capacity, uint64_t *len,
                                 uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    int32_t (*store_append)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len,
                            const void *value, uint64_t len, uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    /* Sets `exists` to 1 if the key exists, else to 0. */
    int32_t (*store_check)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len, uint32_t *exists,
                           uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    /* Deletes the key. Sets `existed` to 1 if the key existed, else to 0. */
    int32_t (*store_delete)(const c10d_host *host, uint64_t store, const char *key, uint64_t key_len,
                            uint32_t *existed, uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    /* Nanoseconds on a clock that never goes back. */
    uint64_t (*now)(const c10d_host *host); /* since 1.1 */
};

/* ---- What a plugin offers ----------------------------------------------------------------------------------- */

/* A device runtime. `index` is the number of the device. Work on one stream runs in the order in which it was enqueued.
 * Work on different streams runs in any order, unless an event orders it. A function that enqueues work does not wait
 * for the device.
 *   - The functions count, allocate, free, copy_in, copy_out and copy are required.
 *   - The seven functions of streams and events are either all present or all missing. If they are missing, there is
 *     only stream 0, and every copy is complete when its function returns.
 *   - Each of these pairs is either present or missing: `retain` and `release`, `allocate_host` and `free_host`,
 *     `reduces` and `reduce`.
 * c10d calls `free` when no operation can use the memory any more, perhaps inside `done`. If the plugin's collectives
 * serve its device, the plugin needs `retain` and `release`. By these functions, c10d keeps memory that it did not
 * allocate, such as a tensor of another library. */
typedef struct c10d_device {
    uint32_t struct_size;
    /* C10D_DEVICE_PRIVATE or 0: the plugin's own device. C10D_DEVICE_CUDA: the plugin drives CUDA devices, and its
     * bases are CUDA addresses. c10d then uses the plugin as the runtime of CUDA devices only if there is no other
     * runtime. For the plugin's own operations, c10d always uses the plugin's `retain` and `release`. Plugins for
     * ABI 1.0 and 1.1 have 0 here. */
    uint32_t device_type;
    int32_t (*count)(uint32_t *count, c10d_why *why);
    /* Allocates memory, aligned to at least 64 bytes if the device has addresses. `bytes` is not 0. `base` is an
     * address or any handle except null; c10d never reads through it. */
    int32_t (*allocate)(uint32_t index, uint64_t bytes, void **base, c10d_why *why);
    void (*free)(uint32_t index, void *base);
    /* These three functions enqueue copies: from host memory to the device, from the device to host memory, and inside
     * the device. For memory of the device, `to` and `from` are bases. */
    int32_t (*copy_in)(uint32_t index, uint64_t stream, void *to, uint64_t to_offset, const void *from,
                       uint64_t bytes, c10d_why *why);
    int32_t (*copy_out)(uint32_t index, uint64_t stream, void *to, const void *from, uint64_t from_offset,
                        uint64_t bytes, c10d_why *why);
    int32_t (*copy)(uint32_t index, uint64_t stream, void *to, uint64_t to_offset, const void *from,
                    uint64_t from_offset, uint64_t bytes, c10d_why *why);
    int32_t (*create_stream)(uint32_t index, uint64_t *stream, c10d_why *why);
    void (*destroy_stream)(uint32_t index, uint64_t stream);
    int32_t (*create_event)(uint32_t index, uint64_t *event, c10d_why *why);
    void (*destroy_event)(uint32_t index, uint64_t event);
    /* Records the event after all work that was enqueued on the stream so far. The record is reached when this work is
     * complete. It replaces an earlier record of the event. */
    int32_t (*record)(uint32_t index, uint64_t event, uint64_t stream, c10d_why *why);
    /* Makes all later work on the stream wait until the event's last record is reached. */
    int32_t (*wait)(uint32_t index, uint64_t stream, uint64_t event, c10d_why *why);
    /* Sets `reached` to 1 if the event's last record is reached, else to 0. Returns an error if earlier work failed. */
    int32_t (*query)(uint32_t index, uint64_t event, uint32_t *reached, c10d_why *why);
    /* Keeps memory that c10d did not allocate valid until `release`, even if the memory's owner frees it earlier. If
     * `retain` has not returned at the operation's time limit, the owner may free the memory while `retain` still
     * runs. c10d may call `release` inside `done`. */
    int32_t (*retain)(uint32_t index, void *base, c10d_why *why);
    void (*release)(uint32_t index, void *base);
    /* Allocates host memory that the device copies fast. Returns null if the allocation fails. */
    void *(*allocate_host)(uint64_t bytes);
    void (*free_host)(void *base, uint64_t bytes);
    /* Returns the bits of the element types that `reduce` accepts with this operation. c10d asks for sum, product,
     * min, max and the bitwise operations. c10d reduces other types in host memory. */
    uint32_t (*reduces)(uint32_t reduce_op); /* since 1.1 */
    /* Enqueues acc[i] = op(acc[i], with[i]). */
    int32_t (*reduce)(uint32_t index, uint64_t stream, uint32_t reduce_op, uint32_t dtype, void *acc,
                      uint64_t acc_offset, const void *with, uint64_t with_offset, uint64_t count,
                      c10d_why *why); /* since 1.1 */
    /* Writes a text that identifies the device among all devices of all hosts, such as a serial number. Ranks compare
     * these texts to find out whether they share a device. Sets `len` to the text's length. Returns C10D_RESOURCE if
     * the length is above `capacity`, and C10D_UNSUPPORTED if the device has no such text. If no device has such a
     * text, `identity` may be null. */
    int32_t (*identity)(uint32_t index, char *text, uint64_t capacity, uint64_t *len, c10d_why *why); /* since 1.2 */
} c10d_device;

/* The ops and types that the collectives offer on one kind of device. c10d submits no other ops and types. */
typedef struct c10d_capabilities {
    uint32_t struct_size;
    /* C10D_DEVICE_CPU; or C10D_DEVICE_PRIVATE or C10D_DEVICE_CUDA, if the plugin has a device part of this type. */
    int32_t device_type;
    uint32_t ops;        /* Bits of ops. */
    uint32_t moves;      /* Bits of element types, for ops that do not reduce. */
    uint32_t reduces[C10D_REDUCE_OPS]; /* Bits of element types, for each reduce operation. */
    uint32_t op_count; /* The number of entries of `by_op`. Plugins for ABI 1.0 and 1.1 have 0 here. */
    /* For each op, the bits of the element types that it accepts, as a further limit besides `moves` and `reduces`.
     * Null: no op has a further limit. */
    const uint32_t *by_op; /* since 1.2 */
} c10d_capabilities;

typedef struct c10d_group_init {
    uint32_t struct_size;
    uint32_t rank;
    uint32_t size;
    uint32_t reserved;
    const char *name; /* The same on all ranks. */
    uint64_t name_len;
    uint8_t session[16]; /* A random number. It is the same on all ranks, and differs from that of any other group. */
    uint64_t store;      /* The argument `store` of the host's functions, valid until destroy_group has returned. */
    uint64_t timeout_ns; /* How long making the group may take. */
    /* Becomes 1 when all operations in flight must end with C10D_ABORTED. While you wait, read it again and again with
     * an atomic load. The pointer is valid until destroy_group has returned. */
    const uint32_t *aborted;
} c10d_group_init;

/* The plugin's own collectives. */
typedef struct c10d_collectives {
    uint32_t struct_size;
    uint32_t capability_count;
    const c10d_capabilities *capabilities; /* One per kind of device, each struct_size bytes after the previous one. */
    /* Returns C10D_OK if the plugin can work on this machine. If `probe` is null, c10d assumes that the plugin can.
     * The function must be cheap and have no side effects. */
    int32_t (*probe)(c10d_why *why);
    /* Makes this rank's part of a group: finds the other ranks through the store. For example, rank 0 can make an id
     * of any size and write it to the store (store_set), from which the other ranks read it (store_get). */
    int32_t (*create_group)(const c10d_host *host, const c10d_group_init *init, void **group, c10d_why *why);
    /* Destroys a group. No operation is in flight, and the plugin must not call `done` for this group any more. */
    void (*destroy_group)(void *group);
    /* Takes an operation, and runs it on this thread or on a thread of the plugin. The operation must end within the
     * request's timeout. If it cannot succeed in this time, it must end with an error that names the ranks for which
     * it waited. For the collectives of a group, c10d makes one call of `submit` at a time, in the same order on all
     * ranks. c10d does not wait until the previous operation is done. At the same time, other threads may submit
     * point-to-point operations. Those with the same peer, direction and tag are submitted in order. */
    int32_t (*submit)(void *group, const c10d_request *request, c10d_done done, uint64_t token, c10d_why *why);
    /* Ends all operations in flight, and reports the abort to the peers. Other functions may run during this call. */
    void (*abort)(void *group, const char *cause, uint64_t len);
    /* Tells the peers that this rank leaves the group, so that they do not report it as dead. c10d calls this when no
     * operation is in flight. */
    int32_t (*shutdown)(void *group, uint64_t timeout_ns, c10d_why *why); /* since 1.1 */
    /* Makes a new group of some ranks of `group`. Offer this function if it is cheaper than create_group. `ranks`
     * has `init->size` ranks of `group`, in the order of their numbers in the new group. c10d calls `split` on every
     * rank of `group`. On a rank that is in no new group, `ranks`, `init` and `part` are null. destroy_group
     * destroys the new group, perhaps after `group` itself. If `split` returns C10D_UNSUPPORTED, it must do so on
     * all ranks. In this case c10d uses create_group. c10d may call `split` while operations run. */
    int32_t (*split)(void *group, const uint32_t *ranks, const c10d_group_init *init, void **part,
                     c10d_why *why); /* since 1.2 */
    /* Takes several point-to-point operations that may depend on each other. On success `submit_batch` takes all of
     * them, on an error none. Call `done` for each operation separately, with the operation's own token. For each
     * peer, direction and tag, the operations of `submit_batch` and `submit` are in one common order. */
    int32_t (*submit_batch)(void *group, const c10d_request *const *requests, const uint64_t *tokens, uint64_t count,
                            c10d_done done, c10d_why *why); /* since 1.2 */
    /* Returns an error of the group, such as a dead peer, that occurred while no operation was waiting. Returns C10D_OK
     * if there is no such error. c10d calls this function regularly, and the function must return at once. `guilty` has
     * room for all ranks of the group, and `guilty_count` must be set. Do not return C10D_MISMATCH: each rank's own
     * call fails with the mismatch, and names the field that differs. */
    int32_t (*async_error)(void *group, uint32_t *guilty, uint32_t *guilty_count, c10d_why *why); /* since 1.2 */
} c10d_collectives;

typedef struct c10d_plugin {
    uint32_t struct_size;
    uint32_t abi_minor; /* C10D_ABI_MINOR of the header that the plugin was built with. */
    const char *name;   /* The same as in the note. */
    uint64_t name_len;
    const char *version; /* The plugin's own version. */
    uint64_t version_len;
    const c10d_device *device;           /* Null if the plugin has no device part. */
    const c10d_collectives *collectives; /* Null if the plugin has no collectives. */
} c10d_plugin;

#ifdef __cplusplus
#define C10D_EXPORT extern "C" __attribute__((visibility("default")))
#else
#define C10D_EXPORT __attribute__((visibility("default")))
#endif

/* The entry. After c10d has checked the file, it calls the entry once per process, on a separate thread. Return null if
 * the plugin cannot work at all, and log the reason with the host's `log`. If the entry, `probe` or `identity` does not
 * return within 10 seconds, c10d no longer waits for it and reports an error. */
C10D_EXPORT const c10d_plugin *c10d_plugin_v1(const c10d_host *host);

/* ---- The note ----------------------------------------------------------------------------------------------- */

/* The note, which c10d reads from the file before it loads the file. It is an ELF note of type 1 with owner "c10d". */
typedef struct c10d_note {
    uint32_t owner_size, note_size, type;
    char owner[8];
    uint32_t struct_size; /* The number of bytes from here to the end. */
    uint16_t abi_major, abi_minor;
    uint32_t plugin_size; /* sizeof(c10d_plugin) */
    char name[52];        /* Lower-case letters, digits, - and _, then zeros. */
} c10d_note;

#define C10D_PLUGIN_NOTE(NAME)                                                                                  \
    static const c10d_note c10d_plugin_note __attribute__((section(".note.c10d"), used, aligned(4))) = {        \
        5, 64, 1, "c10d", 64, C10D_ABI_MAJOR, C10D_ABI_MINOR, (uint32_t)sizeof(c10d_plugin), NAME}

/* ---- Helpers ------------------------------------------------------------------------------------------------ */

/* Writes the reason of a failure, and returns the status:
 *     return c10d_fail(why, C10D_DEVICE, "the device does not respond"); */
static inline int32_t c10d_fail(c10d_why *why, int32_t status, const char *text) {
    if (why) {
        uint64_t n = 0;
        while (n < why->capacity && text[n]) {
            why->text[n] = text[n];
            n++;
        }
        why->len = (uint32_t)n;
    }
    return status;
}

static inline const c10d_span *c10d_span_at(const c10d_span *spans, uint64_t i) {
    return (const c10d_span *)(const void *)((const char *)spans + i * spans->struct_size);
}

#ifdef __cplusplus
}
#endif
#endif
