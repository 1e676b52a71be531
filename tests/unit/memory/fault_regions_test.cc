// Faults on memory of this process, mapped twice: threads touch the one mapping, the test fills the other.
#include "memory/fault_regions.h"

#include "hypervisor_process.h"

#include "memory/fault_probe.h"
#include "memory/kernel_abi.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <thread>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::BlockSpec;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::HypervisorProcess;
using pageferry::memory::testing::make_ram_file;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;
constexpr std::chrono::seconds long_enough{60};

Fd open_userfaultfd() {
    Fd made{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
    if (!made) {
        made = Fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
    }
    return made;
}

std::vector<Fd> duplicates(const std::vector<Fd>& all) {
    std::vector<Fd> copies;
    for (const Fd& one : all) {
        copies.push_back(one.duplicate());
    }
    return copies;
}

// The hypervisor's mapping of a block, at an address that no page table begins at.
class GuestMapping {
public:
    GuestMapping(const Fd& file, std::uint64_t length, std::uint64_t page) : length_(length) {
        const std::uint64_t room = length + 2 * huge;
        room_ = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        const std::uint64_t aligned = (reinterpret_cast<std::uint64_t>(room_) + huge - 1) / huge * huge;
        void* const at = reinterpret_cast<void*>(page == huge ? aligned : aligned + 5 * small);
        room_length_ = room;
        address_ = ::mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.get(), 0);
    }
    GuestMapping(GuestMapping&& other) noexcept
        : length_(other.length_), room_length_(other.room_length_), room_(std::exchange(other.room_, nullptr)),
          address_(other.address_) {}
    GuestMapping(const GuestMapping&) = delete;
    GuestMapping& operator=(const GuestMapping&) = delete;
    GuestMapping& operator=(GuestMapping&&) = delete;
    ~GuestMapping() {
        if (room_ != nullptr) {
            ::munmap(room_, room_length_);
        }
    }
    [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(address_); }
    [[nodiscard]] volatile std::uint64_t* at(std::uint64_t offset) const {
        return reinterpret_cast<volatile std::uint64_t*>(static_cast<std::byte*>(address_) + offset);
    }
    void zap() const { ::madvise(address_, length_, MADV_DONTNEED); }

private:
    std::uint64_t length_;
    std::uint64_t room_length_ = 0;
    void* room_ = nullptr;
    void* address_ = nullptr;
};

struct Shape {
    const char* name;
    std::uint64_t page;
    std::size_t userfaultfds;
};
void PrintTo(const Shape& shape, std::ostream* out) {
    *out << shape.name;
}

class Faults : public ::testing::TestWithParam<Shape> {
protected:
    void SetUp() override {
        const auto probe = page() == huge ? probe_faults_hugetlbfs() : probe_faults_shmem();
        if (page() == huge && !reserved_.available()) {
            GTEST_SKIP() << "no huge pages can be reserved here";
        }
        if (!probe || !probe->missing || !probe->minor) {
            GTEST_SKIP() << "this kernel has no such faults";
        }
        for (std::size_t i = 0; i < GetParam().userfaultfds; ++i) {
            userfaultfds_.push_back(open_userfaultfd());
        }
        add_block("pc.ram", page() == huge ? 24 : 5000);
        add_block("dimm1", page() == huge ? 5 : 700);
        add_block("rom", 1);
        take_over();
    }
    void TearDown() override {
        if (regions_) {
            EXPECT_TRUE(regions_->disarm());
        }
        regions_.reset();
        userfaultfds_.clear(); // whatever failed: nobody waits any more
        for (std::thread& thread : touching_) {
            thread.join();
        }
    }

    void add_block(const char* name, std::uint64_t pages) {
        const Fd file = make_ram_file(page(), pages * page());
        guest_.emplace_back(file, pages * page(), page());
        auto block =
            RamBlock::map({.name = name, .length = pages * page(), .guest_address = guest_.back().address()}, file.duplicate());
        blocks_.push_back(std::move(block.value()));
    }
    // What a new process does.
    void take_over() {
        regions_.reset();
        auto made = FaultRegions::make(duplicates(userfaultfds_), blocks_);
        ASSERT_TRUE(made) << made.error().to_string();
        regions_.emplace(std::move(*made));
    }
    void arm() {
        for (std::size_t block = 0; block < blocks_.size(); ++block) {
            const auto armed = regions_->arm(block);
            ASSERT_TRUE(armed) << armed.error().to_string();
        }
        for (const GuestMapping& guest : guest_) {
            guest.zap();
        }
    }

    [[nodiscard]] static std::uint64_t page() { return GetParam().page; }
    void fill(std::size_t block, std::uint64_t number, std::uint64_t value) {
        std::memcpy(blocks_[block].alias() + number * page(), &value, sizeof value);
    }
    void map(std::size_t block, PageRun run) {
        const auto mapped = regions_->map(block, run);
        ASSERT_TRUE(mapped) << mapped.error().to_string();
    }
    // A touching thread; what it found is in found() once it went on.
    std::size_t touch(std::size_t block, std::uint64_t number, bool write = false) {
        const std::size_t index = touching_.size();
        touching_.emplace_back([this, index, write, where = guest_[block].at(number * page())] {
            threads_.at(index) = static_cast<std::uint32_t>(::gettid());
            const std::uint64_t seen = *where;
            if (write) {
                *where = seen + 1;
            }
            seen_.at(index) = seen;
            done_.at(index) = true;
            done_.at(index).notify_all();
        });
        return index;
    }
    // Writes without reading first.
    std::size_t write_into(std::size_t block, std::uint64_t number, std::uint64_t value) {
        const std::size_t index = touching_.size();
        touching_.emplace_back([this, index, value, where = guest_[block].at(number * page())] {
            *where = value;
            done_.at(index) = true;
            done_.at(index).notify_all();
        });
        return index;
    }
    std::uint64_t found(std::size_t index) {
        done_.at(index).wait(false);
        return seen_.at(index);
    }
    // Reads faults until there are so many; they may come in any order and in pieces.
    std::vector<Fault> read_faults(std::size_t count, std::size_t at_once = 64) {
        std::vector<Fault> all;
        std::vector<Fault> some(at_once);
        while (all.size() < count) {
            const auto got = regions_->next(some, long_enough);
            EXPECT_TRUE(got) << got.error().to_string();
            if (!got || *got == 0) {
                ADD_FAILURE() << all.size() << " faults of " << count;
                break;
            }
            all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(*got));
        }
        return all;
    }

    static constexpr std::size_t most_touching = 64;
    HugePages reserved_{GetParam().page == huge ? std::uint64_t{32} : std::uint64_t{0}};
    std::vector<Fd> userfaultfds_;
    std::vector<GuestMapping> guest_;
    std::vector<RamBlock> blocks_;
    std::optional<FaultRegions> regions_;
    std::vector<std::thread> touching_;
    std::array<std::atomic<bool>, most_touching> done_{};
    std::array<std::atomic<std::uint64_t>, most_touching> seen_{};
    std::array<std::atomic<std::uint32_t>, most_touching> threads_{};
};

TEST_P(Faults, ATouchedPageIsToldFilledAndMapped) {
    arm();
    const std::size_t reader = touch(0, 3);
    const std::vector<Fault> faults = read_faults(1);
    EXPECT_EQ(faults, (std::vector<Fault>{{.block = 0, .page = 3, .thread = threads_.at(reader), .write = false}}));
    fill(0, 3, 77);
    map(0, {3, 1});
    EXPECT_EQ(found(reader), 77U);
    const std::size_t writer = write_into(1, 4, 5);
    const std::vector<Fault> writes = read_faults(1);
    EXPECT_EQ(writes.at(0).page, 4U);
    EXPECT_EQ(writes.at(0).block, 1U);
    EXPECT_TRUE(writes.at(0).write);
    map(1, {4, 1}); // never filled: the hole is
    found(writer);
    std::uint64_t there = 0;
    std::memcpy(&there, blocks_[1].alias() + 4 * page(), sizeof there);
    EXPECT_EQ(there, 5U);
}

// MINOR: the data is in the file, the hypervisor's page tables were dropped.
TEST_P(Faults, WhatIsFilledBeforeTheTouchFaultsToo) {
    for (std::uint64_t number = 0; number < 5; ++number) {
        fill(1, number, 100 + number);
    }
    EXPECT_EQ(*guest_[1].at(2 * page()), 102U);
    arm();
    const std::size_t reader = touch(1, 2);
    EXPECT_EQ(read_faults(1).at(0).page, 2U);
    map(1, {0, 5});
    EXPECT_EQ(found(reader), 102U);
    for (std::uint64_t number = 0; number < 5; ++number) {
        EXPECT_EQ(*guest_[1].at(number * page()), 100 + number); // no further fault
    }
}

TEST_P(Faults, EveryThreadOnAPageIsTold) {
    arm();
    const std::size_t first = touch(0, 9);
    const std::size_t second = touch(0, 9);
    const std::vector<Fault> faults = read_faults(2);
    std::set<std::uint32_t> threads;
    for (const Fault& fault : faults) {
        EXPECT_EQ(fault.page, 9U);
        threads.insert(fault.thread);
    }
    EXPECT_EQ(threads, (std::set<std::uint32_t>{threads_.at(first), threads_.at(second)}));
    fill(0, 9, 1);
    map(0, {9, 1});
    EXPECT_EQ(found(first), 1U);
    EXPECT_EQ(found(second), 1U);
}

TEST_P(Faults, FromAllStretchesInSmallHelpings) {
    arm();
    std::multiset<std::pair<std::size_t, std::uint64_t>> expected;
    for (std::size_t i = 0; i < 20; ++i) {
        const std::uint64_t number = i * blocks_[0].pages() / 20;
        expected.emplace(0, number);
        touch(0, number);
    }
    expected.emplace(2, 0);
    touch(2, 0);
    expected.emplace(1, blocks_[1].pages() - 1);
    touch(1, blocks_[1].pages() - 1);
    std::multiset<std::pair<std::size_t, std::uint64_t>> told;
    for (const Fault& fault : read_faults(expected.size(), 2)) {
        told.emplace(fault.block, fault.page);
        fill(fault.block, fault.page, fault.page + 1);
        map(fault.block, {fault.page, 1});
    }
    EXPECT_EQ(told, expected);
    for (std::size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(found(i), i * blocks_[0].pages() / 20 + 1);
    }
}

// Over mapped pages, holes and filled ones, and over the ends of stretches.
TEST_P(Faults, ARunOfAllKinds) {
    arm();
    const std::uint64_t all = blocks_[0].pages();
    std::map<std::uint64_t, std::uint64_t> values;
    for (std::uint64_t number = 0; number < all; ++number) {
        if (number % 7 < 3 || (number > all / 2 && number < all * 3 / 4)) {
            fill(0, number, number + 1);
            values[number] = number + 1;
        }
    }
    map(0, {1, 1});
    map(0, {all / 3, all / 4});
    map(0, {0, all});
    map(0, {0, all}); // all of it mapped
    map(0, {all, 0});
    for (std::uint64_t number = 0; number < all; ++number) {
        ASSERT_EQ(*guest_[0].at(number * page()), values[number]) << number;
    }
    std::array<Fault, 4> none{};
    EXPECT_EQ(regions_->next(none, std::chrono::milliseconds{0}).value(), 0U);
}

// A hypervisor that gave parts of its RAM another advice has several mappings there.
TEST_P(Faults, AMappingInSeveralPieces) {
    const std::uint64_t all = blocks_[0].pages();
    void* const part = reinterpret_cast<void*>(guest_[0].address() + 3 * page());
    ASSERT_EQ(::madvise(part, (all - 5) * page(), MADV_DONTDUMP), 0);
    arm();
    const std::size_t reader = touch(0, all - 1);
    for (std::uint64_t number = 0; number < all; number += 3) {
        fill(0, number, number);
    }
    map(0, {0, all});
    EXPECT_EQ(found(reader), (all - 1) % 3 == 0 ? all - 1 : 0);
    for (std::uint64_t number = 0; number < all; ++number) {
        ASSERT_EQ(*guest_[0].at(number * page()), number % 3 == 0 ? number : 0) << number;
    }
}

TEST_P(Faults, APunchedHoleIsZeros) {
    fill(0, 6, 66);
    fill(0, 7, 77);
    arm();
    map(0, {6, 2});
    ASSERT_EQ(::fallocate(blocks_[0].file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(6 * page()),
                          static_cast<off_t>(page())),
              0);
    const std::size_t reader = touch(0, 6, true);
    EXPECT_EQ(read_faults(1).at(0).page, 6U);
    map(0, {5, 4});
    EXPECT_EQ(found(reader), 0U);
    EXPECT_EQ(*guest_[0].at(7 * page()), 77U);
}

TEST_P(Faults, SeveralThreadsMapTheSamePages) {
    arm();
    const std::uint64_t all = blocks_[0].pages();
    std::vector<std::size_t> readers;
    for (std::uint64_t i = 0; i < 8; ++i) {
        readers.push_back(touch(0, i * all / 8));
    }
    for (std::uint64_t number = 0; number < all; number += 2) {
        fill(0, number, number);
    }
    std::vector<std::thread> mapping;
    mapping.reserve(3);
    for (std::uint64_t i = 0; i < 3; ++i) {
        mapping.emplace_back([&, i] {
            for (std::uint64_t first = 0; first < all; first += 4) {
                EXPECT_TRUE(regions_->map(0, {first, std::min<std::uint64_t>(4 + i, all - first)}));
            }
        });
    }
    for (std::thread& thread : mapping) {
        thread.join();
    }
    for (std::size_t i = 0; i < readers.size(); ++i) {
        const std::uint64_t number = i * all / 8;
        EXPECT_EQ(found(readers[i]), number % 2 == 0 ? number : 0);
    }
}

TEST_P(Faults, DisarmLetsWaitersGoOnWithWhatTheFileHas) {
    arm();
    const std::size_t told = touch(0, 1);
    read_faults(1);
    const std::size_t untold = touch(1, 3);
    fill(0, 1, 11);
    ASSERT_TRUE(regions_->disarm());
    EXPECT_EQ(found(told), 11U);
    EXPECT_EQ(found(untold), 0U);
    EXPECT_EQ(*guest_[2].at(0), 0U);
    const auto mapped = regions_->map(0, {0, 1});
    ASSERT_FALSE(mapped);
    EXPECT_EQ(mapped.error().code, ErrorCode::state) << mapped.error().to_string();
    EXPECT_TRUE(regions_->disarm()); // nothing to do
    arm();                           // and once more
    const std::size_t again = touch(0, 1);
    EXPECT_EQ(read_faults(1).at(0).page, 1U);
    map(0, {1, 1});
    EXPECT_EQ(found(again), 11U);
}

TEST_P(Faults, AnotherProcessTakesOver) {
    arm();
    const std::size_t first = touch(0, 2);
    EXPECT_EQ(read_faults(1).at(0).page, 2U);
    take_over(); // it died with that
    arm();
    const std::size_t second = touch(0, 4);
    const std::vector<Fault> faults = read_faults(1);
    EXPECT_EQ(faults, (std::vector<Fault>{{.block = 0, .page = 4, .thread = threads_.at(second), .write = false}}));
    std::array<Fault, 4> none{};
    EXPECT_EQ(regions_->next(none, std::chrono::milliseconds{0}).value(), 0U); // page 2 is not told again
    fill(0, 2, 22);
    fill(0, 4, 44);
    map(0, {0, 5});
    EXPECT_EQ(found(first), 22U);
    EXPECT_EQ(found(second), 44U);
    const std::size_t third = touch(1, 1);
    take_over(); // one that nobody has read
    EXPECT_EQ(read_faults(1).at(0).block, 1U);
    arm();
    map(1, {1, 1});
    EXPECT_EQ(found(third), 0U);
}

TEST_P(Faults, AnInterruptIsHeardOnceNowOrLater) {
    arm();
    std::array<Fault, 4> faults{};
    regions_->interrupt();
    regions_->interrupt();
    EXPECT_EQ(regions_->next(faults, long_enough).value(), 0U);
    EXPECT_EQ(regions_->next(faults, std::chrono::milliseconds{1}).value(), 0U);
    std::thread waker{[this] { regions_->interrupt(); }};
    EXPECT_EQ(regions_->next(faults, long_enough).value(), 0U);
    waker.join();
    const std::size_t reader = touch(0, 0);
    EXPECT_EQ(read_faults(1).at(0).page, 0U);
    map(0, {0, 1});
    found(reader);
}

TEST_P(Faults, SaysWhatIsWrong) {
    EXPECT_FALSE(FaultRegions::make({}, blocks_));
    EXPECT_EQ(regions_->arm(3).error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(regions_->map(3, {0, 1}).error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(regions_->map(2, {0, 2}).error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(regions_->map(2, {1, ~std::uint64_t{0}}).error().code, ErrorCode::invalid_argument);
    const auto unarmed = regions_->map(0, {0, 5});
    ASSERT_FALSE(unarmed);
    EXPECT_EQ(unarmed.error().code, ErrorCode::state);
    EXPECT_NE(unarmed.error().to_string().find("pc.ram: it is not armed"), std::string::npos) << unarmed.error().to_string();
    arm();
    std::vector<Fd> strangers;
    strangers.push_back(open_userfaultfd());
    auto second = FaultRegions::make(std::move(strangers), blocks_);
    ASSERT_TRUE(second);
    const auto busy = second->arm(0);
    ASSERT_FALSE(busy);
    EXPECT_EQ(busy.error().native, EBUSY);
    std::vector<Fd> blocking;
    blocking.push_back(userfaultfds_[0].duplicate());
    ASSERT_EQ(::fcntl(blocking[0].get(), F_SETFL, 0), 0);
    const auto refused = FaultRegions::make(std::move(blocking), blocks_);
    ASSERT_EQ(::fcntl(userfaultfds_[0].get(), F_SETFL, O_NONBLOCK), 0);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().to_string().find("non-blocking"), std::string::npos) << refused.error().to_string();
    std::vector<Fd> others;
    others.emplace_back(::open("/dev/null", O_RDWR | O_CLOEXEC));
    EXPECT_FALSE(FaultRegions::make(std::move(others), blocks_));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Faults,
                         ::testing::Values(Shape{"SmallOne", small, 1}, Shape{"SmallFour", small, 4}, Shape{"HugeOne", huge, 1},
                                           Shape{"HugeFour", huge, 4}),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(FaultsOfAProcess, ThatEndedAreAnErrorWithItsReason) {
    const auto probe = probe_faults_shmem();
    if (!probe || !probe->minor) {
        GTEST_SKIP() << "this kernel has no such faults";
    }
    HypervisorProcess child{small, {BlockSpec{"pc.ram", 2000, 0}}};
    std::vector<RamBlock> blocks;
    blocks.push_back(
        std::move(RamBlock::map(child.block(0).info(), Fd{::fcntl(child.block(0).file(), F_DUPFD_CLOEXEC, 0)}).value()));
    std::vector<Fd> userfaultfds;
    userfaultfds.push_back(child.handles().userfaultfd.duplicate());
    auto regions = FaultRegions::make(std::move(userfaultfds), blocks);
    ASSERT_TRUE(regions) << regions.error().to_string();
    ASSERT_TRUE(regions->arm(0));
    ASSERT_TRUE(regions->map(0, {0, 10}));
    child.read(0, 3);
    child.kill();
    for (const auto& result : {regions->map(0, {10, 10}), regions->arm(0), regions->disarm()}) {
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, ErrorCode::closed);
        EXPECT_NE(result.error().to_string().find("the hypervisor has ended"), std::string::npos) << result.error().to_string();
    }
    std::array<Fault, 4> none{};
    EXPECT_EQ(regions->next(none, std::chrono::milliseconds{0}).value(), 0U);
}

} // namespace
