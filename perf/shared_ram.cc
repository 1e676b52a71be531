#include "perf/shared_ram.h"

#include "memory/ram_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <fcntl.h>
#include <string>
#include <utility>

namespace pageferry::perf {

namespace {

// An odd factor makes the map from index to value one-to-one; index + 1 keeps zero out.
std::uint64_t word_at(std::uint64_t index) {
    return (index + 1) * 0x9e3779b97f4a7c15U;
}

std::string name_of_length(std::uint64_t length) {
    return std::to_string(length) + " bytes of RAM";
}

} // namespace

Result<SharedRam> SharedRam::create(std::uint64_t length) {
    if (length == 0 || length % 4096 != 0) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "create", name_of_length(length),
                                          "The size is no multiple of 4096", "give --size such as 1G"));
    }
    auto file = memory::make_ram_file("pageferry-perf", length);
    if (!file) {
        return std::unexpected(file.error());
    }
    void* address = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
    if (address == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", name_of_length(length)));
    }
    ::madvise(address, length, MADV_HUGEPAGE); // as QEMU does; EINVAL where the kernel has none
    return SharedRam{std::move(*file), static_cast<std::byte*>(address), length};
}

SharedRam::SharedRam(SharedRam&& other) noexcept
    : file_(std::move(other.file_)), address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}

SharedRam::~SharedRam() {
    if (address_ != nullptr) {
        ::munmap(address_, length_);
    }
}

Result<void> SharedRam::populate() {
    if (::madvise(address_, length_, MADV_POPULATE_WRITE) != 0) {
        return std::unexpected(errno_error(errno, "populate", name_of_length(length_), "free memory or give a smaller --size"));
    }
    return {};
}

Result<void> SharedRam::discard() {
    if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(length_)) != 0) {
        return std::unexpected(errno_error(errno, "punch hole", name_of_length(length_)));
    }
    return {};
}

std::span<std::uint64_t> SharedRam::words() const {
    // The mapping is page-aligned memory of our own; uint64_t objects are created in it by use.
    return {reinterpret_cast<std::uint64_t*>(address_), length_ / sizeof(std::uint64_t)};
}

void SharedRam::fill() {
    std::uint64_t index = 0;
    for (std::uint64_t& word : words()) {
        word = word_at(index++);
    }
}

std::optional<std::uint64_t> SharedRam::first_difference() const {
    std::uint64_t index = 0;
    for (const std::uint64_t word : words()) {
        if (word != word_at(index)) {
            return index * sizeof(std::uint64_t);
        }
        ++index;
    }
    return std::nullopt;
}

} // namespace pageferry::perf
