#include "monitor/plugged_memory.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::monitor {
namespace {

using nlohmann::json;

json add(json arguments) {
    return {{"execute", "object-add"}, {"id", "libvirt-42"}, {"arguments", std::move(arguments)}};
}

json instead_of(const json& arguments) {
    const auto text = on_shared_file(add(arguments));
    return text ? json::parse(*text) : json(nullptr);
}

TEST(PluggedMemory, PrivateMemoryGoesOntoASharedFile) {
    EXPECT_EQ(instead_of({{"qom-type", "memory-backend-ram"}, {"id", "memdimm0"}, {"size", 1 << 27}, {"host-nodes", {0, 1}}}),
              add({{"qom-type", "memory-backend-file"},
                   {"id", "memdimm0"},
                   {"size", 1 << 27},
                   {"host-nodes", {0, 1}},
                   {"mem-path", "/dev/shm"},
                   {"share", true},
                   {"x-use-canonical-path-for-ramblock-id", false}}));
    EXPECT_EQ(instead_of({{"qom-type", "memory-backend-memfd"}, {"id", "m"}, {"size", 4096}, {"seal", true}, {"hugetlb", false}}),
              add({{"qom-type", "memory-backend-file"}, {"id", "m"}, {"size", 4096}, {"mem-path", "/dev/shm"}, {"share", true}}));
}

TEST(PluggedMemory, AllElseIsLeftAsItIs) {
    for (const json& message :
         {add({{"qom-type", "memory-backend-file"}, {"id", "m"}, {"size", 4096}, {"mem-path", "/tmp"}}),
          add({{"qom-type", "memory-backend-memfd"}, {"id", "m"}, {"size", 1 << 21}, {"hugetlb", true}}),
          add({{"qom-type", "memory-backend-ram"}, {"id", "m"}, {"size", 4096}, {"mem-path", "/tmp"}}), // QEMU refuses it
          add({{"qom-type", "iothread"}, {"id", "t"}}), add({{"id", "m"}}), add(json::array()),
          json{{"execute", "object-del"}, {"arguments", {{"qom-type", "memory-backend-ram"}}}}, json{{"execute", 1}}, json(7)}) {
        EXPECT_EQ(on_shared_file(message), std::nullopt) << message;
    }
}

} // namespace
} // namespace pageferry::monitor
