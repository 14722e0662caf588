/* While the file $CHAOS_SYNC_FAILS exists, fsync, fdatasync and msync of this process fail with EIO.
 *
 *     gcc -shared -fPIC -O2 -o failsync.so failsync.c -ldl       LD_PRELOAD=failsync.so CHAOS_SYNC_FAILS=/path …
 *
 * Nothing is synced then, as with a dying device. Whatever was written stays in the page cache: it shows what a node
 * says, not what survives (a power cut shows that).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int fails(void) {
    const char *flag = getenv("CHAOS_SYNC_FAILS");
    if (!flag || access(flag, F_OK)) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { return fails() ? -1 : REAL(fsync, int)(fd); }
int fdatasync(int fd) { return fails() ? -1 : REAL(fdatasync, int)(fd); }
int msync(void *start, size_t length, int flags) {
    return fails() ? -1 : REAL(msync, void *, size_t, int)(start, length, flags);
}
