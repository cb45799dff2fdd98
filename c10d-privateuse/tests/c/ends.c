/* A plugin whose constructor runs the statement HOW, which ends the process or never ends. */
#include "c10d_plugin.h"

#include <unistd.h>

C10D_PLUGIN_NOTE(NAME);

__attribute__((constructor)) static void constructor(void) {
    HOW;
}

const c10d_plugin *c10d_plugin_v1(const c10d_host *host) {
    (void)host;
    return 0;
}
