/* QEMU gives memory back to the host (virtio-balloon, free page reporting, virtio-mem) by punching holes into the file that is
 * guest RAM. It does so with these functions of libc, which are taken over here: counted where they punch, then passed on. */
#include "hypervisor/qemu/agent/discards.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

/* By the name of the symbol: in C, headers may have redirected `fallocate` to `fallocate64`. */
#define TAKEN_OVER(name) __asm__(name) __attribute__((visibility("default")))
int counted_fallocate(int fd, int mode, long offset, long length) TAKEN_OVER("fallocate");
int counted_fallocate64(int fd, int mode, long offset, long length) TAKEN_OVER("fallocate64");
int counted_madvise(void* address, size_t length, int advice) TAKEN_OVER("madvise");
_Static_assert(sizeof(long) == sizeof(off64_t), "offsets are passed to the kernel in one register");

static struct pf_agent_discards* counters; /* set once, never unmapped: a call may be under way at any time */

/* Two counters, for there may be several at a time: `begun` is ahead before the first page goes, `ended` follows when all are
 * gone. Without counters nothing is written anywhere. */
static struct pf_agent_discards* begin(bool punches) {
    struct pf_agent_discards* const here = punches ? __atomic_load_n(&counters, __ATOMIC_ACQUIRE) : NULL;
    if (here != NULL) {
        (void)__atomic_add_fetch(&here->begun, 1, __ATOMIC_SEQ_CST);
    }
    return here;
}

static int end(struct pf_agent_discards* here, long result) {
    if (here != NULL) {
        (void)__atomic_add_fetch(&here->ended, 1, __ATOMIC_SEQ_CST);
    }
    return (int)result; /* errno is as the system call left it */
}

int counted_fallocate64(int fd, int mode, long offset, long length) {
    struct pf_agent_discards* const here = begin((mode & FALLOC_FL_PUNCH_HOLE) != 0);
    return end(here, syscall(SYS_fallocate, fd, mode, offset, length));
}

int counted_fallocate(int fd, int mode, long offset, long length) {
    return counted_fallocate64(fd, mode, offset, length);
}

/* MADV_DONTNEED and the like drop page table entries of shared memory, and leave the file its pages. */
int counted_madvise(void* address, size_t length, int advice) {
    struct pf_agent_discards* const here = begin(advice == MADV_REMOVE);
    return end(here, syscall(SYS_madvise, address, length, advice));
}

const struct pf_agent_discards* discards_counted(void) {
    return counters;
}

/* Whether QEMU's calls come here and not to another preloaded library that has the same idea. */
static bool come_here(void) {
    const uint64_t before = counters->ended;
    (void)fallocate64(-1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1); /* EBADF */
    (void)madvise(NULL, 0, MADV_REMOVE);                                     /* nothing to do */
    return counters->ended == before + 2;
}

struct handle count_discards(void) {
    const size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    struct handle result = {.fd = memfd_create("pageferry-discards", MFD_CLOEXEC | MFD_ALLOW_SEALING), .error = 0};
    void* mapped = MAP_FAILED;
    if (result.fd >= 0 && ftruncate(result.fd, (off_t)bytes) == 0) {
        mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, result.fd, 0);
    }
    /* Whoever is given it can read it, neither write it nor pull it from under another reader. */
    if (mapped == MAP_FAILED ||
        fcntl(result.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
        result.error = errno;
    } else {
        __atomic_store_n(&counters, (struct pf_agent_discards*)mapped, __ATOMIC_RELEASE);
        result.error = come_here() ? 0 : EOPNOTSUPP;
    }
    if (result.error != 0 && result.fd >= 0) {
        (void)close(result.fd);
        result.fd = -1;
    }
    return result;
}
