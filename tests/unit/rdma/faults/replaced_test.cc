// Memory that is registered again, for its pages may be others.
#include "pair.h"

#include <algorithm>
#include <cerrno>

namespace pageferry::rdma::test {
namespace {

class RdmaReplaced : public RdmaFaults {};

TEST_F(RdmaReplaced, NotWhileAPushIsUnderWay) {
    Pair pair;
    pair.add_memory(4 * MiB);
    ASSERT_EQ(pair.caller.push({0}), PF_OK);
    Problem why;
    EXPECT_EQ(api().memory_replaced(pair.caller.get, &why), PF_STATE) << why.text();
    EXPECT_TRUE(why.says("under way")) << why.text();
    ASSERT_EQ(pair.caller.poll(), PF_OK);
    EXPECT_EQ(api().memory_replaced(pair.caller.get, &why), PF_OK) << why.text();
    pair.push_a_page(page);
    EXPECT_TRUE(pair.callee_ram->all('c', 0, 2 * page));
}

TEST_F(RdmaReplaced, TheOtherEndGoesOnPushingIntoIt) {
    Pair pair;
    pair.add_memory(4 * MiB);
    pair.push_a_page();
    EXPECT_EQ(api().memory_replaced(pair.callee.get, nullptr), PF_OK);
    std::ranges::fill(pair.caller_ram->bytes().first(page), static_cast<unsigned char>('n'));
    pair.push_a_page();
    EXPECT_TRUE(pair.callee_ram->all('n', 0, page));
}

TEST_F(RdmaReplaced, AgainAndAgainHoldsNoMoreThanOnce) {
    Pair pair;
    pair.add_memory(4 * MiB);
    for (int i = 0; i < 50; ++i) {
        pair.push_a_page(i % 2 == 0 ? 0 : 2 * MiB);
        ASSERT_EQ(api().memory_replaced(pair.caller.get, nullptr), PF_OK);
    }
}

TEST_F(RdmaReplaced, ThatCannotBeRegisteredAgainEndsTheConnection) {
    Pair pair;
    pair.add_memory(4 * MiB);
    pair.push_a_page();
    ASSERT_EQ(api().memory_replaced(pair.caller.get, nullptr), PF_OK);
    hooks().refuse_registration(Side::caller, ENOMEM, 1);
    ASSERT_EQ(pair.caller.push({0}), PF_OK);
    const Problem why = pair.caller.ending();
    EXPECT_TRUE(hooks().all_injected());
    EXPECT_EQ(why.status, PF_RESOURCES) << why.text();
    EXPECT_STREQ(why.operation, "register memory");
    expect_all_answer(pair.caller, why);
}

} // namespace
} // namespace pageferry::rdma::test
