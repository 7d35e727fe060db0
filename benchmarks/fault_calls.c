/* System calls that fail, fall short or are the last of their process: preloaded by benchmarks/faults.py.

   Calls on what lies below a folder are numbered, and one of them, or all from one on, meets what was asked for.
   Unarmed, every call goes through. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOG, FAIL, FAIL_FROM, SHORT, KILL_BEFORE, KILL_AFTER };
enum { WRITING = 1, READING = 2 };
enum { MOST_FILES = 1 << 14 };

static char folder[PATH_MAX];
static size_t folder_length;
static int mode, which, given_errno, log_file = -1;
static long chosen;
static atomic_long seen;
static _Atomic unsigned char watched[MOST_FILES]; /* descriptors of what lies below the folder */

/* Number calls below ``below``: those that write, those that read, or both. */
void fault_arm(const char *below, int kinds, int what, long number, int error, int log)
{
    folder_length = strlen(below);
    memcpy(folder, below, folder_length + 1);
    which = kinds, mode = what, chosen = number, given_errno = error, log_file = log;
    atomic_store(&seen, 0);
}

static int below(const char *path)
{
    return which && path && strncmp(path, folder, folder_length) == 0
        && (path[folder_length] == '\0' || path[folder_length] == '/');
}

static int is_watched(int fd)
{
    return which && fd >= 0 && fd < MOST_FILES && watched[fd];
}

static int below_at(int directory, const char *path)
{
    return path && path[0] != '/' && directory != AT_FDCWD ? is_watched(directory) : below(path);
}

static void watch(int fd, int yes)
{
    if (fd >= 0 && fd < MOST_FILES)
        watched[fd] = (unsigned char)yes;
}

/* What becomes of a call: 0 as usual, 1 it fails, 2 it falls short, 3 it is the last. */
static int fate(int kind, const char *name)
{
    if (!(which & kind))
        return 0;
    long number = atomic_fetch_add(&seen, 1);
    if (mode == LOG) {
        dprintf(log_file, "%s\n", name);
        return 0;
    }
    if (mode == FAIL_FROM || mode == SHORT ? number < chosen : number != chosen)
        return 0;
    if (mode == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    if (mode == KILL_AFTER)
        return 3;
    /* A full disk still closes, renames and removes. */
    if (mode != FAIL && number > chosen && strcmp(name, "write") && strcmp(name, "open") && strcmp(name, "mkdir"))
        return 0;
    if (mode == SHORT && number == chosen)
        return 2;
    errno = given_errno;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define AROUND(counts, kind, name, failed, call) \
    int what = (counts) ? fate(kind, name) : 0; \
    if (what == 1) \
        return failed; \
    __typeof__(call) result = call; \
    if (what == 3) \
        kill(getpid(), SIGKILL); \
    return result

static int writes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
}

#define OPEN(counted, call) \
    int inside = counted; \
    int what = inside && !(flags & O_DIRECTORY) ? fate(writes(flags) ? WRITING : READING, "open") : 0; \
    if (what == 1) \
        return -1; \
    int fd = call; \
    if (what == 3) \
        kill(getpid(), SIGKILL); \
    watch(fd, inside); \
    return fd

#define MODE \
    mode_t permissions = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        permissions = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE
    REAL(open);
    OPEN(below(path), real(path, flags, permissions));
}

int open64(const char *path, int flags, ...)
{
    MODE
    REAL(open64);
    OPEN(below(path), real(path, flags, permissions));
}

int openat(int directory, const char *path, int flags, ...)
{
    MODE
    REAL(openat);
    OPEN(below_at(directory, path), real(directory, path, flags, permissions));
}

int openat64(int directory, const char *path, int flags, ...)
{
    MODE
    REAL(openat64);
    OPEN(below_at(directory, path), real(directory, path, flags, permissions));
}

#define WRITE(call, half) \
    int what = is_watched(fd) ? fate(WRITING, "write") : 0; \
    if (what == 1) \
        return -1; \
    if (what == 2) \
        return half; \
    ssize_t result = call; \
    if (what == 3) \
        kill(getpid(), SIGKILL); \
    return result

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    WRITE(real(fd, data, size), real(fd, data, size / 2));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    REAL(pwrite);
    WRITE(real(fd, data, size, at), real(fd, data, size / 2, at));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(pwrite64);
    WRITE(real(fd, data, size, at), real(fd, data, size / 2, at));
}

ssize_t sendfile(int fd, int from, off_t *at, size_t size)
{
    REAL(sendfile);
    WRITE(real(fd, from, at, size), real(fd, from, at, size > 1 ? size / 2 : size));
}

ssize_t sendfile64(int fd, int from, off64_t *at, size_t size)
{
    REAL(sendfile64);
    WRITE(real(fd, from, at, size), real(fd, from, at, size > 1 ? size / 2 : size));
}

ssize_t copy_file_range(int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned int flags)
{
    REAL(copy_file_range);
    WRITE(real(from, at, fd, to, size, flags), real(from, at, fd, to, size > 1 ? size / 2 : size, flags));
}

ssize_t read(int fd, void *data, size_t size)
{
    REAL(read);
    AROUND(is_watched(fd), READING, "read", -1, real(fd, data, size));
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    REAL(pread);
    AROUND(is_watched(fd), READING, "read", -1, real(fd, data, size, at));
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    REAL(pread64);
    AROUND(is_watched(fd), READING, "read", -1, real(fd, data, size, at));
}

int close(int fd)
{
    REAL(close);
    int what = is_watched(fd) ? fate(WRITING, "close") : 0;
    watch(fd, 0);
    int result = real(fd); /* Linux closes what fails to close */
    if (what == 3)
        kill(getpid(), SIGKILL);
    if (what == 1)
        errno = given_errno;
    return what == 1 ? -1 : result;
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    AROUND(below(from) || below(to), WRITING, "rename", -1, real(from, to));
}

int renameat(int directory, const char *from, int other, const char *to)
{
    REAL(renameat);
    AROUND(below_at(directory, from) || below_at(other, to), WRITING, "rename", -1, real(directory, from, other, to));
}

int link(const char *from, const char *to)
{
    REAL(link);
    AROUND(below(from) || below(to), WRITING, "link", -1, real(from, to));
}

int linkat(int directory, const char *from, int other, const char *to, int flags)
{
    REAL(linkat);
    AROUND(below_at(directory, from) || below_at(other, to), WRITING, "link", -1,
           real(directory, from, other, to, flags));
}

int mkdir(const char *path, mode_t permissions)
{
    REAL(mkdir);
    AROUND(below(path), WRITING, "mkdir", -1, real(path, permissions));
}

int mkdirat(int directory, const char *path, mode_t permissions)
{
    REAL(mkdirat);
    AROUND(below_at(directory, path), WRITING, "mkdir", -1, real(directory, path, permissions));
}

int unlink(const char *path)
{
    REAL(unlink);
    AROUND(below(path), WRITING, "unlink", -1, real(path));
}

int unlinkat(int directory, const char *path, int flags)
{
    REAL(unlinkat);
    AROUND(below_at(directory, path), WRITING, flags & AT_REMOVEDIR ? "rmdir" : "unlink", -1,
           real(directory, path, flags));
}

int rmdir(const char *path)
{
    REAL(rmdir);
    AROUND(below(path), WRITING, "rmdir", -1, real(path));
}

int flock(int fd, int operation)
{
    REAL(flock);
    AROUND(is_watched(fd), WRITING, "flock", -1, real(fd, operation));
}

int fsync(int fd)
{
    REAL(fsync);
    AROUND(is_watched(fd), WRITING, "fsync", -1, real(fd));
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    AROUND(is_watched(fd), WRITING, "fsync", -1, real(fd));
}

int ftruncate(int fd, off_t size)
{
    REAL(ftruncate);
    AROUND(is_watched(fd), WRITING, "ftruncate", -1, real(fd, size));
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64);
    AROUND(is_watched(fd), WRITING, "ftruncate", -1, real(fd, size));
}
