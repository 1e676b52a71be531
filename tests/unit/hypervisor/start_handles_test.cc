// What the monitor process gives a mover, and what the mover takes it for: every descriptor in its own place.
#include "hypervisor/link/link.h"
#include "hypervisor/monitor_process/holdings.h"
#include "hypervisor/mover/start_handles.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include <sys/mman.h>
#include <sys/stat.h>

namespace pageferry::hypervisor {
namespace {

Fd some_file() {
    return Fd{::memfd_create("start-handles-test", MFD_CLOEXEC)};
}

bool same_file(int a, int b) {
    struct stat one{};
    struct stat other{};
    return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

struct Given {
    MoverStart start;
    std::vector<int> fds; // borrowed
};

class StartHandlesTest : public ::testing::Test {
protected:
    StartHandlesTest() {
        held_.page_map = some_file();
        for (int i = 0; i < 3; ++i) {
            held_.faults.push_back(some_file());
        }
        held_.vcpu_threads = {4711, 4712};
        for (const char* name : {"ram0", "ram1"}) {
            held_.blocks.push_back(
                {.info = {.name = name, .length = 8192, .page_size = 4096, .guest_address = 1ULL << 40U}, .file = some_file()});
        }
    }
    // As for a mover with all of what tracking needs.
    Given give() {
        Given given;
        given.start.uris = {"tcp:h:1"};
        given.start.has_userfaultfd = given.start.has_pagemap = given.start.has_clear_refs = given.start.has_discards = true;
        given.fds = add_holdings(
            held_,
            {.control_page = page_.get(), .tracking = {userfaultfd_.get(), pagemap_.get(), clear_refs_.get(), discards_.get()}},
            given.start);
        return given;
    }
    static Result<std::pair<MoverStart, StartHandles>> over_the_link(const Given& given) {
        auto ends = Link::make_pair();
        EXPECT_TRUE(ends);
        EXPECT_TRUE(ends->first.send(to_json(given.start), given.fds));
        auto message = ends->second.receive(std::chrono::minutes{1});
        EXPECT_TRUE(message && *message);
        auto start = mover_start_from((*message)->body);
        if (!start) {
            return std::unexpected(start.error());
        }
        auto handles = take_handles(*start, std::move((*message)->fds));
        if (!handles) {
            return std::unexpected(handles.error());
        }
        return std::pair{std::move(*start), std::move(*handles)};
    }

    Holdings held_;
    Fd page_ = some_file(), userfaultfd_ = some_file(), pagemap_ = some_file(), clear_refs_ = some_file(),
       discards_ = some_file();
};

TEST_F(StartHandlesTest, EachComesToItsPlace) {
    const auto got = over_the_link(give());
    ASSERT_TRUE(got) << got.error().to_string();
    const auto& [start, handles] = *got;
    EXPECT_TRUE(same_file(handles.control_page.get(), page_.get()));
    EXPECT_TRUE(same_file(handles.tracking.userfaultfd.get(), userfaultfd_.get()));
    EXPECT_TRUE(same_file(handles.tracking.pagemap.get(), pagemap_.get()));
    EXPECT_TRUE(same_file(handles.tracking.clear_refs.get(), clear_refs_.get()));
    EXPECT_TRUE(same_file(handles.discards.get(), discards_.get()));
    EXPECT_TRUE(same_file(handles.page_map.get(), held_.page_map.get()));
    ASSERT_EQ(handles.faults.size(), held_.faults.size());
    for (std::size_t i = 0; i < held_.faults.size(); ++i) {
        EXPECT_TRUE(same_file(handles.faults[i].get(), held_.faults[i].get())) << i;
    }
    ASSERT_EQ(handles.files.size(), held_.blocks.size());
    ASSERT_EQ(start.blocks.size(), held_.blocks.size());
    for (std::size_t i = 0; i < held_.blocks.size(); ++i) {
        EXPECT_TRUE(same_file(handles.files[i].get(), held_.blocks[i].file.get())) << i;
        EXPECT_EQ(start.blocks[i].name, held_.blocks[i].info.name);
        EXPECT_EQ(start.blocks[i].guest_address, held_.blocks[i].info.guest_address);
    }
    EXPECT_EQ(start.vcpu_threads, held_.vcpu_threads);
}

TEST_F(StartHandlesTest, WhatIsHeldIsGivenAgainAndAgain) {
    for (int mover = 0; mover < 3; ++mover) {
        const auto got = over_the_link(give());
        ASSERT_TRUE(got) << got.error().to_string();
        EXPECT_TRUE(same_file(got->second.page_map.get(), held_.page_map.get()));
        EXPECT_EQ(got->second.faults.size(), 3U);
    }
}

TEST_F(StartHandlesTest, WithoutPostcopyThereIsNothingOfIt) {
    held_.page_map.reset();
    held_.faults.clear();
    held_.vcpu_threads.clear();
    Given given;
    given.start.uris = {"tcp:h:1"};
    given.start.has_page_map = true; // of an earlier one
    given.start.faults = 7;
    given.fds = add_holdings(held_, {.control_page = page_.get(), .tracking = {}}, given.start);
    EXPECT_FALSE(given.start.has_page_map);
    EXPECT_EQ(given.start.faults, 0U);
    const auto got = over_the_link(given);
    ASSERT_TRUE(got) << got.error().to_string();
    EXPECT_FALSE(got->second.page_map);
    EXPECT_TRUE(got->second.faults.empty());
    EXPECT_FALSE(got->second.tracking.userfaultfd);
    ASSERT_EQ(got->second.files.size(), 2U);
    EXPECT_TRUE(same_file(got->second.files[1].get(), held_.blocks[1].file.get()));
}

TEST_F(StartHandlesTest, OneTooFewOrTooManyIsRefused) {
    Given given = give();
    const std::vector<int> right = given.fds;
    for (std::size_t count = 0; count <= right.size() + 1; ++count) {
        given.fds = right;
        given.fds.resize(count, page_.get());
        const auto got = over_the_link(given);
        EXPECT_EQ(got.has_value(), count == right.size()) << count;
        EXPECT_TRUE(got || got.error().code == ErrorCode::protocol) << count;
    }
}

TEST_F(StartHandlesTest, AFlagWithoutItsDescriptorIsRefused) {
    for (const auto flag : {&MoverStart::has_userfaultfd, &MoverStart::has_pagemap, &MoverStart::has_clear_refs,
                            &MoverStart::has_discards, &MoverStart::has_page_map}) {
        Given given = give();
        given.start.*flag = false;
        EXPECT_FALSE(over_the_link(given));
    }
    Given given = give();
    ++given.start.faults;
    EXPECT_FALSE(over_the_link(given));
}

} // namespace
} // namespace pageferry::hypervisor
