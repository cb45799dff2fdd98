/* A plugin for a device that c10d does not know. It offers memory and copies; c10d runs every op on its buffers through
 * host memory.
 *
 * The device is simulated: its memory is the heap of this process. A copy is complete when it returns, so the device
 * needs no streams and no events. Where this plugin calls malloc and memcpy, a plugin for a real device calls its
 * driver. */
#include <stdlib.h>
#include <string.h>

#include "c10d_plugin.h"

C10D_PLUGIN_NOTE("c-device");

#define DEVICES 2

/* The object that a handle stands for. c10d stores handles and passes them back, but never follows them. */
struct memory {
    uint64_t bytes;
    uint32_t index;
    unsigned char data[];
};

/* A handle is the bitwise complement of an address, so that code that uses a handle as an address crashes. */
static struct memory *memory_of(const void *handle) { return (struct memory *)~(uintptr_t)handle; }

/* Returns the address of these bytes of a buffer, or null if they are not inside a buffer of this device. */
static unsigned char *at(uint32_t index, const void *handle, uint64_t offset, uint64_t bytes) {
    struct memory *memory = memory_of(handle);
    int inside = memory->index == index && offset <= memory->bytes && bytes <= memory->bytes - offset;
    return inside ? memory->data + offset : NULL;
}

static int32_t move(void *to, const void *from, uint64_t bytes, c10d_why *why) {
    if (!to || !from) return c10d_fail(why, C10D_DEVICE, "c-device was asked to copy beyond the end of a buffer");
    memcpy(to, from, bytes);
    return C10D_OK;
}

static int32_t count(uint32_t *devices, c10d_why *why) { (void)why; *devices = DEVICES; return C10D_OK; }

static int32_t allocate(uint32_t index, uint64_t bytes, void **base, c10d_why *why) {
    if (index >= DEVICES) return c10d_fail(why, C10D_INVALID, "c-device has only the devices 0 and 1");
    struct memory *memory = bytes < SIZE_MAX / 2 ? malloc(sizeof *memory + bytes) : NULL;
    if (!memory) return c10d_fail(why, C10D_RESOURCE, "c-device is out of memory");
    *memory = (struct memory){.bytes = bytes, .index = index};
    *base = (void *)~(uintptr_t)memory;
    return C10D_OK;
}

static void release(uint32_t index, void *base) { (void)index; free(memory_of(base)); }

static int32_t copy_in(uint32_t index, uint64_t stream, void *to, uint64_t to_offset, const void *from, uint64_t bytes,
                       c10d_why *why) {
    (void)stream;
    return move(at(index, to, to_offset, bytes), from, bytes, why);
}

static int32_t copy_out(uint32_t index, uint64_t stream, void *to, const void *from, uint64_t from_offset,
                        uint64_t bytes, c10d_why *why) {
    (void)stream;
    return move(to, at(index, from, from_offset, bytes), bytes, why);
}

static int32_t copy(uint32_t index, uint64_t stream, void *to, uint64_t to_offset, const void *from,
                    uint64_t from_offset, uint64_t bytes, c10d_why *why) {
    (void)stream;
    return move(at(index, to, to_offset, bytes), at(index, from, from_offset, bytes), bytes, why);
}

static const c10d_device DEVICE = {
    .struct_size = sizeof DEVICE, .count = count, .allocate = allocate, .free = release,
    .copy_in = copy_in, .copy_out = copy_out, .copy = copy,
};

static const c10d_plugin PLUGIN = {
    .struct_size = sizeof PLUGIN, .abi_minor = C10D_ABI_MINOR, .name = "c-device", .name_len = sizeof "c-device" - 1,
    .version = "1.0", .version_len = 3, .device = &DEVICE,
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) { (void)host; return &PLUGIN; }
