/* The C interface of libc10d_rs, which the C++ shim and the ctypes fallback of the Python package call.
 *
 * Functions that return an int return 0 on success. Where they fail they set *error, which the caller gives back by
 * c10drs_error_free. Everything that is passed in need only live until the function returns, unless it is said
 * otherwise. Functions and callbacks may be used on any thread. No function unwinds; callbacks must not either. */
#ifndef C10D_RS_H
#define C10D_RS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* c10drs_abi() of a library that fits. */
#define C10DRS_ABI 1

typedef struct c10drs_group c10drs_group;
typedef struct c10drs_work c10drs_work;

typedef struct c10drs_text {
  const char* data;
  size_t len;
} c10drs_text;

/* Takes bytes in place of a return value. */
typedef void (*c10drs_put)(void* sink, const void* bytes, size_t len);

/* Strings end with a zero byte. All lives as long as the error. More fields follow, which are the library's. */
typedef struct c10drs_error {
  const char* text;
  const char* kind;
  const char* op;
  const char* phase;
  int64_t seq;        /* -1: none */
  int64_t rank;       /* -1: none */
  uint32_t failed;    /* 1: the group is failed for good; 0: it stays usable */
  uint32_t timed_out; /* 1: the deadline passed */
  const uint32_t* guilty;
  size_t guilty_len;
} c10drs_error;

/* What a store is asked; keys first, then values. */
enum {
  C10DRS_SET = 0,
  C10DRS_GET = 1,  /* waits until the key is there; puts its value */
  C10DRS_WAIT = 2, /* any number of keys */
  C10DRS_ADD = 3,  /* adds `number`; the sum to *out */
  C10DRS_COMPARE_SET = 4,
  C10DRS_APPEND = 5,
  C10DRS_CHECK = 6,  /* any number of keys; 1 to *out if all are there */
  C10DRS_DELETE = 7, /* 1 to *out if it was there */
  C10DRS_COUNT = 8   /* the number of keys to *out */
};

/* Another library's store. `call` answers within `timeout_ms`, or a little later. It returns 0, or puts the reason and
 * returns another number. `release` is called once, when the store is not used any more. */
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
  c10drs_text prefix;       /* keys in the store are below it; may be empty */
  c10drs_text backends;     /* which backend serves which device, as "cpu:gloo-like"; may be empty */
  c10drs_text url;          /* in place of rank, size and store: an init method; may be empty */
  const c10drs_text* hints; /* names and values by turns */
  size_t hints_len;
  const c10drs_store* store; /* is taken over, on errors too; may be null in a world of one, or with a url */
  uint32_t device_kind;      /* the device that the rank works on, 0 if that is open; DLPack's code */
  uint32_t device_index;
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
  void* data;
  uint64_t count; /* elements */
  uint32_t dtype; /* C10DRS_TYPE_.. */
} c10drs_tensor;

/* One call. In-place ops and receives have outputs alone, a send has one input. A list of lists is given end to end. A
 * root's own lists are empty on the other ranks. */
typedef struct c10drs_call {
  uint32_t op;     /* C10DRS_OP_.. */
  uint32_t reduce; /* c10d's code of the reduce operation */
  double factor;   /* of PREMUL_SUM */
  uint32_t root;
  uint32_t peer;
  uint32_t tag;
  uint32_t wait_all_ranks; /* of monitored_barrier */
  int64_t timeout_ms;      /* -1: the group's */
  uint32_t device_kind;    /* DLPack's code: 1 = host memory */
  uint32_t device_index;
  const c10drs_tensor* inputs;
  size_t inputs_len;
  const c10drs_tensor* outputs;
  size_t outputs_len;
  const uint64_t* input_splits; /* of all_to_all_single: elements to each rank; empty: equal parts */
  size_t input_splits_len;
  const uint64_t* output_splits;
  size_t output_splits_len;
} c10drs_call;

/* A tensor in coordinate form: `sparse_dim` rows of `nnz` indices. Of the call, `reduce` and `timeout_ms` count. */
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

typedef void (*c10drs_give)(void* context, const int64_t* indices, size_t indices_len, const void* values,
                            size_t values_len);

uint32_t c10drs_abi(void);
void c10drs_info(void* sink, c10drs_put put);

int c10drs_open(const c10drs_init* init, c10drs_group** group, c10drs_error** error);
uint32_t c10drs_rank(const c10drs_group* group);
uint32_t c10drs_size(const c10drs_group* group);
/* The group's failure, to be given back, or null. */
c10drs_error* c10drs_failure(const c10drs_group* group);
void c10drs_abort(const c10drs_group* group, c10drs_text why);
int c10drs_shutdown(const c10drs_group* group, int64_t timeout_ms, c10drs_error** error);
int c10drs_shrink(const c10drs_group* group, const uint32_t* lost, size_t lost_len, c10drs_group** left,
                  c10drs_error** error);
/* May block: it waits for peers that have yet to take what this rank sent them. */
void c10drs_close(c10drs_group* group);
void c10drs_error_free(c10drs_error* error);

/* Runs a call on this thread. *source: the sender's rank, of recv_any_source. */
int c10drs_run(const c10drs_group* group, const c10drs_call* call, uint32_t* source, c10drs_error** error);
/* Starts a call. The tensors' memory stays as it is until release(owner), which is called in any case, possibly before
 * this function returns. What is wrong with the call is told by the wait, or here: then the result is null. */
c10drs_work* c10drs_start(const c10drs_group* group, const c10drs_call* call, void (*release)(void*), void* owner,
                          c10drs_error** error);
int c10drs_sparse_all_reduce(const c10drs_group* group, const c10drs_call* call, const c10drs_sparse* tensor,
                             c10drs_give give, void* context, c10drs_error** error);

int c10drs_work_done(const c10drs_work* work);
/* Waits so many milliseconds; -1: as long as the op may take. 0: over, and well. 1: over, with an error. 2: not over. */
int c10drs_work_wait(const c10drs_work* work, int64_t timeout_ms, uint32_t* source, c10drs_error** error);
/* Has function(context) called once, when the op is over. It must not call this interface, and must be quick. 0: the op
 * is over already, and nothing is called. */
int c10drs_work_notify(const c10drs_work* work, void (*function)(void*), void* context);
void c10drs_work_free(c10drs_work* work);

#ifdef __cplusplus
}
#endif
#endif
