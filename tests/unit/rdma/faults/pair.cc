#include "pair.h"

#include "rdma/abi.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

namespace pageferry::rdma::test {

namespace {

constexpr const char* address = "rdma:10.77.0.1:0";

std::ptrdiff_t entries(const char* folder) {
    return std::distance(std::filesystem::directory_iterator{folder}, std::filesystem::directory_iterator{});
}

// What the kernel keeps of the device's objects: protection domains, queues, queue pairs, ids, regions.
std::string device_objects() {
    std::string text;
    std::array<char, 256> line{};
    if (FILE* const told = ::popen("rdma res show rxe0", "re")) {
        while (std::fgets(line.data(), line.size(), told) != nullptr) {
            text += line.data();
        }
        ::pclose(told);
    }
    return text;
}

std::string holdings() {
    return "descriptors " + std::to_string(entries("/proc/self/fd")) + ", threads " + std::to_string(entries("/proc/self/task")) +
           ", " + device_objects();
}

} // namespace

const pf_transport& api() {
    return *transport_table(PF_TRANSPORT_ABI_VERSION);
}

std::string Problem::text() const {
    return "status " + std::to_string(status) + " native " + std::to_string(native) + " lane " + std::to_string(lane) +
           " phase " + std::to_string(phase) + ": " + operation + " " + object + " (" + peer + "): " + reason + "; " + remedy;
}

pf_options options(std::uint32_t lanes) {
    pf_options given{};
    given.size = sizeof given;
    given.lanes = lanes;
    given.dead_peer_ms = 20'000; // the lab's processor is an emulated one
    given.handshake_ms = 20'000;
    given.epoch = 1;
    std::ranges::fill(given.session, 0x5e);
    return given;
}

Ram::Ram(std::uint64_t bytes, unsigned char value)
    : start_(static_cast<unsigned char*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))),
      length_(bytes) {
    EXPECT_NE(static_cast<void*>(start_), MAP_FAILED);
    std::ranges::fill(this->bytes(), value);
}

Ram::~Ram() {
    ::munmap(start_, length_);
}

bool Ram::all(unsigned char value, std::uint64_t from, std::uint64_t length) const {
    return std::ranges::all_of(bytes().subspan(from, length), [&](unsigned char byte) { return byte == value; });
}

Listener::Listener(const pf_options& given) {
    Problem problem;
    EXPECT_EQ(api().listen(address, &given, &get, &problem), PF_OK) << problem.text();
}

Listener::~Listener() {
    if (get != nullptr) {
        api().close_listener(get);
    }
}

std::string Listener::uri() const {
    std::array<char, 256> text{};
    EXPECT_EQ(api().listener_uri(get, text.data(), text.size()), PF_OK);
    return text.data();
}

std::uint16_t Listener::port() const {
    const std::string text = uri();
    std::uint16_t port = 0;
    std::from_chars(text.data() + text.rfind(':') + 1, text.data() + text.size(), port);
    return port;
}

void End::close() {
    if (get != nullptr) {
        api().close(get);
        get = nullptr;
    }
}

int End::add(const Ram& ram, std::uint32_t access) {
    pf_memory_block block{};
    block.size = sizeof block;
    block.name = "ram";
    block.address = ram.bytes().data();
    block.length = ram.bytes().size();
    block.page_size = page;
    block.access = access;
    Problem problem;
    const int status = api().add_memory(get, &block, 1, &problem);
    EXPECT_EQ(status, PF_OK) << problem.text();
    return status;
}

int End::send(std::string_view text, std::int64_t timeout_ms, Problem* problem) {
    return api().send(get, text.data(), text.size(), timeout_ms, problem);
}

std::string End::receive(std::int64_t timeout_ms) {
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    const int status = api().receive(get, buffer.data(), buffer.size(), &length, timeout_ms, nullptr);
    if (status == PF_AGAIN) {
        return "again";
    }
    return status == PF_OK ? std::string{buffer.data(), length} : "status " + std::to_string(status);
}

int End::push(const std::vector<std::uint64_t>& offsets, Problem* problem) {
    std::vector<pf_extent> extents;
    for (const std::uint64_t offset : offsets) {
        extents.push_back({.block = 0, .reserved = 0, .offset = offset, .length = page, .cookie = offset});
    }
    std::size_t accepted = 0;
    return api().push(get, extents.data(), extents.size(), &accepted, problem);
}

int End::pull(std::uint32_t lane, std::uint64_t offset, Problem* problem) {
    const pf_extent extent{.block = 0, .reserved = 0, .offset = offset, .length = page, .cookie = offset};
    std::size_t accepted = 0;
    return api().pull(get, lane, &extent, 1, &accepted, problem);
}

int End::poll(std::int64_t timeout_ms, Problem* problem) {
    pf_completion completion{};
    std::size_t count = 0;
    return api().poll(get, &completion, 1, &count, timeout_ms, problem);
}

int End::fence(std::int64_t timeout_ms, Problem* problem) {
    return api().fence(get, timeout_ms, problem);
}

Problem End::ending() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds{generous_ms};
    std::vector<char> buffer(PF_CONTROL_MAX);
    while (std::chrono::steady_clock::now() < until) {
        Problem problem;
        std::size_t length = 0;
        const int status = api().receive(get, buffer.data(), buffer.size(), &length, generous_ms, &problem);
        if (status != PF_OK && status != PF_AGAIN) {
            EXPECT_EQ(status, problem.status);
            return problem;
        }
    }
    ADD_FAILURE() << "the connection does not end";
    return {};
}

Pair::Pair(std::uint32_t lanes) : own_listener(std::make_unique<Listener>(options(lanes))) {
    connect(*own_listener, options(lanes));
}

Pair::Pair(const Listener& listener, const pf_options& given) {
    connect(listener, given);
}

void Pair::connect(const Listener& listener, const pf_options& given) {
    Problem problem;
    EXPECT_EQ(api().open(listener.uri().c_str(), &given, &caller.get, &problem), PF_OK) << problem.text();
    std::thread accepting{[&] {
        Problem failed;
        EXPECT_EQ(api().accept(listener.get, generous_ms, &callee.get, nullptr, &failed), PF_OK) << failed.text();
    }};
    const int status = api().connect(caller.get, generous_ms, nullptr, nullptr, &problem);
    EXPECT_EQ(status, PF_OK) << problem.text();
    if (status != PF_OK) {
        api().cancel_listener(listener.get);
    }
    accepting.join();
}

void Pair::add_memory(std::uint64_t bytes) {
    caller_ram = std::make_unique<Ram>(bytes, 'c');
    callee_ram = std::make_unique<Ram>(bytes, 'd');
    caller.add(*caller_ram);
    callee.add(*callee_ram);
}

void Pair::push_a_page(std::uint64_t offset) {
    Problem problem;
    EXPECT_EQ(caller.push({offset}, &problem), PF_OK) << problem.text();
    EXPECT_EQ(caller.poll(generous_ms, &problem), PF_OK) << problem.text();
    EXPECT_EQ(caller.fence(generous_ms, &problem), PF_OK) << problem.text();
}

void expect_all_answer(End& end, const Problem& why) {
    const auto same = [&](const char* call, int status, const Problem& problem) {
        EXPECT_EQ(status, why.status) << call << ": " << problem.text();
        EXPECT_STREQ(problem.reason, why.reason) << call;
        EXPECT_STREQ(problem.object, why.object) << call;
        EXPECT_EQ(problem.lane, why.lane) << call;
    };
    const pf_extent extent{.block = 0, .reserved = 0, .offset = 0, .length = page, .cookie = 0};
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    Problem problem;
    same("send", end.send("late", generous_ms, &problem), problem);
    same("receive", api().receive(end.get, buffer.data(), buffer.size(), &length, generous_ms, &problem), problem);
    same("push", end.push({0}, &problem), problem);
    same("pull", end.pull(PF_PULL_BULK, 0, &problem), problem);
    same("urgent pull", end.pull(PF_PULL_URGENT, 0, &problem), problem);
    same("poll", end.poll(generous_ms, &problem), problem);
    same("fence", end.fence(generous_ms, &problem), problem);
    same("prepare", api().prepare(end.get, &extent, 1, &problem), problem);
    same("memory replaced", api().memory_replaced(end.get, &problem), problem);
    same("revoke memory", api().revoke_memory(end.get, generous_ms, &problem), problem);
}

void RdmaFaults::SetUp() {
    Problem problem;
    if (api().probe(address, &problem) != PF_OK) {
        GTEST_SKIP() << problem.text();
    }
    static const bool warm = [] { // what the libraries keep once they were used
        Pair pair;
        pair.add_memory(2 * MiB);
        pair.push_a_page();
        return true;
    }();
    ASSERT_TRUE(warm);
    hooks().reset();
    before_ = holdings();
}

void RdmaFaults::TearDown() {
    if (before_.empty()) {
        return;
    }
    hooks().reset();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (holdings() != before_ && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(std::chrono::milliseconds{50}); // the kernel takes queue pairs down a moment later
    }
    EXPECT_EQ(holdings(), before_);
}

} // namespace pageferry::rdma::test
