// Reads a QEMU command line and plans the launch: shared RAM on a file, the user's control monitors taken over, a private
// monitor added, -incoming kept for Pageferry; everything else unchanged and in order.
//
// Pure but for what it asks of Host. Any thread.
#pragma once

#include "base/error.h"
#include "hypervisor/qemu/launch_plan.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace pageferry::hypervisor {

// A path of the host, and the file system it is on. A path that does not exist has the file system of its directory.
struct PathStatus {
    enum class FileSystem { tmpfs, hugetlbfs, other };
    bool exists = false;
    bool directory = false;
    std::uint64_t allocated = 0; // bytes the file holds already
    std::uint64_t device = 0;    // st_dev, st_ino of the file; st_dev of its file system where it does not exist
    std::uint64_t inode = 0;
    FileSystem file_system = FileSystem::other;
    std::string mount_point;
    std::uint64_t page_size = 4096;           // bytes; the huge page size on hugetlbfs
    std::optional<std::uint64_t> total_bytes; // empty: without limit. On hugetlbfs: the pool of this page size, with overcommit
    std::optional<std::uint64_t> free_bytes;
};

// What the planner asks of the machine it runs on.
class Host {
public:
    virtual ~Host() = default;
    // not_found when not even the directory exists; otherwise errno's error.
    [[nodiscard]] virtual Result<PathStatus> status(const std::string& path) const = 0;
    // A small text file (-readconfig).
    [[nodiscard]] virtual Result<std::string> read_text(const std::string& path) const = 0;
    // PAGEFERRY=off in the environment.
    [[nodiscard]] virtual bool switched_off() const = 0;
};

// argv[0] is QEMU's binary. On failure: the option that cannot be, why, and the line to use instead. Nothing was changed.
Result<LaunchPlan> plan_launch(std::span<const std::string> argv, const Host& host);

} // namespace pageferry::hypervisor
