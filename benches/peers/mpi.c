/* Measures an all-reduce of f32 sums over an MPI library, called from C. `mpi.py` starts this program and `c10d perf`
 * in turn.
 *
 *     mpiexec -n RANKS ./mpi LIBRARY BUDGET_MS BYTES[,BYTES..]
 *
 * The library is used through MPI's standard ABI, so no headers are needed. For each size the program prints
 * `way,bytes,µs` for each of these ways:
 *
 *     blocking    MPI_Allreduce_c on the caller's memory
 *     collective  MPI_Iallreduce_c and MPI_Test, on internal buffers
 *     messages    MPI_Isend_c, MPI_Irecv_c and MPI_Test, on internal buffers, and additions in this program. With two
 *                 ranks, or up to 8 KiB, each rank sends all of its elements to all others. Otherwise each rank reduces
 *                 a block and sends the result to all others.
 *
 * The backend `mpi` uses internal buffers, as the last two ways do, because MPI may still use the buffers of a call for
 * which the caller no longer waits. As in `c10d perf`, the result is the median of five batches of ops, each after a
 * barrier. The time of a batch is the time of its slowest rank. The program checks the sums of every way.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORLD ((void *)0x101)
#define SUM ((void *)0x21)
#define MAXIMUM ((void *)0x23)
#define BYTE ((void *)0x247)
#define FLOAT ((void *)0x210)
#define DOUBLE ((void *)0x214)
#define MULTIPLE 4096
#define DIRECT 8192
#define MOST 16

static int (*init_thread)(int *, char ***, int, int *), (*finalize)(void), (*comm_rank)(void *, int *),
    (*comm_size)(void *, int *), (*barrier)(void *),
    (*allreduce)(const void *, void *, int64_t, void *, void *, void *),
    (*iallreduce)(const void *, void *, int64_t, void *, void *, void *, void **),
    (*isend)(const void *, int64_t, void *, int, int, void *, void **),
    (*irecv)(void *, int64_t, void *, int, int, void *, void **), (*test)(void **, int *, void *);
static int rank, size, crowded;
/* `user` is the caller's memory. `out` and `in` are the internal buffers for sending and receiving. `came[r]` has the
 * elements that came from rank r. */
static float *user, *out, *in, *came[MOST];

static void fail(const char *what) {
    fprintf(stderr, "rank %d: %s\n", rank, what);
    exit(1);
}

static void must(int code, const char *what) {
    if (code) fail(what);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Polls until all requests are complete. With more ranks than cores, it yields the core between polls. */
static void wait_for(void **requests, int n) {
    for (int open = n; open;) {
        open = 0;
        for (int i = 0; i < n; i++) {
            int done = 1;
            if (requests[i]) must(test(&requests[i], &done, NULL), "MPI_Test");
            if (done) requests[i] = NULL; else open++;
        }
        if (open && crowded) sched_yield();
    }
}

static void blocking(int64_t n) {
    must(allreduce((void *)1, user, n, FLOAT, SUM, WORLD), "MPI_Allreduce_c");
}

static void collective(int64_t n) {
    void *request;
    memcpy(out, user, n * 4);
    must(iallreduce(out, in, n, FLOAT, SUM, WORLD, &request), "MPI_Iallreduce_c");
    wait_for(&request, 1);
    memcpy(user, in, n * 4);
}

static int64_t edge(int64_t n, int r) { return n * r / size; }

/* Adds the elements received from all ranks and this rank's own elements, in rank order. */
static void fold(float *restrict own, int64_t n) {
    if (size == 2) {
        const float *restrict other = came[1 - rank];
        for (int64_t i = 0; i < n; i++) own[i] += other[i];
        return;
    }
    const float *a = rank == 0 ? own : came[0], *b = rank == 1 ? own : came[1];
    for (int64_t i = 0; i < n; i++) {
        float sum = a[i] + b[i];
        for (int r = 2; r < size; r++) sum += r == rank ? own[i] : came[r][i];
        own[i] = sum;
    }
}

static void messages(int64_t n) {
    void *requests[2 * MOST];
    int k = 0, direct = size == 2 || n * 4 <= DIRECT;
    memcpy(out, user, n * 4);
    int64_t from = direct ? 0 : edge(n, rank), to = direct ? n : edge(n, rank + 1);
    for (int r = 0; r < size; r++) {
        if (r == rank) continue;
        int64_t a = direct ? 0 : edge(n, r), b = direct ? n : edge(n, r + 1);
        must(irecv(came[r], (to - from) * 4, BYTE, r, 0, WORLD, &requests[k++]), "MPI_Irecv_c");
        must(isend(out + a, (b - a) * 4, BYTE, r, 0, WORLD, &requests[k++]), "MPI_Isend_c");
    }
    wait_for(requests, k);
    fold(user + from, to - from);
    if (direct) return;
    memcpy(out + from, user + from, (to - from) * 4);
    k = 0;
    for (int r = 0; r < size; r++) {
        if (r == rank) continue;
        int64_t a = edge(n, r), b = edge(n, r + 1);
        must(irecv(in + a, (b - a) * 4, BYTE, r, 0, WORLD, &requests[k++]), "MPI_Irecv_c");
        must(isend(out + from, (to - from) * 4, BYTE, r, 0, WORLD, &requests[k++]), "MPI_Isend_c");
    }
    wait_for(requests, k);
    memcpy(user, in, from * 4);
    memcpy(user + to, in + to, (n - to) * 4);
}

/* Checks a way with small numbers, whose sums are exact. */
static void check(void (*way)(int64_t), int64_t n) {
    for (int64_t i = 0; i < n; i++) user[i] = (i % 5) + rank;
    way(n);
    for (int64_t i = 0; i < n; i++)
        if (user[i] != (float)(size * (i % 5) + size * (size - 1) / 2)) fail("the sum is wrong");
    memset(user, 0, n * 4);
}

/* Returns the seconds that the slowest rank takes for `times` ops. */
static double batch(void (*way)(int64_t), int64_t n, int64_t times) {
    must(barrier(WORLD), "MPI_Barrier");
    double begin = now(), slowest;
    for (int64_t i = 0; i < times; i++) way(n);
    double took = now() - begin;
    must(allreduce(&took, &slowest, 1, DOUBLE, MAXIMUM, WORLD), "MPI_Allreduce_c");
    return slowest;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, void (*way)(int64_t), int64_t bytes, double budget) {
    int64_t n = bytes / 4, times = 1;
    check(way, n);
    double took = batch(way, n, times);
    for (; took < budget / 10 && times < 200000; took = batch(way, n, times))
        times = took > 0 && times * budget * 0.12 / took < times * 8 ? times * budget * 0.12 / took + 1 : times * 8;
    times = times * budget / 5 / took;
    if (times < 2) times = 2;
    double batches[5];
    for (int i = 0; i < 5; i++) batches[i] = batch(way, n, times) / times;
    qsort(batches, 5, sizeof *batches, by_value);
    if (rank == 0) printf("%s,%ld,%.3f\n", name, (long)bytes, batches[2] * 1e6), fflush(stdout);
}

static void *symbol(void *library, const char *name) {
    void *at = dlsym(library, name);
    if (!at) fail(name);
    return at;
}

static void *memory(size_t bytes) {
    void *at = NULL;
    must(posix_memalign(&at, 4096, bytes), "memory");
    memset(at, 0, bytes);
    return at;
}

int main(int argc, char **argv) {
    if (argc != 4) fail("usage: mpi LIBRARY BUDGET_MS BYTES[,BYTES..]");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(dlerror());
    init_thread = symbol(library, "MPI_Init_thread"), finalize = symbol(library, "MPI_Finalize");
    comm_rank = symbol(library, "MPI_Comm_rank"), comm_size = symbol(library, "MPI_Comm_size");
    barrier = symbol(library, "MPI_Barrier"), allreduce = symbol(library, "MPI_Allreduce_c");
    iallreduce = symbol(library, "MPI_Iallreduce_c"), test = symbol(library, "MPI_Test");
    isend = symbol(library, "MPI_Isend_c"), irecv = symbol(library, "MPI_Irecv_c");
    int given, cores = sysconf(_SC_NPROCESSORS_ONLN);
    must(init_thread(NULL, NULL, MULTIPLE, &given), "MPI_Init_thread");
    must(comm_rank(WORLD, &rank) | comm_size(WORLD, &size), "MPI_Comm_rank");
    if (size < 2 || size > MOST) fail("this program needs 2 to 16 ranks");
    crowded = size > cores;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(rank % cores, &own);
    sched_setaffinity(0, sizeof own, &own);
    double budget = atof(argv[2]) / 1e3;
    size_t most = 0;
    for (char *list = argv[3], *end;; list = end + 1) {
        size_t bytes = strtoul(list, &end, 10);
        if (bytes > most) most = bytes;
        if (*end != ',') break;
    }
    user = memory(most), out = memory(most), in = memory(most);
    for (int r = 0; r < size; r++) came[r] = memory(most);
    for (char *list = argv[3], *end;; list = end + 1) {
        int64_t bytes = strtol(list, &end, 10);
        measure("messages", messages, bytes, budget);
        measure("collective", collective, bytes, budget);
        measure("blocking", blocking, bytes, budget);
        if (*end != ',') break;
    }
    return finalize();
}
