// Kernel interfaces newer than the headers we build with (Debian 12 has those of Linux 6.1).
//
// Source: include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h, Linux 6.7; Documentation/admin-guide/mm/pagemap.rst.
// Numbers and layouts are the kernel's ABI; nothing here decides whether the running kernel has them.
#pragma once

#include <cstdint>

#include <linux/fs.h> // has struct pm_scan_arg from Linux 6.7 on, where PAGEMAP_SCAN says so
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#ifndef HUGETLBFS_MAGIC
#define HUGETLBFS_MAGIC 0x958458f6
#endif

// Macros, as in the kernel's header: it is #ifndef that finds them.
// NOLINTBEGIN(modernize-macro-to-enum)
#ifndef PAGEMAP_SCAN
struct page_region {
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t categories;
};
struct pm_scan_arg {
    std::uint64_t size;
    std::uint64_t flags;
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t walk_end;
    std::uint64_t vec;
    std::uint64_t vec_len;
    std::uint64_t max_pages;
    std::uint64_t category_inverted;
    std::uint64_t category_mask;
    std::uint64_t category_anyof_mask;
    std::uint64_t return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#endif
// NOLINTEND(modernize-macro-to-enum)
