/*
 * Faults of the machine for one program: preloaded into it (LD_PRELOAD), it stands before the C library.
 *
 * A control file, named by PORTREEVE_TEST_FAULTS and mapped into the program, says what is wrong at the moment; whoever writes into
 * the file changes it while the program runs, in all its processes at once:
 *
 *   offset  size
 *        0     8  microseconds by which CLOCK_REALTIME is off; CLOCK_MONOTONIC is left alone
 *        8     8  microseconds that fsync, fdatasync and sync_file_range take longer
 *       16     8  1: no room below the folder, writing there and making files longer fails with ENOSPC
 *       24     8  counted: how often something of a sync waited
 *       32     8  counted: how often there was no room
 *       40   984  the folder, ended by a zero
 *
 * Without the variable, or where the file cannot be mapped, everything is as without this library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SIZE 1024

struct control {
    int64_t offset_us;
    int64_t sync_us;
    int64_t full;
    int64_t synced;
    int64_t refused;
    char folder[SIZE - 40];
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("PORTREEVE_TEST_FAULTS");
    if (path == NULL)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        control = mapped;
    close(file);
}

static int64_t look(const int64_t *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }

/* The library's own function of this name. */
#define REAL(name)                                                                                                     \
    static __typeof__(name) *real;                                                                                     \
    if (real == NULL)                                                                                                  \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ---------------------------------------------------------------- the clock */

static int64_t off(void) { return control == NULL ? 0 : look(&control->offset_us); }

int clock_gettime(clockid_t clock, struct timespec *at) {
    REAL(clock_gettime);
    int done = real(clock, at);
    int64_t by = done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) ? off() : 0;
    if (by != 0) {
        int64_t ns = (int64_t)at->tv_nsec + (by % 1000000) * 1000;
        at->tv_sec += by / 1000000 + (ns < 0 ? -1 : ns / 1000000000);
        at->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
    }
    return done;
}

int gettimeofday(struct timeval *at, void *zone) {
    REAL(gettimeofday);
    int done = real(at, zone);
    int64_t by = done == 0 ? off() : 0;
    if (by != 0) {
        int64_t us = (int64_t)at->tv_usec + by % 1000000;
        at->tv_sec += by / 1000000 + (us < 0 ? -1 : us / 1000000);
        at->tv_usec = us < 0 ? us + 1000000 : us % 1000000;
    }
    return done;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL)
        *at = now.tv_sec;
    return now.tv_sec;
}

/* ---------------------------------------------------------------- the disk's slowness */

static void wait_for_disk(void) {
    int64_t us = control == NULL ? 0 : look(&control->sync_us);
    if (us <= 0)
        return;
    __atomic_add_fetch(&control->synced, 1, __ATOMIC_SEQ_CST);
    struct timespec left = {us / 1000000, (us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

int fsync(int file) {
    REAL(fsync);
    wait_for_disk();
    return real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    wait_for_disk();
    return real(file);
}

int sync_file_range(int file, off64_t from, off64_t count, unsigned int flags) {
    REAL(sync_file_range);
    wait_for_disk();
    return real(file, from, count, flags);
}

/* ---------------------------------------------------------------- the disk's room */

static int no_room(int file) {
    if (control == NULL || look(&control->full) == 0)
        return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    size_t folder = strnlen(control->folder, sizeof control->folder);
    if (length < 0 || folder == 0 || (size_t)length <= folder)
        return 0;
    path[length] = 0;
    if (strncmp(path, control->folder, folder) != 0 || path[folder] != '/')
        return 0;
    __atomic_add_fetch(&control->refused, 1, __ATOMIC_SEQ_CST);
    errno = ENOSPC;
    return 1;
}

#define WRITER(name, type, parameters, arguments)                                                                      \
    type name parameters {                                                                                             \
        REAL(name);                                                                                                    \
        return no_room(file) ? -1 : real arguments;                                                                    \
    }

WRITER(write, ssize_t, (int file, const void *bytes, size_t count), (file, bytes, count))
WRITER(writev, ssize_t, (int file, const struct iovec *parts, int count), (file, parts, count))
WRITER(pwrite, ssize_t, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at))
WRITER(pwrite64, ssize_t, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at))
WRITER(pwritev, ssize_t, (int file, const struct iovec *parts, int count, off_t at), (file, parts, count, at))
WRITER(pwritev64, ssize_t, (int file, const struct iovec *parts, int count, off64_t at), (file, parts, count, at))
WRITER(pwritev2, ssize_t, (int file, const struct iovec *parts, int count, off_t at, int flags),
       (file, parts, count, at, flags))
WRITER(pwritev64v2, ssize_t, (int file, const struct iovec *parts, int count, off64_t at, int flags),
       (file, parts, count, at, flags))
WRITER(ftruncate, int, (int file, off_t size), (file, size))
WRITER(ftruncate64, int, (int file, off64_t size), (file, size))
WRITER(fallocate, int, (int file, int mode, off_t at, off_t size), (file, mode, at, size))
WRITER(fallocate64, int, (int file, int mode, off64_t at, off64_t size), (file, mode, at, size))

/* These tell the error, and do not set it. */
int posix_fallocate(int file, off_t at, off_t size) {
    REAL(posix_fallocate);
    return no_room(file) ? ENOSPC : real(file, at, size);
}

int posix_fallocate64(int file, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    return no_room(file) ? ENOSPC : real(file, at, size);
}
