#include "cli/settings.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::cli {
namespace {

using nlohmann::json;

TEST(CapabilityOption, IsNameAndState) {
    EXPECT_EQ(parse_capability("multifd=on").value(), std::pair(std::string{"multifd"}, true));
    EXPECT_EQ(parse_capability("multifd=off").value(), std::pair(std::string{"multifd"}, false));
    EXPECT_EQ(parse_capability("multifd").value(), std::pair(std::string{"multifd"}, true));
    for (const char* text : {"", "=on", "multifd=", "multifd=maybe"}) {
        EXPECT_FALSE(parse_capability(text)) << text;
    }
}

TEST(ParameterOption, IsNameAndValue) {
    EXPECT_EQ(parse_assignment("tls-creds=a=b").value(), std::pair(std::string{"tls-creds"}, std::string{"a=b"}));
    EXPECT_EQ(parse_assignment("tls-creds=").value(), std::pair(std::string{"tls-creds"}, std::string{}));
    EXPECT_FALSE(parse_assignment("tls-creds"));
    EXPECT_FALSE(parse_assignment("=1"));
}

TEST(ParameterValue, HasTheTypeTheMonitorKnows) {
    EXPECT_EQ(parameter_value("max-bandwidth", "1G", json(5)).value(), json(1 << 30));
    EXPECT_EQ(parameter_value("tls-hostname", "17", json("")).value(), json("17")) << "text stays text";
    EXPECT_EQ(parameter_value("tls-hostname", "on", json("")).value(), json("on"));
    EXPECT_EQ(parameter_value("block-incremental", "on", json(false)).value(), json(true));
    EXPECT_EQ(parameter_value("block-bitmap-mapping", "[]", json::array()).value(), json::array());
    EXPECT_FALSE(parameter_value("max-bandwidth", "fast", json(5)));
    EXPECT_FALSE(parameter_value("block-incremental", "5", json(false)));
    EXPECT_FALSE(parameter_value("block-bitmap-mapping", "[", json::array()));
}

TEST(ParameterValue, IsGuessedWhereTheTypeIsNotKnown) {
    EXPECT_EQ(parameter_value("new", "7", {}).value(), json(7));
    EXPECT_EQ(parameter_value("new", "2K", {}).value(), json(2048));
    EXPECT_EQ(parameter_value("new", "off", {}).value(), json(false));
    EXPECT_EQ(parameter_value("new", "zstd", {}).value(), json("zstd"));
}

TEST(Arguments, CarryEverythingThatWasAskedFor) {
    Settings settings;
    EXPECT_EQ(capability_arguments(settings).value(), json::object());
    EXPECT_EQ(parameter_arguments(settings, {}).value(), json::object());
    settings.capabilities = {"events=on", "multifd=off"};
    settings.parameters = {"cpu-throttle-initial=30"};
    settings.downtime_limit = 50;
    settings.max_bandwidth = 0;
    settings.lanes = 4;
    settings.rdma = "off";
    EXPECT_EQ(
        capability_arguments(settings).value(),
        json::parse(R"({"capabilities": [{"capability": "events", "state": true}, {"capability": "multifd", "state": false}]})"));
    EXPECT_EQ(parameter_arguments(settings, {{"cpu-throttle-initial", 20}}).value(),
              json::parse(R"({"cpu-throttle-initial": 30, "downtime-limit": 50, "max-bandwidth": 0, "multifd-channels": 4,
                          "x-pageferry-rdma": "off"})"));
}

TEST(Arguments, CarryWhatPostcopyAndRecoveryNeed) {
    Settings settings;
    settings.max_postcopy_bandwidth = 1 << 20;
    settings.recover_attempts = 5;
    settings.recover_backoff = 100;
    settings.recover_time_limit = 60'000;
    EXPECT_EQ(
        parameter_arguments(settings, {}).value(),
        json::parse(R"({"max-postcopy-bandwidth": 1048576, "x-pageferry-recover-attempts": 5, "x-pageferry-recover-backoff": 100,
                              "x-pageferry-recover-time-limit": 60000})"));
    EXPECT_FALSE(mentions_capability(settings, "postcopy-ram"));
    settings.capabilities = {"events=on", "postcopy-ram=off"};
    EXPECT_TRUE(mentions_capability(settings, "postcopy-ram"));
}

TEST(Arguments, AreAllOrNothing) {
    Settings settings;
    settings.parameters = {"a=1", "b"};
    EXPECT_FALSE(parameter_arguments(settings, {}));
    settings.capabilities = {"a=on", "b=x"};
    EXPECT_FALSE(capability_arguments(settings));
}

} // namespace
} // namespace pageferry::cli
