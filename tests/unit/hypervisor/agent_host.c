/* A program for the agent to live in: named like QEMU, it maps a shared file in two pieces, says where, and waits for its end.
 * Arguments: the file (for a descriptor and a mapping). Prints the address, its LD_PRELOAD, and its number of threads. Then an
 * empty line asks for the first byte, a letter first for one of the calls below, and its result.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Once more in each form: QEMU is built with large files, other programs need not be. */
int small_fallocate(int fd, int mode, long offset, long length) __asm__("fallocate");

static int do_as_asked(int what, int fd, char* memory) {
    const off_t page = 4096;
    switch (what) {
    case 'p': return fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, page);
    case 'q': return small_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, page);
    case 'r': return madvise(memory + page, (size_t)page, MADV_REMOVE);
    case 'd': return madvise(memory + page, (size_t)page, MADV_DONTNEED);
    case 'a': return fallocate64(fd, FALLOC_FL_KEEP_SIZE, page, page);
    default: return fallocate64(-1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, page);
    }
}

int main(int argc, char** argv) {
    const size_t half = 1 << 20, page_bytes = 4096;
    const int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
    char* all = mmap(NULL, 2 * half, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (all == MAP_FAILED || mprotect(all + half, half, PROT_READ) != 0) { /* two lines in /proc/self/maps */
        return 1;
    }
    const int read_only = open(argv[1], O_RDONLY); /* the agent prefers the other */
    memset(all, 'x', half);
    int threads = -2; /* . and .. */
    DIR* tasks = opendir("/proc/self/task");
    while (tasks != NULL && readdir(tasks) != NULL) {
        ++threads;
    }
    const char* preload = getenv("LD_PRELOAD");
    printf("%p %d %s\n", (void*)all, threads, preload != NULL ? preload : "-");
    fflush(stdout);
    for (int what = getchar(); what != EOF; what = getchar()) {
        if (what == '\n') {
            printf("%c\n", all[0]); /* faults the page in again after a zap */
        } else {
            errno = 0;
            const int result = do_as_asked(what, fd, all);
            printf("%d %d %d\n", result, errno, all[page_bytes]);
            (void)getchar();
        }
        fflush(stdout);
    }
    return read_only < 0;
}
