/* LD_PRELOAD: writes down when this process synced its log and when it heard and answered callers.
 *
 *   SYNCWATCH_LOG    file to append to, one line per event: <monotonic ns> <what> <which>
 *   SYNCWATCH_PORT   local TCP port whose traffic counts
 *   SYNCWATCH_FILES  a sync counts if the path of the file ends in this
 *   SYNCWATCH_DELAY_MS  how long such a sync is held up first, so that what does not wait for it overtakes it
 *
 * what: begin, end (a sync; which = the path), heard, answered (which = the idem_key found in the bytes).
 * A sync is noted before it begins and after it succeeded; bytes are noted after they were received and before they
 * are sent. So the times can only be wrong in the direction that makes a test fail.
 *
 *   gcc -shared -fPIC -o syncwatch.so syncwatch.c -ldl
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

static void note(const char *what, const char *which, size_t length) {
    static int log = -1;
    const char *path = getenv("SYNCWATCH_LOG");
    struct timespec now;
    char line[4352];
    if (!path) return;
    if (log < 0) log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n = snprintf(line, sizeof line, "%lld %s %.*s\n", now.tv_sec * 1000000000LL + now.tv_nsec, what, (int)length, which);
    syscall(SYS_write, log, line, n); /* one write to an O_APPEND file: lines of threads do not mix */
}

/* --- syncs ------------------------------------------------------------------------------------------------------- */

static int is_watched(int fd, char *path, size_t size) {
    const char *suffix = getenv("SYNCWATCH_FILES");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (!suffix || n < (ssize_t)strlen(suffix)) return 0;
    path[n] = 0;
    return !strcmp(path + n - strlen(suffix), suffix);
}

static int watched(int fd, int (*sync)(int)) {
    char path[4096];
    if (!is_watched(fd, path, sizeof path)) return sync(fd);
    note("begin", path, strlen(path));
    const char *delay = getenv("SYNCWATCH_DELAY_MS");
    if (delay) usleep((useconds_t)atoi(delay) * 1000);
    int result = sync(fd);
    if (!result) note("end", path, strlen(path));
    return result;
}

int fsync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync")); }
int fdatasync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync")); }

/* --- callers ----------------------------------------------------------------------------------------------------- */

static int is_caller(int fd) {
    const char *port = getenv("SYNCWATCH_PORT");
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    if (!port || getsockname(fd, (struct sockaddr *)&own, &size) || own.ss_family != AF_INET) return 0;
    return ntohs(((struct sockaddr_in *)&own)->sin_port) == atoi(port);
}

static void note_keys(int fd, const char *what, const char *bytes, ssize_t size) {
    static const char mark[] = "\"idem_key\":\"";
    if (size <= 0 || !is_caller(fd)) return;
    const char *end = bytes + size, *at = bytes;
    while ((at = memmem(at, end - at, mark, sizeof mark - 1))) {
        at += sizeof mark - 1;
        const char *close = memchr(at, '"', end - at);
        if (!close) return;
        note(what, at, close - at);
    }
}

static void note_vector(int fd, const char *what, const struct iovec *parts, int count) {
    for (int i = 0; i < count; i++) note_keys(fd, what, parts[i].iov_base, parts[i].iov_len);
}

ssize_t recv(int fd, void *bytes, size_t size, int flags) {
    ssize_t n = REAL(recv, fd, bytes, size, flags);
    note_keys(fd, "heard", bytes, n);
    return n;
}
ssize_t read(int fd, void *bytes, size_t size) {
    ssize_t n = REAL(read, fd, bytes, size);
    note_keys(fd, "heard", bytes, n);
    return n;
}
ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    note_keys(fd, "answered", bytes, size);
    return REAL(send, fd, bytes, size, flags);
}
ssize_t write(int fd, const void *bytes, size_t size) {
    note_keys(fd, "answered", bytes, size);
    return REAL(write, fd, bytes, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    note_vector(fd, "answered", parts, count);
    return REAL(writev, fd, parts, count);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    note_vector(fd, "answered", message->msg_iov, (int)message->msg_iovlen);
    return REAL(sendmsg, fd, message, flags);
}
