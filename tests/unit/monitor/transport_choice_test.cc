#include "monitor/transport_choice.h"

#include <gtest/gtest.h>

namespace pageferry::monitor {
namespace {

using Uris = std::vector<std::string>;
using enum RdmaPolicy;

Uris chosen(const Uris& given, RdmaPolicy policy) {
    const auto result = choose_transports(given, policy);
    EXPECT_TRUE(result) << result.error().reason;
    return result.value_or(Uris{});
}

TEST(TransportChoice, RdmaAloneIsFollowedByTcpAtTheSamePlace) {
    EXPECT_EQ(chosen({"rdma:h:1"}, preferred), (Uris{"rdma:h:1", "tcp:h:1"}));
    EXPECT_EQ(chosen({"rdma:0:4444"}, preferred), (Uris{"rdma:0:4444", "tcp:0:4444"}));
    EXPECT_EQ(chosen({"rdma://[fe80::1%eth0]:1"}, preferred), (Uris{"rdma://[fe80::1%eth0]:1", "tcp:[fe80::1%eth0]:1"}));
    EXPECT_EQ(chosen({"rdma:a:1", "rdma:b:2"}, preferred), (Uris{"rdma:a:1", "rdma:b:2", "tcp:a:1", "tcp:b:2"}));
    EXPECT_EQ(chosen(Uris(8, "rdma:a:1"), preferred), (Uris{"rdma:a:1", "tcp:a:1"}));
}

TEST(TransportChoice, AListOfSeveralSchemesStaysAsItIs) {
    EXPECT_EQ(chosen({"rdma:h:1", "unix:/p"}, preferred), (Uris{"rdma:h:1", "unix:/p"}));
    EXPECT_EQ(chosen({"tcp:h:1", "rdma:h:1"}, preferred), (Uris{"tcp:h:1", "rdma:h:1"}));
    EXPECT_EQ(chosen({"rdma:h:1", "tcp:g:2"}, preferred), (Uris{"rdma:h:1", "tcp:g:2"}));
}

TEST(TransportChoice, WithoutRdmaNothingChanges) {
    for (const RdmaPolicy policy : {preferred, off}) {
        EXPECT_EQ(chosen({"tcp:h:1"}, policy), Uris{"tcp:h:1"});
        EXPECT_EQ(chosen({"unix:/p", "tcp://h:1", "chaos:h:1"}, policy), (Uris{"unix:/p", "tcp://h:1", "chaos:h:1"}));
        EXPECT_EQ(chosen({"tcp:h:1", "tcp:h:1"}, policy), Uris{"tcp:h:1"});
    }
}

TEST(TransportChoice, RequiredUsesRdmaAlone) {
    EXPECT_EQ(chosen({"rdma:h:1"}, required), Uris{"rdma:h:1"});
    EXPECT_EQ(chosen({"tcp:h:1", "rdma:h:1", "unix:/p", "rdma:g:2"}, required), (Uris{"rdma:h:1", "rdma:g:2"}));
    for (const Uris& given : {Uris{"tcp:h:1"}, Uris{"unix:/rdma", "tcp:rdma:1"}}) {
        const auto refused = choose_transports(given, required);
        ASSERT_FALSE(refused);
        EXPECT_TRUE(refused.error().reason.contains("'required'"));
        EXPECT_TRUE(refused.error().reason.contains("rdma:HOST:PORT"));
    }
}

TEST(TransportChoice, OffTakesTcpInTheSamePlace) {
    EXPECT_EQ(chosen({"rdma:h:1"}, off), Uris{"tcp:h:1"});
    EXPECT_EQ(chosen({"rdma:h:1", "tcp:h:1"}, off), Uris{"tcp:h:1"});
    EXPECT_EQ(chosen({"unix:/p", "rdma:[::1]:1", "tcp:h:2"}, off), (Uris{"unix:/p", "tcp:[::1]:1", "tcp:h:2"}));
}

} // namespace
} // namespace pageferry::monitor
