// What inspect() tells: from a made-up sysfs, from devices that are not there, and from this host.
#include "rdma/inspect.h"

#include "transport/abi/pageferry_transport.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

namespace pageferry::rdma {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Sysfs : public ::testing::Test {
protected:
    Sysfs() : root_(fs::temp_directory_path() / ("pageferry-sysfs-" + std::to_string(::getpid()))) {}
    ~Sysfs() override { fs::remove_all(root_); }
    void put(const std::string& file, const std::string& text) const {
        const fs::path path = root_ / "class/infiniband" / file;
        fs::create_directories(path.parent_path());
        std::ofstream{path} << text << "\n";
    }
    void put_gid(const std::string& port, int index, const std::string& gid, const std::string& type,
                 const std::string& interface) const {
        const std::string number = std::to_string(index);
        put(port + "/gids/" + number, gid);
        put(port + "/gid_attrs/types/" + number, type);
        put(port + "/gid_attrs/ndevs/" + number, interface);
    }
    void put_card() const {
        put("mlx5_0/node_type", "1: CA");
        put("mlx5_0/fw_ver", "16.35.2000");
        const std::string port = "mlx5_0/ports/1";
        put(port + "/state", "4: ACTIVE");
        put(port + "/phys_state", "5: LinkUp");
        put(port + "/link_layer", "Ethernet");
        put(port + "/rate", "100 Gb/sec (4X EDR)");
        put_gid(port, 0, "fe80:0000:0000:0000:0000:0000:0000:0001", "IB/RoCE v1", "eth1");
        put_gid(port, 3, "0000:0000:0000:0000:0000:ffff:0a4d:0001", "RoCE v2", "eth1");
        put_gid(port, 10, "0000:0000:0000:0000:0000:0000:0000:0000", "", "");
    }
    [[nodiscard]] std::vector<SysfsDevice> devices() const { return sysfs_devices(root_); }

private:
    fs::path root_;
};

const json& line(const json& all, const std::string& what) {
    for (const json& one : all["findings"]) {
        if (one["what"] == what) {
            return one;
        }
    }
    static const json none;
    return none;
}

OpenedDevice opened_card() {
    return OpenedDevice{.max_mr_size = ~std::uint64_t{0},
                        .max_mr = 100,
                        .max_qp = 200,
                        .max_qp_wr = 32'768,
                        .max_cqe = 300,
                        .max_qp_rd_atom = 16,
                        .max_qp_init_rd_atom = 16,
                        .odp = true,
                        .odp_rc_caps = {"write", "read"},
                        .ports = {{.number = 1, .active_mtu = 1024, .max_mtu = 4096}}};
}

TEST_F(Sysfs, NoDevices) {
    EXPECT_TRUE(devices().empty());
}

TEST_F(Sysfs, ReadsADevice) {
    put_card();
    const auto found = devices();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].name, "mlx5_0");
    EXPECT_EQ(found[0].node_type, "CA");
    EXPECT_EQ(found[0].firmware, "16.35.2000");
    ASSERT_EQ(found[0].ports.size(), 1U);
    const SysfsPort& port = found[0].ports[0];
    EXPECT_EQ(port.number, 1U);
    EXPECT_EQ(port.state, "ACTIVE");
    EXPECT_EQ(port.physical_state, "LinkUp");
    ASSERT_EQ(port.gids.size(), 2U) << "what is not set is left out";
    EXPECT_EQ(port.gids[0].type, "RoCE v1") << "it has a network interface, so it is not InfiniBand's";
    EXPECT_EQ(port.gids[1].index, 3U);
    EXPECT_EQ(port.gids[1].address, "10.77.0.1");
    EXPECT_EQ(port.gids[1].gid, "::ffff:10.77.0.1");
    EXPECT_EQ(port.gids[1].interface, "eth1");
}

TEST_F(Sysfs, ADeviceThatWorksHasItsLimits) {
    put_card();
    const json all = json::parse(inspection_text({{.seen = devices()[0], .opened = opened_card(), .reason = {}, .remedy = {}}}));
    EXPECT_EQ(line(all, "mlx5_0")["ok"], true);
    EXPECT_EQ(line(all, "mlx5_0")["value"], "CA, firmware 16.35.2000");
    EXPECT_EQ(line(all, "mlx5_0 port 1")["value"], "ACTIVE, Ethernet, 100 Gb/sec (4X EDR), MTU 1024 of 4096");
    EXPECT_EQ(line(all, "mlx5_0 port 1 GID 3")["value"], "RoCE v2, 10.77.0.1, eth1");
    EXPECT_EQ(line(all, "mlx5_0 limits")["value"], "region unlimited, 100 regions, 32768 work requests, 16 reads");
    EXPECT_EQ(line(all, "mlx5_0 on-demand paging")["value"], "yes, reliable connections: write, read");
    const json& device = all["devices"][0];
    EXPECT_EQ(device["limits"]["max_qp_rd_atom"], 16);
    EXPECT_EQ(device["odp"]["rc"], json({"write", "read"}));
    EXPECT_EQ(device["ports"][0]["gids"][1]["address"], "10.77.0.1");
    EXPECT_EQ(device["ports"][0]["active_mtu"], 1024);
}

TEST_F(Sysfs, WhatIsWrongHasAReasonAndARemedy) {
    put_card();
    put("mlx5_0/ports/1/state", "1: DOWN");
    put("mlx5_0/ports/1/phys_state", "3: Disabled");
    const json all =
        json::parse(inspection_text({{.seen = devices()[0], .opened = {}, .reason = "it is locked", .remedy = "unlock it"}}));
    EXPECT_EQ(line(all, "mlx5_0")["ok"], false);
    EXPECT_EQ(line(all, "mlx5_0")["reason"], "it is locked");
    EXPECT_EQ(line(all, "mlx5_0")["remedy"], "unlock it");
    EXPECT_EQ(line(all, "mlx5_0 port 1")["ok"], false);
    EXPECT_EQ(line(all, "mlx5_0 port 1")["reason"], "the port is not active (Disabled)");
    EXPECT_FALSE(all["devices"][0].contains("limits"));
}

TEST_F(Sysfs, APortWithoutAnAddressIsTold) {
    put_card();
    fs::remove(fs::temp_directory_path() / ("pageferry-sysfs-" + std::to_string(::getpid())) /
               "class/infiniband/mlx5_0/ports/1/gids/3");
    const json all = json::parse(inspection_text({{.seen = devices()[0], .opened = opened_card(), .reason = {}, .remedy = {}}}));
    EXPECT_EQ(line(all, "mlx5_0 port 1 address")["ok"], false);
}

TEST(Inspect, NothingIsAnEmptyList) {
    EXPECT_EQ(json::parse(inspection_text({})), json::parse(R"({"findings": [], "devices": []})"));
}

TEST(Inspect, TellsHowMuchRoomItNeeds) {
    std::size_t length = 0;
    EXPECT_EQ(inspect(nullptr, 0, &length), PF_AGAIN);
    ASSERT_GT(length, 0U);
    std::string text(length, '?');
    EXPECT_EQ(inspect(text.data(), length - 1, &length), PF_AGAIN);
    EXPECT_EQ(text, std::string(text.size(), '?')) << "untouched where it is too small";
    ASSERT_EQ(inspect(text.data(), text.size(), &length), PF_OK);
    const json all = json::parse(text);
    EXPECT_TRUE(all["findings"].is_array());
    EXPECT_EQ(all["devices"].size(), sysfs_devices().size()) << "on this host";
    EXPECT_EQ(inspect(nullptr, 1, &length), PF_INVALID);
    EXPECT_EQ(inspect(text.data(), text.size(), nullptr), PF_INVALID);
}

} // namespace
} // namespace pageferry::rdma
