// Files for guest RAM: shared, with no name that anyone else could open, gone with the last descriptor.
//
// Threads: any.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <string>

namespace pageferry::memory {

// Of transparent huge pages where the host allows them (transparent_hugepage/enabled is not "never") and this process may mount,
// as RAM that QEMU allocates by itself would be; otherwise a memfd, of 4 KiB pages unless transparent_hugepage/shmem_enabled
// says otherwise. `name` shows in /proc/PID/maps. length: bytes; nothing is allocated yet. Errors: memfd_create's and
// ftruncate's.
Result<Fd> make_ram_file(const std::string& name, std::uint64_t length);

// On a tmpfs of its own with huge=advise: huge pages in mappings that madvise(MADV_HUGEPAGE), which QEMU does to its RAM. Errors:
// EPERM without CAP_SYS_ADMIN, EINVAL where the kernel has no transparent huge pages.
Result<Fd> make_huge_ram_file(const std::string& name, std::uint64_t length);

} // namespace pageferry::memory
