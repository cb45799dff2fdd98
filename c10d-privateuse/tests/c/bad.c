/* A plugin that breaks one rule. Tests select the rule by macros. The constructor (unless QUIET_CONSTRUCTOR is defined)
 * and the functions of the tables make the file CANARY, so tests see whether code of a rejected plugin ran. */
#include "c10d_plugin.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef NAME
#define NAME "bad"
#endif
#ifndef ENTRY
#define ENTRY c10d_plugin_v1
#endif
#ifndef NOTE_NAME
#define NOTE_NAME NAME
#endif
#ifndef MAJOR
#define MAJOR C10D_ABI_MAJOR
#endif
#ifndef PLUGIN_SIZE
#define PLUGIN_SIZE sizeof(c10d_plugin)
#endif
#ifndef OWNER
#define OWNER "c10d"
#endif
#ifndef STRUCT_SIZE
#define STRUCT_SIZE 64
#endif
#ifndef NOTE_SIZE
#define NOTE_SIZE 64
#endif

/* Makes the file CANARY. */
static void sing(void) {
#ifdef CANARY
    int fd = open(CANARY, O_CREAT | O_WRONLY, 0600);
    if (fd >= 0) close(fd);
#endif
}

#ifndef QUIET_CONSTRUCTOR
__attribute__((constructor)) static void constructor(void) { sing(); }
#endif

#ifndef NO_NOTE
static const c10d_note note __attribute__((section(".note.c10d"), used, aligned(4))) = {
    5, NOTE_SIZE, 1, OWNER, STRUCT_SIZE, MAJOR, C10D_ABI_MINOR, (uint32_t)(PLUGIN_SIZE), NOTE_NAME};
#endif

#ifdef MISSING_SYMBOL
extern int nobody_has_this_function(void);
int (*use_it)(void) = nobody_has_this_function;
#endif

static int32_t count(uint32_t *n, c10d_why *why) { sing(); (void)why; *n = 1; return C10D_OK; }
static int32_t allocate(uint32_t i, uint64_t n, void **b, c10d_why *why) { sing(); (void)i, (void)n, (void)b; return c10d_fail(why, C10D_RESOURCE, "none"); }
static void release(uint32_t i, void *b) { sing(); (void)i, (void)b; }
static int32_t in(uint32_t i, uint64_t s, void *t, uint64_t o, const void *f, uint64_t n, c10d_why *why) { sing(); (void)i, (void)s, (void)t, (void)o, (void)f, (void)n, (void)why; return C10D_OK; }
static int32_t out(uint32_t i, uint64_t s, void *t, const void *f, uint64_t o, uint64_t n, c10d_why *why) { sing(); (void)i, (void)s, (void)t, (void)o, (void)f, (void)n, (void)why; return C10D_OK; }
static int32_t inside(uint32_t i, uint64_t s, void *t, uint64_t o, const void *f, uint64_t p, uint64_t n, c10d_why *why) { sing(); (void)i, (void)s, (void)t, (void)o, (void)f, (void)p, (void)n, (void)why; return C10D_OK; }
__attribute__((unused)) static int32_t retain(uint32_t i, void *b, c10d_why *why) { sing(); (void)i, (void)b, (void)why; return C10D_OK; }
static int32_t make(uint32_t i, uint64_t *s, c10d_why *why) { sing(); (void)i, (void)s, (void)why; return C10D_OK; }
__attribute__((unused)) static void unmake(uint32_t i, uint64_t s) { sing(); (void)i, (void)s; }
__attribute__((unused)) static int32_t order(uint32_t i, uint64_t a, uint64_t b, c10d_why *why) { sing(); (void)i, (void)a, (void)b, (void)why; return C10D_OK; }
__attribute__((unused)) static int32_t query(uint32_t i, uint64_t e, uint32_t *r, c10d_why *why) { sing(); (void)i, (void)e, (void)r, (void)why; return C10D_OK; }
__attribute__((unused)) static void *allocate_host(uint64_t n) { sing(); (void)n; return 0; }
__attribute__((unused)) static void free_host(void *b, uint64_t n) { sing(); (void)b, (void)n; }
__attribute__((unused)) static uint32_t reduces(uint32_t op) { sing(); (void)op; return 0; }

static const c10d_device device = {
    .struct_size = sizeof device,
    .count = count,
    .allocate = allocate,
    .free = release,
    .copy_in = in,
    .copy_out = out,
    .copy = inside,
#ifdef DRIVES
    .device_type = DRIVES,
#endif
#ifdef RETAINS
    .retain = retain,
    .release = release,
#endif
#ifdef STREAMS
    .create_stream = make,
    .destroy_stream = unmake,
    .create_event = make,
    .destroy_event = unmake,
    .record = order,
    .wait = order,
    .query = query,
#endif
};

#ifdef COLLECTIVES
static int32_t create(const c10d_host *h, const c10d_group_init *i, void **g, c10d_why *why) { sing(); (void)h, (void)i, (void)g, (void)why; return C10D_OK; }
static void destroy(void *g) { sing(); (void)g; }
static int32_t submit(void *g, const c10d_request *r, c10d_done d, uint64_t t, c10d_why *why) { sing(); (void)g, (void)r, (void)d, (void)t, (void)why; return C10D_OK; }
static void stop(void *g, const char *c, uint64_t n) { sing(); (void)g, (void)c, (void)n; }
#ifndef DEVICE_TYPE
#define DEVICE_TYPE C10D_DEVICE_CPU
#endif
#ifndef OPS
#define OPS C10D_ALL_OPS
#endif
#ifndef ROWS
#define ROWS 1
#endif
#ifndef CREATE
#define CREATE create
#endif
#ifndef DESTROY
#define DESTROY destroy
#endif
#ifndef SUBMIT
#define SUBMIT submit
#endif
#ifndef ABORT
#define ABORT stop
#endif
#ifndef OTHER_TYPE
#define OTHER_TYPE DEVICE_TYPE
#endif
#ifndef BY_OP
#define BY_OP
#endif
static const c10d_capabilities rows[2] = {
    {.struct_size = sizeof rows[0], .device_type = DEVICE_TYPE, .ops = OPS, .moves = C10D_ALL_DTYPES, BY_OP},
    {.struct_size = sizeof rows[0], .device_type = OTHER_TYPE, .ops = OPS, .moves = C10D_ALL_DTYPES},
};
static const c10d_collectives collectives = {
    .struct_size = sizeof collectives, .capability_count = ROWS, .capabilities = rows,
    .create_group = CREATE, .destroy_group = DESTROY, .submit = SUBMIT, .abort = ABORT,
};
#endif

static c10d_plugin plugin = {
    .struct_size = sizeof plugin,
    .abi_minor = C10D_ABI_MINOR,
    .name = NAME,
    .name_len = sizeof NAME - 1,
    .device = &device,
};

/* Returns a copy of the table in the last bytes of a page. The next page is not mapped, so a read beyond the table
 * is a segmentation fault. */
__attribute__((unused)) static const c10d_plugin *at_the_edge(void) {
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 4096, 4096);
    return memcpy(pages + 4096 - sizeof plugin, &plugin, sizeof plugin);
}

#ifdef ENTRY_IS_DATA
__asm__(".pushsection .data\n.globl c10d_plugin_v1\n.type c10d_plugin_v1, @object\n"
        "c10d_plugin_v1: .quad 7\n.size c10d_plugin_v1, 8\n.popsection");
#elif !defined(NO_ENTRY)
const c10d_plugin *ENTRY(const c10d_host *host) {
    static c10d_device broken;
    (void)host;
    (void)make;
    broken = device;
    (void)broken;
#ifdef COLLECTIVES
#if !defined(DRIVES) && !defined(RETAINS)
    plugin.device = 0;
#endif
    plugin.collectives = &collectives;
#endif
#ifdef AT_ENTRY
    AT_ENTRY;
#endif
    return &plugin;
}
#endif

int main(void) { return 0; }
