/* Fails, shortens or interrupts the n-th call of a kind that touches a file below a directory. Loaded by LD_PRELOAD.
 *
 * ESKER_SHIM_DIR    only files below it
 * ESKER_SHIM_CALL   pwrite, msync, fsync (fdatasync too), sync_file_range, open, rename, unlink
 * ESKER_SHIM_NTH    1: the first
 * ESKER_SHIM_TIMES  so many in a row
 * ESKER_SHIM_HOW    an errno, or "short": half of the bytes are written and counted
 * ESKER_SHIM_COUNT  a file into which the number of calls goes, at exit
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static atomic_long calls;
static const char *dir, *call;
static long nth, times, how;
static int shortened;

__attribute__((constructor)) static void begin(void) {
    const char *text;
    dir = getenv("ESKER_SHIM_DIR");
    call = getenv("ESKER_SHIM_CALL");
    nth = (text = getenv("ESKER_SHIM_NTH")) ? atol(text) : 0;
    times = (text = getenv("ESKER_SHIM_TIMES")) ? atol(text) : 1;
    text = getenv("ESKER_SHIM_HOW");
    shortened = text && strcmp(text, "short") == 0;
    how = text ? atol(text) : EIO;
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("ESKER_SHIM_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld", atomic_load(&calls));
        fclose(file);
    }
}

static int below(const char *path) { return dir && path && strncmp(path, dir, strlen(dir)) == 0; }

static int of_file(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

/* Whether this call is one that goes wrong. */
static int strikes(const char *kind) {
    if (!call || strcmp(kind, call) != 0) return 0;
    long now = atomic_fetch_add(&calls, 1) + 1;
    return nth > 0 && now >= nth && now < nth + times;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at) {
    if (of_file(fd) && strikes("pwrite")) {
        if (!shortened) {
            errno = (int)how;
            return -1;
        }
        if (len > 1) len /= 2;
    }
    return REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, buf, len, at);
}

int msync(void *address, size_t len, int flags) {
    if (strikes("msync")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "msync", void *, size_t, int)(address, len, flags);
}

int fsync(int fd) {
    if (of_file(fd) && strikes("fsync")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "fsync", int)(fd);
}

int fdatasync(int fd) {
    if (of_file(fd) && strikes("fsync")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "fdatasync", int)(fd);
}

int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    if (of_file(fd) && strikes("sync_file_range")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "sync_file_range", int, off64_t, off64_t, unsigned)(fd, at, len, flags);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    if (below(path) && strikes("open")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "open64", const char *, int, mode_t)(path, flags, mode);
}

int rename(const char *from, const char *to) {
    if (below(from) && strikes("rename")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "rename", const char *, const char *)(from, to);
}

int unlink(const char *path) {
    if (below(path) && strikes("unlink")) {
        errno = (int)how;
        return -1;
    }
    return REAL(int, "unlink", const char *)(path);
}
