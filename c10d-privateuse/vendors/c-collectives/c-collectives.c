/* A plugin with collectives of its own: every op, on host memory and on the memory of a device of its own, between the
 * processes (or threads) of one machine.
 *
 * Ranks share one piece of memory. Rank 0 makes it, and hands the others an id by which they find it: through c10d's
 * store, or, where a group is split, through the memory of the whole. In it every rank has a seat, and two rings to each
 * other: STREAM for collectives, which come one at a time, and MAIL for messages, each behind a header.
 *
 * A collective begins with one announcement from each rank to each: the call's fingerprint, and how much will follow for
 * whom. So all know who called something else, before any payload moves. The rest is `exchange`: one piece to each rank
 * and one from each, all at once, reduced as it comes or not. The first failure is written down once, for all.
 *
 * There are no threads here: c10d's thread that submits does the work. Every wait looks at the deadline, at c10d's abort
 * flag, at that failure, and at whether the ranks it waits for still live. */
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
#ifndef DEVICE_TYPE /* With C10D_DEVICE_CUDA it is what a vendor of collectives for CUDA's kind of memory would ship. */
#define DEVICE_TYPE C10D_DEVICE_PRIVATE
#endif
C10D_PLUGIN_NOTE(NAME);

#define MAX_RANKS 64u
#define NOBODY MAX_RANKS
#define CHUNK (64u << 10)          /* Bytes that are reduced at a time, for each rank. */
#define UNCLAIMED (64u << 20)      /* Bytes of messages that nobody asked for yet, for each sender. */
#define SLICE_NS (20 * 1000000ull) /* How often a wait looks around. */
#define BIT(rank) ((uint64_t)1 << (rank))

enum lane { STREAM, MAIL, LANES };

/* ---- What the ranks share. All of them are this program on this machine: structs as they are. ------------ */

struct id { int32_t pid, fd; };

struct seat {
    _Alignas(64) atomic_int pid; /* Once the rank is here. */
    atomic_int left;             /* It said goodbye. */
    atomic_uint bell;            /* Rung when there is news for the rank. */
    atomic_int offers;           /* The id of a part that this rank makes: */
    uint8_t session[16];
    struct id id;
};

/* The first failure. `speaker` and `guilty` disagree, or the speaker misses the guilty. */
struct failure {
    int32_t status;
    uint32_t speaker;
    uint64_t guilty;      /* Bits of ranks. */
    uint8_t calls[2][24]; /* C10D_MISMATCH: their fingerprints, */
    uint64_t values[2];   /* and, if those are the same or say nothing of it, the field with both values. */
    char field[16], text[160];
};

struct shared {
    uint8_t session[16];
    atomic_int failed; /* 1: somebody is writing it down. 2: written. */
    struct failure failure;
    struct seat seats[MAX_RANKS]; /* Then the rings. */
};

struct ring {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t read;
    char data[];
};

struct announcement { /* Only as many entries as there are ranks are sent. */
    uint8_t fingerprint[24];
    struct { uint64_t to, to_cut, from, from_cut; } with[MAX_RANKS]; /* Bytes, and a hash of how they are cut. */
};

struct header {
    uint8_t fingerprint[24];
    uint64_t bytes;
    uint32_t tag, dtype;
};

/* ---- A group --------------------------------------------------------------------------------------------- */

struct piece { char *data; uint64_t bytes; };

struct message {
    struct message *next;
    struct header header;
    uint32_t from;
    char data[];
};

struct inbox { /* What is being read from one rank. */
    struct header header;
    struct piece head, body;
    struct message *message;
    uint64_t unclaimed;
};

struct group {
    const c10d_host *host;
    const uint32_t *aborted;
    uint32_t rank, size, ring; /* Bytes in a ring. */
    struct shared *shared;
    size_t bytes;
    struct pollfd lives[MAX_RANKS];
    char *scratch; /* A chunk per rank, of the collective that runs. */
    pthread_mutex_t lock, splitting;
    /* Under the lock: */
    uint64_t writing; /* Ranks to which a message is being written. */
    struct inbox inboxes[MAX_RANKS];
    struct message *messages, **last; /* Whole ones, in the order in which they came. */
};

struct op {
    const c10d_request *request;
    uint64_t token, deadline;
    int over, writes;
    struct header header;
    struct piece head, payload;
    uint32_t source;
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A little early, so that the answer is in time on a busy machine. */
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

/* Until the bell rings again after `heard`, but no longer than a slice. */
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
    return -1;
}

static int fail(struct group *g, int32_t status, uint64_t guilty, const char *text) {
    struct failure why = {.status = status, .speaker = g->rank, .guilty = guilty};
    snprintf(why.text, sizeof why.text, "%s", text);
    return fail_with(g, &why);
}

static int differ(struct group *g, uint32_t speaker, const uint8_t *its, uint32_t guilty, const uint8_t *call,
                  const char *field, uint64_t mine, uint64_t theirs) {
    struct failure why = {.status = C10D_MISMATCH, .speaker = speaker, .guilty = BIT(guilty), .values = {mine, theirs}};
    memcpy(why.calls[0], its, 24);
    memcpy(why.calls[1], call, 24);
    snprintf(why.field, sizeof why.field, "%s", field);
    snprintf(why.text, sizeof why.text, "ranks call different things at the same place");
    return fail_with(g, &why);
}

/* Ranks that are gone, by death or with a goodbye. To be asked before looking for what they sent: that is still good. */
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

/* Whether an operation that waits for these ranks may go on waiting. */
static int check(struct group *g, const struct op *op, uint64_t waiting, uint64_t dead, uint64_t left) {
    const c10d_request *r = op->request;
    if (atomic_load(&g->shared->failed) == 2) return -1;
    if (__atomic_load_n(g->aborted, __ATOMIC_ACQUIRE)) return fail(g, C10D_ABORTED, 0, "the group was aborted");
    left &= waiting;
    if (r->op == C10D_RECV_ANY_SOURCE && left != waiting) left = 0; /* Of several senders some may leave, but not die. */
    if (dead & waiting) return fail(g, C10D_PEER_DEAD, dead & waiting, "its process has ended");
    if (left) return fail(g, C10D_PEER_DEAD, left, "left the group");
    if (now() < op->deadline) return 0;
    if (r->op == C10D_MONITORED_BARRIER && !(r->flags & C10D_WAIT_ALL_RANKS)) waiting &= ~waiting + 1; /* The first. */
    return fail(g, C10D_TIMEOUT, waiting, "no answer in time");
}

/* ---- The device: heap memory behind handles. A copy is over when it returns, so there is one stream, and no events.  */

struct memory {
    atomic_uint owners; /* Who allocated it, until it is freed, and every operation that uses it. */
    _Alignas(64) char data[];
};

/* Handles are no addresses that the host could use, but far outside of every process. */
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

/* ---- Moving bytes ---------------------------------------------------------------------------------------- */

/* Sends to a rank, or receives from it, what goes at once, and moves the piece on. */
static void pump(struct group *g, enum lane lane, uint32_t peer, struct piece *piece, int out) {
    const uint32_t from = out ? g->rank : peer, to = out ? peer : g->rank;
    const size_t stride = sizeof(struct ring) + g->ring;
    struct ring *ring = (void *)((char *)(g->shared + 1) + (((size_t)lane * g->size + from) * g->size + to) * stride);
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

/* One piece to each rank and one from each, all at once. The pieces of this rank are left alone. */
static int exchange(struct group *g, struct op *op, const struct piece *to, const struct piece *from) {
    struct piece out[MAX_RANKS], in[MAX_RANKS];
    memcpy(out, to, g->size * sizeof *out);
    memcpy(in, from, g->size * sizeof *in);
    for (;;) {
        uint32_t heard = atomic_load(&seat(g, g->rank)->bell);
        uint64_t waiting = 0, dead, left;
        look(g, &dead, &left);
        for (uint32_t p = 0; p < g->size; p++) {
            if (p == g->rank) continue;
            pump(g, STREAM, p, &in[p], 0);
            pump(g, STREAM, p, &out[p], 1);
            if (in[p].bytes || out[p].bytes) waiting |= BIT(p);
        }
        if (!waiting) return 0;
        if (check(g, op, waiting, dead, left)) return -1;
        rest(g, heard);
    }
}

/* ---- Reducing: acc[i] = op(acc[i], with[i]) -------------------------------------------------------------- */

#define EACH(T, EXPRESSION)                                                                                            \
    for (uint64_t i = 0; i < bytes / sizeof(T); i++) {                                                                 \
        T a = ((T *)acc)[i], b = ((const T *)with)[i];                                                                 \
        ((T *)acc)[i] = (T)(EXPRESSION);                                                                               \
    }                                                                                                                  \
    return

/* Sums and products are made without a sign, so that they wrap. Only NaN differs from itself. */
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

/* As `exchange`, but what comes in, the own piece among it, is reduced in rank order into from[rank].data. Chunk by
 * chunk through the scratch memory, so that the result may lie where the own piece is. */
static int exchange_reducing(struct group *g, struct op *op, const struct piece *to, const struct piece *from) {
    for (uint64_t done = 0;; done += CHUNK) {
        struct piece out[MAX_RANKS], in[MAX_RANKS];
        uint64_t left = 0;
        for (uint32_t p = 0; p < g->size; p++) {
            uint64_t o = to[p].bytes > done ? to[p].bytes - done : 0, i = from[p].bytes > done ? from[p].bytes - done : 0;
            out[p] = (struct piece){o ? to[p].data + done : NULL, o < CHUNK ? o : CHUNK};
            in[p] = (struct piece){g->scratch + (size_t)p * CHUNK, i < CHUNK ? i : CHUNK};
            left |= o | i;
        }
        if (!left) return 0;
        struct piece own = in[g->rank];
        if (own.bytes) memcpy(own.data, out[g->rank].data, own.bytes);
        if (exchange(g, op, out, in)) return -1;
        if (!own.bytes) continue;
        for (uint32_t p = 1; p < g->size; p++) combine(op->request, g->scratch, in[p].data, own.bytes);
        if (op->request->reduce == C10D_AVG) average(op->request, g->scratch, own.bytes, g->size);
        memcpy(from[g->rank].data + done, g->scratch, own.bytes);
    }
}

/* ---- Collectives ----------------------------------------------------------------------------------------- */

static uint64_t element(const c10d_request *r) {
    static const uint8_t SIZES[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 8, 16, 1, 1};
    return r->dtype < sizeof SIZES ? SIZES[r->dtype] : 1;
}

/* Elements first .. first + count of a tensor. */
static struct piece part(const c10d_request *r, const c10d_span *span, uint64_t first, uint64_t count) {
    if (!count) return (struct piece){NULL, 0};
    char *base = span->device_type == C10D_DEVICE_CPU ? span->data : memory_of(span->data)->data;
    return (struct piece){base + span->offset + first * element(r), count * element(r)};
}

/* What goes to a rank, or comes from it: a whole tensor, the rank's of a list, its block, or its split. A root has to do
 * with it at one end. */
enum cut { NONE, WHOLE, EACH_ONE, BLOCK, SPLIT };
enum root { ANY, FROM_ROOT, TO_ROOT };
static const struct { uint8_t in_place, to, from, root, reduces; } WAYS[C10D_OPS] = {
    [C10D_BROADCAST] = {1, WHOLE, WHOLE, FROM_ROOT, 0},
    [C10D_ALL_REDUCE] = {1, WHOLE, WHOLE, ANY, 1},
    [C10D_ALL_REDUCE_COALESCED] = {1, WHOLE, WHOLE, ANY, 1},
    [C10D_REDUCE] = {1, WHOLE, WHOLE, TO_ROOT, 1},
    [C10D_ALL_GATHER] = {0, WHOLE, EACH_ONE, ANY, 0},
    [C10D_ALL_GATHER_COALESCED] = {0, WHOLE, EACH_ONE, ANY, 0},
    [C10D_ALL_GATHER_INTO] = {0, WHOLE, BLOCK, ANY, 0},
    [C10D_ALL_GATHER_INTO_COALESCED] = {0, WHOLE, BLOCK, ANY, 0},
    [C10D_REDUCE_SCATTER] = {0, EACH_ONE, WHOLE, ANY, 1},
    [C10D_REDUCE_SCATTER_INTO] = {0, BLOCK, WHOLE, ANY, 1},
    [C10D_REDUCE_SCATTER_INTO_COALESCED] = {0, BLOCK, WHOLE, ANY, 1},
    [C10D_GATHER] = {0, WHOLE, EACH_ONE, TO_ROOT, 0},
    [C10D_SCATTER] = {0, EACH_ONE, WHOLE, FROM_ROOT, 0},
    [C10D_ALL_TO_ALL] = {0, EACH_ONE, EACH_ONE, ANY, 0},
    [C10D_ALL_TO_ALL_SINGLE] = {0, SPLIT, SPLIT, ANY, 0},
};

static struct piece cut(const struct group *g, const c10d_request *r, const c10d_span *spans, const uint64_t *splits,
                        enum cut how, uint64_t i, uint32_t p) {
    const c10d_span *span = c10d_span_at(spans, how == EACH_ONE ? i * g->size + p : i);
    uint64_t first = 0, each = span->count / g->size;
    if (how == WHOLE || how == EACH_ONE) return part(r, span, 0, span->count);
    if (how == BLOCK || !splits) return part(r, span, p * each, each);
    for (uint32_t q = 0; q < p; q++) first += splits[q];
    return part(r, span, first, splits[p]);
}

/* For tensor (or list of them) i of the call: what goes to each rank, and what comes from each. */
static void lay_out(const struct group *g, const c10d_request *r, uint64_t i, struct piece *to, struct piece *from) {
    const int way = WAYS[r->op].root, me_root = g->rank == r->root, in_place = WAYS[r->op].in_place;
    for (uint32_t p = 0; p < g->size; p++) {
        const int out = way == FROM_ROOT ? me_root : way == TO_ROOT ? p == r->root : 1;
        const int in = way == FROM_ROOT ? p == r->root : way == TO_ROOT ? me_root : 1;
        to[p] = from[p] = (struct piece){NULL, 0};
        if (WAYS[r->op].to == NONE) continue;
        if (out) to[p] = cut(g, r, in_place ? r->outputs : r->inputs, r->input_splits, WAYS[r->op].to, i, p);
        if (in) from[p] = cut(g, r, r->outputs, r->output_splits, WAYS[r->op].from, i, p);
    }
}

/* How many tensors (or lists of them) the call has; each is laid out for itself. */
static uint64_t tensors(const c10d_request *r) {
    if (r->op == C10D_ALL_REDUCE_COALESCED) return r->output_count;
    return r->op == C10D_ALL_GATHER_COALESCED || r->op == C10D_ALL_GATHER_INTO_COALESCED ||
                   r->op == C10D_REDUCE_SCATTER_INTO_COALESCED ? r->input_count : 1;
}

/* Every rank tells every other what it calls; back when all have, and all call the same. */
static int announce(struct group *g, struct op *op) {
    const c10d_request *r = op->request;
    const uint64_t len = offsetof(struct announcement, with[g->size]);
    struct announcement all[MAX_RANKS], *mine = &all[g->rank];
    struct piece to[MAX_RANKS], from[MAX_RANKS];
    memset(mine, 0, sizeof *mine);
    memcpy(mine->fingerprint, r->fingerprint, 24);
    for (uint64_t i = 0; i < tensors(r); i++) {
        lay_out(g, r, i, to, from);
        for (uint32_t p = 0; p < g->size; p++) {
            mine->with[p].to += to[p].bytes;
            mine->with[p].to_cut = (mine->with[p].to_cut ^ to[p].bytes) * 0x100000001b3u;
            mine->with[p].from += from[p].bytes;
            mine->with[p].from_cut = (mine->with[p].from_cut ^ from[p].bytes) * 0x100000001b3u;
        }
    }
    for (uint32_t p = 0; p < g->size; p++) {
        to[p] = (struct piece){(char *)mine, len};
        from[p] = (struct piece){(char *)&all[p], len};
    }
    if (exchange(g, op, to, from)) return -1;
    for (uint32_t p = 0; p < g->size; p++)
        if (memcmp(all[p].fingerprint, mine->fingerprint, 24))
            return differ(g, g->rank, mine->fingerprint, p, all[p].fingerprint, "", 0, 0);
    for (uint32_t p = 0; p < g->size; p++) /* What q has for p. */
        for (uint32_t q = 0; q < g->size; q++)
            if (all[p].with[q].from != all[q].with[p].to || all[p].with[q].from_cut != all[q].with[p].to_cut)
                return differ(g, p, all[p].fingerprint, q, all[q].fingerprint, "count",
                              all[p].with[q].from / element(r), all[q].with[p].to / element(r));
    return 0;
}

static int collective(struct group *g, struct op *op) {
    const c10d_request *r = op->request;
    if (announce(g, op)) return -1;
    for (uint64_t i = 0; i < tensors(r); i++) {
        struct piece to[MAX_RANKS], from[MAX_RANKS];
        int over;
        lay_out(g, r, i, to, from);
        if (WAYS[r->op].reduces) {
            over = exchange_reducing(g, op, to, from);
        } else {
            /* The own piece may already be where it belongs. */
            if (from[g->rank].bytes) memmove(from[g->rank].data, to[g->rank].data, from[g->rank].bytes);
            over = exchange(g, op, to, from);
        }
        if (over) return -1;
    }
    return 0;
}

/* ---- Messages. All under the lock. ----------------------------------------------------------------------- */

/* Reads what has come from one rank. Of a rank with too many unclaimed messages no further one is begun. */
static int read_mail(struct group *g, uint32_t from) {
    struct inbox *in = &g->inboxes[from];
    for (;;) {
        if (!in->message && !in->head.bytes) in->head = (struct piece){(char *)&in->header, sizeof in->header};
        if (!in->message && in->unclaimed < UNCLAIMED) {
            pump(g, MAIL, from, &in->head, 0);
            if (in->head.bytes) return 0;
            in->message = malloc(sizeof *in->message + in->header.bytes);
            if (!in->message) return fail(g, C10D_RESOURCE, 0, "no memory for a message");
            *in->message = (struct message){.header = in->header, .from = from};
            in->body = (struct piece){in->message->data, in->header.bytes};
            in->unclaimed += in->header.bytes;
        }
        if (!in->message) return 0;
        pump(g, MAIL, from, &in->body, 0);
        if (in->body.bytes) return 0;
        *g->last = in->message;
        g->last = &in->message->next;
        in->message = NULL;
    }
}

/* The first message from these ranks with this tag, taken out of the list. */
static struct message *take(struct group *g, uint64_t from, uint32_t tag) {
    for (struct message **at = &g->messages; *at; at = &(*at)->next) {
        struct message *m = *at;
        if (!(from & BIT(m->from)) || m->header.tag != tag) continue;
        *at = m->next;
        if (!m->next) g->last = at;
        g->inboxes[m->from].unclaimed -= m->header.bytes;
        return m;
    }
    return NULL;
}

static uint64_t peers(const struct group *g, const c10d_request *r) {
    uint64_t all = g->size < 64 ? BIT(g->size) - 1 : UINT64_MAX;
    return r->op == C10D_RECV_ANY_SOURCE ? all & ~BIT(g->rank) : BIT(r->peer);
}

static int receive(struct group *g, struct op *op, struct message *m) {
    const c10d_request *r = op->request;
    const uint8_t *call = m->header.fingerprint;
    int bad = 0;
    if (m->header.dtype != r->dtype)
        bad = differ(g, g->rank, r->fingerprint, m->from, call, "dtype", r->dtype, m->header.dtype);
    else if (memcmp(call, r->fingerprint, 24) || m->header.bytes != op->payload.bytes)
        bad = differ(g, g->rank, r->fingerprint, m->from, call, "count", op->payload.bytes / element(r),
                     m->header.bytes / element(r));
    else if (m->header.bytes)
        memcpy(op->payload.data, m->data, m->header.bytes);
    op->source = m->from;
    free(m);
    return bad ? bad : 1;
}

/* Goes on with a message as far as it goes. 1: it is over. */
static int step(struct group *g, struct op *op) {
    const c10d_request *r = op->request;
    struct message *m;
    if (r->op != C10D_SEND) return (m = take(g, peers(g, r), r->tag)) ? receive(g, op, m) : 0;
    if (!op->writes && (g->writing & BIT(r->peer))) return 0;
    op->writes = 1;
    g->writing |= BIT(r->peer);
    pump(g, MAIL, r->peer, &op->head, 1);
    if (!op->head.bytes) pump(g, MAIL, r->peer, &op->payload, 1);
    if (op->head.bytes || op->payload.bytes) return 0;
    g->writing &= ~BIT(r->peer);
    ring_bell(g, g->rank);
    return 1;
}

/* ---- Operations ------------------------------------------------------------------------------------------ */

/* Ends an operation, as the group's failure has it. */
static void end(struct group *g, struct op *op, c10d_done done, int failed) {
    c10d_result result = {.struct_size = sizeof result, .source = op->source};
    struct failure why = g->shared->failure;
    uint32_t guilty[MAX_RANKS];
    char values[2][24];
    op->over = 1;
    if (failed && why.status == C10D_MISMATCH) {
        /* As this rank sees it: on the speaker's side, on the other, or watching two that disagree. */
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
    if (failed) result.status = why.status, result.guilty = guilty;
    if (failed) result.message = why.text, result.message_len = strlen(why.text);
    done(g->host, op->token, &result);
}

/* Messages, all at once. */
static void exchange_messages(struct group *g, struct op *ops, uint64_t count, c10d_done done) {
    for (uint64_t left = count; left > 0;) {
        uint32_t heard = atomic_load(&seat(g, g->rank)->bell);
        uint64_t dead, gone;
        int failed = 0;
        look(g, &dead, &gone);
        for (uint64_t i = 0; i < count; i++) {
            struct op *op = &ops[i];
            if (op->over) continue;
            pthread_mutex_lock(&g->lock);
            for (uint32_t p = 0; p < g->size && !failed; p++) failed = p != g->rank && read_mail(g, p);
            int over = failed ? -1 : step(g, op);
            if (!over) over = check(g, op, peers(g, op->request), dead, gone);
            pthread_mutex_unlock(&g->lock);
            if (!over) continue;
            end(g, op, done, over < 0);
            left--;
        }
        if (left) rest(g, heard);
    }
}

static int32_t submit_batch(void *group, const c10d_request *const *requests, const uint64_t *tokens, uint64_t count,
                            c10d_done done, c10d_why *why) {
    struct group *g = group;
    struct op *ops = calloc(count, sizeof *ops);
    if (!ops) return c10d_fail(why, C10D_RESOURCE, "no memory for a batch");
    for (uint64_t i = 0; i < count; i++) {
        const c10d_request *r = requests[i];
        const c10d_span *span = r->op == C10D_SEND ? r->inputs : r->outputs;
        struct op *op = &ops[i];
        *op = (struct op){.request = r, .token = tokens[i], .deadline = later(r->timeout_ns)};
        if (r->op > C10D_RECV_ANY_SOURCE) continue;
        op->payload = part(r, span, 0, span->count);
        op->header = (struct header){.bytes = op->payload.bytes, .tag = r->tag, .dtype = r->dtype};
        memcpy(op->header.fingerprint, r->fingerprint, 24);
        op->head = (struct piece){(char *)&op->header, sizeof op->header};
    }
    if (requests[0]->op > C10D_RECV_ANY_SOURCE)
        end(g, ops, done, check(g, ops, 0, 0, 0) || collective(g, ops));
    else
        exchange_messages(g, ops, count, done);
    free(ops);
    return C10D_OK;
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
    for (uint32_t p = 0; p < g->size; p++)
        if (g->shared->failure.guilty & BIT(p)) guilty[(*guilty_count)++] = p;
    return c10d_fail(why, g->shared->failure.status, g->shared->failure.text);
}

static void destroy_group(void *group) {
    struct group *g = group;
    for (uint32_t p = 0; p < g->size; p++) {
        if (g->lives[p].fd >= 0) close(g->lives[p].fd);
        free(g->inboxes[p].message);
    }
    for (struct message *m; (m = g->messages); free(m)) g->messages = m->next;
    if (g->shared) {
        if (atomic_load(&seat(g, g->rank)->pid)) shut_down(g, 0, NULL); /* Or it was never here. */
        munmap(g->shared, g->bytes);
    }
    pthread_mutex_destroy(&g->lock);
    pthread_mutex_destroy(&g->splitting);
    free(g->scratch);
    free(g);
}

/* ---- Meeting --------------------------------------------------------------------------------------------- */

/* Whether the meeting may go on; a moment later. */
static int32_t patience(const c10d_group_init *init, uint64_t deadline, const char *absent, uint32_t rank, c10d_why *why) {
    char text[80];
    struct timespec moment = {.tv_nsec = 200000};
    snprintf(text, sizeof text, absent, rank);
    if (__atomic_load_n(init->aborted, __ATOMIC_ACQUIRE)) return c10d_fail(why, C10D_ABORTED, "aborted");
    if (now() >= deadline) return c10d_fail(why, C10D_TIMEOUT, text);
    nanosleep(&moment, NULL);
    return C10D_OK;
}

/* The id that rank 0 has for the others: by the store, or by its seat in the whole. */
static int32_t hand_out(struct group *g, struct group *whole, const c10d_group_init *init, struct id id, c10d_why *why) {
    if (!whole) return g->host->store_set(g->host, init->store, "id", 2, &id, sizeof id, init->timeout_ns, why);
    struct seat *mine = seat(whole, whole->rank);
    memcpy(mine->session, init->session, 16);
    mine->id = id;
    atomic_store(&mine->offers, 1);
    return C10D_OK;
}

static int32_t fetch(struct group *g, struct group *whole, uint32_t maker, const c10d_group_init *init, uint64_t deadline,
                     struct id *id, c10d_why *why) {
    uint64_t len = 0;
    if (!whole) {
        int32_t status = g->host->store_get(g->host, init->store, "id", 2, id, sizeof *id, &len, init->timeout_ns, why);
        return status || len == sizeof *id ? status : c10d_fail(why, C10D_PROTOCOL, "an id has another size");
    }
    struct seat *its = seat(whole, maker);
    while (!atomic_load(&its->offers) || memcmp(its->session, init->session, 16)) {
        int32_t status = patience(init, deadline, "rank %u of the whole did not make the part in time", maker, why);
        if (status) return status;
    }
    *id = its->id;
    return C10D_OK;
}

/* Finds the memory, takes a seat, and waits until every seat is taken. */
static int32_t meet(struct group *g, struct group *whole, uint32_t maker, const c10d_group_init *init, int *fd, c10d_why *why) {
    uint64_t deadline = later(init->timeout_ns);
    struct id id = {getpid(), 0};
    char path[64];
    if (g->rank == 0) {
        *fd = id.fd = memfd_create(NAME, MFD_CLOEXEC);
        if (*fd < 0 || posix_fallocate(*fd, 0, (off_t)g->bytes)) return c10d_fail(why, C10D_RESOURCE, "no memory to share");
    } else {
        int32_t status = fetch(g, whole, maker, init, deadline, &id, why);
        if (status) return status;
        snprintf(path, sizeof path, "/proc/%d/fd/%d", id.pid, id.fd);
        *fd = open(path, O_RDWR | O_CLOEXEC);
        if (*fd < 0) return c10d_fail(why, C10D_PEER_DEAD, "rank 0 is gone, or its memory cannot be opened");
    }
    void *shared = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (shared == MAP_FAILED) return c10d_fail(why, C10D_RESOURCE, "cannot map the shared memory");
    g->shared = shared;
    if (g->rank == 0) {
        memcpy(g->shared->session, init->session, 16);
        int32_t status = hand_out(g, whole, init, id, why);
        if (status) return status;
    } else if (memcmp(g->shared->session, init->session, 16)) {
        return c10d_fail(why, C10D_PROTOCOL, "the shared memory is another group's");
    }
    atomic_store(&seat(g, g->rank)->pid, getpid());
    for (uint32_t p = 0; p < g->size; p++) {
        int pid;
        while (!(pid = atomic_load(&seat(g, p)->pid))) {
            int32_t status = patience(init, deadline, "rank %u did not come in time", p, why);
            if (status) return status;
        }
        if (pid == getpid()) continue;
        g->lives[p] = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
        if (g->lives[p].fd < 0) return c10d_fail(why, errno == ESRCH ? C10D_PEER_DEAD : C10D_RESOURCE, "a rank is gone");
    }
    return C10D_OK;
}

static int32_t make(const c10d_host *host, struct group *whole, uint32_t maker, const c10d_group_init *init, void **out,
                    c10d_why *why) {
    if (init->size > MAX_RANKS) return c10d_fail(why, C10D_UNSUPPORTED, "c-collectives is for 64 ranks at most");
    struct group *g = calloc(1, sizeof *g);
    if (!g) return c10d_fail(why, C10D_RESOURCE, "no memory for a group");
    *g = (struct group){.host = host, .aborted = init->aborted, .rank = init->rank, .size = init->size};
    g->ring = init->size > 8 ? 8 << 10 : 64 << 10;
    g->bytes = sizeof *g->shared + (size_t)LANES * g->size * g->size * (sizeof(struct ring) + g->ring);
    g->last = &g->messages;
    for (uint32_t p = 0; p < MAX_RANKS; p++) g->lives[p].fd = -1;
    pthread_mutex_init(&g->lock, NULL);
    pthread_mutex_init(&g->splitting, NULL);
    g->scratch = aligned_alloc(64, (size_t)g->size * CHUNK);
    int fd = -1;
    int32_t status = g->scratch ? meet(g, whole, maker, init, &fd, why) : C10D_RESOURCE;
    if (fd >= 0) close(fd); /* On rank 0, when all have it open, or it failed. */
    if (status) destroy_group(g);
    else *out = g;
    return status;
}

static int32_t create_group(const c10d_host *host, const c10d_group_init *init, void **out, c10d_why *why) {
    return make(host, NULL, 0, init, out, why);
}

static int32_t split(void *group, const uint32_t *ranks, const c10d_group_init *init, void **out, c10d_why *why) {
    struct group *whole = group;
    if (!init) return C10D_OK;
    if (init->rank > 0) return make(whole->host, whole, ranks[0], init, out, why);
    pthread_mutex_lock(&whole->splitting); /* One offer at a time. */
    int32_t status = make(whole->host, whole, ranks[0], init, out, why);
    atomic_store(&seat(whole, whole->rank)->offers, 0);
    pthread_mutex_unlock(&whole->splitting);
    return status;
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
