/* A plugin that does all_reduce(f32, sum), barrier, send and recv through the host's store. MODE selects the way in
 * which it misbehaves; NAME is its name. With DEVICE it also serves a device (device.h). GATE is the path of a file.
 * With the modes LATER and LATE, the plugin answers when this file exists. After the answer, LATE makes the file
 * GATE.answered. With REFUSED, the entry appends a byte to GATE. */
#include "c10d_plugin.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef NAME
#define NAME "sum"
#endif
#ifndef MODE
#define MODE 0
#endif

enum { HONEST, HANG_IN_SUBMIT, NEVER_DONE, TWICE, LATER, UNKNOWN_TOKEN, ODD_STATUS, NO_RESULT, BOTH, HANG_IN_CREATE,
       AFTER_DESTROY, ODD_RETURN, MISMATCHED, LATE, WRONG, BATCHES_ONLY, FAILS_IDLE, ADDRESS, HANG_IN_PROBE,
       HANG_IN_ENTRY, REFUSED };

C10D_PLUGIN_NOTE(NAME);

typedef struct group {
    const c10d_host *host;
    uint64_t store;
    uint32_t rank, size;
    uint64_t sent[64][4], received[64][4]; /* The numbers of messages, by peer and tag. */
    const uint32_t *aborted;
    c10d_done done;
    uint64_t token;
    uint32_t done_before; /* Whether any operation has ended. */
} group;

#define NS 1000000000ull
#ifndef GATE
#define GATE "/"
#endif

#ifdef DEVICE
#define RETAINS
#include "device.h"
#endif

static void end(group *g, c10d_done done, uint64_t token, int32_t status) {
    c10d_result result = {.struct_size = sizeof result, .status = status};
    done(g->host, token, &result);
}

/* Makes a group. Writes `how` to the store, where tests read it. */
static int32_t make(const c10d_host *host, const c10d_group_init *init, const char *how, void **out, c10d_why *why) {
    group *g = calloc(1, sizeof *g);
    char name[64];
    if (!g) return c10d_fail(why, C10D_RESOURCE, "no memory for a group");
    if (MODE == HANG_IN_CREATE) for (;;) pause();
    g->host = host;
    g->store = init->store;
    g->rank = init->rank;
    g->size = init->size;
    g->aborted = init->aborted;
    *out = g;
    return host->store_set(host, init->store, name, (uint64_t)snprintf(name, sizeof name, "made/%u", init->rank), how,
                           strlen(how), 10 * NS, why);
}

static int32_t create_group(const c10d_host *host, const c10d_group_init *init, void **out, c10d_why *why) {
    return make(host, init, "anew", out, why);
}

static c10d_done last_done;
static uint64_t last_token;

static void destroy_group(void *group_) {
    group *g = group_;
    if (MODE == AFTER_DESTROY && last_done) end(g, last_done, last_token, C10D_OK);
    free(g);
}

static int key(char *text, const char *kind, uint64_t seq, uint32_t from, uint32_t to) {
    return snprintf(text, 64, "%s/%llu/%u/%u", kind, (unsigned long long)seq, from, to);
}

static int32_t put(group *g, const c10d_request *r, const char *kind, uint64_t n, uint32_t to, c10d_why *why) {
    const c10d_span *s = r->input_count ? r->inputs : r->outputs;
    char name[64];
    uint64_t len = s && s->count ? s->count * s->type_bits / 8 : 0;
    int size = key(name, kind, n, g->rank, to);
    const void *data = len ? (const char *)s->data + s->offset : "";
    return g->host->store_set(g->host, g->store, name, (uint64_t)size, data, len, 10 * NS, why);
}

static int32_t get(group *g, const c10d_request *r, const char *kind, uint64_t n, uint32_t from, uint32_t to, void *into,
                   uint64_t room, c10d_why *why) {
    char name[64];
    uint64_t len = 0;
    int size = key(name, kind, n, from, to);
    return g->host->store_get(g->host, g->store, name, (uint64_t)size, into, room, &len, r->timeout_ns, why);
}

static int32_t all_reduce(group *g, const c10d_request *r, c10d_why *why) {
    const c10d_span *s = r->outputs;
    uint64_t count = s ? s->count : 0;
    float *theirs = calloc(count + 1, sizeof *theirs), *sum = calloc(count + 1, sizeof *sum);
    int32_t status = put(g, r, "sum", r->seq, 0, why);
    for (uint32_t rank = 0; !status && rank < g->size; rank++) {
        status = get(g, r, "sum", r->seq, rank, 0, theirs, count * sizeof *theirs, why);
        for (uint64_t i = 0; i < count; i++) sum[i] += theirs[i];
    }
    if (MODE == WRONG && count) sum[0] += 1;
    if (!status && count) memcpy((char *)s->data + s->offset, sum, count * sizeof *sum);
    free(theirs);
    free(sum);
    return status;
}

static int32_t message(group *g, const c10d_request *r, c10d_why *why) {
    const uint32_t tag = r->tag % 4;
    const c10d_span *s = r->outputs;
    char nothing;
    if (r->op == C10D_SEND) return put(g, r, "p2p", g->sent[r->peer % 64][tag]++ * 4 + tag, r->peer, why);
    uint64_t n = g->received[r->peer % 64][tag]++ * 4 + tag, len = s->count * s->type_bits / 8;
    return get(g, r, "p2p", n, r->peer, g->rank, len ? (char *)s->data + s->offset : &nothing, len, why);
}

/* Ends an operation when GATE exists. `group_` is a copy, because the group may be destroyed before. */
static void *finish_later(void *group_) {
    group *g = group_;
    while (access(GATE, F_OK)) usleep(1000);
    end(g, g->done, g->token, C10D_OK);
    if (MODE == LATE) close(open(GATE ".answered", O_CREAT | O_WRONLY, 0600));
    free(g);
    return 0;
}

static int32_t submit(void *group_, const c10d_request *r, c10d_done done, uint64_t token, c10d_why *why) {
    group *g = group_;
    int32_t status = C10D_UNSUPPORTED;
    last_done = done;
    last_token = token;
    if (MODE == BATCHES_ONLY && r->op <= C10D_RECV) return c10d_fail(why, C10D_UNSUPPORTED, "messages come in batches");
    switch (MODE) {
    case HANG_IN_SUBMIT: for (;;) pause();
    case NEVER_DONE: return C10D_OK;
    case UNKNOWN_TOKEN: end(g, done, token ^ 0x500000000ull, C10D_OK); break;
    case ODD_STATUS: end(g, done, token, 4711); return C10D_OK;
    case ODD_RETURN: return -7;
    case NO_RESULT: done(g->host, token, 0); return C10D_OK;
    case ADDRESS: {
        void *at = (char *)r->outputs->data + r->outputs->offset;
        memcpy(at, &at, sizeof at);
        break;
    }
    case BOTH: end(g, done, token, C10D_OK); return c10d_fail(why, C10D_DEVICE, "and an error");
    case LATER: case LATE: {
        pthread_t thread;
        group *later = malloc(sizeof *later);
        if (!later) return c10d_fail(why, C10D_RESOURCE, "no memory for an operation");
        *later = *g;
        later->done = done;
        later->token = token;
        pthread_create(&thread, 0, finish_later, later);
        pthread_detach(thread);
        return C10D_OK;
    }
    case MISMATCHED: {
        uint8_t theirs[24];
        uint32_t guilty = 0;
        memcpy(theirs, r->fingerprint, 24);
        theirs[8] ^= 1; /* The fingerprint's count begins at byte 8. */
        c10d_result result = {.struct_size = sizeof result, .status = C10D_MISMATCH, .guilty_count = 1,
                              .guilty = &guilty, .fingerprint = theirs};
#ifdef FIELD
        result.fingerprint = NULL;
        result.field = FIELD, result.field_len = strlen(FIELD);
        result.mine = "8", result.theirs = "9", result.mine_len = result.theirs_len = 1;
#endif
        done(g->host, token, &result);
        return C10D_OK;
    }
    default: break;
    }
    switch (MODE == ADDRESS ? C10D_OPS : r->op) {
    case C10D_OPS: status = C10D_OK; break;
    case C10D_BARRIER:
    case C10D_ALL_REDUCE: status = all_reduce(g, r, why); break;
    case C10D_SEND:
    case C10D_RECV: status = message(g, r, why); break;
    default: break;
    }
    if (status) return status;
    g->done_before = 1;
    end(g, done, token, C10D_OK);
    if (MODE == TWICE) end(g, done, token, C10D_OK);
    return C10D_OK;
}

static void abort_group(void *group_, const char *cause, uint64_t len) {
    (void)group_, (void)cause, (void)len;
}

#if C10D_ABI_MINOR >= 2
static int32_t split(void *whole, const uint32_t *ranks, const c10d_group_init *init, void **part, c10d_why *why) {
    group *g = whole;
    if (!init) return C10D_OK;
    if (ranks[init->rank] != g->rank) return c10d_fail(why, C10D_INTERNAL, "the list of ranks is in the wrong order");
    return make(g->host, init, "split", part, why);
}

/* Runs all sends before all receives. Ranks that began with receives would wait for each other's messages. */
static int32_t submit_batch(void *group_, const c10d_request *const *requests, const uint64_t *tokens, uint64_t count,
                            c10d_done done, c10d_why *why) {
    group *g = group_;
    (void)why;
    for (uint32_t op = C10D_SEND; op <= C10D_RECV; op++) {
        for (uint64_t i = 0; i < count; i++) {
            const c10d_request *r = requests[i];
            if (r->op == op) end(g, done, tokens[i], message(g, r, 0));
        }
    }
    return C10D_OK;
}

static int32_t async_error(void *group_, uint32_t *guilty, uint32_t *guilty_count, c10d_why *why) {
    group *g = group_;
    if (MODE != FAILS_IDLE || !g->done_before) return C10D_OK;
    guilty[0] = g->size - 1;
    *guilty_count = 1;
    return c10d_fail(why, C10D_PEER_DEAD, "its process is gone");
}

/* Only f32 can be sent. */
static const uint32_t by_op[] = {[C10D_SEND] = C10D_BIT(C10D_F32), [C10D_RECV] = C10D_ALL_DTYPES,
                                 [C10D_BROADCAST] = 0, [C10D_ALL_REDUCE] = C10D_ALL_DTYPES};
#endif

static const c10d_capabilities capabilities[] = {{
    .struct_size = sizeof capabilities[0],
    .device_type = C10D_DEVICE_CPU,
    .ops = C10D_BIT(C10D_ALL_REDUCE) | C10D_BIT(C10D_BARRIER) | C10D_BIT(C10D_SEND) | C10D_BIT(C10D_RECV),
    .moves = C10D_BIT(C10D_F32) | C10D_BIT(C10D_U8),
    .reduces = {C10D_BIT(C10D_F32)},
#if C10D_ABI_MINOR >= 2
    .op_count = sizeof by_op / sizeof by_op[0],
    .by_op = by_op,
#endif
#ifdef FUTURE
    .future = 7,
#endif
},
#ifdef DEVICE
    {.struct_size = sizeof capabilities[0], .device_type = C10D_DEVICE_PRIVATE,
     .ops = C10D_BIT(C10D_ALL_REDUCE) | C10D_BIT(C10D_BARRIER), .reduces = {C10D_BIT(C10D_F32)}},
#endif
};

static int32_t probe(c10d_why *why) {
    (void)why;
    while (MODE == HANG_IN_PROBE) pause();
    return C10D_OK;
}

static const c10d_collectives collectives = {
    .struct_size = sizeof collectives,
    .capability_count = sizeof capabilities / sizeof capabilities[0],
    .capabilities = capabilities,
    .probe = probe,
    .create_group = create_group,
    .destroy_group = destroy_group,
    .submit = submit,
    .abort = abort_group,
#if C10D_ABI_MINOR >= 2
    .split = split,
    .submit_batch = submit_batch,
    .async_error = async_error,
#endif
#ifdef FUTURE
    .future = 7,
#endif
};

static const c10d_plugin plugin = {
    .struct_size = sizeof plugin,
    .abi_minor = C10D_ABI_MINOR,
    .name = NAME,
    .name_len = sizeof NAME - 1,
    .version = "0.1",
    .version_len = 3,
    .collectives = &collectives,
#ifdef DEVICE
    .device = &device,
#endif
#ifdef FUTURE
    .future = 7,
#endif
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    static const char hello[] = "hello from " NAME;
    static const c10d_plugin none = {.struct_size = sizeof none, .name = NAME, .name_len = sizeof NAME - 1};
    host->log(host, C10D_LOG_INFO, hello, sizeof hello - 1);
    while (MODE == HANG_IN_ENTRY) pause();
    if (MODE == REFUSED) (void)!write(open(GATE, O_CREAT | O_WRONLY | O_APPEND, 0600), "x", 1);
    return MODE == REFUSED ? &none : &plugin;
}
