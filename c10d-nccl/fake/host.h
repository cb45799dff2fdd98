/* The definitions of CUDA that CUDA kernels need, for a CPU that runs a kernel's threads one after another. */
#pragma once

#define __device__
#define __forceinline__ inline

typedef struct {
    unsigned int x;
} Place;

/* threadIdx and blockIdx are the index of the kernel's thread that this CPU thread is running. blockDim is the number
 * of threads of a block, and gridDim is the number of blocks. */
extern _Thread_local Place threadIdx, blockIdx, blockDim, gridDim;

/* This function need not be atomic, since only one thread of a kernel runs at a time. */
static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
    unsigned long long was = *at;
    *at = value < was ? value : was;
    return was;
}
