// After revoke_memory() a peer that writes anyway writes nothing.
#include "pair.h"

#include <algorithm>
#include <cerrno>

namespace pageferry::rdma::test {
namespace {

const LaneEnd bulk{.side = Side::caller, .kind = LaneKind::bulk, .index = 0};

// By the queue pair itself, with the keys that were good a moment ago.
int write_anyway(const Hooks::Write& write) {
    ibv_sge piece = write.piece;
    ibv_send_wr request{};
    request.wr_id = std::uint64_t{1000} << 8U; // of bulk lane 0
    request.sg_list = &piece;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    request.wr.rdma.remote_addr = write.remote_address;
    request.wr.rdma.rkey = write.remote_key;
    ibv_send_wr* bad = nullptr;
    return ibv_post_send(Hooks::get().pair_of(bulk), &request, &bad);
}

TEST_F(RdmaFaults, RevokedMemoryCannotBeWritten) {
    Pair pair;
    pair.add_memory(4 * MiB);
    pair.push_a_page();
    EXPECT_TRUE(pair.callee_ram->all('c', 0, page));
    const auto write = hooks().last_write(bulk);
    ASSERT_TRUE(write);
    ASSERT_EQ(write->remote_address, reinterpret_cast<std::uintptr_t>(pair.callee_ram->bytes().data()));

    // The keys are good: what is written reaches the peer until it revokes.
    std::ranges::fill(pair.caller_ram->bytes().first(page), 'e');
    ASSERT_EQ(write_anyway(*write), 0);
    (void)pair.caller.poll(1);
    ASSERT_EQ(pair.caller.push({page}), PF_OK);
    ASSERT_EQ(pair.caller.poll(), PF_OK);
    ASSERT_EQ(pair.caller.fence(), PF_OK);
    ASSERT_TRUE(pair.callee_ram->all('e', 0, page));

    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    EXPECT_EQ(pair.caller.send("control goes on"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "control goes on");
    std::ranges::fill(pair.callee_ram->bytes(), 'g'); // the guest runs
    ASSERT_EQ(write_anyway(*write), 0);
    Problem problem;
    EXPECT_EQ(pair.caller.poll(generous_ms, &problem), PF_PERMISSION) << problem.text();
    EXPECT_TRUE(problem.says("IBV_WC_REM_ACCESS_ERR")) << problem.text();
    EXPECT_EQ(problem.lane, 1U);
    expect_all_answer(pair.caller, problem);
    pair.caller.close();
    EXPECT_NE(pair.callee.ending().status, PF_OK);
    pair.callee.close();
    EXPECT_TRUE(pair.callee_ram->all('g', 0, 4 * MiB));
}

TEST_F(RdmaFaults, RevokedMemoryIsNotRegisteredAgain) {
    Pair pair;
    pair.add_memory(8 * MiB);
    pair.push_a_page();
    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    std::ranges::fill(pair.callee_ram->bytes(), 'g');
    ASSERT_EQ(pair.caller.push({4 * MiB}), PF_OK); // in a region that is not there yet
    const Problem why = pair.caller.ending();
    EXPECT_EQ(why.status, PF_STATE) << why.text();
    EXPECT_TRUE(why.says("2097152 bytes of RAM block 0 at 4194304")) << why.text();
    pair.caller.close();
    pair.callee.close();
    EXPECT_TRUE(pair.callee_ram->all('g', 0, 8 * MiB));
}

constexpr unsigned remote = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// What is pulled into is no door for the peer, before the revoke and after it; the source's pages can be read, and no more.
TEST_F(RdmaFaults, MemoryThatIsPulledIntoHasNoRemoteRights) {
    Pair pair;
    pair.caller_ram = std::make_unique<Ram>(8 * MiB, 'c');
    pair.callee_ram = std::make_unique<Ram>(8 * MiB, 'd');
    pair.caller.add(*pair.caller_ram, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_SOURCE);
    pair.callee.add(*pair.callee_ram, PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_TARGET);
    hooks().reset();
    pair.push_a_page();
    for (const unsigned access : hooks().registrations(Side::caller)) {
        EXPECT_EQ(access & (remote | IBV_ACCESS_LOCAL_WRITE), 0U) << "only the device here reads it";
    }
    ASSERT_EQ(hooks().registrations(Side::callee).size(), 1U);
    EXPECT_EQ(hooks().registrations(Side::callee)[0] & remote, IBV_ACCESS_REMOTE_WRITE);

    hooks().reset();
    ASSERT_EQ(pair.callee.pull(PF_PULL_BULK, 2 * MiB), PF_OK); // ahead of the revoke
    ASSERT_EQ(pair.callee.poll(), PF_OK);
    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    for (const std::uint64_t offset : {2 * MiB + page, std::uint64_t{page}, 6 * MiB}) {
        ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, offset), PF_OK);
        ASSERT_EQ(pair.callee.poll(), PF_OK);
        EXPECT_TRUE(pair.callee_ram->all('c', offset, page));
    }
    EXPECT_EQ(hooks().registrations(Side::callee).size(), 3U);
    for (const unsigned access : hooks().registrations(Side::callee)) {
        EXPECT_EQ(access & (remote | IBV_ACCESS_LOCAL_WRITE), IBV_ACCESS_LOCAL_WRITE);
    }
    EXPECT_EQ(hooks().registrations(Side::caller).size(), 3U);
    for (const unsigned access : hooks().registrations(Side::caller)) {
        EXPECT_EQ(access & (remote | IBV_ACCESS_LOCAL_WRITE), IBV_ACCESS_REMOTE_READ);
    }
}

// What the source pushed from counts against memlock once more when it is pulled from: it is given back then.
TEST_F(RdmaFaults, RegionsThatWerePushedFromMakeRoomForPulls) {
    Pair pair;
    pair.add_memory(4 * MiB);
    pair.push_a_page();
    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    hooks().refuse_registration(Side::caller, ENOMEM);
    ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, page), PF_OK);
    ASSERT_EQ(pair.callee.poll(), PF_OK);
    EXPECT_TRUE(hooks().all_injected());
    EXPECT_TRUE(pair.callee_ram->all('c', page, page));
    // With nothing to give back it is the end, as before.
    hooks().refuse_registration(Side::caller, ENOMEM);
    ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, 2 * MiB), PF_OK);
    EXPECT_EQ(pair.callee.ending().status, PF_RESOURCES);
    EXPECT_EQ(pair.caller.ending().status, PF_RESOURCES);
}

} // namespace
} // namespace pageferry::rdma::test
