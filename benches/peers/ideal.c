/* Does the ops by hand between processes of one host, in several ways, and prints how long they take.
 *
 *     cc -O3 -march=native -o ideal ideal.c
 *     ./ideal [RANKS [BYTES[,BYTES..] [OP|all [MS]]]]
 *
 * The defaults are 2 ranks (at most 8), 1M,4M,16M,64M, all ops and 100 ms. The buffers are private memory of each rank,
 * BYTES means the same as in `c10d perf`, elements are f32, and reductions are sums. The root is rank 0. Rank r runs on
 * core r modulo the number of cores. The time of `send_recv` is half a round trip. The ways are:
 *
 *     ring       The source copies chunks into slots in shared memory. The destination copies or adds them from there.
 *                An all-reduce is a reduce-scatter and an all-gather, both in chunks.
 *     chain      For `reduce` with more than two ranks: each rank adds its chunk to that of the next rank.
 *     cma        The destination copies chunks out of the source's memory, by process_vm_readv.
 *
 * No way writes into the private memory of another rank (process_vm_writev). That would be faster, but after a timeout
 * a late write would destroy memory that the other rank already uses for something else.
 *
 * The suffix `-in` says that stores into slots are non-temporal, and `-out` that stores into the user's buffers are.
 * The program checks each way, and ends if a result is wrong. It prints `op,ranks,bytes,way,chunk,median_us,min_us` for
 * each way with its best chunk size (that of the smallest min_us), and then the best way again. As in `c10d perf`, it
 * times five batches of ops, each after a barrier, and the time of a batch is that of its slowest rank. The chunk sizes
 * of a way take about MS together, or at least five runs each.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AVX512F__)
#define WIDTH 16
#define STREAM(to, value) _mm512_stream_ps(to, (__m512)(value))
#elif defined(__AVX2__)
#define WIDTH 8
#define STREAM(to, value) _mm256_stream_ps(to, (__m256)(value))
#else
#define WIDTH 4
#define STREAM(to, value) (VEC(to) = (value))
#define _mm_sfence() ((void)0)
#endif
#define CAN_STREAM (WIDTH > 4)
typedef float vec __attribute__((vector_size(WIDTH * 4), aligned(4)));
#define VEC(at) (*(vec *)(at))

enum { MOST = 8, SLOTS = 4, RING = 256 << 8, BATCHES = 5, CHECKED = 3, LINE = 16 };
enum { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, ALL_TO_ALL, BROADCAST, REDUCE, GATHER, SCATTER, SEND_RECV, OPS };
enum { BY_RING, BY_CHAIN, BY_CMA, KINDS };
static const char *op_names[] = {"all_reduce", "reduce_scatter_into", "all_gather_into", "all_to_all_single",
                                 "broadcast", "reduce", "gather", "scatter", "send_recv"};
static const char *kind_names[] = {"ring", "chain", "cma"};

/* A counter has cache lines of its own. */
typedef struct { _Alignas(128) _Atomic uint64_t n; } counter;
static struct {
    /* A ring has the chunks of one source. Lane r is for rank r; the last lane is for all ranks. */
    struct { counter written, read[MOST]; } rings[MOST][MOST + 1];
    counter arrived[MOST], ready[MOST], done[MOST];
    struct { float *in, *out; pid_t pid; } user[MOST]; /* Addresses are those in the memory of the rank. */
    double seconds[MOST];
    atomic_int no_cma;
    _Alignas(4096) float slots[MOST][MOST + 1][SLOTS * RING];
} *shared;

static int ranks = 2, me, crowded, root, op, kind, stream_in, stream_out;
/* These are numbers of elements: of the op, of a rank's part, and of a chunk. */
static size_t count, part, chunk;
/* These count the chunks put into each lane, the chunks taken from each lane of each source, barriers, and CMA ops. */
static uint64_t written[MOST + 1], taken[MOST][MOST + 1], barriers, stamp;

static void fail(const char *what) {
    fprintf(stderr, "ideal: rank %d: %s (%s of %zu bytes, %s)\n", me, what, op_names[op], count * 4, kind_names[kind]);
    _exit(1);
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void set(counter *c, uint64_t n) { atomic_store_explicit(&c->n, n, memory_order_release); }

static void wait_for(counter *c, uint64_t n) {
    for (int spins = 0; atomic_load_explicit(&c->n, memory_order_acquire) < n; spins++) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
        if (crowded && spins > 50) sched_yield();
    }
}

static void barrier(void) {
    set(&shared->arrived[me], ++barriers);
    for (int r = 0; r < ranks; r++) wait_for(&shared->arrived[r], barriers);
}

static void copy(float *to, const float *from, size_t n, int stream) {
    size_t i = 0;
    if (stream && n > 2 * LINE) {
        size_t head = -((uintptr_t)to / 4) % LINE;
        memcpy(to, from, head * 4);
        for (i = head; i + WIDTH <= n; i += WIDTH) STREAM(to + i, VEC(from + i));
    }
    memcpy(to + i, from + i, (n - i) * 4);
}

/* Stores a + b at `to`, and also at `slot` unless that is NULL. Both begin at a cache line. */
static void add(float *to, float *slot, const float *a, const float *b, size_t n, int stream) {
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vec sum = VEC(a + i) + VEC(b + i);
        if (stream) STREAM(to + i, sum); else VEC(to + i) = sum;
        if (!slot) continue;
        if (stream_in) STREAM(slot + i, sum); else VEC(slot + i) = sum;
    }
    for (; i < n; i++) {
        to[i] = a[i] + b[i];
        if (slot) slot[i] = to[i];
    }
}

/* Adds `own` and the elements of the other ranks. Partial sums stay in the first-level cache. */
static void sum(float *to, float *slot, const float *own, float **others, size_t n, int stream) {
    _Alignas(64) float partial[1024];
    for (size_t at = 0, some; at < n; at += some) {
        const float *so_far = own + at;
        some = least(n - at, 1024);
        for (int k = 0; k < ranks - 2; k++, so_far = partial) add(partial, NULL, so_far, others[k] + at, some, 0);
        add(to + at, slot ? slot + at : NULL, so_far, others[ranks - 2] + at, some, stream);
    }
}

static int reduces(void) { return op == ALL_REDUCE || op == REDUCE_SCATTER || op == REDUCE; }
static int in_place(void) { return op == ALL_REDUCE || op == BROADCAST || op == REDUCE || op == SEND_RECV; }

/* The data that goes from one rank to another, as addresses in the memory of each. */
typedef struct { float *from, *to; size_t n; } span;

static span flow(int source, int target) {
    float *in = shared->user[source].in, *out = shared->user[source].out, *to = shared->user[target].out;
    size_t step, begin;
    switch (op) {
    case REDUCE: return (span){out, to, target == root ? count : 0};
    case ALL_REDUCE: /* The target adds these. */
        step = (count / ranks + LINE) / LINE * LINE, begin = least(count, target * step);
        return (span){out + begin, to + begin, least(count - begin, step)};
    case REDUCE_SCATTER: return (span){in + target * part, to, part};
    case ALL_GATHER: return (span){in, to + source * part, part};
    case ALL_TO_ALL: return (span){in + target * part, to + source * part, part};
    case GATHER: return (span){in, to + source * part, target == root ? part : 0};
    case SCATTER: return (span){in + target * part, to, source == root ? part : 0};
    case BROADCAST: return (span){out, to, source == root && target != root ? count : 0};
    default: return (span){out, to, source == root && target == 1 - root ? count : 0};
    }
}

/* Returns the chunk of this data that begins at element `at`. */
static span piece(int source, int target, size_t at) {
    span s = flow(source, target);
    return at < s.n ? (span){s.from + at, s.to + at, least(s.n - at, chunk)} : (span){0};
}

/* Waits until the next slot of a lane is free, and returns it. */
static float *next_slot(int lane) {
    uint64_t n = written[lane];
    for (int r = 0; r < ranks; r++)
        if (n >= SLOTS && r != me && (lane == ranks || r == lane))
            wait_for(&shared->rings[me][lane].read[r], n - SLOTS + 1);
    return shared->slots[me][lane] + n % SLOTS * chunk;
}

static void publish(int lane) {
    if (stream_in) _mm_sfence();
    set(&shared->rings[me][lane].written, ++written[lane]);
}

/* Waits for the next chunk of a source, and returns it. */
static float *take(int source, int lane) {
    wait_for(&shared->rings[source][lane].written, taken[source][lane] + 1);
    return shared->slots[source][lane] + taken[source][lane] % SLOTS * chunk;
}

static void free_slot(int source, int lane) { set(&shared->rings[source][lane].read[me], ++taken[source][lane]); }

/* Copies the next chunk of a source. */
static void receive(int source, int lane, float *to, size_t n) {
    if (n == 0) return;
    copy(to, take(source, lane), n, stream_out);
    free_slot(source, lane);
}

/* Runs the stages of the op. Each stage works one chunk behind the stage before, so ranks rarely wait. */
static void by_ring(void) {
    int to_all = op == BROADCAST || op == ALL_GATHER, lane = to_all ? ranks : me;
    size_t longest = op == BROADCAST || op == REDUCE || op == SEND_RECV ? count : count / ranks + MOST * LINE;
    for (size_t at = 0; at < longest + 2 * chunk; at += chunk) {
        /* This rank's chunks go into slots. */
        for (int i = 1; i < (to_all ? 2 : ranks); i++) {
            int target = (me + i) % ranks;
            span s = piece(me, target, at);
            if (s.n == 0) continue;
            copy(next_slot(to_all ? ranks : target), s.from, s.n, stream_in);
            publish(to_all ? ranks : target);
        }
        /* This rank copies or adds the chunks of the others. */
        float *others[MOST];
        span own = piece(me, me, at - chunk);
        for (int i = 1; i < ranks; i++) {
            int source = (me + i) % ranks;
            span s = piece(source, me, at - chunk);
            if (!reduces()) receive(source, lane, s.to, s.n);
            else if (s.n) others[i - 1] = take(source, lane);
        }
        if (!reduces() && own.n) copy(own.to, own.from, own.n, stream_out);
        if (reduces() && own.n) {
            sum(own.to, op == ALL_REDUCE ? next_slot(ranks) : NULL, own.from, others, own.n, stream_out);
            if (op == ALL_REDUCE) publish(ranks);
            for (int i = 1; i < ranks; i++) free_slot((me + i) % ranks, lane);
        }
        /* In an all-reduce, this rank copies the sums of the others. */
        for (int i = 1; i < ranks && op == ALL_REDUCE; i++) {
            span s = piece(me, (me + i) % ranks, at - 2 * chunk);
            receive((me + i) % ranks, ranks, s.from, s.n);
        }
    }
}

/* The last rank sends its chunk to the rank before, which adds its own and sends the sum on, until rank 0 has it. */
static void by_chain(void) {
    for (size_t at = 0; at < count; at += chunk) {
        size_t n = least(count - at, chunk);
        float *own = shared->user[me].out + at, *to = me ? next_slot(me - 1) : own;
        if (me == ranks - 1) {
            copy(to, own, n, stream_in);
        } else {
            add(to, NULL, own, take(me + 1, me), n, me ? stream_in : stream_out);
            free_slot(me + 1, me);
        }
        if (me) publish(me - 1);
    }
}

/* Copies from a peer's memory, in chunks. */
static int pull(int peer, float *mine, float *theirs, size_t n) {
    char *here = (char *)mine, *there = (char *)theirs;
    for (ssize_t left = n * 4, got; left > 0; here += got, there += got, left -= got) {
        struct iovec near = {here, least(left, chunk * 4)}, far = {there, near.iov_len};
        got = process_vm_readv(shared->user[peer].pid, &near, 1, &far, 1, 0);
        if (got <= 0) return 0;
    }
    return 1;
}

static void by_cma(void) {
    set(&shared->ready[me], ++stamp);
    span own = flow(me, me);
    copy(own.to, own.from, own.n, stream_out);
    for (int i = 1; i < ranks; i++) {
        int source = (me + i) % ranks;
        span s = flow(source, me);
        if (s.n == 0) continue;
        wait_for(&shared->ready[source], stamp);
        if (!pull(source, s.to, s.from, s.n)) fail("process_vm_readv failed");
    }
    set(&shared->done[me], stamp);
    /* The op is complete when no other rank reads this rank's memory. */
    for (int r = 0; r < ranks; r++)
        if (r != me && flow(me, r).n) wait_for(&shared->done[r], stamp);
}

static void run(void) {
    for (root = 0; root < (op == SEND_RECV ? 2 : 1); root++)
        kind == BY_RING ? by_ring() : kind == BY_CHAIN ? by_chain() : by_cma();
    root = 0;
    if (stream_out) _mm_sfence();
}

/* Returns element i of a rank's input, a number below 64. */
static float element(int rank, size_t i) {
    return ((uint32_t)i * 2654435761u ^ (uint32_t)(rank + 1) * 0x9E3779B9u) >> 26;
}

/* Checks the output after several runs, one after the other. */
static void verify(int times) {
    int by_source = op == ALL_GATHER || op == ALL_TO_ALL || op == GATHER;
    size_t n = in_place() ? count : part;
    size_t first = op == REDUCE_SCATTER || op == ALL_TO_ALL || op == SCATTER ? me * part : 0;
    for (int p = 0; p < (op == GATHER && me ? 0 : by_source ? ranks : 1); p++) {
        /* The result is the sum of the inputs of all ranks, with these factors. */
        float factors[MOST] = {0}, *out = shared->user[me].out + p * part;
        int only = by_source ? p : op == BROADCAST || op == SCATTER || (op == SEND_RECV && me < 2) ? 0 : me;
        factors[only] = 1;
        for (int r = 0; r < ranks && (reduces() && !(op == REDUCE && me)); r++) {
            factors[r] = op == REDUCE && r ? times : 1;
            for (int t = 1; t < times && op == ALL_REDUCE; t++) factors[r] *= ranks;
        }
        for (size_t i = 0; i < n; i++) {
            float want = 0;
            for (int r = 0; r < ranks; r++) want += factors[r] ? factors[r] * element(r, first + i) : 0;
            if (out[i] != want) fail("the result is wrong");
        }
    }
}

/* Makes all rings empty, for another way or chunk size. */
static void begin(size_t bytes) {
    barrier();
    chunk = bytes / 4;
    memset(written, 0, sizeof written);
    memset(taken, 0, sizeof taken);
    if (me == 0) memset(shared->rings, 0, sizeof shared->rings);
    barrier();
}

static void check(void) {
    float *in = shared->user[me].in, *out = shared->user[me].out;
    for (size_t i = 0; i < count; i++) in[i] = element(me, i), out[i] = in_place() ? in[i] : -1;
    barrier();
    for (int t = 0; t < CHECKED; t++) run();
    barrier();
    verify(CHECKED);
    if (reduces()) memset(out, 0, count * 4); /* Otherwise the sums would grow from run to run. */
    barrier();
}

/* Returns the seconds that the slowest rank takes for one op, in a batch of `times` ops. */
static double batch(size_t times) {
    barrier();
    double start = now(), slowest = 0;
    for (size_t i = 0; i < times; i++) run();
    shared->seconds[me] = now() - start;
    barrier();
    for (int r = 0; r < ranks; r++) slowest = shared->seconds[r] > slowest ? shared->seconds[r] : slowest;
    barrier();
    return slowest / times / (op == SEND_RECV ? 2 : 1);
}

typedef struct { int kind, stream_in, stream_out; size_t chunk; double median, min; } row;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Measures a chunk size, and keeps the result if it is the best of the way. */
static void measure(row *r, double budget) {
    double times[BATCHES], one = batch(1) * (op == SEND_RECV ? 2 : 1);
    for (int i = 0; i < BATCHES; i++) times[i] = batch(budget / BATCHES > one ? budget / BATCHES / one : 1);
    qsort(times, BATCHES, sizeof *times, by_value);
    if (r->chunk && r->min <= times[0]) return;
    r->chunk = chunk, r->median = times[BATCHES / 2], r->min = times[0];
}

static int is_possible(row r) {
    if (!CAN_STREAM && (r.stream_in || r.stream_out)) return 0;
    int rings = r.kind == BY_RING || r.kind == BY_CHAIN, both = op == BROADCAST || op == SEND_RECV;
    if (!rings && (reduces() || shared->no_cma || r.stream_in || (r.stream_out && both))) return 0;
    if (r.kind == BY_CHAIN) return op == REDUCE && ranks > 2;
    return 1;
}

static void print(row r) {
    if (me) return;
    printf("%s,%d,%zu,%s%s%s,%zu,%.3f,%.3f\n", op_names[op], ranks, count * 4, kind_names[r.kind],
           r.stream_in ? "-in" : "", r.stream_out ? "-out" : "", r.chunk * 4, r.median * 1e6, r.min * 1e6);
    fflush(stdout);
}

/* Measures all ways for one op and size. */
static void point(double budget) {
    row best = {0};
    for (int w = 0; w < KINDS * 4; w++) {
        row r = {.kind = w / 4, .stream_in = w & 1, .stream_out = w >> 1 & 1};
        if (!is_possible(r)) continue;
        kind = r.kind, stream_in = r.stream_in, stream_out = r.stream_out;
        int rings = kind == BY_RING || kind == BY_CHAIN;
        for (size_t bytes = 16 << 10; bytes <= (rings ? 256 << 10 : 1 << 20); bytes *= rings ? 2 : 4) {
            begin(bytes);
            if (bytes == 16 << 10 || count <= 1 << 20) check();
            measure(&r, budget / (rings ? 5 : 4));
        }
        if (!reduces()) verify(1);
        if (best.chunk == 0 || r.min < best.min) best = r;
        print(r);
    }
    print(best);
}

/* Returns private memory that begins at a huge page, as the large buffers of `c10d perf` do. */
static void *memory(size_t bytes) {
    size_t huge = 2 << 20, rounded = (bytes + huge - 1) / huge * huge;
    void *at = aligned_alloc(huge, rounded);
    if (!at) fail("no memory");
    return memset(at, 0, rounded);
}

static void child(const size_t *sizes, int n_sizes, size_t most, int only, double budget) {
    int cores = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(me % cores, &own);
    sched_setaffinity(0, sizeof own, &own);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    crowded = ranks > cores;
    shared->user[me].in = memory(most), shared->user[me].out = memory(most), shared->user[me].pid = getpid();
    barrier();
    chunk = 1;
    for (int r = 0; r < ranks; r++)
        if (r != me && !pull(r, shared->user[me].out, shared->user[r].in, 1)) shared->no_cma = 1;
    barrier();
    for (op = 0; op < OPS; op++)
        for (int i = 0; i < n_sizes && (only < 0 || only == op); i++) {
            count = sizes[i] / 4, part = count / ranks;
            point(budget);
        }
    _exit(0);
}

int main(int argc, char **argv) {
    char standard[] = "1M,4M,16M,64M", *end;
    size_t sizes[64], most = 0;
    int n_sizes = 0, only = 0, status;
    if (argc > 1) ranks = atoi(argv[1]);
    for (char *s = strtok(argc > 2 ? argv[2] : standard, ","); s && n_sizes < 64; s = strtok(NULL, ",")) {
        size_t bytes = strtoul(s, &end, 10);
        bytes <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
        if (bytes < 4096 || bytes % 4) ranks = 0;
        sizes[n_sizes++] = bytes, most = bytes > most ? bytes : most;
    }
    while (only < OPS && argc > 3 && strcmp(argv[3], op_names[only])) only++;
    if (argc < 4 || strcmp(argv[3], "all") == 0) only = -1;
    if (ranks < 2 || ranks > MOST || n_sizes == 0 || only == OPS || argc > 5) {
        fprintf(stderr, "usage: ideal [2..8 [BYTES[,BYTES..] [OP|all [MS]]]]; sizes are multiples of 4, at least 4K\n");
        return 2;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shared == MAP_FAILED) return perror("ideal: mmap"), 1;
    madvise(shared, sizeof *shared, MADV_HUGEPAGE);
    printf("op,ranks,bytes,way,chunk,median_us,min_us\n");
    fflush(stdout);
    pid_t parent = getpid();
    for (me = 0; me < ranks; me++) {
        if (fork()) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) child(sizes, n_sizes, most, only, argc > 4 ? atof(argv[4]) / 1e3 : 0.1);
        _exit(1);
    }
    /* If a rank fails, this process ends, and so the system ends the other ranks. */
    while (wait(&status) > 0)
        if (status) return 1;
    return 0;
}
