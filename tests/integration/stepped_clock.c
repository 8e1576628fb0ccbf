/* A wall clock that a test steps: preloaded into one process, driven by a small mapped file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *steps;

__attribute__((constructor)) static void open_steps(void) {
    const char *path = getenv("STEPPED_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) steps = mapped;
}

static int64_t step_of(clockid_t clock) {
    if (!steps) return 0;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) return steps[0];
    return clock == CLOCK_BOOTTIME ? steps[1] : 0;
}

static void shift(struct timespec *at, int64_t ms) {
    int64_t ns = at->tv_nsec + (ms % 1000) * 1000000;
    at->tv_sec += ms / 1000;
    if (ns < 0) { ns += 1000000000; at->tv_sec--; }
    if (ns >= 1000000000) { ns -= 1000000000; at->tv_sec++; }
    at->tv_nsec = ns;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0) shift(now, step_of(clock));
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec at;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *into) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into) *into = at.tv_sec;
    return at.tv_sec;
}
int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict until) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec at = *until;
    if (at.tv_sec > 1000000000) shift(&at, -step_of(CLOCK_REALTIME));
    return real(c, m, &at);
}
int sem_timedwait(sem_t *restrict s, const struct timespec *restrict until) {
    static int (*real)(sem_t *, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec at = *until;
    shift(&at, -step_of(CLOCK_REALTIME));
    return real(s, &at);
}
