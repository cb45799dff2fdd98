/* A plugin with only the device of device.h. If it is built with a header of version 1.1 or later, the device can
 * reduce: it sums f32. With a header of version 1.2 or later, it also has a device type and an identity. */
#include "c10d_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUNCTIONS_ONLY
#include "device.h"

C10D_PLUGIN_NOTE(NAME);

#if C10D_ABI_MINOR >= 1
static uint32_t reduces(uint32_t op) { return op == C10D_SUM ? C10D_BIT(C10D_F32) : 0; }

static int32_t reduce(uint32_t i, uint64_t stream, uint32_t op, uint32_t dtype, void *acc, uint64_t acc_at,
                      const void *with, uint64_t with_at, uint64_t count, c10d_why *why) {
    float *a = (float *)((char *)acc + acc_at);
    const float *b = (const float *)((const char *)with + with_at);
    (void)i, (void)stream;
    if (op != C10D_SUM || dtype != C10D_F32) return c10d_fail(why, C10D_UNSUPPORTED, "it adds f32");
    for (uint64_t n = 0; n < count; n++) a[n] += b[n];
    return C10D_OK;
}
#endif

#if C10D_ABI_MINOR >= 2
static int32_t identity(uint32_t i, char *text, uint64_t capacity, uint64_t *len, c10d_why *why) {
    (void)why;
    *len = (uint64_t)snprintf(text, capacity, "%s %u", NAME, i);
    return *len < capacity ? C10D_OK : C10D_RESOURCE;
}
#endif

static const c10d_device device = {
    .struct_size = sizeof device,
    .count = devices,
    .allocate = allocate,
    .free = give_back,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy = copy,
#if C10D_ABI_MINOR >= 1
    .reduces = reduces,
    .reduce = reduce,
#endif
#if C10D_ABI_MINOR >= 2
#ifdef DEVICE_TYPE
    .device_type = DEVICE_TYPE,
#endif
    .identity = identity,
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
    .device = &device,
#ifdef FUTURE
    .future = 7,
#endif
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    (void)host;
    return &plugin;
}
