#include "ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <random>
#include <system_error>

namespace pageferry::conformance {

namespace {

[[noreturn]] void no_memory(const char* what) {
    throw std::system_error{errno, std::generic_category(), what};
}

constexpr std::byte painted{0xee};

} // namespace

Mapping::Mapping(int fd, std::uint64_t length, std::uint64_t alignment) : reserved_length_(length + alignment) {
    reserved_ = ::mmap(nullptr, reserved_length_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved_ == MAP_FAILED) {
        no_memory("mmap");
    }
    auto* const first = static_cast<std::byte*>(reserved_);
    const std::uint64_t ahead = (alignment - std::bit_cast<std::uintptr_t>(first) % alignment) % alignment;
    void* const data = ::mmap(first + ahead, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (data == MAP_FAILED) {
        no_memory("mmap");
    }
    data_ = static_cast<std::byte*>(data);
}

Mapping::Mapping(Mapping&& other) noexcept
    : reserved_(std::exchange(other.reserved_, nullptr)), reserved_length_(other.reserved_length_), data_(other.data_) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(reserved_, other.reserved_);
    std::swap(reserved_length_, other.reserved_length_);
    std::swap(data_, other.data_);
    return *this;
}

Mapping::~Mapping() {
    if (reserved_ != nullptr) {
        ::munmap(reserved_, reserved_length_);
    }
}

namespace {

Fd make_memfd(std::uint64_t length) {
    Fd fd{::memfd_create("pageferry-conformance", MFD_CLOEXEC)};
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(length)) != 0) {
        no_memory("memfd");
    }
    return fd;
}

} // namespace

Ram::Ram(std::uint32_t block, std::uint64_t length, std::uint64_t page_size)
    : block_(block), length_(length), page_size_(page_size), name_("ram" + std::to_string(block)), fd_(make_memfd(length)),
      alias_(fd_.get(), length, page_size), guest_(fd_.get(), length, page_size) {}

pf_memory_block Ram::describe(std::uint32_t access) const {
    return {.size = sizeof(pf_memory_block),
            .block = block_,
            .name = name_.c_str(),
            .address = alias_.data(),
            .length = length_,
            .page_size = page_size_,
            .access = access,
            .reserved = 0};
}

void Ram::fill_random(std::uint64_t seed) {
    std::mt19937_64 random{seed};
    for (std::byte& byte : guest()) {
        byte = static_cast<std::byte>(random());
    }
}

void Ram::fill(std::uint8_t value) {
    std::ranges::fill(guest(), std::byte{value});
}

void Ram::punch(std::uint64_t offset, std::uint64_t length) {
    const auto first = static_cast<off_t>(offset);
    if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, static_cast<off_t>(length)) != 0) {
        no_memory("fallocate");
    }
}

std::uint64_t Ram::allocated() const {
    struct stat status{};
    if (::fstat(fd_.get(), &status) != 0) {
        no_memory("fstat");
    }
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

TwoRams usual_rams() {
    TwoRams rams;
    for (std::vector<Ram>* side : {&rams.source, &rams.destination}) {
        side->emplace_back(0, 8 * large_page / 2);
        side->emplace_back(3, small_page);
        side->emplace_back(70'001, 3 * large_page, large_page);
    }
    return rams;
}

void paint(TwoRams& rams, std::uint64_t seed) {
    for (Ram& ram : rams.source) {
        ram.fill_random(seed + ram.block());
    }
    for (Ram& ram : rams.destination) {
        ram.fill(std::to_integer<std::uint8_t>(painted));
    }
}

int add_memory(const End& end, const std::vector<Ram>& rams, std::uint32_t access) {
    std::vector<pf_memory_block> blocks;
    blocks.reserve(rams.size());
    for (const Ram& ram : rams) {
        blocks.push_back(ram.describe(access));
    }
    pf_error error = no_error();
    const int status = transport().add_memory(end.get(), blocks.data(), blocks.size(), &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status;
}

void add_memory(const Pair& pair, const TwoRams& rams, std::uint32_t source, std::uint32_t destination) {
    Background other{"add_memory", [&] { return add_memory(pair.destination, rams.destination, destination); }};
    add_memory(pair.source, rams.source, source);
    other.get();
}

Start pushing(const End& end) {
    return [&end](std::span<const pf_extent> extents, std::size_t* accepted, pf_error* error) {
        return transport().push(end.get(), extents.data(), extents.size(), accepted, error);
    };
}

Start pulling(const End& end, std::uint32_t lane) {
    return [&end, lane](std::span<const pf_extent> extents, std::size_t* accepted, pf_error* error) {
        return transport().pull(end.get(), lane, extents.data(), extents.size(), accepted, error);
    };
}

int poll_into(const End& end, Seen& seen, std::int64_t timeout_ms, std::size_t* count) {
    std::array<pf_completion, 64> completions{};
    std::size_t got = 0;
    pf_error error = no_error();
    const int status = transport().poll(end.get(), completions.data(), completions.size(), &got, timeout_ms, &error);
    if (status != PF_OK) {
        got = 0;
    }
    for (const pf_completion& one : std::span{completions}.first(got)) {
        ++seen.times[one.cookie];
        if (one.status != PF_OK) {
            seen.bad[one.cookie] = one.status;
        }
    }
    if (count != nullptr) {
        *count = got;
    }
    return status;
}

bool run_all(const End& end, const Start& start, std::span<const pf_extent> extents, Seen& seen) {
    std::size_t done = 0;
    const std::size_t all = extents.size();
    while (done < all) {
        if (!extents.empty()) {
            std::size_t accepted = 0;
            pf_error error = no_error();
            const int status = start(extents, &accepted, &error);
            if (status != PF_OK && status != PF_AGAIN) {
                ADD_FAILURE() << text_of(error);
                return false;
            }
            if (status == PF_OK && (accepted == 0 || accepted > extents.size())) {
                ADD_FAILURE() << "PF_OK with " << accepted << " of " << extents.size() << " accepted";
                return false;
            }
            if (status == PF_OK) {
                extents = extents.subspan(accepted);
                continue; // until it says that it is full
            }
        }
        std::size_t count = 0;
        if (const int status = poll_into(end, seen, patience, &count); status != PF_OK) {
            pf_error error = no_error(); // it is the same one again
            transport().fence(end.get(), 0, &error);
            ADD_FAILURE() << "poll answered " << status << " with " << done << " of " << all << " done: " << text_of(error);
            return false;
        }
        done += count;
    }
    return true;
}

int fence(const End& end) {
    pf_error error = no_error();
    const int status = transport().fence(end.get(), patience, &error);
    EXPECT_EQ(status, PF_OK) << text_of(error);
    return status;
}

int push_round(const End& end, const TwoRams& rams) {
    constexpr std::uint64_t piece = 256UL * 1024;
    const Ram& ram = rams.source[0];
    std::uint64_t offset = 0;
    std::size_t under_way = 0;
    Seen seen;
    int status = PF_OK;
    while (status == PF_OK && (offset < ram.length() || under_way > 0)) {
        const pf_extent one = extent(ram, offset, piece);
        std::size_t count = 0;
        status = offset < ram.length() ? transport().push(end.get(), &one, 1, &count, nullptr) : int{PF_AGAIN};
        if (status == PF_OK) {
            ++under_way;
            offset += piece;
        } else if (status == PF_AGAIN && under_way > 0) {
            status = poll_into(end, seen, patience, &count);
            under_way -= count;
        }
    }
    return status == PF_OK ? transport().fence(end.get(), patience, nullptr) : status;
}

pf_extent extent(const Ram& ram, std::uint64_t offset, std::uint64_t length, std::uint64_t cookie) {
    return {.block = ram.block(), .reserved = 0, .offset = offset, .length = length, .cookie = cookie};
}

std::vector<pf_extent> random_extents(std::span<const Ram> rams, std::size_t count, std::uint64_t max, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    const auto halvings = std::max(static_cast<unsigned>(std::bit_width(max)), 1U); // each length class is as likely as the next
    const auto some_length = [&] { return 1 + random() % std::max(max >> (random() % halvings), std::uint64_t{1}); };
    std::vector<pf_extent> extents;
    for (const Ram& ram : rams) {
        for (std::uint64_t offset = random() % small_page; offset < ram.length();) {
            const std::uint64_t length = std::min(some_length(), ram.length() - offset);
            extents.push_back(extent(ram, offset, length));
            offset += length + random() % 3 * some_length(); // every third touches the one before
        }
    }
    std::ranges::shuffle(extents, random);
    extents.resize(std::min(count, extents.size()));
    for (std::size_t i = 0; i < extents.size(); ++i) {
        extents[i].cookie = i;
    }
    return extents;
}

void expect_moved(const TwoRams& rams, std::span<const pf_extent> extents) {
    for (std::size_t i = 0; i < rams.source.size(); ++i) {
        const auto from = rams.source[i].guest();
        const auto to = rams.destination[i].guest();
        std::vector<std::byte> expected(to.size(), painted);
        for (const pf_extent& one : extents) {
            if (one.block == rams.source[i].block()) {
                std::ranges::copy(from.subspan(one.offset, one.length),
                                  expected.begin() + static_cast<std::ptrdiff_t>(one.offset));
            }
        }
        const auto [got, wanted] = std::ranges::mismatch(to, expected);
        EXPECT_TRUE(got == to.end()) << "block " << rams.source[i].block() << " differs first at offset " << got - to.begin();
    }
}

void expect_untouched(std::span<const Ram> rams) {
    for (const Ram& ram : rams) {
        const auto memory = ram.guest();
        const auto changed = std::ranges::find_if(memory, [](std::byte byte) { return byte != painted; });
        EXPECT_TRUE(changed == memory.end()) << "block " << ram.block() << " was changed at offset " << changed - memory.begin();
    }
}

} // namespace pageferry::conformance
