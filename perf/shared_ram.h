// RAM of a guest that does not exist: a RAM file as the launcher makes it, mapped shared, filled with data that no transport can
// shorten.
//
// Threads: the owner's.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace pageferry::perf {

class SharedRam {
public:
    // `length` bytes, a multiple of 4096; nothing of it populated yet.
    static Result<SharedRam> create(std::uint64_t length);
    SharedRam(SharedRam&& other) noexcept;
    SharedRam& operator=(SharedRam&&) = delete;
    SharedRam(const SharedRam&) = delete;
    SharedRam& operator=(const SharedRam&) = delete;
    ~SharedRam();

    [[nodiscard]] std::byte* address() const { return address_; }
    [[nodiscard]] std::uint64_t length() const { return length_; }
    [[nodiscard]] int file() const { return file_.get(); }

    // Allocates every page, so that no run pays for it.
    Result<void> populate();
    // Gives every page back: the next write allocates again, as on a destination that has just started.
    Result<void> discard();
    // Every 8-byte word gets a value of its own, never zero.
    void fill();
    // The offset of the first word that fill() would have written otherwise.
    [[nodiscard]] std::optional<std::uint64_t> first_difference() const;

private:
    SharedRam(Fd file, std::byte* address, std::uint64_t length) : file_(std::move(file)), address_(address), length_(length) {}
    [[nodiscard]] std::span<std::uint64_t> words() const;

    Fd file_;
    std::byte* address_ = nullptr;
    std::uint64_t length_ = 0;
};

} // namespace pageferry::perf
