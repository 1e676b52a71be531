// The table of functions, where no device is needed or none is there.
#include "rdma/abi.h"

#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <string>

namespace pageferry::rdma {
namespace {

const pf_transport& api() {
    return *transport_table(PF_TRANSPORT_ABI_VERSION);
}

pf_error no_error() {
    pf_error error{};
    error.size = sizeof error;
    return error;
}

pf_options options() {
    pf_options given{};
    given.size = sizeof given;
    given.lanes = 1;
    given.dead_peer_ms = 5000;
    given.handshake_ms = 5000;
    return given;
}

bool has_device() {
    int count = 0;
    ibv_device** const devices = ibv_get_device_list(&count);
    if (devices != nullptr) {
        ibv_free_device_list(devices);
    }
    return count > 0;
}

TEST(RdmaAbi, IsThisVersionsAlone) {
    ASSERT_NE(transport_table(PF_TRANSPORT_ABI_VERSION), nullptr);
    EXPECT_EQ(transport_table(0), nullptr);
    EXPECT_EQ(transport_table(PF_TRANSPORT_ABI_VERSION + 1), nullptr);
    EXPECT_EQ(transport_table(~0U), nullptr);
}

TEST(RdmaAbi, SaysWhatItIs) {
    EXPECT_EQ(api().size, sizeof(pf_transport));
    EXPECT_EQ(api().abi_version, PF_TRANSPORT_ABI_VERSION);
    EXPECT_STREQ(api().name, "rdma");
    EXPECT_STREQ(api().schemes[0], "rdma");
    EXPECT_EQ(api().schemes[1], nullptr);
    EXPECT_NE(std::string{api().description}, "");
    EXPECT_EQ(api().traits, PF_TRAIT_PINS_MEMORY);
}

TEST(RdmaAbi, OtherUrisAreInvalid) {
    const pf_options given = options();
    for (const char* uri : {"tcp:127.0.0.1:1", "unix:/tmp/x", "rdma", "rdma:", "rdma:host", "rdma:host:99999", ""}) {
        pf_error error = no_error();
        pf_listener* listener = nullptr;
        EXPECT_EQ(api().listen(uri, &given, &listener, &error), PF_INVALID) << uri;
        EXPECT_EQ(listener, nullptr);
        EXPECT_NE(std::string{error.reason}, "") << uri;
        pf_connection* connection = nullptr;
        EXPECT_EQ(api().open(uri, &given, &connection, &error), PF_INVALID) << uri;
        EXPECT_EQ(connection, nullptr);
    }
    EXPECT_EQ(api().open(nullptr, &given, nullptr, nullptr), PF_INVALID);
}

TEST(RdmaAbi, AConnectionThatIsNotConnectedAnswersSo) {
    const pf_options given = options();
    pf_connection* connection = nullptr;
    ASSERT_EQ(api().open("rdma:127.0.0.1:4444", &given, &connection, nullptr), PF_OK);
    pf_error error = no_error();
    EXPECT_EQ(api().send(connection, "x", 1, 0, &error), PF_STATE);
    EXPECT_EQ(api().fence(connection, 0, &error), PF_STATE);
    EXPECT_EQ(api().revoke_memory(connection, 0, &error), PF_STATE);
    EXPECT_EQ(api().memory_replaced(connection, &error), PF_STATE);
    pf_counters counters{};
    counters.size = sizeof counters;
    EXPECT_EQ(api().counters(connection, &counters), PF_OK);
    EXPECT_EQ(counters.wire_bytes, 0U);
    std::string text(200, '\0');
    EXPECT_EQ(api().describe(connection, text.data(), text.size()), PF_OK);
    EXPECT_NE(text.find("not connected"), std::string::npos);
    api().cancel(connection);
    EXPECT_EQ(api().connect(connection, 5000, nullptr, nullptr, &error), PF_CANCELLED);
    api().close(connection);
}

class RdmaWithoutDevice : public testing::Test {
protected:
    void SetUp() override {
        if (has_device()) {
            GTEST_SKIP() << "this host has an RDMA device";
        }
    }
    static void expect_no_device(int status, const pf_error& error) {
        EXPECT_EQ(status, PF_NOT_FOUND);
        EXPECT_EQ(error.status, PF_NOT_FOUND);
        EXPECT_NE(std::string{error.reason}.find("no RDMA device"), std::string::npos) << error.reason;
        EXPECT_NE(std::string{error.remedy}.find("rdma link"), std::string::npos) << error.remedy;
    }
};

TEST_F(RdmaWithoutDevice, ProbeSaysWhatToDo) {
    pf_error error = no_error();
    expect_no_device(api().probe(nullptr, &error), error);
    expect_no_device(api().probe("rdma:127.0.0.1:0", &error), error);
}

TEST_F(RdmaWithoutDevice, ListenSaysWhatToDo) {
    const pf_options given = options();
    pf_error error = no_error();
    pf_listener* listener = nullptr;
    expect_no_device(api().listen("rdma:127.0.0.1:0", &given, &listener, &error), error);
    EXPECT_EQ(listener, nullptr);
    EXPECT_STREQ(error.object, "rdma:127.0.0.1:0");
}

TEST_F(RdmaWithoutDevice, ConnectSaysWhatToDoAndInWhichPhase) {
    const pf_options given = options();
    pf_error error = no_error();
    pf_connection* connection = nullptr;
    ASSERT_EQ(api().open("rdma:127.0.0.1:4444", &given, &connection, &error), PF_OK);
    expect_no_device(api().connect(connection, 5000, nullptr, nullptr, &error), error);
    EXPECT_EQ(error.phase, static_cast<std::uint32_t>(PF_PHASE_RESOLVING_ADDRESS));
    EXPECT_EQ(api().send(connection, "x", 1, 0, &error), PF_NOT_FOUND) << "the first error, again";
    api().close(connection);
}

} // namespace
} // namespace pageferry::rdma
