// The memory a probe pushes: both sides know what must be in it, so that what arrived can be checked.
//
// Threads: one at a time.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <cstddef>
#include <cstdint>

namespace pageferry::cli {

class Scratch {
public:
    // Page-aligned and zero. resources: not that much.
    static Result<Scratch> make(std::uint64_t bytes);
    Scratch(Scratch&& other) noexcept;
    Scratch& operator=(Scratch&&) = delete;
    ~Scratch();

    // The words of this round; docs/protocol.md has the rule.
    void fill(const transport::SessionId& session, std::uint64_t round);
    [[nodiscard]] bool holds(const transport::SessionId& session, std::uint64_t round) const;
    // As block 0 of a RAM table; access: PF_MEMORY_*.
    [[nodiscard]] transport::MemoryBlock block(std::uint32_t access) const;
    [[nodiscard]] std::uint64_t size() const { return bytes_; }

    static constexpr std::uint64_t page_size = 4096;
    static constexpr const char* name = "probe";

private:
    Scratch(std::byte* address, std::uint64_t bytes) : address_(address), bytes_(bytes) {}
    [[nodiscard]] std::uint64_t* words() const { return reinterpret_cast<std::uint64_t*>(address_); }
    std::byte* address_;
    std::uint64_t bytes_;
};

} // namespace pageferry::cli
