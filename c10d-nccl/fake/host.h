/* CUDA's words for one thread on the host. */
#pragma once

#define __device__
#define __forceinline__ inline

typedef struct {
    unsigned int x;
} Place;

/* Where the thread is that runs now, of the host's thread that runs it. */
extern _Thread_local Place threadIdx, blockIdx, blockDim, gridDim;

/* One thread at a time needs no more. */
static inline unsigned long long atomicMin(unsigned long long *at, unsigned long long value) {
    unsigned long long was = *at;
    *at = value < was ? value : was;
    return was;
}
