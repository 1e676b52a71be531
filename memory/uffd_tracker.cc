#include "memory/uffd_tracker.h"

#include "memory/dirty_list.h"
#include "memory/pagemap.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pageferry::memory {

namespace {

struct TrackedBlock {
    std::string name;
    AddressRange range; // in the hypervisor
    bool hugetlb = false;
};

class UffdTracker final : public DirtyTracker {
public:
    UffdTracker(Fd userfaultfd, Fd pagemap, WriteProtectProbe probe)
        : userfaultfd_(std::move(userfaultfd)), pagemap_(std::move(pagemap)), probe_(probe), scanner_(pagemap_.get()) {}
    ~UffdTracker() override { release(); }

    [[nodiscard]] std::string name() const override { return "uffd-wp-async"; }
    Result<void> start(std::span<const RamBlock* const> blocks) override;
    Result<void> collect(std::vector<BlockExtent>& dirty) override;
    Result<void> collect_part(std::size_t index, Extent part, std::vector<BlockExtent>& dirty) override;
    [[nodiscard]] bool cheap_in_parts() const override { return true; }
    Result<std::uint64_t> estimate() override;
    void stop() override { release(); }

private:
    Result<void> handshake();
    Result<void> start_block(const TrackedBlock& block);
    Result<void> write_protect(const TrackedBlock& block, AddressRange range);
    [[nodiscard]] Error failed(int number, std::string operation, const TrackedBlock& block, std::string remedy = {}) const;
    [[nodiscard]] BlockExtent told(std::size_t index, AddressRange found) const {
        return {.block = index, .extent = {.offset = found.start - blocks_[index].range.start, .length = found.length()}};
    }
    // hugetlbfs never counts a dropped entry as written (seen up to 6.18), tmpfs does, but in some kernels not a dropped table.
    [[nodiscard]] bool may_hide_dropped(const TrackedBlock& block) const {
        return block.hugetlb || !probe_.holes_count_as_written;
    }
    void release();

    Fd userfaultfd_;
    Fd pagemap_;
    WriteProtectProbe probe_;
    PagemapScanner scanner_;
    std::vector<TrackedBlock> blocks_; // those registered
};

Error UffdTracker::failed(int number, std::string operation, const TrackedBlock& block, std::string remedy) const {
    if (number == ESRCH) {
        remedy = "the hypervisor has ended";
    }
    return errno_error(number, std::move(operation), "RAM block " + block.name, std::move(remedy));
}

Result<void> UffdTracker::handshake() {
    uffdio_api api = {.api = UFFD_API, .features = write_protect_features, .ioctls = 0};
    // EINVAL: the features are not there, which the kernel probe has ruled out, or an earlier migration has done the handshake.
    // Which it was, and whether that one asked for the same features, shows when the first mapping is registered.
    if (::ioctl(userfaultfd_.get(), UFFDIO_API, &api) != 0 && errno != EINVAL) {
        return std::unexpected(errno_error(errno, "UFFDIO_API", "userfaultfd"));
    }
    return {};
}

Result<void> UffdTracker::start(std::span<const RamBlock* const> blocks) {
    if (!blocks_.empty()) {
        return std::unexpected(make_error(ErrorCode::state, "start", "dirty tracking", "it is started already"));
    }
    if (auto done = handshake(); !done) {
        return done;
    }
    for (const RamBlock* block : blocks) {
        const RamBlockInfo& info = block->info();
        const TrackedBlock tracked{.name = info.name,
                                   .range = {.start = info.guest_address, .end = info.guest_address + info.length},
                                   .hugetlb = block->is_hugetlb()};
        if (info.guest_address == 0) {
            release();
            return std::unexpected(make_error(ErrorCode::invalid_argument, "start dirty tracking", "RAM block " + info.name,
                                              "its address in the hypervisor is not known"));
        }
        if (auto started = start_block(tracked); !started) {
            release();
            return started;
        }
    }
    return {};
}

Result<void> UffdTracker::start_block(const TrackedBlock& block) {
    uffdio_register range = {
        .range = {.start = block.range.start, .len = block.range.length()}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    if (::ioctl(userfaultfd_.get(), UFFDIO_REGISTER, &range) != 0) {
        const int number = errno;
        return std::unexpected(failed(number, "UFFDIO_REGISTER", block,
                                      number == EBUSY    ? "another userfaultfd watches this memory; end its user first"
                                      : number == EINVAL ? "the address must be a shared mapping of the hypervisor"
                                                         : ""));
    }
    blocks_.push_back(block);
    // Not write-protected yet, so nothing can wait: the moment to find out what an earlier handshake has asked for.
    std::uint64_t asynchronous = 0;
    auto scanned = scanner_.each(block.range, write_protect_allowed, [&](AddressRange found) -> Result<void> {
        asynchronous += found.length();
        return {};
    });
    if (!scanned) {
        return scanned;
    }
    if (asynchronous != block.range.length()) {
        return std::unexpected(make_error(ErrorCode::unsupported, "start dirty tracking", "RAM block " + block.name,
                                          "the userfaultfd was set up earlier without asynchronous write-protection",
                                          "hand over one that is used for dirty tracking alone"));
    }
    return write_protect(block, block.range);
}

Result<void> UffdTracker::write_protect(const TrackedBlock& block, AddressRange range) {
    // In pieces: each call holds the hypervisor's mmap lock for reading, and invalidates what it is given in KVM.
    constexpr std::uint64_t piece = std::uint64_t{1} << 30;
    for (int retries = 0; range.start < range.end;) {
        const std::uint64_t length = std::min(piece, range.length());
        uffdio_writeprotect protect = {.range = {.start = range.start, .len = length}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        if (::ioctl(userfaultfd_.get(), UFFDIO_WRITEPROTECT, &protect) == 0) {
            range.start += length;
        } else if (const int number = errno; (number == EAGAIN || number == EINTR) && retries < 10'000) {
            ++retries; // the mapping is being changed under us
            ::sched_yield();
        } else {
            return std::unexpected(failed(number, "UFFDIO_WRITEPROTECT", block));
        }
    }
    return {};
}

Result<void> UffdTracker::collect_part(std::size_t index, Extent part, std::vector<BlockExtent>& dirty) {
    const TrackedBlock& block = blocks_[index];
    const AddressRange range{.start = block.range.start + part.offset, .end = block.range.start + part.offset + part.length};
    const std::size_t first = dirty.size();
    // Scan, then protect exactly what came back, then tell. Ranges that nearly meet are not joined: a page between them that is
    // written after the scan would be made clean without being told.
    const auto take = [&](AddressRange found) -> Result<void> {
        // A part of it may be protected when this fails: told all the same.
        auto made_clean = write_protect(block, found);
        append_dirty(dirty, first, told(index, found));
        return made_clean;
    };
    auto scanned = scanner_.each(range, written, take);
    if (scanned && may_hide_dropped(block)) {
        const std::size_t before = dirty.size();
        scanned = scanner_.each(range, dropped, [&](AddressRange found) {
            auto made_clean = write_protect(block, found);
            append_dirty(dirty, before, told(index, found));
            return made_clean;
        });
        if (dirty.size() > before) {
            normalise_dirty(dirty, first);
        }
    }
    return scanned;
}

Result<void> UffdTracker::collect(std::vector<BlockExtent>& dirty) {
    for (std::size_t index = 0; index < blocks_.size(); ++index) {
        const Extent whole{.offset = 0, .length = blocks_[index].range.length()};
        if (auto collected = collect_part(index, whole, dirty); !collected) {
            return collected;
        }
    }
    return {};
}

Result<std::uint64_t> UffdTracker::estimate() {
    std::uint64_t bytes = 0;
    const auto add = [&](AddressRange found) -> Result<void> {
        bytes += found.length();
        return {};
    };
    for (const TrackedBlock& block : blocks_) {
        auto scanned = scanner_.each(block.range, written, add);
        if (scanned && may_hide_dropped(block)) {
            scanned = scanner_.each(block.range, dropped, add);
        }
        if (!scanned) {
            return std::unexpected(scanned.error());
        }
    }
    return bytes;
}

void UffdTracker::release() {
    for (const TrackedBlock& block : blocks_) {
        uffdio_range range = {.start = block.range.start, .len = block.range.length()};
        // It fails only when the hypervisor or the mapping is gone, and then there is nothing to give back.
        ::ioctl(userfaultfd_.get(), UFFDIO_UNREGISTER, &range);
    }
    blocks_.clear();
}

} // namespace

std::unique_ptr<DirtyTracker> make_uffd_tracker(Fd userfaultfd, Fd pagemap, WriteProtectProbe probe) {
    return std::make_unique<UffdTracker>(std::move(userfaultfd), std::move(pagemap), probe);
}

} // namespace pageferry::memory
