// Memory that cannot be registered, in the middle of a migration.
#include "pair.h"

#include <algorithm>
#include <cerrno>
#include <thread>

namespace pageferry::rdma::test {
namespace {

// Three regions, with holes between them.
const std::vector<std::uint64_t> three{0, 4 * MiB, 8 * MiB};

class RdmaRegistration : public RdmaFaults, public testing::WithParamInterface<unsigned> {
protected:
    // Nothing but the pages that were pushed may have come.
    static void expect_untouched(const Pair& pair) {
        std::uint64_t from = page;
        for (const std::uint64_t next : {4 * MiB, 8 * MiB, 12 * MiB}) {
            EXPECT_TRUE(pair.callee_ram->all('d', from, next - from)) << from;
            from = next + page;
        }
        EXPECT_TRUE(pair.caller_ram->all('c', 0, 12 * MiB));
    }
};

TEST_P(RdmaRegistration, ThatFailsHereEndsTheConnectionWithItsFigure) {
    Pair pair;
    pair.add_memory(12 * MiB);
    hooks().refuse_registration(Side::caller, ENOMEM, GetParam());
    ASSERT_EQ(pair.caller.push(three), PF_OK);
    const Problem why = pair.caller.ending();
    EXPECT_TRUE(hooks().all_injected());
    EXPECT_EQ(why.status, PF_RESOURCES) << why.text();
    EXPECT_EQ(why.native, ENOMEM);
    EXPECT_STREQ(why.operation, "register memory");
    EXPECT_STREQ(why.object, "2097152 bytes");
    EXPECT_NE(std::string{why.remedy}.find("memlock"), std::string::npos);
    expect_all_answer(pair.caller, why);
    pair.caller.close();
    EXPECT_EQ(pair.callee.ending().status, PF_CLOSED);
    pair.callee.close();
    expect_untouched(pair);
}

TEST_P(RdmaRegistration, ThatFailsAtThePeerIsToldAtBothEnds) {
    Pair pair;
    pair.add_memory(12 * MiB);
    hooks().refuse_registration(Side::callee, ENOMEM, GetParam());
    ASSERT_EQ(pair.caller.push(three), PF_OK);
    const Problem there = pair.callee.ending();
    EXPECT_TRUE(hooks().all_injected());
    EXPECT_EQ(there.status, PF_RESOURCES) << there.text();
    EXPECT_EQ(there.native, ENOMEM);
    EXPECT_STREQ(there.object, "2097152 bytes");
    EXPECT_NE(std::string{there.remedy}.find("memlock"), std::string::npos);
    const Problem here = pair.caller.ending();
    EXPECT_EQ(here.status, PF_RESOURCES) << here.text();
    EXPECT_EQ(here.native, ENOMEM);
    EXPECT_EQ(here.lane, number_of(LaneKind::service, 0, 1));
    const std::string object = here.object;
    const std::string which = "2097152 bytes of RAM block 0 at ";
    ASSERT_TRUE(object.starts_with(which)) << here.text();
    EXPECT_TRUE(pair.callee_ram->all('d', std::stoull(object.substr(which.size())), 2 * MiB));
    EXPECT_TRUE(here.says("the peer could not register it")) << here.text();
    EXPECT_NE(std::string{here.remedy}, "");
    EXPECT_NE(std::string{here.peer}, "");
    expect_all_answer(pair.caller, here);
    expect_all_answer(pair.callee, there);
    pair.caller.close();
    pair.callee.close();
    expect_untouched(pair);
}

INSTANTIATE_TEST_SUITE_P(TheNth, RdmaRegistration, testing::Values(1U, 2U, 3U));

// A fault is not behind what was named ahead, here or at the peer: not in the queues, and not for want of a thread.
class RdmaOvertaking : public RdmaFaults, public testing::WithParamInterface<Side> {};

TEST_P(RdmaOvertaking, AFaultGoesBeforeWhatWasPrepared) {
    constexpr std::uint64_t chunk = 8 * MiB; // the largest region of memory that is pulled into
    const auto threads = std::max(1U, std::min(4U, std::thread::hardware_concurrency()));
    Pair pair;
    pair.caller_ram = std::make_unique<Ram>(16 * chunk, 'c');
    pair.callee_ram = std::make_unique<Ram>(16 * chunk, 'd');
    pair.caller.add(*pair.caller_ram, PF_MEMORY_PULL_SOURCE);
    pair.callee.add(*pair.callee_ram, PF_MEMORY_PULL_TARGET);
    hooks().hold_registrations(GetParam(), threads);
    const pf_extent all{.block = 0, .reserved = 0, .offset = 0, .length = 16 * chunk, .cookie = 0};
    ASSERT_EQ(api().prepare(pair.callee.get, &all, 1, nullptr), PF_OK);
    while (!hooks().registrations_are_held()) {
        std::this_thread::yield();
    }
    ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, 15 * chunk), PF_OK);
    EXPECT_EQ(pair.callee.poll(), PF_OK) << "while the first ones stand still";
    EXPECT_TRUE(pair.callee_ram->all('c', 15 * chunk, page));
    hooks().release_registrations();
    for (const std::uint64_t offset : {std::uint64_t{0}, 7 * chunk, 16 * chunk - page}) { // and nothing is lost by it
        ASSERT_EQ(pair.callee.pull(PF_PULL_BULK, offset), PF_OK);
        ASSERT_EQ(pair.callee.poll(), PF_OK);
        EXPECT_TRUE(pair.callee_ram->all('c', offset, page));
    }
}

INSTANTIATE_TEST_SUITE_P(HeldAt, RdmaOvertaking, testing::Values(Side::caller, Side::callee),
                         [](const auto& one) { return one.param == Side::caller ? "Source" : "Destination"; });

// While a connection is made its message buffers are registered: three at the caller, then three at the callee.
class RdmaBuffers : public RdmaFaults, public testing::WithParamInterface<unsigned> {};

TEST_P(RdmaBuffers, ThatCannotBeRegisteredFailTheConnectInWords) {
    Listener listener;
    End caller;
    const pf_options given = options();
    ASSERT_EQ(api().open(listener.uri().c_str(), &given, &caller.get, nullptr), PF_OK);
    hooks().refuse_registration(std::nullopt, ENOMEM, GetParam());
    Problem told;
    std::thread accepting{[&] {
        pf_connection* none = nullptr;
        while (api().accept(listener.get, 100, &none, &told, nullptr) == PF_AGAIN && told.status == PF_OK) {
        }
        EXPECT_EQ(none, nullptr);
    }};
    Problem problem;
    EXPECT_NE(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_OK);
    const bool mine = GetParam() <= 3;
    if (mine) {
        EXPECT_EQ(problem.status, PF_RESOURCES) << problem.text();
        EXPECT_STREQ(problem.operation, "ibv_reg_mr");
        EXPECT_EQ(problem.native, ENOMEM);
        EXPECT_TRUE(problem.says("memlock")) << problem.text();
        api().cancel_listener(listener.get);
    } else {
        EXPECT_EQ(problem.status, PF_REFUSED) << problem.text();
        EXPECT_TRUE(problem.says("the peer refused: Cannot allocate memory")) << problem.text();
    }
    EXPECT_EQ(problem.phase, static_cast<std::uint32_t>(PF_PHASE_CONNECTING)) << problem.text();
    accepting.join();
    if (!mine) {
        EXPECT_EQ(told.status, PF_RESOURCES) << told.text();
        EXPECT_STREQ(told.operation, "ibv_reg_mr");
        EXPECT_TRUE(told.says("memlock")) << told.text();
        const Pair pair{listener, given}; // and the listener goes on
    }
}

INSTANTIATE_TEST_SUITE_P(TheNth, RdmaBuffers, testing::Range(1U, 7U));

} // namespace
} // namespace pageferry::rdma::test
