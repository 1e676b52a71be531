#include "memory/extent.h"

#include "memory/huge_extents.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace pageferry::memory {

namespace {

bool is_zero(std::span<const std::byte> bytes) {
    // Equal to itself shifted by one, and the first is zero: memcmp does it a vector at a time.
    return bytes.empty() || (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

Result<void> zero_in_place(const RamBlock& block, Extent extent) {
    // pread does not fill holes, as a load would. Aligned, so that a piece is never in two huge pages.
    alignas(64) std::array<std::byte, 65536> piece;
    for (std::uint64_t done = 0; done < extent.length; done += piece.size()) {
        const std::uint64_t offset = extent.offset + done;
        const std::size_t wanted = std::min<std::uint64_t>(piece.size(), extent.length - done);
        const ssize_t got = ::pread(block.file(), piece.data(), wanted, static_cast<off_t>(block.info().file_offset + offset));
        if (got < 0) {
            return std::unexpected(errno_error(errno, "pread", "RAM block " + block.info().name));
        }
        if (static_cast<std::size_t>(got) != wanted || !is_zero({piece.data(), wanted})) {
            std::memset(block.alias() + offset, 0, wanted);
        }
    }
    return {};
}

} // namespace

Result<std::vector<Extent>> data_extents(const RamBlock& block) {
    if (block.is_hugetlb()) {
        return huge_data_extents(block);
    }
    const auto begin = static_cast<off_t>(block.info().file_offset);
    const auto end = static_cast<off_t>(block.info().file_offset + block.info().length);
    std::vector<Extent> extents;
    off_t position = begin;
    while (position < end) {
        const off_t data = ::lseek(block.file(), position, SEEK_DATA);
        if (data < 0 && errno != ENXIO) { // ENXIO: no data any more
            return std::unexpected(errno_error(errno, "lseek(SEEK_DATA)", "RAM block " + block.info().name));
        }
        if (data < 0 || data >= end) {
            break;
        }
        const off_t hole = ::lseek(block.file(), data, SEEK_HOLE);
        if (hole < 0) {
            if (errno == ENXIO) { // the file was cut between the two calls
                break;
            }
            return std::unexpected(errno_error(errno, "lseek(SEEK_HOLE)", "RAM block " + block.info().name));
        }
        const off_t last = std::min(hole, end);
        if (last > data) { // else: punched between the two calls
            extents.push_back(
                {.offset = static_cast<std::uint64_t>(data - begin), .length = static_cast<std::uint64_t>(last - data)});
        }
        position = std::max(last, data + 1);
    }
    return extents;
}

std::vector<Extent> subtract(std::span<const Extent> a, std::span<const Extent> b) {
    std::vector<Extent> rest;
    auto cut = b.begin();
    for (const Extent& extent : a) {
        std::uint64_t from = extent.offset;
        const std::uint64_t end = extent.offset + extent.length;
        while (cut != b.end() && cut->offset + cut->length <= from) {
            ++cut;
        }
        // The last cut may reach into the next extent of a: it is looked at again there.
        for (auto next = cut; next != b.end() && next->offset < end; ++next) {
            if (next->offset > from) {
                rest.push_back({.offset = from, .length = next->offset - from});
            }
            from = std::max(from, next->offset + next->length);
        }
        if (from < end) {
            rest.push_back({.offset = from, .length = end - from});
        }
    }
    return rest;
}

std::uint64_t total_length(std::span<const Extent> extents) {
    std::uint64_t total = 0;
    for (const Extent& extent : extents) {
        total += extent.length;
    }
    return total;
}

Result<void> discard(const RamBlock& block, Extent extent) {
    const RamBlockInfo& info = block.info();
    if (extent.length == 0 || extent.offset % info.page_size != 0 || extent.length % info.page_size != 0 ||
        extent.offset > info.length || extent.length > info.length - extent.offset) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "discard", "RAM block " + info.name,
                                          std::to_string(extent.length) + " bytes at " + std::to_string(extent.offset) +
                                              " are not whole pages of the block"));
    }
    if (block.is_hugetlb()) {
        return zero_in_place(block, extent);
    }
    if (::fallocate(block.file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(info.file_offset + extent.offset), static_cast<off_t>(extent.length)) != 0) {
        return std::unexpected(errno_error(errno, "fallocate(PUNCH_HOLE)", "RAM block " + info.name));
    }
    return {};
}

} // namespace pageferry::memory
