/* A plugin with its own collectives: every op, on host memory and on the memory of its own device, between the
 * processes (or threads) of one machine.
 *
 * The ranks of a group share one piece of memory. Rank 0 makes it, and gives the others an id by which they find it.
 * The id goes through c10d's store. If a group is split, the id goes through the memory of the parent group. In the
 * shared memory every rank has a seat (its process id, and a futex by which its peers wake it), and two rings to each
 * rank (also to itself): one for collectives, and one for point-to-point messages, so that collectives never wait for
 * messages.
 *
 * Everything that goes through a ring is a message: a header with the call's fingerprint, then the bytes. A send
 * transfers one message. A collective transfers one message from each rank to each rank for each of its tensors. Many
 * of these messages are empty. Before a message is used, the receiver checks that it belongs to the same call and has
 * the expected length. Every rank receives from all ranks, so every rank notices if ranks make different calls. When
 * all messages have arrived, their contents are copied to the outputs, or reduced in rank order. The first failure of
 * the group is written to the shared memory, once for all ranks.
 *
 * The plugin has no threads: the work is done on c10d's thread that calls submit. Every wait checks the deadline,
 * c10d's abort flag, the group's failure, and whether the ranks for which it waits are alive. While a group is made,
 * a rank can check this only for ranks whose process id it knows (see `meet`). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "c10d_plugin.h"

#ifndef NAME
#define NAME "c-collectives"
#endif
/* With C10D_DEVICE_CUDA, the plugin registers its simulated device under the type CUDA, so that tests can run
 * collectives on buffers of that type. It cannot use a real GPU's memory. */
#ifndef DEVICE_TYPE
#define DEVICE_TYPE C10D_DEVICE_PRIVATE
#endif
C10D_PLUGIN_NOTE(NAME);

#define MAX_RANKS 64u
#define UNCLAIMED (64u << 20)      /* The limit, in bytes, of messages from one sender that no receive has taken yet. */
#define SLICE_NS (20 * 1000000ull) /* How long a rank sleeps at most before it checks everything again. */
#define BIT(rank) ((uint64_t)1 << (rank))
#define LANES 2 /* One for collectives, one for point-to-point messages. */

/* ---- The shared memory. All ranks run this code on this machine, so they use the same layout of structs. --- */

struct seat {
    _Alignas(64) atomic_int pid; /* 0 until the rank has taken the seat. */
    atomic_int left;             /* Whether the rank has left the group. */
    atomic_uint bell;            /* A futex that is incremented when the rank must check its state again. */
};

/* The first failure. With C10D_MISMATCH, `speaker` received a message of another call from `guilty`. */
struct failure {
    int32_t status;
    uint32_t speaker;
    uint64_t guilty;      /* A bit for each guilty rank. */
    uint8_t calls[2][24]; /* C10D_MISMATCH: the fingerprints of `speaker` and `guilty`. */
    uint64_t values[2];   /* C10D_MISMATCH: the values of `field` at `speaker` and at `guilty`. */
    char field[8], text[160];
};

struct shared {
    uint8_t session[16];
    atomic_int failed; /* 1: a rank is writing the failure. 2: it is written. */
    struct failure failure;
    struct seat seats[MAX_RANKS]; /* The rings follow. */
};

struct ring {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t read;
    char data[];
};

struct header {
    uint8_t call[24]; /* The fingerprint of the call. */
    uint64_t tag, bytes, dtype;
};

/* ---- A group --------------------------------------------------------------------------------------------- */

struct piece { char *data; uint64_t bytes; };

struct message {
    struct message *next;
    uint32_t from;
    struct header header;
    _Alignas(16) char data[];
};

struct inbox { /* The message that is being read from one rank. */
    struct header header;
    struct message *message; /* Null until the header has been read. */
    struct piece rest;       /* The rest of the header, then the rest of the message. */
    uint64_t unclaimed;      /* Bytes of messages that no receive has taken yet. */
};

struct lane { /* The lock protects all fields. */
    pthread_mutex_t lock;
    const struct transfer *writing[MAX_RANKS]; /* The message that is being written to each rank. */
    struct inbox inboxes[MAX_RANKS];
    struct message *messages, **last; /* The messages that were read completely, in the order of arrival. */
};

struct group {
    const c10d_host *host;
    const uint32_t *aborted;
    uint32_t rank, size, ring; /* `ring` is the number of bytes of a ring. */
    struct shared *shared;
    size_t bytes;
    struct pollfd lives[MAX_RANKS];
    struct lane lanes[LANES];
};

struct transfer { /* One message to a rank, or from any of several ranks. */
    int out, over;
    uint64_t ranks;
    struct header header;
    struct piece head, body; /* To send: the bytes that are not written yet. To receive: `body` is the destination. */
    struct message *got;
};

struct op {
    const c10d_request *request;
    uint64_t deadline, count;
    struct lane *lane;
    struct transfer *transfers;
    int over;
    uint32_t source;
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Returns the time at which a wait ends: a little before the timeout, so that the answer is in time on a busy
 * machine. */
static uint64_t later(uint64_t timeout) {
    uint64_t begin = now(), early = timeout / 16 < 50000000 ? timeout / 16 : 50000000;
    timeout -= early;
    return timeout < UINT64_MAX - begin ? begin + timeout : UINT64_MAX;
}

static struct seat *seat(struct group *g, uint32_t rank) { return &g->shared->seats[rank]; }

static void ring_bell(struct group *g, uint32_t rank) {
    atomic_fetch_add(&seat(g, rank)->bell, 1);
    syscall(SYS_futex, &seat(g, rank)->bell, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* Waits until the bell differs from `heard`, for at most one slice. */
static void rest(struct group *g, uint32_t heard) {
    struct timespec slice = {.tv_nsec = SLICE_NS};
    for (int i = 0; i < 50; i++, sched_yield())
        if (atomic_load(&seat(g, g->rank)->bell) != heard) return;
    syscall(SYS_futex, &seat(g, g->rank)->bell, FUTEX_WAIT, heard, &slice, NULL, 0);
}

/* ---- Failing --------------------------------------------------------------------------------------------- */

static int fail_with(struct group *g, const struct failure *why) {
    int none = 0;
    if (atomic_compare_exchange_strong(&g->shared->failed, &none, 1)) {
        g->shared->failure = *why;
        atomic_store(&g->shared->failed, 2);
        for (uint32_t p = 0; p < g->size; p++) ring_bell(g, p);
    }
    /* Another rank may be writing the group's failure. If that rank has died, this loop ends after 100000 rounds. */
    for (int i = 0; i < 100000 && atomic_load(&g->shared->failed) != 2; i++) sched_yield();
    return -1;
}

/* Returns the group's failure. If the rank that was writing the failure has died, the result says only that a rank
 * failed. */
static struct failure first_failure(struct group *g) {
    struct failure none = {.status = C10D_ABORTED, .text = "a rank failed, and died before it wrote the reason"};
    return atomic_load(&g->shared->failed) == 2 ? g->shared->failure : none;
}

static int fail(struct group *g, int32_t status, uint64_t guilty, const char *text) {
    struct failure why = {.status = status, .speaker = g->rank, .guilty = guilty};
    snprintf(why.text, sizeof why.text, "%s", text);
    return fail_with(g, &why);
}

/* Finds the ranks that have died, and those that have left. If this is called before messages are read, everything
 * that these ranks sent is in the rings. */
static void look(struct group *g, uint64_t *dead, uint64_t *left) {
    struct pollfd lives[MAX_RANKS];
    memcpy(lives, g->lives, g->size * sizeof *lives);
    poll(lives, g->size, 0);
    *dead = *left = 0;
    for (uint32_t p = 0; p < g->size; p++) {
        if (lives[p].revents) *dead |= BIT(p);
        if (atomic_load(&seat(g, p)->left)) *left |= BIT(p);
    }
}

/* Returns 0 if an operation that waits for these ranks can continue to wait, and -1 if the group has failed. */
static int check(struct group *g, const struct op *op, uint64_t waiting, uint64_t dead, uint64_t left) {
    const c10d_request *r = op->request;
    if (atomic_load(&g->shared->failed) == 2) return -1;
    if (__atomic_load_n(g->aborted, __ATOMIC_ACQUIRE)) return fail(g, C10D_ABORTED, 0, "the group was aborted");
    left &= waiting;
    if (r->op == C10D_RECV_ANY_SOURCE && left != waiting) left = 0; /* At least one sender is still there. */
    if (dead & waiting) return fail(g, C10D_PEER_DEAD, dead & waiting, "its process has ended");
    if (left) return fail(g, C10D_PEER_DEAD, left, "it has left the group");
    if (now() < op->deadline) return 0;
    if (r->op == C10D_MONITORED_BARRIER && !(r->flags & C10D_WAIT_ALL_RANKS)) waiting &= ~waiting + 1; /* Names one. */
    return fail(g, C10D_TIMEOUT, waiting, "no answer in time");
}

/* ---- The device: heap memory behind handles. A copy is complete when it returns, so it needs no streams. - */

struct memory {
    atomic_uint owners; /* 1 until the memory is freed, and 1 for each operation that uses it. */
    _Alignas(64) char data[];
};

/* A handle is an address with the highest bit inverted, so that code that uses a handle as an address crashes. */
#define FAR ((uintptr_t)1 << 63)
static struct memory *memory_of(const void *handle) { return (struct memory *)((uintptr_t)handle ^ FAR); }

static int32_t count_devices(uint32_t *count, c10d_why *why) { (void)why; *count = 1; return C10D_OK; }

static int32_t allocate(uint32_t index, uint64_t bytes, void **base, c10d_why *why) {
    struct memory *memory = NULL;
    (void)index;
    if (bytes < SIZE_MAX / 2) memory = aligned_alloc(64, (sizeof *memory + bytes + 63) / 64 * 64);
    if (!memory) return c10d_fail(why, C10D_RESOURCE, "c-collectives is out of memory");
    atomic_init(&memory->owners, 1);
    *base = (void *)((uintptr_t)memory ^ FAR);
    return C10D_OK;
}

static int32_t retain(uint32_t index, void *base, c10d_why *why) {
    (void)index, (void)why;
    atomic_fetch_add(&memory_of(base)->owners, 1);
    return C10D_OK;
}

static void release(uint32_t index, void *base) {
    (void)index;
    if (atomic_fetch_sub(&memory_of(base)->owners, 1) == 1) free(memory_of(base));
}

#define COPY(NAME, TO, FROM, ...)                                                                                      \
    static int32_t NAME(uint32_t index, uint64_t stream, __VA_ARGS__, uint64_t bytes, c10d_why *why) {                 \
        (void)index, (void)stream, (void)why;                                                                          \
        memcpy(TO, FROM, bytes);                                                                                       \
        return C10D_OK;                                                                                                \
    }
COPY(copy_in, memory_of(to)->data + at, from, void *to, uint64_t at, const void *from)
COPY(copy_out, to, memory_of(from)->data + at, void *to, const void *from, uint64_t at)
COPY(copy, memory_of(to)->data + at, memory_of(from)->data + of, void *to, uint64_t at, const void *from, uint64_t of)

static int32_t identity(uint32_t index, char *text, uint64_t capacity, uint64_t *len, c10d_why *why) {
    (void)why;
    *len = (uint64_t)snprintf(text, capacity, "heap of process %d, device %u", (int)getpid(), index);
    return *len < capacity ? C10D_OK : C10D_RESOURCE;
}

/* ---- Messages. The caller of these functions holds the lane's lock. -------------------------------------- */

/* Writes as many bytes of the piece as possible to a rank, or reads as many as possible from it. Removes these bytes
 * from the piece. */
static void pump(struct group *g, struct lane *lane, uint32_t peer, struct piece *piece, int out) {
    const uint32_t from = out ? g->rank : peer, to = out ? peer : g->rank;
    const size_t index = ((size_t)(lane - g->lanes) * g->size + from) * g->size + to;
    struct ring *ring = (void *)((char *)(g->shared + 1) + index * (sizeof *ring + g->ring));
    while (piece->bytes > 0) {
        uint64_t at = atomic_load(out ? &ring->written : &ring->read);
        uint64_t room = out ? g->ring - (at - atomic_load(&ring->read)) : atomic_load(&ring->written) - at;
        uint64_t n = piece->bytes < room ? piece->bytes : room, to_end = g->ring - at % g->ring;
        if (n > to_end) n = to_end;
        if (n == 0 || n > g->ring) return;
        if (out) memcpy(ring->data + at % g->ring, piece->data, n);
        else memcpy(piece->data, ring->data + at % g->ring, n);
        atomic_store(out ? &ring->written : &ring->read, at + n);
        *piece = (struct piece){piece->data + n, piece->bytes - n};
        ring_bell(g, peer);
    }
}

static struct piece head(struct header *header) { return (struct piece){(char *)header, sizeof *header}; }

/* Reads the bytes that have arrived from one rank. If too many bytes of this rank are unclaimed, begins no further
 * message. */
static int read_from(struct group *g, struct lane *lane, uint32_t from) {
    struct inbox *in = &lane->inboxes[from];
    for (;;) {
        pump(g, lane, from, &in->rest, 0);
        if (in->rest.bytes) return 0;
        if (in->message) {
            *lane->last = in->message;
            lane->last = &in->message->next;
            in->message = NULL;
            in->rest = head(&in->header);
        } else {
            if (in->unclaimed >= UNCLAIMED) return 0;
            in->message = malloc(sizeof *in->message + in->header.bytes);
            if (!in->message) return fail(g, C10D_RESOURCE, 0, "no memory for a message");
            *in->message = (struct message){.from = from, .header = in->header};
            in->rest = (struct piece){in->message->data, in->header.bytes};
            in->unclaimed += in->header.bytes;
        }
    }
}

/* Takes the first message from any of these ranks with this tag out of the list. Returns null if there is none. */
static struct message *take(struct lane *lane, uint64_t from, uint64_t tag) {
    for (struct message **at = &lane->messages; *at; at = &(*at)->next) {
        struct message *m = *at;
        if (!(from & BIT(m->from)) || m->header.tag != tag) continue;
        *at = m->next;
        if (!m->next) lane->last = at;
        lane->inboxes[m->from].unclaimed -= m->header.bytes;
        return m;
    }
    return NULL;
}

/* Continues to write a message to a rank. */
static void give(struct group *g, struct lane *lane, struct transfer *t) {
    const uint32_t to = (uint32_t)__builtin_ctzll(t->ranks);
    if (lane->writing[to] && lane->writing[to] != t) return;
    lane->writing[to] = t;
    pump(g, lane, to, &t->head, 1);
    if (!t->head.bytes) pump(g, lane, to, &t->body, 1);
    if (t->head.bytes || t->body.bytes) return;
    t->over = 1;
    lane->writing[to] = NULL;
    ring_bell(g, g->rank);
}

static uint64_t elements(const c10d_request *r, uint64_t bytes) {
    const c10d_span *any = r->inputs ? r->inputs : r->outputs;
    return any ? bytes / (any->type_bits / 8) : 0;
}

/* Looks for an expected message, and checks that it belongs to this call. */
static int get(struct group *g, const c10d_request *r, struct lane *lane, struct transfer *t) {
    struct message *m = t->got = take(lane, t->ranks, t->header.tag);
    if (!m) return 0;
    t->over = 1;
    if (!memcmp(m->header.call, r->fingerprint, 24) && m->header.bytes == t->body.bytes) return 0;
    struct failure why = {.status = C10D_MISMATCH, .speaker = g->rank, .guilty = BIT(m->from), .field = "count",
                          .values = {elements(r, t->body.bytes), elements(r, m->header.bytes)},
                          .text = "the ranks made different calls"};
    if (m->header.dtype != r->dtype)
        strcpy(why.field, "dtype"), why.values[0] = r->dtype, why.values[1] = m->header.dtype;
    memcpy(why.calls[0], r->fingerprint, 24);
    memcpy(why.calls[1], m->header.call, 24);
    return fail_with(g, &why);
}

/* ---- Reducing: acc[i] = op(acc[i], with[i]) -------------------------------------------------------------- */

#define EACH(T, EXPRESSION)                                                                                            \
    for (uint64_t i = 0; i < bytes / sizeof(T); i++) {                                                                 \
        T a = ((T *)acc)[i], b = ((const T *)with)[i];                                                                 \
        ((T *)acc)[i] = (T)(EXPRESSION);                                                                               \
    }                                                                                                                  \
    return

/* Sums and products of integers are computed as unsigned numbers, so that they wrap. `a != a` is true only for NaN. */
#define NUMBERS(T, WRAPPING)                                                                                           \
    switch (r->reduce) {                                                                                               \
    case C10D_SUM:                                                                                                     \
    case C10D_AVG: EACH(WRAPPING, a + b);                                                                              \
    case C10D_PRODUCT: EACH(WRAPPING, a * b);                                                                          \
    case C10D_MIN: EACH(T, a != a || a < b ? a : b);                                                                   \
    default: EACH(T, a != a || a > b ? a : b);                                                                         \
    }

static void combine(const c10d_request *r, void *acc, const void *with, uint64_t bytes) {
    switch (r->dtype) {
    case C10D_U8: NUMBERS(uint8_t, uint8_t)
    case C10D_I32: NUMBERS(int32_t, uint32_t)
    case C10D_I64: NUMBERS(int64_t, uint64_t)
    case C10D_F32: NUMBERS(float, float)
    default: NUMBERS(double, double)
    }
}

static void average(const c10d_request *r, void *acc, uint64_t bytes, uint32_t size) {
    if (r->dtype == C10D_F32) for (uint64_t i = 0; i < bytes / 4; i++) ((float *)acc)[i] /= (float)size;
    else for (uint64_t i = 0; i < bytes / 8; i++) ((double *)acc)[i] /= (double)size;
}

/* Copies the contents of the messages to the outputs, or reduces them there. All messages have arrived. The messages
 * of one tensor are in rank order, and include the message of this rank to itself. */
static void finish(const struct group *g, struct op *op) {
    const c10d_request *r = op->request;
    for (uint64_t i = 0; i < op->count; i++) {
        const struct transfer *t = &op->transfers[i];
        if (t->out) continue;
        op->source = t->got->from;
        if (!t->body.bytes) continue;
        if (r->reduce == C10D_NO_REDUCE || t->got->from == 0) memcpy(t->body.data, t->got->data, t->body.bytes);
        else combine(r, t->body.data, t->got->data, t->body.bytes);
        if (r->reduce == C10D_AVG && t->got->from == g->size - 1) average(r, t->body.data, t->body.bytes, g->size);
    }
}

/* ---- The messages of an operation ------------------------------------------------------------------------ */

/* Returns the elements first .. first + count of a tensor. */
static struct piece part(const c10d_span *span, uint64_t first, uint64_t count) {
    if (!count) return (struct piece){NULL, 0};
    const uint64_t size = span->type_bits / 8;
    char *base = span->device_type == C10D_DEVICE_CPU ? span->data : memory_of(span->data)->data;
    return (struct piece){base + span->offset + first * size, count * size};
}

/* The part of the tensors that is sent to a rank or received from it: nothing, the whole tensor, the rank's tensor of a
 * list, its block, or its split. In rooted ops, data goes only from the root or only to the root. */
enum cut { NONE, WHOLE, EACH_ONE, BLOCK, SPLIT };
enum root { ANY, FROM_ROOT, TO_ROOT };
static const struct { uint8_t to, from, root; } WAYS[C10D_OPS] = {
    [C10D_BROADCAST] = {WHOLE, WHOLE, FROM_ROOT},
    [C10D_ALL_REDUCE] = {WHOLE, WHOLE, ANY},
    [C10D_ALL_REDUCE_COALESCED] = {WHOLE, WHOLE, ANY},
    [C10D_REDUCE] = {WHOLE, WHOLE, TO_ROOT},
    [C10D_ALL_GATHER] = {WHOLE, EACH_ONE, ANY},
    [C10D_ALL_GATHER_COALESCED] = {WHOLE, EACH_ONE, ANY},
    [C10D_ALL_GATHER_INTO] = {WHOLE, BLOCK, ANY},
    [C10D_ALL_GATHER_INTO_COALESCED] = {WHOLE, BLOCK, ANY},
    [C10D_REDUCE_SCATTER] = {EACH_ONE, WHOLE, ANY},
    [C10D_REDUCE_SCATTER_INTO] = {BLOCK, WHOLE, ANY},
    [C10D_REDUCE_SCATTER_INTO_COALESCED] = {BLOCK, WHOLE, ANY},
    [C10D_GATHER] = {WHOLE, EACH_ONE, TO_ROOT},
    [C10D_SCATTER] = {EACH_ONE, WHOLE, FROM_ROOT},
    [C10D_ALL_TO_ALL] = {EACH_ONE, EACH_ONE, ANY},
    [C10D_ALL_TO_ALL_SINGLE] = {SPLIT, SPLIT, ANY},
};

/* Returns the part of tensor i (or of list i) that is sent to rank p or received from it. */
static struct piece cut(const struct group *g, const c10d_span *spans, const uint64_t *splits, enum cut how, uint64_t i,
                        uint32_t p) {
    if (how == NONE) return (struct piece){NULL, 0};
    const c10d_span *span = c10d_span_at(spans, how == EACH_ONE ? i * g->size + p : i);
    uint64_t first = 0, each = span->count / g->size;
    if (how == WHOLE || how == EACH_ONE) return part(span, 0, span->count);
    if (how == BLOCK || !splits) return part(span, p * each, each);
    for (uint32_t q = 0; q < p; q++) first += splits[q];
    return part(span, first, splits[p]);
}

/* Whether the op sends data from one rank to the other. */
static int goes(const c10d_request *r, uint32_t from, uint32_t to) {
    return WAYS[r->op].root == FROM_ROOT ? from == r->root : WAYS[r->op].root == TO_ROOT ? to == r->root : 1;
}

/* Returns the number of tensors (or lists of tensors) of the call. */
static uint64_t tensors(const c10d_request *r) {
    if (r->op == C10D_ALL_REDUCE_COALESCED) return r->output_count;
    return r->op == C10D_ALL_GATHER_COALESCED || r->op == C10D_ALL_GATHER_INTO_COALESCED ||
                   r->op == C10D_REDUCE_SCATTER_INTO_COALESCED ? r->input_count : 1;
}

static uint64_t peers(const struct group *g, const c10d_request *r) {
    uint64_t all = g->size < 64 ? BIT(g->size) - 1 : UINT64_MAX;
    return r->op == C10D_RECV_ANY_SOURCE ? all & ~BIT(g->rank) : BIT(r->peer);
}

static void add(struct op *op, int out, uint64_t ranks, uint64_t tag, struct piece body) {
    struct transfer *t = &op->transfers[op->count++];
    *t = (struct transfer){.out = out, .ranks = ranks, .body = body};
    t->header = (struct header){.tag = tag, .bytes = body.bytes, .dtype = op->request->dtype};
    memcpy(t->header.call, op->request->fingerprint, 24);
    t->head = head(&t->header);
}

/* Begins an operation with room for this number of messages. */
static int open_op(struct group *g, struct op *op, const c10d_request *r, uint64_t messages) {
    *op = (struct op){.request = r, .deadline = later(r->timeout_ns), .lane = &g->lanes[r->op <= C10D_RECV_ANY_SOURCE]};
    op->transfers = calloc(messages, sizeof *op->transfers);
    return op->transfers ? 0 : -1;
}

static void close_op(struct op *op) {
    for (uint64_t i = 0; i < op->count; i++) free(op->transfers[i].got);
    free(op->transfers);
}

static int begin(struct group *g, struct op *op, const c10d_request *r) {
    const int message = r->op <= C10D_RECV_ANY_SOURCE;
    if (open_op(g, op, r, message ? 1 : tensors(r) * g->size * 2)) return -1;
    if (message) {
        const c10d_span *span = r->op == C10D_SEND ? r->inputs : r->outputs;
        add(op, r->op == C10D_SEND, peers(g, r), r->tag, part(span, 0, span->count));
        return 0;
    }
    for (uint64_t i = 0; i < tensors(r); i++) {
        for (uint32_t p = 0; p < g->size; p++) {
            struct piece to = {NULL, 0}, from = to;
            if (goes(r, g->rank, p)) to = cut(g, r->inputs ? r->inputs : r->outputs, r->input_splits, WAYS[r->op].to, i, p);
            if (goes(r, p, g->rank)) from = cut(g, r->outputs, r->output_splits, WAYS[r->op].from, i, p);
            add(op, 1, BIT(p), 0, to);
            add(op, 0, BIT(p), 0, from);
        }
    }
    return 0;
}

/* ---- Operations ------------------------------------------------------------------------------------------ */

/* Continues an operation as far as possible. Returns 1 if the operation has ended, 0 if it must wait, and -1 if the
 * group has failed. */
static int advance(struct group *g, struct op *op, uint64_t dead, uint64_t left) {
    uint64_t waiting = 0;
    int failed = 0;
    pthread_mutex_lock(&op->lane->lock);
    for (uint32_t p = 0; p < g->size && !failed; p++) failed = read_from(g, op->lane, p);
    for (uint64_t i = 0; i < op->count && !failed; i++) {
        struct transfer *t = &op->transfers[i];
        if (!t->over && t->out) give(g, op->lane, t);
        else if (!t->over) failed = get(g, op->request, op->lane, t);
        if (!t->over) waiting |= t->ranks;
    }
    pthread_mutex_unlock(&op->lane->lock);
    if (failed) return -1;
    if (waiting) return check(g, op, waiting & ~BIT(g->rank), dead, left);
    finish(g, op);
    return 1;
}

/* Ends an operation. The result of a failed operation is the group's failure. */
static void end(struct group *g, struct op *op, int failed, c10d_done done, uint64_t token) {
    c10d_result result = {.struct_size = sizeof result, .source = op->source};
    struct failure why = first_failure(g);
    uint32_t guilty[MAX_RANKS];
    char values[2][24];
    if (failed && why.status == C10D_MISMATCH) {
        /* The guilty rank blames the speaker, and the speaker blames the guilty rank. Any other rank blames the one
         * whose call differs from its own, or both if it cannot decide by the calls. */
        const uint8_t *call = op->request->fingerprint;
        int same = !memcmp(why.calls[0], why.calls[1], 24);
        int as_speaker = !same && !memcmp(call, why.calls[0], 24), as_guilty = !same && !memcmp(call, why.calls[1], 24);
        int other = (why.guilty & BIT(g->rank)) || as_guilty;
        if (other) why.guilty = BIT(why.speaker);
        else if (why.speaker != g->rank && !as_speaker) why.guilty |= BIT(why.speaker);
        if (other ? as_guilty : as_speaker) result.fingerprint = why.calls[!other];
        for (int i = 0; i < 2; i++) snprintf(values[i], sizeof *values, "%llu", (unsigned long long)why.values[i]);
        result.field = why.field, result.field_len = strlen(why.field);
        result.mine = values[other], result.mine_len = strlen(values[other]);
        result.theirs = values[!other], result.theirs_len = strlen(values[!other]);
    }
    for (uint32_t p = 0; failed && p < g->size; p++)
        if (why.guilty & BIT(p)) guilty[result.guilty_count++] = p;
    if (failed) {
        result.status = why.status;
        result.message = why.text, result.message_len = strlen(why.text), result.guilty = guilty;
    }
    done(g->host, token, &result);
}

/* Runs operations, all at once, until they have ended. `done` may be null. */
static int run(struct group *g, struct op *ops, uint64_t count, c10d_done done, const uint64_t *tokens) {
    int failed = 0;
    for (uint64_t left = count; left > 0;) {
        uint32_t heard = atomic_load(&seat(g, g->rank)->bell);
        uint64_t dead, gone;
        look(g, &dead, &gone);
        for (uint64_t i = 0; i < count; i++) {
            int over = ops[i].over ? 0 : advance(g, &ops[i], dead, gone);
            if (!over) continue;
            if (done) end(g, &ops[i], over < 0, done, tokens[i]);
            ops[i].over = 1;
            failed |= over < 0;
            left--;
        }
        if (left) rest(g, heard);
    }
    for (uint64_t i = 0; i < count; i++) close_op(&ops[i]);
    return failed;
}

static int32_t submit_batch(void *group, const c10d_request *const *requests, const uint64_t *tokens, uint64_t count,
                            c10d_done done, c10d_why *why) {
    struct op *ops = calloc(count, sizeof *ops);
    uint64_t begun = 0;
    while (ops && begun < count && !begin(group, &ops[begun], requests[begun])) begun++;
    if (begun == count) run(group, ops, count, done, tokens);
    else while (begun > 0) close_op(&ops[--begun]);
    free(ops);
    return begun == count ? C10D_OK : c10d_fail(why, C10D_RESOURCE, "no memory for an operation");
}

static int32_t submit(void *group, const c10d_request *request, c10d_done done, uint64_t token, c10d_why *why) {
    return submit_batch(group, &request, &token, 1, done, why);
}

static void abort_group(void *group, const char *cause, uint64_t len) {
    char text[160];
    snprintf(text, sizeof text, "%.*s", (int)(len < sizeof text ? len : sizeof text - 1), cause);
    fail(group, C10D_ABORTED, BIT(((struct group *)group)->rank), text);
}

static int32_t shut_down(void *group, uint64_t timeout, c10d_why *why) {
    struct group *g = group;
    (void)timeout, (void)why;
    atomic_store(&seat(g, g->rank)->left, 1);
    for (uint32_t p = 0; p < g->size; p++) ring_bell(g, p);
    return C10D_OK;
}

static int32_t async_error(void *group, uint32_t *guilty, uint32_t *guilty_count, c10d_why *why) {
    struct group *g = group;
    uint64_t dead, left;
    look(g, &dead, &left);
    if (dead) fail(g, C10D_PEER_DEAD, dead, "its process has ended");
    if (atomic_load(&g->shared->failed) != 2) return C10D_OK;
    /* A mismatch is not reported here: each rank's own call fails with it, and names the field that differs. */
    if (g->shared->failure.status == C10D_MISMATCH) return C10D_OK;
    for (uint32_t p = 0; p < g->size; p++)
        if (g->shared->failure.guilty & BIT(p)) guilty[(*guilty_count)++] = p;
    return c10d_fail(why, g->shared->failure.status, g->shared->failure.text);
}

static void destroy_group(void *group) {
    struct group *g = group;
    for (uint32_t p = 0; p < g->size; p++)
        if (g->lives[p].fd >= 0) close(g->lives[p].fd);
    for (struct lane *lane = g->lanes; lane < g->lanes + LANES; lane++) {
        for (uint32_t p = 0; p < g->size; p++) free(lane->inboxes[p].message);
        for (struct message *m; (m = lane->messages); free(m)) lane->messages = m->next;
        pthread_mutex_destroy(&lane->lock);
    }
    if (g->shared) {
        if (atomic_load(&seat(g, g->rank)->pid)) shut_down(g, 0, NULL); /* Only a rank with a seat can leave. */
        munmap(g->shared, g->bytes);
    }
    free(g);
}

/* ---- Making a group -------------------------------------------------------------------------------------- */

struct id { int32_t pid, fd; };

/* Reports the group's failure. The text names a guilty rank. */
static int32_t explain(struct group *g, c10d_why *why) {
    struct failure failure = first_failure(g);
    char text[200];
    if (!failure.guilty) return c10d_fail(why, failure.status, failure.text);
    snprintf(text, sizeof text, "rank %d: %s", __builtin_ctzll(failure.guilty), failure.text);
    return c10d_fail(why, failure.status, text);
}

/* Rank 0 gives the id to the others: through the store, or for a sub-group, by messages in the parent group. */
static int32_t hand_out(const c10d_host *host, struct group *whole, const uint32_t *ranks, const c10d_group_init *init,
                        const c10d_request *words, struct id *id, c10d_why *why) {
    uint64_t len = sizeof *id, tag;
    struct piece piece = {(char *)id, sizeof *id};
    struct op op;
    if (!whole && init->rank == 0) return host->store_set(host, init->store, "id", 2, id, len, init->timeout_ns, why);
    if (!whole) return host->store_get(host, init->store, "id", 2, id, len, &len, init->timeout_ns, why);
    if (open_op(whole, &op, words, init->size)) return c10d_fail(why, C10D_RESOURCE, "no memory for an id");
    memcpy(&tag, init->session, sizeof tag); /* Several sub-groups may be made at once. Each has its own tag. */
    if (init->rank > 0) add(&op, 0, BIT(ranks[0]), tag, piece);
    else for (uint32_t p = 1; p < init->size; p++) add(&op, 1, BIT(ranks[p]), tag, piece);
    return run(whole, &op, 1, NULL, NULL) ? explain(whole, why) : C10D_OK;
}

/* Watches the process of a rank, unless it is this process. */
static int watch(struct group *g, uint32_t rank, int pid) {
    if (pid == getpid() || g->lives[rank].fd >= 0) return 0;
    g->lives[rank] = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    if (g->lives[rank].fd >= 0) return 0;
    if (errno == ESRCH) return fail(g, C10D_PEER_DEAD, BIT(rank), "its process has ended");
    return fail(g, C10D_RESOURCE, BIT(g->rank), "cannot watch the process of a rank");
}

/* Takes a seat, and waits until all ranks have taken theirs. Watches each rank that has a seat. */
static int sit(struct group *g, const c10d_request *words) {
    struct op op = {.request = words, .deadline = later(words->timeout_ns)};
    atomic_store(&seat(g, g->rank)->pid, getpid());
    for (uint32_t p = 0; p < g->size; p++) ring_bell(g, p);
    for (;;) {
        uint32_t heard = atomic_load(&seat(g, g->rank)->bell);
        uint64_t dead, left, waiting = 0;
        /* Before the seats: a rank may have ended or left because all ranks had seats, and then that is no error. */
        look(g, &dead, &left);
        for (uint32_t p = 0; p < g->size; p++) {
            int pid = atomic_load(&seat(g, p)->pid);
            if (!pid) waiting |= BIT(p);
            else if (watch(g, p, pid)) return -1;
        }
        if (!waiting) return 0;
        if (check(g, &op, waiting | dead | left, dead, left)) return -1;
        rest(g, heard);
    }
}

/* Makes (rank 0) or finds the shared memory, and waits until all ranks have found it. Watches the other ranks as soon
 * as their process ids are known: in a sub-group at once, rank 0 when its id has come, and others when they have a
 * seat. */
static int32_t meet(struct group *g, struct group *whole, const uint32_t *ranks, const c10d_group_init *init, int *fd,
                    c10d_why *why) {
    c10d_request words = {.op = C10D_BARRIER, .reduce = C10D_NO_REDUCE, .timeout_ns = init->timeout_ns};
    struct id id = {getpid(), -1};
    char path[64];
    memcpy(words.fingerprint, init->session, 16);
    if (g->rank == 0) {
        *fd = id.fd = memfd_create(NAME, MFD_CLOEXEC);
        if (*fd < 0 || posix_fallocate(*fd, 0, (off_t)g->bytes) || pwrite(*fd, init->session, 16, 0) != 16)
            return c10d_fail(why, C10D_RESOURCE, "no memory to share");
    }
    int32_t status = hand_out(g->host, whole, ranks, init, &words, &id, why);
    if (status) return status;
    if (g->rank > 0) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", id.pid, id.fd);
        *fd = open(path, O_RDWR | O_CLOEXEC);
        if (*fd < 0) return c10d_fail(why, C10D_PEER_DEAD, "rank 0 has exited, or its memory cannot be opened");
    }
    void *shared = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (shared == MAP_FAILED) return c10d_fail(why, C10D_RESOURCE, "cannot map the shared memory");
    g->shared = shared;
    if (memcmp(g->shared->session, init->session, 16))
        return c10d_fail(why, C10D_PROTOCOL, "the shared memory is another group's");
    int failed = watch(g, 0, id.pid);
    for (uint32_t p = 0; whole && p < g->size; p++) failed |= watch(g, p, atomic_load(&seat(whole, ranks[p])->pid));
    return failed || sit(g, &words) ? explain(g, why) : C10D_OK;
}

static int32_t make(const c10d_host *host, struct group *whole, const uint32_t *ranks, const c10d_group_init *init,
                    void **out, c10d_why *why) {
    if (init->size > MAX_RANKS) return c10d_fail(why, C10D_UNSUPPORTED, "c-collectives is for 64 ranks at most");
    struct group *g = calloc(1, sizeof *g);
    if (!g) return c10d_fail(why, C10D_RESOURCE, "no memory for a group");
    *g = (struct group){.host = host, .aborted = init->aborted, .rank = init->rank, .size = init->size};
    g->ring = init->size > 8 ? 8 << 10 : 64 << 10;
    g->bytes = sizeof *g->shared + (size_t)LANES * g->size * g->size * (sizeof(struct ring) + g->ring);
    for (uint32_t p = 0; p < MAX_RANKS; p++) g->lives[p].fd = -1;
    for (struct lane *lane = g->lanes; lane < g->lanes + LANES; lane++) {
        pthread_mutex_init(&lane->lock, NULL);
        lane->last = &lane->messages;
        for (uint32_t p = 0; p < g->size; p++) lane->inboxes[p].rest = head(&lane->inboxes[p].header);
    }
    int fd = -1;
    int32_t status = meet(g, whole, ranks, init, &fd, why);
    if (fd >= 0) close(fd); /* By now all ranks have opened rank 0's descriptor, or the group has failed. */
    if (status) destroy_group(g);
    else *out = g;
    return status;
}

static int32_t create_group(const c10d_host *host, const c10d_group_init *init, void **out, c10d_why *why) {
    return make(host, NULL, NULL, init, out, why);
}

static int32_t split(void *group, const uint32_t *ranks, const c10d_group_init *init, void **part, c10d_why *why) {
    struct group *whole = group;
    return init ? make(whole->host, whole, ranks, init, part, why) : C10D_OK; /* A rank in no sub-group does nothing. */
}

/* ---- The tables ------------------------------------------------------------------------------------------ */

#define FLOATS (C10D_BIT(C10D_F32) | C10D_BIT(C10D_F64))
#define REAL (C10D_BIT(C10D_U8) | C10D_BIT(C10D_I32) | C10D_BIT(C10D_I64) | FLOATS)
#define OFFER(DEVICE, OPS)                                                                                             \
    {                                                                                                                  \
        .struct_size = sizeof(c10d_capabilities), .device_type = DEVICE, .ops = OPS, .moves = C10D_ALL_DTYPES,         \
        .reduces = {[C10D_SUM] = REAL, [C10D_PRODUCT] = REAL, [C10D_MIN] = REAL, [C10D_MAX] = REAL,                    \
                    [C10D_AVG] = FLOATS},                                                                              \
    }

static const c10d_capabilities OFFERS[] = {
    OFFER(C10D_DEVICE_CPU, C10D_ALL_OPS), OFFER(DEVICE_TYPE, C10D_ALL_OPS & ~C10D_BIT(C10D_MONITORED_BARRIER))};

static const c10d_collectives COLLECTIVES = {
    .struct_size = sizeof COLLECTIVES, .capability_count = 2, .capabilities = OFFERS, .create_group = create_group,
    .destroy_group = destroy_group, .submit = submit, .abort = abort_group, .shutdown = shut_down, .split = split,
    .submit_batch = submit_batch, .async_error = async_error,
};

static const c10d_device DEVICE = {
    .struct_size = sizeof DEVICE, .device_type = DEVICE_TYPE, .count = count_devices, .allocate = allocate,
    .free = release, .copy_in = copy_in, .copy_out = copy_out, .copy = copy, .retain = retain, .release = release,
    .identity = identity,
};

static const c10d_plugin PLUGIN = {
    .struct_size = sizeof PLUGIN, .abi_minor = C10D_ABI_MINOR, .name = NAME, .name_len = sizeof NAME - 1,
    .version = "1.1", .version_len = 3, .device = &DEVICE, .collectives = &COLLECTIVES,
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) { (void)host; return &PLUGIN; }
