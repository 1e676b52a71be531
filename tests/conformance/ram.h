// RAM blocks for tests: memory of a memfd, mapped twice, as a hypervisor's RAM is. The transport is given the alias; the test
// looks through the other mapping, the guest's.
#pragma once

#include "ends.h"

#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace pageferry::conformance {

inline constexpr std::uint64_t small_page = 4096;
inline constexpr std::uint64_t large_page = 2ULL << 20U;

class Mapping {
public:
    Mapping(int fd, std::uint64_t length, std::uint64_t alignment);
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    ~Mapping();
    [[nodiscard]] std::byte* data() const { return data_; }

private:
    void* reserved_ = nullptr; // address space of length + alignment
    std::uint64_t reserved_length_ = 0;
    std::byte* data_ = nullptr;
};

class Ram {
public:
    Ram(std::uint32_t block, std::uint64_t length, std::uint64_t page_size = small_page);
    [[nodiscard]] std::span<std::byte> guest() const { return {guest_.data(), length_}; }
    [[nodiscard]] pf_memory_block describe(std::uint32_t access) const;
    [[nodiscard]] std::uint32_t block() const { return block_; }
    [[nodiscard]] std::uint64_t length() const { return length_; }
    void fill_random(std::uint64_t seed);
    void fill(std::uint8_t value);
    // What a hypervisor does to give memory back to the host: the pages of this range are gone, and read as zeros.
    void punch(std::uint64_t offset, std::uint64_t length);
    [[nodiscard]] std::uint64_t allocated() const; // bytes that are no hole

private:
    std::uint32_t block_;
    std::uint64_t length_;
    std::uint64_t page_size_;
    std::string name_;
    Fd fd_;
    Mapping alias_;
    Mapping guest_;
};

// The same blocks on both sides.
struct TwoRams {
    std::vector<Ram> source;
    std::vector<Ram> destination;
};
// A usual one, one of a single page, one of large pages with a number that no 16 bits hold.
TwoRams usual_rams();
// The source's is random, the destination's 0xee all over.
void paint(TwoRams& rams, std::uint64_t seed = 1);

int add_memory(const End& end, const std::vector<Ram>& rams, std::uint32_t access);
// Both ends at the same time: a transport may want both to come to an end.
void add_memory(const Pair& pair, const TwoRams& rams, std::uint32_t source, std::uint32_t destination);

using Start = std::function<int(std::span<const pf_extent> extents, std::size_t* accepted, pf_error* error)>;
Start pushing(const End& end);
Start pulling(const End& end, std::uint32_t lane);

// How often each cookie came back, and with what status other than PF_OK.
struct Seen {
    std::map<std::uint64_t, int> times;
    std::map<std::uint64_t, int> bad;
};
// Starts all of the extents, taking completions whenever the queue is full, until every one has come back. False, and a failure
// of the test, when it does not come to that.
bool run_all(const End& end, const Start& start, std::span<const pf_extent> extents, Seen& seen);
// What poll() gives within timeout_ms.
int poll_into(const End& end, Seen& seen, std::int64_t timeout_ms, std::size_t* count = nullptr);
int fence(const End& end);

// The first block of the source's once, in pieces, with a fence at the end; PF_OK, or the first other answer.
int push_round(const End& end, const TwoRams& rams);

pf_extent extent(const Ram& ram, std::uint64_t offset, std::uint64_t length, std::uint64_t cookie = 0);
// At most count extents of one byte to max, short ones as likely as long ones, with no regard to pages, in no order; cookies from
// 0. No two overlap: pushes that do, with no fence between them, land in any order.
std::vector<pf_extent> random_extents(std::span<const Ram> rams, std::size_t count, std::uint64_t max, std::uint64_t seed);
// What the destination must hold after the extents: 0xee, and the source's bytes where an extent is.
void expect_moved(const TwoRams& rams, std::span<const pf_extent> extents);
void expect_untouched(std::span<const Ram> rams); // 0xee all over

} // namespace pageferry::conformance
