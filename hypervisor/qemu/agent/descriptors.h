/* QEMU's open descriptors, seen from inside: the file behind a mapping, and disks with direct I/O. The agent's thread only. */
#ifndef PAGEFERRY_AGENT_DESCRIPTORS_H
#define PAGEFERRY_AGENT_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>

struct handle {
    int fd;
    int error; /* errno where fd is -1 */
};

/* `folder` everywhere: /proc/self/fd, opened at the start. */

/* A new descriptor of a regular file that QEMU has open; a writable one where there is one. */
struct handle find_file(int folder, uint64_t device, uint64_t inode);

/* With O_DIRECT the kernel pins pages of guest RAM, and the disk writes them later without a page fault: a page that was
 * write-protected and copied in between would be taken for clean. So these files go through the page cache while a migration
 * tracks writes. `told` is called for each that was switched now (not for those switched before), and may say false to stop.
 * Returns an errno; what was switched stays so until make_direct_again(). */
int make_buffered(int folder, bool (*told)(int fd, void* context), void* context);
void make_direct_again(void);

#endif
