#include "cli/probe_scratch.h"

#include <endian.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace pageferry::cli {

namespace {

std::uint64_t first_word(const transport::SessionId& session, std::uint64_t round) {
    std::uint64_t word = 0;
    std::memcpy(&word, session.data(), sizeof word);
    return le64toh(word) + (round << 32U);
}

} // namespace

Result<Scratch> Scratch::make(std::uint64_t bytes) {
    void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", "scratch memory"));
    }
    return Scratch{static_cast<std::byte*>(address), bytes};
}

Scratch::Scratch(Scratch&& other) noexcept : address_(std::exchange(other.address_, nullptr)), bytes_(other.bytes_) {}

Scratch::~Scratch() {
    if (address_ != nullptr) {
        ::munmap(address_, bytes_);
    }
}

void Scratch::fill(const transport::SessionId& session, std::uint64_t round) {
    const std::uint64_t first = first_word(session, round);
    for (std::uint64_t i = 0; i < bytes_ / sizeof first; ++i) {
        words()[i] = htole64(first + i);
    }
}

bool Scratch::holds(const transport::SessionId& session, std::uint64_t round) const {
    const std::uint64_t first = first_word(session, round);
    for (std::uint64_t i = 0; i < bytes_ / sizeof first; ++i) {
        if (le64toh(words()[i]) != first + i) {
            return false;
        }
    }
    return true;
}

transport::MemoryBlock Scratch::block(std::uint32_t access) const {
    return transport::MemoryBlock{
        .block = 0, .name = name, .address = address_, .length = bytes_, .page_size = page_size, .access = access};
}

} // namespace pageferry::cli
