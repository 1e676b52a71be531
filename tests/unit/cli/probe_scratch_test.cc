#include "cli/probe_scratch.h"

#include <gtest/gtest.h>

namespace pageferry::cli {
namespace {

TEST(ProbeScratch, KnowsWhatEachRoundMustHold) {
    transport::SessionId session{1, 2, 3};
    auto memory = Scratch::make(64UL * 1024);
    ASSERT_TRUE(memory) << memory.error().to_string();
    EXPECT_FALSE(memory->holds(session, 1)) << "zero is nothing that was sent";
    memory->fill(session, 1);
    EXPECT_TRUE(memory->holds(session, 1));
    EXPECT_FALSE(memory->holds(session, 2)) << "what a round before has left is not this round's";
    EXPECT_FALSE(memory->holds(transport::SessionId{9}, 1));
    memory->block(PF_MEMORY_PUSH_TARGET).address[40'000] ^= std::byte{1};
    EXPECT_FALSE(memory->holds(session, 1)) << "one bit";
}

} // namespace
} // namespace pageferry::cli
