/* A program in which a rank of c-collectives dies while a group is made. It prints the error of the rank that lives. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static int doomed; /* Whether this process dies when it waits for a rank the next time. */
static struct store { _Atomic int has_id, waits; char id[8]; } *store;

/* c-collectives calls this while it waits. */
static int wait_a_little(void) {
    if (doomed) raise(SIGKILL);
    store->waits = 1;
    return 0;
}

#define sched_yield wait_a_little
#include "../../vendors/c-collectives/c-collectives.c"
#undef sched_yield

static int dies_first; /* Whether rank 0 dies as soon as rank 1 waits for it, before rank 0 takes its seat. */

static int32_t set_id(const c10d_host *host, uint64_t of, const char *key, uint64_t key_len, const void *value,
                      uint64_t len, uint64_t timeout_ns, c10d_why *why) {
    (void)host, (void)of, (void)key, (void)key_len, (void)timeout_ns, (void)why;
    memcpy(store->id, value, len);
    store->has_id = 1;
    while (dies_first)
        if (store->waits) raise(SIGKILL);
    return C10D_OK;
}

static int32_t get_id(const c10d_host *host, uint64_t of, const char *key, uint64_t key_len, void *value,
                      uint64_t capacity, uint64_t *len, uint64_t timeout_ns, c10d_why *why) {
    (void)host, (void)of, (void)key, (void)key_len, (void)timeout_ns, (void)why;
    while (!store->has_id) usleep(1000);
    memcpy(value, store->id, *len = capacity);
    return C10D_OK;
}

int main(int argc, char **argv) {
    static uint32_t aborted;
    static const c10d_host host = {.struct_size = sizeof host, .store_set = set_id, .store_get = get_id};
    static char text[200];
    const uint32_t both[] = {0, 1};
    const char *when = argc > 1 ? argv[1] : "";
    c10d_why why = {.struct_size = sizeof why, .capacity = sizeof text - 1, .text = text};
    c10d_group_init init = {.struct_size = sizeof init, .size = 2, .timeout_ns = 20000000000u, .aborted = &aborted};
    void *group = NULL, *part = NULL;
    store = mmap(NULL, sizeof *store, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int child = fork() == 0;
    if (child) prctl(PR_SET_PDEATHSIG, SIGKILL);
    init.rank = (uint32_t)child;
    if (!strcmp(when, "seated")) { /* Rank 1 dies after it has taken its seat. Rank 2 never comes. */
        init.size = 3, doomed = child;
    } else if (!strcmp(when, "first")) { /* Rank 0 dies before it takes its seat. */
        init.rank = (uint32_t)!child, dies_first = child;
    }
    int32_t status = create_group(&host, &init, &group, &why);
    if (!strcmp(when, "split") && status == C10D_OK) { /* Rank 1 dies when it is to make a sub-group. */
        if (child) raise(SIGKILL);
        memset(init.session, 1, sizeof init.session);
        status = split(group, both, &init, &part, &why);
    }
    printf("%s: %s\n", status == C10D_PEER_DEAD ? "dead" : "other", text);
    return 0;
}
