/* The device of device.h alone, which counts no owners. */
#include "c10d_plugin.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

C10D_PLUGIN_NOTE(NAME);

static const c10d_plugin plugin = {
    .struct_size = sizeof plugin, .abi_minor = C10D_ABI_MINOR, .name = NAME, .name_len = sizeof NAME - 1,
    .device = &device,
};

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    (void)host;
    return &plugin;
}
