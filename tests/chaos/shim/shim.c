/* What a disk and a clock can do to a process, for LD_PRELOAD.
 *
 * HANDFAST_SHIM_FOLDER     only files below this folder are touched
 * HANDFAST_SHIM_FAIL_SYNC  while this file exists, fsync and fdatasync fail with EIO
 * HANDFAST_SHIM_NO_SPACE   while this file exists, writes fail with ENOSPC
 * HANDFAST_SHIM_CLOCK      this file holds the seconds that are added to the wall clock
 *
 * The monotonic clock is left alone: that is the difference under test. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int triggered(const char *variable) {
    const char *path = getenv(variable);
    return path && access(path, F_OK) == 0;
}

static int ours(int fd) {
    const char *folder = getenv("HANDFAST_SHIM_FOLDER");
    char link[64], path[4096];
    if (!folder)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(const char *variable, int fd, int error) {
    int saved = errno;
    int yes = triggered(variable) && ours(fd);
    errno = yes ? error : saved;
    return yes;
}

int fdatasync(int fd) {
    if (fails("HANDFAST_SHIM_FAIL_SYNC", fd, EIO))
        return -1;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    if (fails("HANDFAST_SHIM_FAIL_SYNC", fd, EIO))
        return -1;
    return (int)syscall(SYS_fsync, fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    if (fails("HANDFAST_SHIM_NO_SPACE", fd, ENOSPC))
        return -1;
    return syscall(SYS_write, fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    if (fails("HANDFAST_SHIM_NO_SPACE", fd, ENOSPC))
        return -1;
    return syscall(SYS_pwrite64, fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite(fd, bytes, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (fails("HANDFAST_SHIM_NO_SPACE", fd, ENOSPC))
        return -1;
    return syscall(SYS_writev, fd, parts, count);
}

static long offset(void) {
    const char *path = getenv("HANDFAST_SHIM_CLOCK");
    char text[32];
    int saved = errno;
    long seconds = 0;
    if (!path)
        return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
        if (length > 0) {
            text[length] = 0;
            seconds = strtol(text, NULL, 10);
        }
        syscall(SYS_close, fd);
    }
    errno = saved;
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && clock == CLOCK_REALTIME)
        at->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int result = (int)syscall(SYS_gettimeofday, at, zone);
    if (result == 0)
        at->tv_sec += offset();
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
