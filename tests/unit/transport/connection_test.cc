#include "transport/connection.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace pageferry::transport {
namespace {

// A plugin whose every call gives one answer, to see what becomes of it.
struct Answer {
    int status = PF_OK;
    pf_error error{};
    int closed = 0;
    std::size_t length = 0;
    pf_options options{};
    bool give_nothing = false;
};
Answer answer; // NOLINT(cppcoreguidelines-avoid-non-const-global-variables): the C functions below have no other way to it

int give(pf_error* error) {
    if (error != nullptr && answer.status != PF_OK && answer.status != PF_AGAIN) {
        const std::uint32_t size = error->size;
        *error = answer.error;
        error->size = size;
    }
    return answer.status;
}

pf_connection* some_connection() {
    return reinterpret_cast<pf_connection*>(&answer);
}

pf_transport make_table() {
    pf_transport table{};
    table.size = sizeof table;
    table.abi_version = PF_TRANSPORT_ABI_VERSION;
    table.name = "scripted";
    table.open = [](const char*, const pf_options* options, pf_connection** connection, pf_error* error) -> int {
        answer.options = *options;
        *connection = answer.give_nothing ? nullptr : some_connection();
        return give(error);
    };
    table.accept = [](pf_listener*, std::int64_t, pf_connection** connection, pf_error* rejected, pf_error* error) -> int {
        *connection = answer.give_nothing ? nullptr : some_connection();
        *rejected = answer.error;
        return give(error);
    };
    table.close_listener = [](pf_listener*) { ++answer.closed; };
    table.close = [](pf_connection*) { ++answer.closed; };
    table.connect = [](pf_connection*, std::int64_t, pf_progress progress, void* context, pf_error* error) -> int {
        if (progress != nullptr) {
            progress(context, PF_PHASE_CONNECTING, "192.0.2.7:4444");
            progress(context, PF_PHASE_ESTABLISHED, "");
        }
        return give(error);
    };
    table.receive = [](pf_connection*, void*, std::size_t, std::size_t* length, std::int64_t, pf_error* error) -> int {
        *length = answer.length;
        return give(error);
    };
    table.push = [](pf_connection*, const pf_extent*, std::size_t count, std::size_t* accepted, pf_error* error) -> int {
        *accepted = count;
        return give(error);
    };
    return table;
}

class Scripted : public testing::Test {
protected:
    void SetUp() override {
        answer = {};
        answer.error.lane = PF_LANE_NONE;
    }
    std::shared_ptr<const pf_transport> plugin{std::make_shared<pf_transport>(make_table())};
    Transport transport{plugin};
    Connection connect() { return Connection{plugin, some_connection()}; }
};

TEST_F(Scripted, AnErrorIsCarriedWhole) {
    answer.status = PF_REFUSED;
    answer.error.status = PF_REFUSED;
    answer.error.native = 111;
    answer.error.lane = 2;
    std::strcpy(answer.error.operation, "connect lane");
    std::strcpy(answer.error.object, "tcp:h:1");
    std::strcpy(answer.error.peer, "192.0.2.7:1");
    std::strcpy(answer.error.reason, "Connection refused");
    std::strcpy(answer.error.remedy, "start the destination first");
    Connection connection = connect();
    const auto connected = connection.connect(Milliseconds{1}, {});
    ASSERT_FALSE(connected);
    EXPECT_EQ(connected.error().code, ErrorCode::refused);
    EXPECT_EQ(connected.error().to_string(),
              "connect lane tcp:h:1, lane 2 (peer 192.0.2.7:1): Connection refused (native code 111); "
              "start the destination first");
}

TEST_F(Scripted, AnErrorNobodyFilledStillSaysWhatWasTried) {
    answer.status = PF_TIMED_OUT;
    Connection connection = connect();
    EXPECT_EQ(connection.connect(Milliseconds{1}, {}).error().to_string(), "connect: timed out");
    answer.status = 4242;
    EXPECT_EQ(connection.connect(Milliseconds{1}, {}).error().code, ErrorCode::internal);
    EXPECT_NE(connection.connect(Milliseconds{1}, {}).error().reason.find("4242"), std::string::npos);
}

TEST_F(Scripted, StringsThatAreNotTerminatedAreCut) {
    answer.status = PF_IO;
    std::memset(answer.error.reason, 'x', sizeof answer.error.reason);
    Connection connection = connect();
    EXPECT_EQ(connection.connect(Milliseconds{1}, {}).error().reason, std::string(sizeof answer.error.reason, 'x'));
}

TEST_F(Scripted, OptionsGoAcross) {
    Options options{
        .lanes = 5, .dead_peer = Milliseconds{7}, .handshake = Milliseconds{-1}, .queue_depth = 9, .epoch = 3, .session = {}};
    options.session.fill(0xab);
    ASSERT_TRUE(transport.open("scripted:h:1", options));
    EXPECT_EQ(answer.options.size, sizeof(pf_options));
    EXPECT_EQ(answer.options.lanes, 5U);
    EXPECT_EQ(answer.options.dead_peer_ms, 7U);
    EXPECT_EQ(answer.options.handshake_ms, 0U);
    EXPECT_EQ(answer.options.queue_depth, 9U);
    EXPECT_EQ(answer.options.epoch, 3U);
    EXPECT_EQ(answer.options.session[15], 0xab);
    EXPECT_EQ(answer.closed, 1);
}

TEST_F(Scripted, ProgressIsTold) {
    Connection connection = connect();
    std::vector<std::string> told;
    ASSERT_TRUE(connection.connect(Milliseconds{1}, [&](pf_phase phase, const std::string& detail) {
        told.push_back(std::to_string(phase) + " " + detail);
    }));
    EXPECT_EQ(told, (std::vector<std::string>{"3 192.0.2.7:4444", "5 "}));
}

TEST_F(Scripted, MovingClosesOnce) {
    {
        Connection first = connect();
        Connection second{std::move(first)};
        EXPECT_EQ(answer.closed, 0);
        Connection third = connect();
        third = std::move(second);
        EXPECT_EQ(answer.closed, 1);
    }
    EXPECT_EQ(answer.closed, 2);
}

TEST_F(Scripted, AgainIsNoError) {
    answer.status = PF_AGAIN;
    Connection connection = connect();
    std::array<std::byte, 16> buffer{};
    EXPECT_TRUE(connection.receive(buffer, Milliseconds{0})->empty());
    const pf_extent extent{};
    EXPECT_EQ(connection.push({&extent, 1}).value(), 0U);
    Listener listener{plugin, reinterpret_cast<pf_listener*>(&answer)};
    std::optional<Error> rejected;
    answer.error.status = PF_PROTOCOL;
    std::strcpy(answer.error.reason, "a stranger");
    EXPECT_FALSE(listener.accept(Milliseconds{0}, &rejected).value());
    ASSERT_TRUE(rejected);
    EXPECT_EQ(rejected->reason, "a stranger");
    answer.error.status = PF_OK;
    EXPECT_FALSE(listener.accept(Milliseconds{0}, &rejected).value());
    EXPECT_FALSE(rejected);
}

TEST_F(Scripted, APluginThatBreaksTheRulesIsCaught) {
    Connection connection = connect();
    std::array<std::byte, 16> buffer{};
    answer.length = 17;
    EXPECT_EQ(connection.receive(buffer, Milliseconds{0}).error().code, ErrorCode::internal);
    answer.give_nothing = true;
    EXPECT_EQ(transport.open("scripted:h:1", {}).error().code, ErrorCode::internal);
    Listener listener{plugin, reinterpret_cast<pf_listener*>(&answer)};
    EXPECT_EQ(listener.accept(Milliseconds{0}).error().code, ErrorCode::internal);
}

} // namespace
} // namespace pageferry::transport
