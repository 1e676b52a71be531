#include "base/fd.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace pageferry {
namespace {

Fd open_null() {
    return Fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
}
bool is_open(int number) {
    return ::fcntl(number, F_GETFD) >= 0;
}

TEST(Fd, ClosesWhenItGoes) {
    int number = -1;
    {
        const Fd fd = open_null();
        number = fd.get();
        EXPECT_TRUE(fd);
        EXPECT_TRUE(is_open(number));
    }
    EXPECT_FALSE(is_open(number));
}

TEST(Fd, MovingLeavesNothingBehind) {
    Fd first = open_null();
    const int number = first.get();
    Fd second{std::move(first)};
    EXPECT_EQ(second.get(), number);
    EXPECT_FALSE(first); // NOLINT(bugprone-use-after-move,clang-analyzer-cplusplus.Move): that is the question
    Fd third = open_null();
    const int old = third.get();
    third = std::move(second);
    EXPECT_EQ(third.get(), number);
    EXPECT_FALSE(is_open(old));
    EXPECT_TRUE(is_open(number));
}

TEST(Fd, ReleaseGivesTheNumberAway) {
    Fd fd = open_null();
    const int number = fd.release();
    EXPECT_FALSE(fd);
    EXPECT_TRUE(is_open(number));
    ::close(number);
}

TEST(Fd, DuplicateIsASecondOne) {
    const Fd fd = open_null();
    const Fd copy = fd.duplicate();
    ASSERT_TRUE(copy);
    EXPECT_NE(copy.get(), fd.get());
    EXPECT_EQ(::fcntl(copy.get(), F_GETFD), FD_CLOEXEC);
    EXPECT_FALSE(Fd{}.duplicate());
}

} // namespace
} // namespace pageferry
