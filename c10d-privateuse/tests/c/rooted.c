/* Collectives of i32 through the host's store. A rank waits only for the ranks from which it receives data. It
 * compares its call with the calls of these ranks. A rank that only sends compares nothing. With SCRIBBLES, the
 * plugin also writes to the buffers that a broadcast or a reduce only reads. */
#include "c10d_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef NAME
#define NAME "rooted"
#endif

#define CALL 24u
#define MOST 4096u /* The maximum number of bytes of a tensor. */

C10D_PLUGIN_NOTE(NAME);

typedef struct group {
    const c10d_host *host;
    uint64_t store;
    uint32_t rank, size;
} group;

static int32_t create_group(const c10d_host *host, const c10d_group_init *init, void **out, c10d_why *why) {
    group *g = calloc(1, sizeof *g);
    if (!g) return c10d_fail(why, C10D_RESOURCE, "no memory for a group");
    *g = (group){host, init->store, init->rank, init->size};
    *out = g;
    return C10D_OK;
}

static void destroy_group(void *group_) { free(group_); }

/* Returns the nth of these tensors, or null if there are fewer. */
static const c10d_span *nth(const c10d_span *spans, uint64_t count, uint64_t n) {
    return n < count ? (const c10d_span *)((const char *)spans + n * spans->struct_size) : 0;
}

static char *data(const c10d_span *s) { return (char *)s->data + s->offset; }

static int key(char *text, const c10d_request *r, uint32_t from, uint32_t to) {
    return snprintf(text, 64, "%llu/%u/%u", (unsigned long long)r->seq, from, to);
}

static int32_t put(group *g, const c10d_request *r, uint32_t to, const c10d_span *s, c10d_why *why) {
    char name[64], message[CALL + MOST];
    uint64_t len = s ? s->count * 4 : 0;
    memcpy(message, r->fingerprint, CALL);
    if (len) memcpy(message + CALL, data(s), len);
    return g->host->store_set(g->host, g->store, name, (uint64_t)key(name, r, g->rank, to), message, CALL + len,
                              r->timeout_ns, why);
}

/* Receives from a rank. Writes the rank's fingerprint to `theirs`, and returns C10D_MISMATCH if it differs. */
static int32_t get(group *g, const c10d_request *r, uint32_t from, const c10d_span *into, int adds, uint8_t *theirs,
                   c10d_why *why) {
    char name[64], message[CALL + MOST];
    uint64_t len = 0;
    int32_t status = g->host->store_get(g->host, g->store, name, (uint64_t)key(name, r, from, g->rank), message,
                                        sizeof message, &len, r->timeout_ns, why);
    if (status) return status;
    memcpy(theirs, message, CALL);
    if (memcmp(theirs, r->fingerprint, CALL)) return C10D_MISMATCH;
    for (uint64_t i = 0; into && i < into->count; i++) {
        int32_t value, sum;
        memcpy(&value, message + CALL + i * 4, 4);
        memcpy(&sum, data(into) + i * 4, 4);
        value = adds ? (int32_t)((uint32_t)value + (uint32_t)sum) : value;
        memcpy(data(into) + i * 4, &value, 4);
    }
    return C10D_OK;
}

static int32_t submit(void *group_, const c10d_request *r, c10d_done done, uint64_t token, c10d_why *why) {
    group *g = group_;
    const c10d_span *in = r->inputs, *out = r->outputs;
    int root = g->rank == r->root, all = r->op == C10D_ALL_REDUCE || r->op == C10D_BARRIER;
    int spreads = r->op == C10D_BROADCAST || r->op == C10D_SCATTER, adds = r->op == C10D_REDUCE || r->op == C10D_ALL_REDUCE;
    uint8_t theirs[CALL];
    if (root && r->op == C10D_GATHER) memcpy(data(nth(out, r->output_count, g->rank)), data(in), in->count * 4);
    if (root && r->op == C10D_SCATTER) memcpy(data(out), data(nth(in, r->input_count, g->rank)), out->count * 4);
    for (uint32_t to = 0; to < g->size; to++) {
        if (to == g->rank || !(all || (spreads ? root : to == r->root))) continue;
        const c10d_span *s = r->op == C10D_SCATTER ? nth(in, r->input_count, to) : in ? in : out;
        int32_t status = put(g, r, to, s, why);
        if (status) return status;
    }
    for (uint32_t from = 0; from < g->size; from++) {
        if (from == g->rank || !(all || (spreads ? from == r->root : root))) continue;
        int32_t status = get(g, r, from, r->op == C10D_GATHER ? nth(out, r->output_count, from) : out, adds, theirs, why);
        if (status == C10D_MISMATCH) {
            c10d_result result = {.struct_size = sizeof result, .status = status, .guilty_count = 1, .guilty = &from,
                                  .fingerprint = theirs};
            done(g->host, token, &result);
            return C10D_OK;
        }
        if (status) return status;
    }
#ifdef SCRIBBLES
    if (root ? r->op == C10D_BROADCAST : r->op == C10D_REDUCE) memset(data(out), 0xab, out->count * 4);
#endif
    c10d_result result = {.struct_size = sizeof result, .status = C10D_OK};
    done(g->host, token, &result);
    return C10D_OK;
}

static void abort_group(void *group_, const char *cause, uint64_t len) { (void)group_, (void)cause, (void)len; }

static const c10d_capabilities capabilities = {
    .struct_size = sizeof capabilities,
    .device_type = C10D_DEVICE_CPU,
    .ops = C10D_BIT(C10D_BROADCAST) | C10D_BIT(C10D_REDUCE) | C10D_BIT(C10D_GATHER) | C10D_BIT(C10D_SCATTER) |
           C10D_BIT(C10D_ALL_REDUCE) | C10D_BIT(C10D_BARRIER),
    .moves = C10D_BIT(C10D_I32),
    .reduces = {C10D_BIT(C10D_I32)},
};

static const c10d_collectives collectives = {
    .struct_size = sizeof collectives,
    .capability_count = 1,
    .capabilities = &capabilities,
    .create_group = create_group,
    .destroy_group = destroy_group,
    .submit = submit,
    .abort = abort_group,
};

static const c10d_plugin plugin = {
    .struct_size = sizeof plugin,
    .abi_minor = C10D_ABI_MINOR,
    .name = NAME,
    .name_len = sizeof NAME - 1,
    .version = "0.1",
    .version_len = 3,
    .collectives = &collectives,
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    (void)host;
    return &plugin;
}
