#include "pair.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace pageferry::tcp::test {
namespace {

std::string some_path(const char* name) {
    return testing::TempDir() + "pf-" + name + "-" + std::to_string(::getpid());
}

int listen_status(const std::string& uri, Problem& problem) {
    pf_listener* listener = nullptr;
    const pf_options given = options();
    const int status = api().listen(uri.c_str(), &given, &listener, &problem);
    if (status == PF_OK) {
        api().close_listener(listener);
    }
    return status;
}

TEST(Listening, PortZeroBecomesARealOneThatCanBeReached) {
    for (const char* uri : {"tcp:127.0.0.1:0", "tcp::0", "tcp:localhost:0", "tcp:0:0"}) {
        SCOPED_TRACE(uri);
        const Pair pair{uri};
        EXPECT_NE(pair.listener.port(), 0);
        std::array<char, 200> text{};
        ASSERT_EQ(api().describe(pair.caller.get, text.data(), text.size()), PF_OK);
        EXPECT_TRUE(std::string_view{text.data()}.starts_with("tcp ")) << text.data();
        EXPECT_NE(std::string_view{text.data()}.find(":" + std::to_string(pair.listener.port()) + ", 2 lanes"),
                  std::string_view::npos)
            << text.data();
    }
}

TEST(Listening, AnyAddressTakesIPv4) {
    const Listener listener{"tcp::0"};
    const RawCaller caller{listener.port()}; // to 127.0.0.1
    pf_connection* connection = nullptr;
    EXPECT_EQ(api().accept(listener.get, 0, &connection, nullptr, nullptr), PF_AGAIN);
    EXPECT_EQ(caller.hear(1).size(), 1U) << "greeted";
    EXPECT_EQ(api().accept(listener.get, 0, nullptr, nullptr, nullptr), PF_INVALID);
}

TEST(Listening, ATakenPortIsNamedWithARemedy) {
    const Listener listener;
    Problem problem;
    EXPECT_EQ(listen_status(listener.uri(), problem), PF_IN_USE);
    EXPECT_NE(std::string_view{problem.object}.find(std::to_string(listener.port())), std::string_view::npos) << problem.text();
    EXPECT_NE(std::string_view{problem.remedy}, "");
}

TEST(Listening, BadUrisAndAddresses) {
    Problem problem;
    EXPECT_EQ(listen_status("tcp:127.0.0.1", problem), PF_INVALID);
    EXPECT_EQ(listen_status("rdma:127.0.0.1:4444", problem), PF_INVALID);
    EXPECT_EQ(listen_status("unix:/" + std::string(200, 'x'), problem), PF_INVALID);
    EXPECT_EQ(listen_status("tcp:192.0.2.1:0", problem), PF_UNREACHABLE) << "not an address of this host";
    EXPECT_EQ(listen_status("unix:/no/such/directory/socket", problem), PF_NOT_FOUND);
    pf_connection* connection = nullptr;
    const pf_options given = options();
    EXPECT_EQ(api().open("nonsense", &given, &connection, &problem), PF_INVALID);
    const pf_options none = options(0);
    EXPECT_EQ(api().open("tcp:127.0.0.1:1", &none, &connection, &problem), PF_INVALID);
}

TEST(Listening, ASocketFileIsRemovedWithItsListener) {
    const std::string path = some_path("own");
    {
        const Pair pair{"unix:" + path};
        EXPECT_TRUE(std::filesystem::is_socket(path));
        std::array<char, 200> text{};
        ASSERT_EQ(api().describe(pair.callee.get, text.data(), text.size()), PF_OK);
        EXPECT_EQ(std::string{text.data()}, "unix:" + path + ", 2 lanes");
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Listening, AStaleSocketFileIsReplacedALiveOneAndAFileAreNot) {
    const std::string path = some_path("stale");
    {
        const Fd gone{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        ASSERT_LT(path.size(), sizeof address.sun_path);
        std::memcpy(address.sun_path, path.data(), path.size());
        ASSERT_EQ(::bind(gone.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    }
    ASSERT_TRUE(std::filesystem::exists(path));
    Problem problem;
    {
        const Listener listener{"unix:" + path};
        EXPECT_EQ(listen_status("unix:" + path, problem), PF_IN_USE);
        EXPECT_TRUE(std::filesystem::exists(path));
    }
    std::ofstream{path} << "precious";
    EXPECT_EQ(listen_status("unix:" + path, problem), PF_IN_USE);
    EXPECT_EQ(std::filesystem::file_size(path), 8U);
    std::filesystem::remove(path);
}

TEST(Probe, TellsWhetherTheAddressCanBeUsed) {
    Problem problem;
    EXPECT_EQ(api().probe(nullptr, &problem), PF_OK) << problem.text();
    EXPECT_EQ(api().probe("tcp:127.0.0.1:4444", &problem), PF_OK) << problem.text();
    EXPECT_EQ(api().probe("tcp:[::1]:4444", &problem), PF_OK) << problem.text();
    EXPECT_EQ(api().probe("unix:/tmp/x.sock", &problem), PF_OK) << problem.text();
    EXPECT_EQ(api().probe("unix:/no/such/directory/x.sock", &problem), PF_NOT_FOUND);
    EXPECT_EQ(api().probe("tcp:host", &problem), PF_INVALID);
}

TEST(Abi, CallsBeforeConnectAreRefusedAndDoNotHarm) {
    const Listener listener;
    const pf_options given = options();
    End end;
    ASSERT_EQ(api().open(listener.uri().c_str(), &given, &end.get, nullptr), PF_OK);
    EXPECT_EQ(end.send("x"), PF_STATE);
    EXPECT_EQ(end.receive(0), "status " + std::to_string(PF_STATE));
    EXPECT_EQ(end.fence(), PF_STATE);
    EXPECT_EQ(end.push(0, 4096), PF_STATE);
    Problem problem;
    std::vector<std::byte> memory(4096);
    EXPECT_EQ(end.add(memory, PF_MEMORY_PUSH_SOURCE, problem), PF_STATE);
    std::array<char, 100> text{};
    EXPECT_EQ(api().describe(end.get, text.data(), text.size()), PF_OK);
    EXPECT_EQ(std::string{text.data()}, listener.uri() + ", not connected");
}

TEST(Abi, AnErrorIsWrittenNoFurtherThanItsSize) {
    struct {
        pf_error error;
        unsigned char guard;
    } small{};
    small.error.size = offsetof(pf_error, object);
    small.error.object[0] = 'u';
    const pf_options given = options();
    pf_connection* connection = nullptr;
    EXPECT_EQ(api().open("nonsense", &given, &connection, &small.error), PF_INVALID);
    EXPECT_EQ(small.error.status, PF_INVALID);
    EXPECT_NE(small.error.operation[0], '\0');
    EXPECT_EQ(small.error.object[0], 'u') << "beyond the caller's structure";
    EXPECT_EQ(api().open("nonsense", &given, &connection, nullptr), PF_INVALID);
}

} // namespace
} // namespace pageferry::tcp::test
