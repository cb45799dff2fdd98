/* A device whose memory is the heap of this process. HANGS_IN names the function that does not return: copy_out, retain
 * or release. With FUNCTIONS_ONLY there is no table of the functions. */
#ifndef HANGS_IN
#define HANGS_IN ""
#endif
#define MAY_HANG while (!strcmp(HANGS_IN, __func__)) pause()

static int32_t devices(uint32_t *count, c10d_why *why) {
    (void)why;
    *count = 2;
    return C10D_OK;
}

static int32_t allocate(uint32_t index, uint64_t bytes, void **base, c10d_why *why) {
    (void)index;
    *base = malloc(bytes);
    return *base ? C10D_OK : c10d_fail(why, C10D_RESOURCE, "no memory");
}

static void give_back(uint32_t index, void *base) {
    (void)index;
    free(base);
}

static int32_t copy_in(uint32_t index, uint64_t stream, void *to, uint64_t at, const void *from, uint64_t bytes,
                       c10d_why *why) {
    (void)index, (void)stream, (void)why;
    memcpy((char *)to + at, from, bytes);
    return C10D_OK;
}

static int32_t copy_out(uint32_t index, uint64_t stream, void *to, const void *from, uint64_t at, uint64_t bytes,
                        c10d_why *why) {
    (void)index, (void)stream, (void)why;
    MAY_HANG;
    memcpy(to, (const char *)from + at, bytes);
    return C10D_OK;
}

static int32_t copy(uint32_t index, uint64_t stream, void *to, uint64_t at, const void *from, uint64_t of,
                    uint64_t bytes, c10d_why *why) {
    return copy_in(index, stream, to, at, (const char *)from + of, bytes, why);
}

#ifdef RETAINS
/* The tests never free memory while it is retained. */
static int32_t retain(uint32_t index, void *base, c10d_why *why) {
    (void)index, (void)base, (void)why;
    MAY_HANG;
    return C10D_OK;
}

static void release(uint32_t index, void *base) {
    (void)index, (void)base;
    MAY_HANG;
}
#endif

#ifndef FUNCTIONS_ONLY
static const c10d_device device = {
    .struct_size = sizeof device, .count = devices, .allocate = allocate, .free = give_back, .copy_in = copy_in,
    .copy_out = copy_out, .copy = copy,
#ifdef RETAINS
    .retain = retain, .release = release,
#endif
};
#endif
