/* A program for the agent to live in: named like QEMU, it maps a shared file in two pieces, says where, and waits for its end.
 * Arguments: the file (for a descriptor and a mapping). Prints the address, its LD_PRELOAD, and its number of threads.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char** argv) {
    const size_t half = 1 << 20;
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
    while (getchar() == '\n') {
        printf("%c\n", all[0]); /* faults the page in again after a zap */
        fflush(stdout);
    }
    return read_only < 0;
}
