/* The C interface of libc10d_rs, which the C++ shim and the ctypes fallback of the Python package call.
 *
 * Unless stated otherwise, functions that return an int return 0 on success. On failure they set *error, which the
 * caller frees by c10drs_error_free. Unless stated otherwise, all arguments need only be valid until the function
 * returns. Functions and callbacks may be called on any thread. No function unwinds, and callbacks must not unwind. */
#ifndef C10D_RS_H
#define C10D_RS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The value of c10drs_abi() in a library with this interface. */
#define C10DRS_ABI 2

typedef struct c10drs_group c10drs_group;
typedef struct c10drs_work c10drs_work;

typedef struct c10drs_text {
  const char* data;
  size_t len;
} c10drs_text;

/* A function of the caller that receives a result of any length. */
typedef void (*c10drs_put)(void* sink, const void* bytes, size_t len);

/* Strings end with a zero byte. All pointers are valid until the error is freed. Private fields follow. */
typedef struct c10drs_error {
  const char* text;
  const char* kind;
  const char* op;
  const char* phase;
  int64_t seq;        /* -1: none */
  int64_t rank;       /* -1: none */
  uint32_t failed;    /* 1: the group is failed; 0: it can still be used */
  uint32_t timed_out; /* 1: the deadline passed */
  const uint32_t* guilty;
  size_t guilty_len;
} c10drs_error;

/* The requests to a store. The arguments are keys, followed by values. */
enum {
  C10DRS_SET = 0,
  C10DRS_GET = 1,  /* waits until the key exists; passes its value to `put` */
  C10DRS_WAIT = 2, /* any number of keys */
  C10DRS_ADD = 3,  /* adds `number`; writes the sum to *out */
  C10DRS_COMPARE_SET = 4,
  C10DRS_APPEND = 5,
  C10DRS_CHECK = 6,  /* any number of keys; writes 1 to *out if all exist */
  C10DRS_DELETE = 7, /* writes 1 to *out if the key existed */
  C10DRS_COUNT = 8   /* writes the number of keys to *out */
};

/* Another library's store. `call` returns within `timeout_ms`, or slightly later. On success it returns 0. On failure
 * it passes the reason to `put` and returns another number. The library calls `release` once, when it no longer uses
 * the store. */
typedef struct c10drs_store {
  void* context;
  int (*call)(void* context, uint32_t verb, const c10drs_text* args, size_t len, int64_t number, int64_t timeout_ms,
              int64_t* out, void* sink, c10drs_put put);
  void (*release)(void* context);
} c10drs_store;

typedef struct c10drs_init {
  size_t bytes; /* sizeof(c10drs_init) */
  uint32_t rank;
  uint32_t size;
  int64_t timeout_ms;
  c10drs_text name;
  c10drs_text prefix;       /* put before every key in the store; may be empty */
  c10drs_text backends;     /* the backend of each device, such as "cpu:gloo-like"; may be empty */
  c10drs_text url;          /* an init method, instead of rank, size and store; may be empty */
  const c10drs_text* hints; /* names and values, alternating */
  size_t hints_len;
  const c10drs_store* store; /* the library takes ownership, even on errors; may be null for one rank, or with a url */
  uint32_t device_kind;      /* the device of the rank, with DLPack's code; 0 if it is not specified */
  uint32_t device_index;
  c10drs_text private_use1; /* c10d's name of the device with device_kind 12; empty: the default device */
} c10drs_init;

enum {
  C10DRS_OP_send = 0,
  C10DRS_OP_recv = 1,
  C10DRS_OP_recv_any_source = 2,
  C10DRS_OP_broadcast = 3,
  C10DRS_OP_all_reduce = 4,
  C10DRS_OP_all_reduce_coalesced = 5,
  C10DRS_OP_reduce = 6,
  C10DRS_OP_all_gather = 7,
  C10DRS_OP_all_gather_into = 8,
  C10DRS_OP_all_gather_coalesced = 9,
  C10DRS_OP_all_gather_into_coalesced = 10,
  C10DRS_OP_reduce_scatter = 11,
  C10DRS_OP_reduce_scatter_into = 12,
  C10DRS_OP_reduce_scatter_into_coalesced = 13,
  C10DRS_OP_gather = 14,
  C10DRS_OP_scatter = 15,
  C10DRS_OP_all_to_all = 16,
  C10DRS_OP_all_to_all_single = 17,
  C10DRS_OP_barrier = 18,
  C10DRS_OP_monitored_barrier = 19
};

enum {
  C10DRS_TYPE_u8 = 0,
  C10DRS_TYPE_i8 = 1,
  C10DRS_TYPE_u16 = 2,
  C10DRS_TYPE_i16 = 3,
  C10DRS_TYPE_u32 = 4,
  C10DRS_TYPE_i32 = 5,
  C10DRS_TYPE_u64 = 6,
  C10DRS_TYPE_i64 = 7,
  C10DRS_TYPE_f16 = 8,
  C10DRS_TYPE_bf16 = 9,
  C10DRS_TYPE_f32 = 10,
  C10DRS_TYPE_f64 = 11,
  C10DRS_TYPE_bool = 12,
  C10DRS_TYPE_complex64 = 13,
  C10DRS_TYPE_complex128 = 14,
  C10DRS_TYPE_f8e4m3 = 15,
  C10DRS_TYPE_f8e5m2 = 16
};

/* A contiguous tensor. */
typedef struct c10drs_tensor {
  void* data;      /* in host memory the address of the elements, on a device the allocator's pointer */
  uint64_t offset; /* bytes from `data` to the first element */
  uint64_t count;  /* elements */
  uint32_t dtype;  /* C10DRS_TYPE_.. */
} c10drs_tensor;

/* A call. In-place ops and receives have only outputs, and a send has one input. A list of lists is flattened. Lists
 * that only the root has are empty on the other ranks. */
typedef struct c10drs_call {
  uint32_t op;     /* C10DRS_OP_.. */
  uint32_t reduce; /* c10d's code of the reduce operation */
  double factor;   /* of PREMUL_SUM */
  uint32_t root;
  uint32_t peer;
  uint32_t tag;
  uint32_t wait_all_ranks; /* of monitored_barrier */
  int64_t timeout_ms;      /* -1: the group's timeout */
  uint32_t device_kind;    /* DLPack's code: 1 = host memory, 2 = CUDA, 12 = a vendor's device */
  uint32_t device_index;
  uint64_t stream; /* the call runs after the work on this stream of the device; 0 = the default stream */
  const c10drs_tensor* inputs;
  size_t inputs_len;
  const c10drs_tensor* outputs;
  size_t outputs_len;
  const uint64_t* input_splits; /* of all_to_all_single: the elements for each rank; equal parts if empty */
  size_t input_splits_len;
  const uint64_t* output_splits;
  size_t output_splits_len;
} c10drs_call;

/* A tensor in coordinate form: `sparse_dim` rows of `nnz` indices. The call's `reduce` and `timeout_ms` apply. */
typedef struct c10drs_sparse {
  const uint64_t* shape;
  size_t dims;
  size_t sparse_dim;
  uint32_t coalesced;
  uint32_t dtype;
  const int64_t* indices;
  size_t nnz;
  const void* values;
  size_t values_len;
} c10drs_sparse;

/* Receives the result of a sparse call: the indices, and the address and number of the values. The data is valid during
 * this call only. */
typedef void (*c10drs_give)(void* context, const int64_t* indices, size_t indices_len, const void* values,
                            size_t values_len);

/* C10DRS_ABI of the library. */
uint32_t c10drs_abi(void);
/* Passes a text to `put`: the library's version, its backends and plugins, and the backend of each op. */
void c10drs_info(void* sink, c10drs_put put);

/* Makes a group. Blocks until all ranks have joined. */
int c10drs_open(const c10drs_init* init, c10drs_group** group, c10drs_error** error);
/* Return this rank's number, and the number of ranks. */
uint32_t c10drs_rank(const c10drs_group* group);
uint32_t c10drs_size(const c10drs_group* group);
/* Returns the error that failed the group, or null. The caller frees the error. */
c10drs_error* c10drs_failure(const c10drs_group* group);
/* Fails the group on all ranks. */
void c10drs_abort(const c10drs_group* group, c10drs_text why);
/* Waits for unfinished calls and leaves the group, within timeout_ms. */
int c10drs_shutdown(const c10drs_group* group, int64_t timeout_ms, c10drs_error** error);
/* Makes a group of the ranks that are not in `lost`. All ranks of the new group call this function. */
int c10drs_shrink(const c10drs_group* group, const uint32_t* lost, size_t lost_len, c10drs_group** left,
                  c10drs_error** error);
/* Leaves the group if it was not shut down, and frees it. May block: it waits for peers that have not yet received what
 * this rank sent. `group` may be null. */
void c10drs_close(c10drs_group* group);
void c10drs_error_free(c10drs_error* error);

/* Runs a call on this thread. For recv_any_source it writes the sender's rank to *source. */
int c10drs_run(const c10drs_group* group, const c10drs_call* call, uint32_t* source, c10drs_error** error);
/* Starts a call. The tensors' memory must remain valid and unchanged until the library calls release(owner). The
 * library always calls release(owner) once, possibly before c10drs_start returns. If the call cannot be started, the
 * result is null and *error is set. c10drs_work_wait returns all other errors of the call. */
c10drs_work* c10drs_start(const c10drs_group* group, const c10drs_call* call, void (*release)(void*), void* owner,
                          c10drs_error** error);
/* Runs a sparse all-reduce on this thread. If the op succeeds, this function calls `give` once before it returns. */
int c10drs_sparse_all_reduce(const c10drs_group* group, const c10drs_call* call, const c10drs_sparse* tensor,
                             c10drs_give give, void* context, c10drs_error** error);

/* Returns 1 if the op is finished, otherwise 0. */
int c10drs_work_done(const c10drs_work* work);
/* Waits for at most this number of milliseconds, or with -1 until the op is finished. Returns 0 if the op succeeded, 1
 * if it failed, and 2 if it is not finished. */
int c10drs_work_wait(const c10drs_work* work, int64_t timeout_ms, uint32_t* source, c10drs_error** error);
/* Makes the library call function(context) once when the op is finished, and returns 1. If the op is already finished,
 * returns 0 and does not call the function. The function must not call this interface, and must be quick. */
int c10drs_work_notify(const c10drs_work* work, void (*function)(void*), void* context);
/* Frees the handle, which may be null. The op continues, but the function of c10drs_work_notify is no longer called. */
void c10drs_work_free(c10drs_work* work);

#ifdef __cplusplus
}
#endif
#endif
