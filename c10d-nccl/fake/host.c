/* Stores the size of a CUDA kernel's grid, and the index of the kernel's thread that runs next. */
#include "host.h"

_Thread_local Place threadIdx, blockIdx, blockDim, gridDim;

void c10d_host_grid(unsigned int blocks, unsigned int threads) {
    gridDim.x = blocks;
    blockDim.x = threads;
}

void c10d_host_thread(unsigned int block, unsigned int thread) {
    blockIdx.x = block;
    threadIdx.x = thread;
}
