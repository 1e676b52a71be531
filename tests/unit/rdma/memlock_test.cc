// RLIMIT_MEMLOCK as a process without CAP_IPC_LOCK meets it: in a child, for limits and capabilities do not come back.
#include "rdma/memlock.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>

namespace pageferry::rdma {
namespace {

constexpr std::uint64_t MiB = std::uint64_t{1} << 20;

// What the body says, from a child of that soft and hard limit; "skip": the limits cannot be set here.
std::string in_child(std::uint64_t soft, std::uint64_t hard, const std::function<std::string()>& body) {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) {
        return "no pipe";
    }
    const pid_t child = ::fork();
    if (child == 0) {
        const rlimit limit{.rlim_cur = soft, .rlim_max = hard};
        std::string said = "skip";
        __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
        std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
        if (::setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && ::syscall(SYS_capget, &header, data.data()) == 0) {
            data[0].effective &= ~((1U << CAP_IPC_LOCK) | (1U << CAP_SYS_RESOURCE));
            if (::syscall(SYS_capset, &header, data.data()) == 0) {
                said = body();
            }
        }
        const bool written = ::write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
        ::_exit(written ? 0 : 1);
    }
    ::close(ends[1]);
    std::string said;
    std::array<char, 512> part{};
    for (ssize_t got = 0; (got = ::read(ends[0], part.data(), part.size())) > 0;) {
        said.append(part.data(), static_cast<std::size_t>(got));
    }
    ::close(ends[0]);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return said;
}

std::string outcome_of(std::uint64_t bytes) {
    const auto enough = check_memlock(bytes);
    return enough ? "enough, limit " + std::to_string(memlock_limit() / MiB) : enough.error().to_string();
}

// A host that allows its processes less cannot show the difference.
#define SKIP_WITHOUT_LIMITS(said)                                                                                                \
    if ((said) == "skip") {                                                                                                      \
        GTEST_SKIP() << "this process may not set such a limit";                                                                 \
    }

TEST(RdmaMemlock, EnoughIsEnough) {
    const std::string said = in_child(100 * MiB, 100 * MiB, [] { return outcome_of(64 * MiB); });
    SKIP_WITHOUT_LIMITS(said);
    EXPECT_EQ(said, "enough, limit 100");
}

TEST(RdmaMemlock, ASoftLimitIsRaisedToTheHardOne) {
    const std::string said = in_child(1 * MiB, 100 * MiB, [] { return outcome_of(64 * MiB); });
    SKIP_WITHOUT_LIMITS(said);
    EXPECT_EQ(said, "enough, limit 100");
}

TEST(RdmaMemlock, ASoftLimitThatIsEnoughStays) {
    const std::string said = in_child(90 * MiB, 100 * MiB, [] { return outcome_of(64 * MiB); });
    SKIP_WITHOUT_LIMITS(said);
    EXPECT_EQ(said, "enough, limit 90");
}

TEST(RdmaMemlock, TooSmallNamesBothFiguresAndTheRemedy) {
    const std::string said = in_child(1 * MiB, 2 * MiB, [] {
        const auto enough = check_memlock(64 * MiB);
        return enough ? std::string{"enough"}
                      : std::to_string(static_cast<int>(enough.error().code)) + "|" + enough.error().reason + "|" +
                            enough.error().remedy;
    });
    SKIP_WITHOUT_LIMITS(said);
    EXPECT_TRUE(said.starts_with(std::to_string(static_cast<int>(ErrorCode::resources)) + "|memlock too small")) << said;
    EXPECT_NE(said.find("needs 80 MiB"), std::string::npos) << "the RAM, and 16 MiB for queues and buffers: " << said;
    EXPECT_NE(said.find("the limit is 2 MiB"), std::string::npos) << said;
    EXPECT_NE(said.find("ulimit -l " + std::to_string(80 * 1024)), std::string::npos) << said;
    EXPECT_NE(said.find("LimitMEMLOCK=" + std::to_string(80 * MiB)), std::string::npos) << said;
    EXPECT_NE(said.find("hard_limit"), std::string::npos) << said;
}

TEST(RdmaMemlock, WhatFailsChangesNothing) {
    const std::string said = in_child(1 * MiB, 2 * MiB, [] {
        const bool enough = check_memlock(64 * MiB).has_value();
        return std::to_string(enough) + " " + std::to_string(memlock_limit() / MiB);
    });
    SKIP_WITHOUT_LIMITS(said);
    EXPECT_EQ(said, "0 1");
}

TEST(RdmaMemlock, APrivilegedProcessHasNoLimit) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    ASSERT_EQ(::syscall(SYS_capget, &header, data.data()), 0);
    if ((data[0].effective & (1U << CAP_IPC_LOCK)) == 0) {
        GTEST_SKIP() << "this process has no CAP_IPC_LOCK";
    }
    EXPECT_EQ(memlock_limit(), ~std::uint64_t{0});
    EXPECT_TRUE(check_memlock(~std::uint64_t{0} / 2));
}

} // namespace
} // namespace pageferry::rdma
