/* A plugin with collectives of its own: every op, on host memory and on the memory of a device of its own, between the
 * processes (or threads) of one machine.
 *
 * Ranks find each other through the store that c10d lends, and keep three UNIX sockets per pair:
 *   WORDS   tells why this rank gave up, or that it leaves; small, never blocked by the other two;
 *   STREAM  collectives, which come one at a time: announcements, then bare payload;
 *   MAIL    messages from rank to rank, each behind a header.
 * A collective begins with one announcement from each rank to each: the call's fingerprint, and how much will follow.
 * So a rank that called something else, or is gone, is known by name before any payload moves. Everything else is
 * `exchange`: one piece to each rank and one from each, all at once.
 *
 * There are no threads here: c10d's thread that submits does the work. Every wait looks at the deadline, at c10d's abort
 * flag and at what the peers said. The first failure ends the group, and the peers are told. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "c10d_plugin.h"

C10D_PLUGIN_NOTE("c-collectives");

#define MAX_RANKS 64u
#define NOBODY MAX_RANKS
#define CHUNK (64u << 10)             /* Bytes that are reduced at a time, for each rank. */
#define UNCLAIMED (64u << 20)         /* Bytes of messages that nobody asked for yet, for each sender. */
#define SLICE_NS (20 * 1000000ull)    /* How often a wait looks around. */
#define BIT(rank) ((uint64_t)1 << (rank))

enum lane { WORDS, STREAM, MAIL, LANES };

/* ---- What goes over the sockets. Both sides are this program on this machine: structs as they are. ------------- */

struct hello {
    uint8_t session[16];
    uint32_t rank, lane;
};

struct announcement {
    uint8_t fingerprint[24];
    uint64_t bytes, cut; /* What will follow for you, and a hash of how it is cut. */
};

struct header {
    uint8_t fingerprint[24];
    uint64_t bytes;
    uint32_t tag, dtype;
};

/* Why a rank gave up. Status C10D_OK: it did not, it leaves. */
struct words {
    int32_t status;
    uint32_t speaker;
    uint64_t guilty;      /* Bits of ranks. */
    uint8_t calls[2][24]; /* C10D_MISMATCH: the speaker's fingerprint and the guilty rank's, */
    char field[16];       /* and, if it is known or not in there, the field, with the values on both. */
    uint64_t values[2];
    char text[160];
};

/* ---- A group --------------------------------------------------------------------------------------------------- */

struct piece {
    char *data;
    uint64_t bytes;
};

/* A message that has come, or the beginning of one. */
struct message {
    struct message *next;
    struct header header;
    uint32_t from;
    char data[];
};

/* What is being read from one rank. */
struct inbox {
    struct header header;
    struct message *message;
    uint64_t header_bytes, bytes; /* Read so far. */
    uint64_t unclaimed;           /* Bytes of its messages that nobody asked for yet. */
    int ended;
};

struct group {
    const c10d_host *host;
    const uint32_t *aborted;
    uint32_t rank, size;
    int sockets[MAX_RANKS][LANES];
    char *scratch; /* A chunk per rank, of the collective that runs. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    int failed;
    struct words failure;
    uint64_t silent, left; /* Ranks that say no more; those of them that said goodbye. */
    uint64_t writing;      /* Ranks to which a message is being written. */
    int reading;           /* Somebody reads the mail. */
    struct inbox inboxes[MAX_RANKS];
    struct message *messages, **last; /* Whole ones, in the order in which they came. */
};

/* One operation. */
struct op {
    struct group *group;
    const c10d_request *request;
    uint64_t deadline;
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

static uint64_t everybody(const struct group *g) { return g->size < 64 ? BIT(g->size) - 1 : UINT64_MAX; }

/* For poll: until the deadline, but no longer than a slice. */
static int slice_ms(uint64_t deadline) {
    uint64_t at = now(), left = at < deadline ? deadline - at : 0;
    return (int)((left < SLICE_NS ? left + 999999 : SLICE_NS) / 1000000);
}

/* ---- Failing, and hearing of failures. All under the lock. -------------------------------------------------------- */

/* Takes the first failure for good, tells everybody, and wakes who waits. */
static void give_up(struct group *g, const struct words *why) {
    if (g->failed) return;
    g->failed = 1;
    g->failure = *why;
    struct words told = *why;
    if (!told.guilty) told.guilty = BIT(told.speaker);
    for (uint32_t p = 0; p < g->size; p++) {
        if (p == g->rank) continue;
        if (send(g->sockets[p][WORDS], &told, sizeof told, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) continue;
    }
    for (uint32_t p = 0; p < g->size; p++) {
        if (p == g->rank) continue;
        shutdown(g->sockets[p][STREAM], SHUT_RDWR);
        shutdown(g->sockets[p][MAIL], SHUT_RDWR);
    }
    pthread_cond_broadcast(&g->changed);
}

static int fail(struct group *g, int32_t status, uint64_t guilty, const char *text) {
    struct words why = {.status = status, .speaker = g->rank, .guilty = guilty};
    snprintf(why.text, sizeof why.text, "%s", text);
    give_up(g, &why);
    return -1;
}

/* Another rank calls something else. `field`, mine and theirs: what differs, where the fingerprints do not say it. */
static int differs(struct op *op, uint32_t rank, const uint8_t call[24], const char *field, uint64_t mine,
                   uint64_t theirs) {
    struct words why = {.status = C10D_MISMATCH, .speaker = op->group->rank, .guilty = BIT(rank), .values = {mine, theirs}};
    memcpy(why.calls[0], op->request->fingerprint, 24);
    memcpy(why.calls[1], call, 24);
    snprintf(why.field, sizeof why.field, "%s", field);
    snprintf(why.text, sizeof why.text, "ranks call different things at the same place");
    give_up(op->group, &why);
    return -1;
}

/* Listens to what the others say of themselves. */
static void hear(struct group *g) {
    for (uint32_t p = 0; p < g->size; p++) {
        struct words w;
        if (p == g->rank || (g->silent & BIT(p))) continue;
        ssize_t n = recv(g->sockets[p][WORDS], &w, sizeof w, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        g->silent |= BIT(p);
        if (n != (ssize_t)sizeof w) continue;
        if (w.status == C10D_OK) {
            g->left |= BIT(p);
            continue;
        }
        if (w.speaker >= g->size) w.speaker = p;
        w.text[sizeof w.text - 1] = w.field[sizeof w.field - 1] = 0;
        w.guilty &= everybody(g);
        give_up(g, &w);
    }
}

/* A connection has ended: by what its rank said, or because the rank is gone. */
static int gone(struct group *g, uint32_t rank) {
    hear(g);
    if (g->failed) return -1;
    if (g->left & BIT(rank)) return fail(g, C10D_PEER_DEAD, BIT(rank), "left the group");
    return fail(g, C10D_PEER_DEAD, BIT(rank), "its end of the connection is closed");
}

/* Whether to wait on, for these ranks. */
static int check(struct op *op, uint64_t waiting) {
    struct group *g = op->group;
    hear(g);
    if (g->failed) return -1;
    if (__atomic_load_n(g->aborted, __ATOMIC_ACQUIRE)) return fail(g, C10D_ABORTED, 0, "the group was aborted");
    if (now() < op->deadline) return 0;
    if (op->request->op == C10D_MONITORED_BARRIER && !(op->request->flags & C10D_WAIT_ALL_RANKS))
        waiting &= ~waiting + 1; /* The first. */
    return fail(g, C10D_TIMEOUT, waiting, "no answer in time");
}

static int check_unlocked(struct op *op, uint64_t waiting) {
    pthread_mutex_lock(&op->group->lock);
    int over = check(op, waiting);
    pthread_mutex_unlock(&op->group->lock);
    return over;
}

static int gone_unlocked(struct group *g, uint32_t rank) {
    pthread_mutex_lock(&g->lock);
    gone(g, rank);
    pthread_mutex_unlock(&g->lock);
    return -1;
}

/* ---- The device: heap memory behind handles. A copy is over when it returns, so there is one stream, and no events. */

struct memory {
    atomic_uint owners; /* Who allocated it, until it is freed, and every operation that uses it. */
    _Alignas(64) char data[];
};

/* No address that the host could use: its complement, which lies outside of every process. */
static void *handle_of(struct memory *memory) { return (void *)~(uintptr_t)memory; }
static struct memory *memory_of(const void *handle) { return (struct memory *)~(uintptr_t)handle; }

static int32_t count_devices(uint32_t *count, c10d_why *why) {
    (void)why;
    *count = 1;
    return C10D_OK;
}

static int32_t allocate(uint32_t index, uint64_t bytes, void **base, c10d_why *why) {
    (void)index;
    struct memory *memory = NULL;
    if (bytes < SIZE_MAX / 2) memory = aligned_alloc(64, (sizeof *memory + bytes + 63) / 64 * 64);
    if (!memory) return c10d_fail(why, C10D_RESOURCE, "c-collectives is out of memory");
    atomic_init(&memory->owners, 1);
    *base = handle_of(memory);
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

static int32_t copy_in(uint32_t index, uint64_t stream, void *to, uint64_t offset, const void *from, uint64_t bytes,
                       c10d_why *why) {
    (void)index, (void)stream, (void)why;
    memcpy(memory_of(to)->data + offset, from, bytes);
    return C10D_OK;
}

static int32_t copy_out(uint32_t index, uint64_t stream, void *to, const void *from, uint64_t offset, uint64_t bytes,
                        c10d_why *why) {
    (void)index, (void)stream, (void)why;
    memcpy(to, memory_of(from)->data + offset, bytes);
    return C10D_OK;
}

static int32_t copy(uint32_t index, uint64_t stream, void *to, uint64_t to_offset, const void *from,
                    uint64_t from_offset, uint64_t bytes, c10d_why *why) {
    (void)index, (void)stream, (void)why;
    memcpy(memory_of(to)->data + to_offset, memory_of(from)->data + from_offset, bytes);
    return C10D_OK;
}

/* ---- Moving bytes ------------------------------------------------------------------------------------------------ */

/* Sends or receives what goes at once, and moves the piece on. Negative: the connection has ended. */
static int pump(int fd, struct piece *piece, int out) {
    while (piece->bytes > 0) {
        ssize_t n = out ? send(fd, piece->data, piece->bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : recv(fd, piece->data, piece->bytes, MSG_DONTWAIT);
        if (n > 0) {
            piece->data += n;
            piece->bytes -= (uint64_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            return -1;
        } else if (errno == EAGAIN) {
            return 0;
        }
    }
    return 0;
}

/* One piece to each rank and one from each, all at once. The pieces of this rank are left alone. */
static int exchange(struct op *op, const struct piece *to, const struct piece *from) {
    struct group *g = op->group;
    struct piece out[MAX_RANKS], in[MAX_RANKS];
    memcpy(out, to, g->size * sizeof *out);
    memcpy(in, from, g->size * sizeof *in);
    for (;;) {
        struct pollfd fds[2 * MAX_RANKS];
        nfds_t count = 0;
        uint64_t waiting = 0;
        for (uint32_t p = 0; p < g->size; p++) {
            int *sockets = g->sockets[p];
            if (p == g->rank) continue;
            /* Reading first: what a rank sent before it ended is still good. */
            if (pump(sockets[STREAM], &in[p], 0) < 0 || pump(sockets[STREAM], &out[p], 1) < 0)
                return gone_unlocked(g, p);
            short events = (short)((in[p].bytes ? POLLIN : 0) | (out[p].bytes ? POLLOUT : 0));
            if (!events) continue;
            waiting |= BIT(p);
            fds[count++] = (struct pollfd){.fd = sockets[STREAM], .events = events};
        }
        if (!waiting) return 0;
        if (check_unlocked(op, waiting)) return -1;
        for (uint32_t p = 0; p < g->size; p++) {
            if (p != g->rank && !(g->silent & BIT(p)))
                fds[count++] = (struct pollfd){.fd = g->sockets[p][WORDS], .events = POLLIN};
        }
        poll(fds, count, slice_ms(op->deadline));
    }
}

/* ---- Reducing: acc[i] = op(acc[i], with[i]) ------------------------------------------------------------------------ */

#define EACH(T, EXPRESSION)                                                                                       \
    for (uint64_t i = 0; i < count; i++) {                                                                        \
        T a = ((T *)acc)[i], b = ((const T *)with)[i];                                                            \
        ((T *)acc)[i] = (T)(EXPRESSION);                                                                          \
    }                                                                                                             \
    return

/* Sums and products are made without a sign, so that they wrap. Only NaN differs from itself. */
#define NUMBERS(NAME, T, WRAPPING)                                                                                \
    static void NAME(uint32_t reduce, void *acc, const void *with, uint64_t count) {                              \
        switch (reduce) {                                                                                         \
        case C10D_SUM:                                                                                            \
        case C10D_AVG: EACH(WRAPPING, a + b);                                                                     \
        case C10D_PRODUCT: EACH(WRAPPING, a * b);                                                                 \
        case C10D_MIN: EACH(T, a != a || a < b ? a : b);                                                          \
        default: EACH(T, a != a || a > b ? a : b);                                                                \
        }                                                                                                         \
    }
NUMBERS(reduce_u8, uint8_t, uint8_t)
NUMBERS(reduce_i32, int32_t, uint32_t)
NUMBERS(reduce_i64, int64_t, uint64_t)
NUMBERS(reduce_f32, float, float)
NUMBERS(reduce_f64, double, double)

static void combine(const c10d_request *r, void *acc, const void *with, uint64_t bytes) {
    switch (r->dtype) {
    case C10D_U8: reduce_u8(r->reduce, acc, with, bytes); return;
    case C10D_I32: reduce_i32(r->reduce, acc, with, bytes / 4); return;
    case C10D_I64: reduce_i64(r->reduce, acc, with, bytes / 8); return;
    case C10D_F32: reduce_f32(r->reduce, acc, with, bytes / 4); return;
    default: reduce_f64(r->reduce, acc, with, bytes / 8);
    }
}

static void average(const c10d_request *r, void *acc, uint64_t bytes, uint32_t size) {
    if (r->dtype == C10D_F32)
        for (uint64_t i = 0; i < bytes / 4; i++) ((float *)acc)[i] /= (float)size;
    else
        for (uint64_t i = 0; i < bytes / 8; i++) ((double *)acc)[i] /= (double)size;
}

/* As `exchange`, but what comes in, the own piece among it, is reduced in rank order into from[rank].data. Chunk by
 * chunk through the scratch memory, so that the result may lie where the own piece is. */
static int exchange_reducing(struct op *op, const struct piece *to, const struct piece *from) {
    struct group *g = op->group;
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
        if (exchange(op, out, in)) return -1;
        if (!own.bytes) continue;
        for (uint32_t p = 1; p < g->size; p++) combine(op->request, g->scratch, in[p].data, own.bytes);
        if (op->request->reduce == C10D_AVG) average(op->request, g->scratch, own.bytes, g->size);
        memcpy(from[g->rank].data + done, g->scratch, own.bytes);
    }
}

/* ---- Collectives ------------------------------------------------------------------------------------------------- */

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

static struct piece whole(const c10d_request *r, const c10d_span *span) { return part(r, span, 0, span->count); }
static struct piece in_of(const c10d_request *r, uint64_t i) { return whole(r, c10d_span_at(r->inputs, i)); }
static struct piece out_of(const c10d_request *r, uint64_t i) { return whole(r, c10d_span_at(r->outputs, i)); }

/* How many tensors (or lists of them) the call has; each is laid out for itself. */
static uint64_t tensors(const c10d_request *r) {
    switch (r->op) {
    case C10D_ALL_GATHER_COALESCED:
    case C10D_ALL_GATHER_INTO_COALESCED:
    case C10D_REDUCE_SCATTER_INTO_COALESCED: return r->input_count;
    case C10D_ALL_REDUCE_COALESCED: return r->output_count;
    default: return 1;
    }
}

/* For tensor i of the call: what goes to each rank, and what comes from each. */
static void lay_out(const struct group *g, const c10d_request *r, uint64_t i, struct piece *to, struct piece *from) {
    const uint32_t n = g->size, me = g->rank, root = r->root;
    memset(to, 0, n * sizeof *to);
    memset(from, 0, n * sizeof *from);
    uint64_t first_in = 0, first_out = 0;
    for (uint32_t p = 0; p < n; p++) {
        switch (r->op) {
        case C10D_BROADCAST:
            if (me == root && p != me) to[p] = out_of(r, 0);
            if (me != root && p == root) from[p] = out_of(r, 0);
            break;
        case C10D_REDUCE:
            if (p == root) to[p] = out_of(r, 0);
            if (me == root) from[p] = out_of(r, 0);
            break;
        case C10D_ALL_GATHER:
        case C10D_ALL_GATHER_COALESCED:
            to[p] = in_of(r, i);
            from[p] = out_of(r, i * n + p);
            break;
        case C10D_ALL_GATHER_INTO:
        case C10D_ALL_GATHER_INTO_COALESCED: {
            uint64_t count = c10d_span_at(r->inputs, i)->count;
            to[p] = in_of(r, i);
            from[p] = part(r, c10d_span_at(r->outputs, i), p * count, count);
            break;
        }
        case C10D_REDUCE_SCATTER:
            to[p] = in_of(r, p);
            from[p] = out_of(r, 0);
            break;
        case C10D_REDUCE_SCATTER_INTO:
        case C10D_REDUCE_SCATTER_INTO_COALESCED: {
            uint64_t count = c10d_span_at(r->outputs, i)->count;
            to[p] = part(r, c10d_span_at(r->inputs, i), p * count, count);
            from[p] = out_of(r, i);
            break;
        }
        case C10D_GATHER:
            if (p == root) to[p] = in_of(r, 0);
            if (me == root) from[p] = out_of(r, p);
            break;
        case C10D_SCATTER:
            if (me == root) to[p] = in_of(r, p);
            if (p == root) from[p] = out_of(r, 0);
            break;
        case C10D_ALL_TO_ALL:
            to[p] = in_of(r, p);
            from[p] = out_of(r, p);
            break;
        case C10D_ALL_TO_ALL_SINGLE: {
            const c10d_span *in = c10d_span_at(r->inputs, 0), *out = c10d_span_at(r->outputs, 0);
            uint64_t ins = r->input_splits ? r->input_splits[p] : in->count / n;
            uint64_t outs = r->output_splits ? r->output_splits[p] : out->count / n;
            to[p] = part(r, in, first_in, ins);
            from[p] = part(r, out, first_out, outs);
            first_in += ins;
            first_out += outs;
            break;
        }
        default: /* The others agree on lengths by their fingerprint alone. */ break;
        }
    }
}

/* Every rank tells every other what it calls; back when all have, and all call the same. */
static int announce(struct op *op) {
    struct group *g = op->group;
    const c10d_request *r = op->request;
    struct announcement mine[MAX_RANKS], want[MAX_RANKS], theirs[MAX_RANKS];
    struct piece to[MAX_RANKS], from[MAX_RANKS];
    for (uint32_t p = 0; p < g->size; p++) {
        memset(&mine[p], 0, sizeof mine[p]);
        memcpy(mine[p].fingerprint, r->fingerprint, 24);
        want[p] = mine[p];
    }
    for (uint64_t i = 0; i < tensors(r); i++) {
        lay_out(g, r, i, to, from);
        for (uint32_t p = 0; p < g->size; p++) {
            mine[p].bytes += to[p].bytes;
            mine[p].cut = (mine[p].cut ^ to[p].bytes) * 0x100000001b3u;
            want[p].bytes += from[p].bytes;
            want[p].cut = (want[p].cut ^ from[p].bytes) * 0x100000001b3u;
        }
    }
    for (uint32_t p = 0; p < g->size; p++) {
        to[p] = (struct piece){(char *)&mine[p], sizeof mine[p]};
        from[p] = (struct piece){(char *)&theirs[p], sizeof theirs[p]};
    }
    if (exchange(op, to, from)) return -1;
    int over = 0;
    pthread_mutex_lock(&g->lock);
    for (uint32_t p = 0; p < g->size && !over; p++) {
        if (p == g->rank) continue;
        if (memcmp(theirs[p].fingerprint, want[p].fingerprint, 24))
            over = differs(op, p, theirs[p].fingerprint, "", 0, 0);
        else if (theirs[p].bytes != want[p].bytes || theirs[p].cut != want[p].cut)
            over = differs(op, p, theirs[p].fingerprint, "count", want[p].bytes / element(r),
                           theirs[p].bytes / element(r));
    }
    pthread_mutex_unlock(&g->lock);
    return over;
}

/* In blocks of a chunk per rank: each rank reduces its share of the block, then shows it to all. */
static int all_reduce(struct op *op, const c10d_span *span) {
    struct group *g = op->group;
    const uint64_t most = CHUNK / element(op->request);
    for (uint64_t first = 0; first < span->count;) {
        uint64_t left = span->count - first, share = (left + g->size - 1) / g->size;
        if (share > most) share = most;
        struct piece to[MAX_RANKS], from[MAX_RANKS];
        for (uint32_t p = 0; p < g->size; p++) {
            uint64_t begin = p * share < left ? p * share : left, end = begin + share < left ? begin + share : left;
            to[p] = part(op->request, span, first + begin, end - begin);
        }
        struct piece own = to[g->rank];
        for (uint32_t p = 0; p < g->size; p++) from[p] = own;
        if (exchange_reducing(op, to, from)) return -1;
        for (uint32_t p = 0; p < g->size; p++) {
            from[p] = to[p];
            to[p] = own;
        }
        if (exchange(op, to, from)) return -1;
        first += share * g->size < left ? share * g->size : left;
    }
    return 0;
}

static int collective(struct op *op) {
    struct group *g = op->group;
    const c10d_request *r = op->request;
    if (announce(op)) return -1;
    for (uint64_t i = 0; i < tensors(r); i++) {
        struct piece to[MAX_RANKS], from[MAX_RANKS];
        int over;
        lay_out(g, r, i, to, from);
        switch (r->op) {
        case C10D_BARRIER:
        case C10D_MONITORED_BARRIER: return 0;
        case C10D_ALL_REDUCE:
        case C10D_ALL_REDUCE_COALESCED: over = all_reduce(op, c10d_span_at(r->outputs, i)); break;
        case C10D_REDUCE:
        case C10D_REDUCE_SCATTER:
        case C10D_REDUCE_SCATTER_INTO:
        case C10D_REDUCE_SCATTER_INTO_COALESCED: over = exchange_reducing(op, to, from); break;
        default:
            /* The own piece may already be where it belongs. */
            if (from[g->rank].bytes) memmove(from[g->rank].data, to[g->rank].data, from[g->rank].bytes);
            over = exchange(op, to, from);
        }
        if (over) return -1;
    }
    return 0;
}

/* ---- Messages. All under the lock, which `progress` opens while it waits. ----------------------------------------- */

/* Reads what has come from one rank. Of a rank with too many unclaimed messages no further one is begun. */
static void read_mail(struct group *g, uint32_t from) {
    struct inbox *in = &g->inboxes[from];
    while (!g->failed && !in->ended) {
        struct piece head = {(char *)&in->header + in->header_bytes, sizeof in->header - in->header_bytes};
        in->ended = pump(g->sockets[from][MAIL], &head, 0) < 0;
        in->header_bytes = sizeof in->header - head.bytes;
        if (head.bytes || (!in->message && in->unclaimed >= UNCLAIMED)) return;
        if (!in->message) {
            in->message = malloc(sizeof *in->message + in->header.bytes);
            if (!in->message) {
                fail(g, C10D_RESOURCE, 0, "no memory for a message");
                return;
            }
            *in->message = (struct message){.header = in->header, .from = from};
            in->unclaimed += in->header.bytes;
        }
        struct piece body = {in->message->data + in->bytes, in->header.bytes - in->bytes};
        in->ended = pump(g->sockets[from][MAIL], &body, 0) < 0;
        in->bytes = in->header.bytes - body.bytes;
        if (body.bytes) return;
        *g->last = in->message;
        g->last = &in->message->next;
        in->message = NULL;
        in->header_bytes = in->bytes = 0;
    }
}

/* The first message from this rank (or NOBODY: from any) with this tag, taken out of the list. */
static struct message *take(struct group *g, uint32_t from, uint32_t tag) {
    for (struct message **at = &g->messages; *at; at = &(*at)->next) {
        struct message *m = *at;
        if ((from != NOBODY && m->from != from) || m->header.tag != tag) continue;
        *at = m->next;
        if (!m->next) g->last = at;
        g->inboxes[m->from].unclaimed -= m->header.bytes;
        return m;
    }
    return NULL;
}

/* Waits a slice for mail, and, if somebody writes, until more goes out to that rank. One thread reads for all. */
static void progress(struct op *op, uint32_t writes_to) {
    struct group *g = op->group;
    struct pollfd fds[2 * MAX_RANKS + 1];
    nfds_t count = 0;
    int reads = !g->reading;
    if (!reads && writes_to == NOBODY) {
        uint64_t at = now() + (uint64_t)slice_ms(op->deadline) * 1000000;
        struct timespec until = {(time_t)(at / 1000000000), (long)(at % 1000000000)};
        pthread_cond_timedwait(&g->changed, &g->lock, &until);
        return;
    }
    if (writes_to != NOBODY) fds[count++] = (struct pollfd){.fd = g->sockets[writes_to][MAIL], .events = POLLOUT};
    for (uint32_t p = 0; p < g->size; p++) {
        const struct inbox *in = &g->inboxes[p];
        int full = in->header_bytes == sizeof in->header && !in->message;
        if (p == g->rank || !reads) continue;
        if (!in->ended && !full) fds[count++] = (struct pollfd){.fd = g->sockets[p][MAIL], .events = POLLIN};
        if (!(g->silent & BIT(p))) fds[count++] = (struct pollfd){.fd = g->sockets[p][WORDS], .events = POLLIN};
    }
    if (reads) g->reading = 1;
    pthread_mutex_unlock(&g->lock);
    poll(fds, count, slice_ms(op->deadline));
    pthread_mutex_lock(&g->lock);
    if (!reads) return;
    g->reading = 0;
    for (uint32_t p = 0; p < g->size; p++)
        if (p != g->rank) read_mail(g, p);
    pthread_cond_broadcast(&g->changed);
}

static int send_message(struct op *op) {
    struct group *g = op->group;
    const uint32_t peer = op->request->peer;
    struct piece payload = in_of(op->request, 0);
    struct header header = {.bytes = payload.bytes, .tag = op->request->tag, .dtype = op->request->dtype};
    memcpy(header.fingerprint, op->request->fingerprint, 24);
    struct piece head = {(char *)&header, sizeof header};
    while (g->writing & BIT(peer)) {
        if (check(op, BIT(peer))) return -1;
        progress(op, NOBODY);
    }
    g->writing |= BIT(peer);
    int over = 0;
    while (!over) {
        int fd = g->sockets[peer][MAIL];
        if (pump(fd, &head, 1) < 0 || (!head.bytes && pump(fd, &payload, 1) < 0)) over = gone(g, peer);
        else if (!head.bytes && !payload.bytes) break;
        else if (!(over = check(op, BIT(peer)))) progress(op, peer);
    }
    g->writing &= ~BIT(peer);
    pthread_cond_broadcast(&g->changed);
    return over;
}

static int receive_message(struct op *op, uint32_t from, uint32_t *source) {
    struct group *g = op->group;
    const uint64_t senders = from == NOBODY ? everybody(g) & ~BIT(g->rank) : BIT(from);
    const struct piece to = out_of(op->request, 0);
    struct message *m;
    while (!(m = take(g, from, op->request->tag))) {
        uint64_t ended = 0;
        for (uint32_t p = 0; p < g->size; p++) ended |= g->inboxes[p].ended ? BIT(p) & senders : 0;
        if (ended) hear(g);
        /* Of several senders some may leave, but not die. */
        uint64_t dead = ended == senders ? ended : ended & ~g->left;
        for (uint32_t p = 0; p < g->size; p++)
            if (dead & BIT(p)) return gone(g, p);
        if (check(op, senders)) return -1;
        progress(op, NOBODY);
    }
    int over = 0;
    if (m->header.dtype != op->request->dtype)
        over = differs(op, m->from, m->header.fingerprint, "dtype", op->request->dtype, m->header.dtype);
    else if (memcmp(m->header.fingerprint, op->request->fingerprint, 24) || m->header.bytes != to.bytes)
        over = differs(op, m->from, m->header.fingerprint, "count", to.bytes / element(op->request),
                       m->header.bytes / element(op->request));
    else if (to.bytes)
        memcpy(to.data, m->data, to.bytes);
    *source = m->from;
    free(m);
    return over;
}

/* ---- Operations ---------------------------------------------------------------------------------------------------- */

/* Ends an operation as the group's failure has it. */
static void report(struct op *op, c10d_result *result, c10d_done done, uint64_t token) {
    struct group *g = op->group;
    uint32_t guilty[MAX_RANKS];
    char mine[24], theirs[24];
    pthread_mutex_lock(&g->lock);
    struct words why = g->failure;
    pthread_mutex_unlock(&g->lock);
    if (why.status == C10D_MISMATCH) {
        /* As this rank sees it: on the speaker's side, on the other, or watching two that disagree. */
        const uint8_t *call = op->request->fingerprint;
        int same_calls = !memcmp(why.calls[0], why.calls[1], 24);
        int as_speaker = !same_calls && !memcmp(call, why.calls[0], 24);
        int as_guilty = !same_calls && !memcmp(call, why.calls[1], 24);
        int other = (why.guilty & BIT(g->rank)) || as_guilty;
        if (other) why.guilty = BIT(why.speaker);
        else if (why.speaker != g->rank && !as_speaker) why.guilty |= BIT(why.speaker);
        if (other ? as_guilty : as_speaker) {
            result->fingerprint = why.calls[!other];
        } else {
            result->field = why.field;
            result->field_len = strlen(why.field);
            result->mine = mine;
            result->mine_len = (uint64_t)snprintf(mine, sizeof mine, "%llu", (unsigned long long)why.values[other]);
            result->theirs = theirs;
            result->theirs_len = (uint64_t)snprintf(theirs, sizeof theirs, "%llu", (unsigned long long)why.values[!other]);
        }
    }
    for (uint32_t p = 0; p < g->size; p++)
        if (why.guilty & BIT(p)) guilty[result->guilty_count++] = p;
    result->status = why.status;
    result->guilty = guilty;
    result->message = why.text;
    result->message_len = strlen(why.text);
    done(g->host, token, result);
}

static int32_t submit(void *group, const c10d_request *request, c10d_done done, uint64_t token, c10d_why *why) {
    (void)why;
    struct op op = {group, request, later(request->timeout_ns)};
    c10d_result result = {.struct_size = sizeof result};
    pthread_mutex_lock(&op.group->lock);
    int over = check(&op, 0);
    if (over) {
    } else if (request->op == C10D_SEND) {
        over = send_message(&op);
    } else if (request->op == C10D_RECV) {
        over = receive_message(&op, request->peer, &result.source);
    } else if (request->op == C10D_RECV_ANY_SOURCE) {
        over = receive_message(&op, NOBODY, &result.source);
    } else {
        pthread_mutex_unlock(&op.group->lock);
        over = collective(&op);
        pthread_mutex_lock(&op.group->lock);
    }
    pthread_mutex_unlock(&op.group->lock);
    if (over) report(&op, &result, done, token);
    else done(op.group->host, token, &result);
    return C10D_OK;
}

static void abort_group(void *group, const char *cause, uint64_t len) {
    struct group *g = group;
    struct words why = {.status = C10D_ABORTED, .speaker = g->rank};
    if (len >= sizeof why.text) len = sizeof why.text - 1;
    memcpy(why.text, cause, len);
    pthread_mutex_lock(&g->lock);
    give_up(g, &why);
    pthread_mutex_unlock(&g->lock);
}

static int32_t shut_down(void *group, uint64_t timeout, c10d_why *why) {
    struct group *g = group;
    struct words goodbye = {.status = C10D_OK};
    (void)timeout, (void)why;
    for (uint32_t p = 0; p < g->size; p++) {
        if (p == g->rank) continue;
        /* Who is gone needs no goodbye. */
        if (send(g->sockets[p][WORDS], &goodbye, sizeof goodbye, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) continue;
    }
    return C10D_OK;
}

static void destroy_group(void *group) {
    struct group *g = group;
    for (uint32_t p = 0; p < g->size; p++)
        for (int lane = 0; lane < LANES; lane++)
            if (g->sockets[p][lane] >= 0) close(g->sockets[p][lane]);
    for (uint32_t p = 0; p < g->size; p++) free(g->inboxes[p].message);
    for (struct message *m; (m = g->messages); free(m)) g->messages = m->next;
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->scratch);
    free(g);
}

/* ---- Meeting ------------------------------------------------------------------------------------------------------- */

#define ADDRESS sizeof(((struct sockaddr_un *)0)->sun_path)

/* Connects to a rank before this one. Its address is what it put into the store. */
static int32_t connect_to(struct group *g, uint32_t rank, const c10d_group_init *init, uint64_t deadline, c10d_why *why) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t len = 0, at = now();
    char key[32];
    int key_len = snprintf(key, sizeof key, "address/%u", rank);
    int32_t status = g->host->store_get(g->host, init->store, key, (uint64_t)key_len, address.sun_path, ADDRESS, &len,
                                        at < deadline ? deadline - at : 0, why);
    if (status) return status;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        struct hello hello = {.rank = g->rank, .lane = lane};
        memcpy(hello.session, init->session, sizeof hello.session);
        struct timeval patience = {.tv_sec = (time_t)(init->timeout_ns / 1000000000 + 1)};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) return c10d_fail(why, C10D_RESOURCE, "no more sockets");
        g->sockets[rank][lane] = fd;
        if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
            connect(fd, (struct sockaddr *)&address, (socklen_t)(sizeof(sa_family_t) + len)) < 0 ||
            send(fd, &hello, sizeof hello, MSG_NOSIGNAL) != (ssize_t)sizeof hello) {
            char text[80];
            snprintf(text, sizeof text, "cannot connect to rank %u: %s", rank, strerror(errno));
            return c10d_fail(why, C10D_PEER_DEAD, text);
        }
    }
    return C10D_OK;
}

/* Takes the connections of the ranks after this one. Whoever does not know the session is sent away. */
static int32_t accept_all(struct group *g, int listener, const c10d_group_init *init, uint64_t deadline, c10d_why *why) {
    for (;;) {
        uint32_t missing = g->rank + 1;
        while (missing < g->size && g->sockets[missing][WORDS] >= 0 && g->sockets[missing][STREAM] >= 0 &&
               g->sockets[missing][MAIL] >= 0)
            missing++;
        if (missing == g->size) return C10D_OK;
        if (__atomic_load_n(init->aborted, __ATOMIC_ACQUIRE)) return c10d_fail(why, C10D_ABORTED, "aborted");
        if (now() >= deadline) {
            char text[80];
            snprintf(text, sizeof text, "rank %u did not connect in time", missing);
            return c10d_fail(why, C10D_TIMEOUT, text);
        }
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        if (poll(&ready, 1, slice_ms(deadline)) <= 0) continue;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM))
            return c10d_fail(why, C10D_RESOURCE, "no more sockets");
        if (fd < 0) continue;
        struct hello hello;
        struct pollfd said = {.fd = fd, .events = POLLIN};
        int known = poll(&said, 1, 1000) > 0 && recv(fd, &hello, sizeof hello, MSG_DONTWAIT) == (ssize_t)sizeof hello &&
                    !memcmp(hello.session, init->session, sizeof hello.session) && hello.rank > g->rank &&
                    hello.rank < g->size && hello.lane < LANES && g->sockets[hello.rank][hello.lane] < 0;
        if (known) g->sockets[hello.rank][hello.lane] = fd;
        else close(fd);
    }
}

static int32_t meet_all(struct group *g, const c10d_group_init *init, int listener, c10d_why *why) {
    uint64_t deadline = later(init->timeout_ns);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t len = sizeof address;
    char key[32];
    int key_len = snprintf(key, sizeof key, "address/%u", g->rank);
    /* Bound to nothing but its family, a socket gets a name of the kernel's that is in no file system. */
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
        listen(listener, (int)(g->size * LANES)) < 0 || getsockname(listener, (struct sockaddr *)&address, &len) < 0)
        return c10d_fail(why, C10D_RESOURCE, "cannot listen on a UNIX socket");
    int32_t status = g->host->store_set(g->host, init->store, key, (uint64_t)key_len, address.sun_path,
                                        len - sizeof(sa_family_t), init->timeout_ns, why);
    for (uint32_t rank = 0; rank < g->rank && !status; rank++) status = connect_to(g, rank, init, deadline, why);
    return status ? status : accept_all(g, listener, init, deadline, why);
}

static int32_t create_group(const c10d_host *host, const c10d_group_init *init, void **out, c10d_why *why) {
    if (init->size > MAX_RANKS) return c10d_fail(why, C10D_UNSUPPORTED, "c-collectives is for 64 ranks at most");
    struct group *g = calloc(1, sizeof *g);
    if (!g) return c10d_fail(why, C10D_RESOURCE, "no memory for a group");
    g->host = host;
    g->aborted = init->aborted;
    g->rank = init->rank;
    g->size = init->size;
    g->last = &g->messages;
    memset(g->sockets, -1, sizeof g->sockets);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&g->lock, NULL);
    g->scratch = aligned_alloc(64, (size_t)g->size * CHUNK);
    int32_t status = C10D_RESOURCE;
    if (!g->scratch) {
        c10d_fail(why, status, "no memory for reductions");
    } else {
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        status = meet_all(g, init, listener, why);
        if (listener >= 0) close(listener);
    }
    if (status) destroy_group(g);
    else *out = g;
    return status;
}

/* ---- The tables ---------------------------------------------------------------------------------------------------- */

#define FLOATS (C10D_BIT(C10D_F32) | C10D_BIT(C10D_F64))
#define REAL (C10D_BIT(C10D_U8) | C10D_BIT(C10D_I32) | C10D_BIT(C10D_I64) | FLOATS)

#define OFFER(DEVICE, OPS)                                                                                        \
    {                                                                                                             \
        .struct_size = sizeof(c10d_capabilities), .device_type = DEVICE, .ops = OPS, .moves = C10D_ALL_DTYPES,    \
        .reduces = {[C10D_SUM] = REAL, [C10D_PRODUCT] = REAL, [C10D_MIN] = REAL, [C10D_MAX] = REAL,               \
                    [C10D_AVG] = FLOATS},                                                                         \
    }

static const c10d_capabilities OFFERS[] = {
    OFFER(C10D_DEVICE_CPU, C10D_ALL_OPS),
    OFFER(C10D_DEVICE_PRIVATE, C10D_ALL_OPS & ~C10D_BIT(C10D_MONITORED_BARRIER)),
};

static const c10d_collectives COLLECTIVES = {
    .struct_size = sizeof(c10d_collectives),
    .capability_count = 2,
    .capabilities = OFFERS,
    .create_group = create_group,
    .destroy_group = destroy_group,
    .submit = submit,
    .abort = abort_group,
    .shutdown = shut_down,
};

static const c10d_device DEVICE = {
    .struct_size = sizeof(c10d_device),
    .count = count_devices,
    .allocate = allocate,
    .free = release,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy = copy,
    .retain = retain,
    .release = release,
};

static const c10d_plugin PLUGIN = {
    .struct_size = sizeof(c10d_plugin),
    .abi_minor = C10D_ABI_MINOR,
    .name = "c-collectives",
    .name_len = sizeof("c-collectives") - 1,
    .version = "1.0",
    .version_len = sizeof("1.0") - 1,
    .device = &DEVICE,
    .collectives = &COLLECTIVES,
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    (void)host;
    return &PLUGIN;
}
