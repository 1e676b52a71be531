#include "monitor/capabilities.h"
#include "monitor/parameters.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::monitor {
namespace {

using nlohmann::json;

json switches(std::initializer_list<std::pair<const char*, bool>> list) {
    json entries = json::array();
    for (const auto& [name, on] : list) {
        entries.push_back({{"capability", name}, {"state", on}});
    }
    return {{"capabilities", entries}};
}

std::string refusal(Capabilities& capabilities, const json& arguments) {
    const auto done = capabilities.set(arguments);
    return done ? "" : done.error().reason;
}

std::string refusal(Parameters& parameters, const json& arguments) {
    const auto done = parameters.set(arguments);
    return done ? "" : done.error().reason;
}

TEST(Capabilities, AreQemusInItsOrderAllOff) {
    const json list = Capabilities{}.query();
    ASSERT_EQ(list.size(), 21U);
    EXPECT_EQ(list.front()["capability"], "xbzrle");
    EXPECT_EQ(list.back()["capability"], "mapped-ram");
    for (const json& one : list) {
        EXPECT_EQ(one["state"], false);
    }
}

TEST(Capabilities, WhatIsImplementedIsSwitched) {
    Capabilities capabilities;
    EXPECT_EQ(refusal(capabilities, switches({{"events", true},
                                              {"pause-before-switchover", true},
                                              {"multifd", true},
                                              {"return-path", true},
                                              {"late-block-activate", true},
                                              {"switchover-ack", true},
                                              {"rdma-pin-all", true}})),
              "");
    EXPECT_TRUE(capabilities.on("events"));
    EXPECT_TRUE(capabilities.on("multifd"));
    EXPECT_EQ(refusal(capabilities, switches({{"events", false}})), "");
    EXPECT_FALSE(capabilities.on("events"));
    EXPECT_FALSE(capabilities.on("no such thing"));
}

TEST(Capabilities, WhatIsNotImplementedIsRefusedByNameAndNothingChanges) {
    for (const char* name :
         {"xbzrle", "auto-converge", "x-colo", "release-ram", "dirty-bitmaps", "x-ignore-shared", "validate-uuid",
          "background-snapshot", "zero-copy-send", "dirty-limit", "mapped-ram", "zero-blocks", "compress", "block"}) {
        Capabilities capabilities;
        EXPECT_EQ(refusal(capabilities, switches({{"events", true}, {name, true}})),
                  "Pageferry does not implement the capability '" + std::string{name} + "'");
        EXPECT_FALSE(capabilities.on("events")) << name;
        EXPECT_EQ(refusal(capabilities, switches({{name, false}})), "") << name;
    }
}

TEST(Capabilities, PostcopyGoesWithAllThatIsImplemented) {
    Capabilities capabilities;
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-ram", true}, {"postcopy-blocktime", true}, {"multifd", true}})), "");
    EXPECT_TRUE(capabilities.on("postcopy-ram") && capabilities.on("postcopy-blocktime") && capabilities.on("multifd"));
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-ram", false}})), "");
    EXPECT_TRUE(capabilities.on("postcopy-blocktime")) << "QEMU takes it alone";
}

TEST(Capabilities, PreemptRequiresPostcopyInQemusWords) {
    Capabilities capabilities;
    const std::string refused = "Postcopy preempt requires postcopy-ram";
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-preempt", true}})), refused);
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-preempt", true}, {"postcopy-ram", true}})), "")
        << "whatever their order";
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-ram", false}})), refused);
    EXPECT_TRUE(capabilities.on("postcopy-ram"));
    EXPECT_EQ(refusal(capabilities, switches({{"postcopy-ram", false}, {"postcopy-preempt", false}})), "");
}

TEST(Capabilities, LibvirtsListIsAccepted) { // it sets each one that it knows, on or off
    Capabilities capabilities;
    EXPECT_EQ(refusal(capabilities, switches({{"xbzrle", false},
                                              {"auto-converge", false},
                                              {"rdma-pin-all", false},
                                              {"postcopy-ram", true},
                                              {"compress", false},
                                              {"pause-before-switchover", true},
                                              {"late-block-activate", true},
                                              {"multifd", false},
                                              {"dirty-bitmaps", false},
                                              {"return-path", true},
                                              {"zero-copy-send", false},
                                              {"postcopy-preempt", true},
                                              {"switchover-ack", true}})),
              "");
    EXPECT_TRUE(capabilities.on("postcopy-preempt"));
}

TEST(Capabilities, MalformedListsGetQemusWords) {
    Capabilities capabilities;
    EXPECT_EQ(refusal(capabilities, json::object()), "Parameter 'capabilities' is missing");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", 5}}), "Invalid parameter type for 'capabilities', expected: array");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", {5}}}), "Invalid parameter type for 'capabilities[0]', expected: object");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", json::array({{{"capability", "events"}}})}}),
              "Parameter 'capabilities[0].state' is missing");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", json::array({{{"capability", "events"}, {"state", 1}}})}}),
              "Invalid parameter type for 'capabilities[0].state', expected: boolean");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", json::array({{{"capability", 5}, {"state", true}}})}}),
              "Invalid parameter type for 'capabilities[0].capability', expected: string");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", json::array({{{"capability", "events"}, {"state", true}, {"z", 1}}})}}),
              "Parameter 'capabilities[0].z' is unexpected");
    EXPECT_EQ(refusal(capabilities, {{"capabilities", json::array()}, {"z", 1}}), "Parameter 'z' is unexpected");
    EXPECT_EQ(refusal(capabilities, switches({{"xyz", true}})), "Parameter 'capability' does not accept value 'xyz'");
    EXPECT_EQ(refusal(capabilities, switches({{"xyz", false}})), "Parameter 'capability' does not accept value 'xyz'");
    EXPECT_EQ(refusal(capabilities, switches({{"switchover-ack", true}})),
              "Capability 'switchover-ack' requires capability 'return-path'");
}

TEST(Capabilities, ForQemuNamesOnlyWhatThatQemuLists) {
    Capabilities capabilities;
    ASSERT_EQ(refusal(capabilities, switches({{"events", true}, {"multifd", true}})), "");
    const json listed = {{{"capability", "events"}, {"state", false}}, {{"capability", "compress"}, {"state", true}}};
    EXPECT_EQ(capabilities.for_qemu(listed),
              json({{{"capability", "events"}, {"state", true}}, {{"capability", "compress"}, {"state", false}}}));
}

TEST(Parameters, HaveQemusDefaults) {
    const Parameters parameters;
    const json all = parameters.query();
    EXPECT_EQ(all["max-bandwidth"], 134217728);
    EXPECT_EQ(all["downtime-limit"], 300);
    EXPECT_EQ(all["multifd-channels"], 2);
    EXPECT_EQ(all["tls-creds"], "");
    EXPECT_EQ(all["multifd-compression"], "none");
    EXPECT_EQ(all["zero-page-detection"], "multifd");
    EXPECT_EQ(all["x-pageferry-dead-peer-timeout"], 10000);
    EXPECT_EQ(all["x-pageferry-connect-timeout"], 30000);
    EXPECT_EQ(all["x-pageferry-recover-attempts"], 0);
    EXPECT_EQ(all["x-pageferry-recover-backoff"], 1000);
    EXPECT_EQ(all["x-pageferry-recover-time-limit"], 0);
    EXPECT_EQ(parameters.downtime_limit(), std::chrono::milliseconds{300});
    EXPECT_EQ(parameters.announce().rounds, 5U);
}

TEST(Parameters, AreSetAllOrNone) {
    Parameters parameters;
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", 0},
                                   {"downtime-limit", 50},
                                   {"multifd-channels", 255},
                                   {"x-pageferry-connect-timeout", 500},
                                   {"avail-switchover-bandwidth", 7},
                                   {"max-postcopy-bandwidth", 8},
                                   {"announce-step", 10000}}),
              "");
    EXPECT_EQ(parameters.max_bandwidth(), 0U);
    EXPECT_EQ(parameters.multifd_channels(), 255U);
    EXPECT_EQ(parameters.connect_timeout(), std::chrono::milliseconds{500});
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", 9}, {"multifd-channels", 0}}),
              "Option multifd-channels expects a value between 1 and 255");
    EXPECT_EQ(parameters.max_bandwidth(), 0U);
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", std::uint64_t{1} << 63}}), "");
    EXPECT_EQ(parameters.max_bandwidth(), std::uint64_t{1} << 63);
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", -1}}), "") << "as QEMU: the greatest number";
    EXPECT_EQ(parameters.max_bandwidth(), ~std::uint64_t{0});
}

TEST(Parameters, AutomaticRecoveryHasItsRanges) {
    Parameters parameters;
    EXPECT_EQ(refusal(parameters, {{"x-pageferry-recover-attempts", 1000},
                                   {"x-pageferry-recover-backoff", 10},
                                   {"x-pageferry-recover-time-limit", 86400000}}),
              "");
    EXPECT_EQ(parameters.recover_attempts(), 1000U);
    EXPECT_EQ(parameters.recover_backoff(), std::chrono::milliseconds{10});
    EXPECT_EQ(parameters.recover_time_limit(), std::chrono::hours{24});
    EXPECT_EQ(refusal(parameters, {{"x-pageferry-recover-attempts", 1001}}),
              "Option x-pageferry-recover-attempts expects an integer in the range of 0 to 1000");
    EXPECT_EQ(refusal(parameters, {{"x-pageferry-recover-backoff", 9}}),
              "Option x-pageferry-recover-backoff expects an integer in the range of 10 to 600000 ms");
    EXPECT_EQ(refusal(parameters, {{"x-pageferry-recover-time-limit", 86400001}}),
              "Option x-pageferry-recover-time-limit expects an integer in the range of 0 to 86400000 ms");
    EXPECT_EQ(parameters.recover_attempts(), 1000U);
}

TEST(Parameters, FaultsGetQemusWords) {
    Parameters parameters;
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", "x"}}), "Parameter 'max-bandwidth' expects uint64");
    EXPECT_EQ(refusal(parameters, {{"max-bandwidth", 1.5}}), "Parameter 'max-bandwidth' expects uint64");
    EXPECT_EQ(refusal(parameters, {{"multifd-channels", 256}}), "Parameter 'multifd-channels' expects uint8_t");
    EXPECT_EQ(refusal(parameters, {{"downtime-limit", 2000001}}),
              "Option downtime-limit expects an integer in the range of 0 to (2000 * 1000) ms");
    EXPECT_EQ(refusal(parameters, {{"zork", 0}}), "Parameter 'zork' is unexpected");
    EXPECT_EQ(refusal(parameters, {{"tls-creds", 5}}), "Invalid parameter type for 'tls-creds', expected: StrOrNull");
    EXPECT_EQ(refusal(parameters, {{"multifd-compression", "zork"}}),
              "Parameter 'multifd-compression' does not accept value 'zork'");
    EXPECT_EQ(refusal(parameters, {{"cpu-throttle-tailslow", 5}}),
              "Invalid parameter type for 'cpu-throttle-tailslow', expected: boolean");
    EXPECT_EQ(refusal(parameters, {{"x-pageferry-dead-peer-timeout", 1}}),
              "Option x-pageferry-dead-peer-timeout expects an integer in the range of 100 to 3600000 ms");
}

TEST(Parameters, WhatIsNotImplementedTakesItsOwnValueAndRefusesAnother) {
    Parameters parameters;
    EXPECT_EQ(refusal(parameters, {{"cpu-throttle-initial", 20},
                                   {"tls-creds", ""},
                                   {"tls-hostname", nullptr},
                                   {"multifd-compression", "none"},
                                   {"mode", "normal"},
                                   {"direct-io", false},
                                   {"block-bitmap-mapping", json::array()},
                                   {"xbzrle-cache-size", 67108864}}),
              "");
    EXPECT_EQ(refusal(parameters, {{"cpu-throttle-initial", 30}}),
              "Pageferry does not implement the parameter 'cpu-throttle-initial'");
    EXPECT_EQ(refusal(parameters, {{"multifd-compression", "zstd"}}),
              "Pageferry does not implement the parameter 'multifd-compression'");
    EXPECT_EQ(refusal(parameters, {{"direct-io", true}}), "Pageferry does not implement the parameter 'direct-io'");
    EXPECT_TRUE(
        refusal(parameters, {{"tls-creds", "tls0"}}).starts_with("Pageferry does not implement the parameter 'tls-creds'"));
    EXPECT_EQ(parameters.query()["tls-creds"], "");
}

TEST(Parameters, ForQemuNamesOnlyWhatThatQemuHas) {
    Parameters parameters;
    ASSERT_EQ(refusal(parameters, {{"max-bandwidth", 5}}), "");
    EXPECT_EQ(parameters.for_qemu({{"max-bandwidth", 1}, {"compress-level", 1}, {"cpu-throttle-initial", 20}}),
              json({{"max-bandwidth", 5}}));
}

} // namespace
} // namespace pageferry::monitor
