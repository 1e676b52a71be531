// The agent in a small program of its own (agent_host.c), and its client. With a real QEMU: launcher_test.cc.
#include "hypervisor/qemu/agent/agent_protocol.h"
#include "hypervisor/qemu/agent_client.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <string>

namespace pageferry::hypervisor {
namespace {

constexpr std::uint64_t mib = 1024 * 1024;

class Agent : public testing::Test {
protected:
    void SetUp() override {
        file.reset(::memfd_create("agent-test", MFD_CLOEXEC));
        ASSERT_EQ(::ftruncate(file.get(), 2 * mib), 0);
        ASSERT_EQ(::fstat(file.get(), &about), 0);
    }
    void TearDown() override {
        if (child > 0) {
            ::kill(child, SIGKILL);
            ::waitpid(child, nullptr, 0);
        }
    }

    void start(const char* program, const std::string& preload, bool with_socket = true) {
        std::array<int, 2> ends{};
        std::array<int, 2> in{};
        std::array<int, 2> out{};
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        ASSERT_EQ(::pipe2(in.data(), O_CLOEXEC), 0);
        ASSERT_EQ(::pipe2(out.data(), O_CLOEXEC), 0);
        ours.reset(ends[0]);
        const Fd theirs{ends[1]};
        const Fd their_in{in[0]};
        const Fd their_out{out[1]};
        to_child.reset(in[1]);
        from_child.reset(out[0]);
        child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            ::dup2(their_in.get(), STDIN_FILENO);
            ::dup2(their_out.get(), STDOUT_FILENO);
            ::fcntl(theirs.get(), F_SETFD, 0);
            ::fcntl(file.get(), F_SETFD, 0);
            if (with_socket) {
                ::setenv(PF_AGENT_ENV_FD, std::to_string(theirs.get()).c_str(), 1);
            }
            ::setenv("LD_PRELOAD", preload.c_str(), 1);
            const std::string path = "/proc/self/fd/" + std::to_string(file.get());
            ::execl(program, program, path.c_str(), nullptr);
            ::_exit(127);
        }
        const std::string line = read_line();
        std::array<char, 512> loaded{};
        ASSERT_EQ(std::sscanf(line.c_str(), "%lx %d %511s", &address, &threads, loaded.data()), 3) << line;
        preloaded = loaded.data();
    }
    std::string read_line() const {
        std::string line;
        for (char c = 0; ::read(from_child.get(), &c, 1) == 1 && c != '\n';) {
            line += c;
        }
        return line;
    }

    Fd file;
    struct stat about{};
    Fd ours;
    Fd to_child;
    Fd from_child;
    pid_t child = -1;
    unsigned long address = 0;
    int threads = 0;
    std::string preloaded;
};

TEST_F(Agent, GivesHandlesAndMappingsAndZaps) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    EXPECT_EQ(threads, 2);
    EXPECT_EQ(preloaded, "-");
    AgentClient client{std::move(ours)};
    auto handles = client.handles();
    ASSERT_TRUE(handles) << handles.error().to_string();
    EXPECT_EQ(handles->faults.size(), PF_AGENT_FAULT_HANDLES);
    EXPECT_TRUE(handles->pagemap.fd);
    EXPECT_TRUE(handles->tracking.fd) << handles->tracking.error;

    auto mappings = client.mappings();
    ASSERT_TRUE(mappings) << mappings.error().to_string();
    ASSERT_EQ(mappings->size(), 1U); // its two halves have other rights, and are one
    const AgentMapping& m = mappings->front();
    EXPECT_EQ(m.address, address);
    EXPECT_EQ(m.length, 2 * mib);
    EXPECT_EQ(m.file_offset, 0U);
    EXPECT_EQ(m.device, about.st_dev);
    EXPECT_EQ(m.inode, about.st_ino);
    EXPECT_EQ(m.page_size, static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
    EXPECT_EQ(m.path, "/memfd:agent-test (deleted)");
    EXPECT_EQ(::fcntl(m.fd.get(), F_GETFL) & O_ACCMODE, O_RDWR);

    // What is changed in the file is seen through the mapping after a zap, as before it.
    EXPECT_TRUE(client.zap(address, mib));
    ASSERT_EQ(::pwrite(file.get(), "y", 1, 0), 1);
    ASSERT_EQ(::write(to_child.get(), "\n", 1), 1);
    EXPECT_EQ(read_line(), "y");
}

TEST_F(Agent, ZapsOnlyWithinASharedMapping) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    AgentClient client{std::move(ours)};
    EXPECT_TRUE(client.zap(address, 2 * mib));
    const std::vector<std::pair<std::uint64_t, std::uint64_t>> bad{
        {address, 0}, {address, 2 * mib + 4096}, {address - 4096, 8192},   {address + 1, 4096},
        {0, 4096},    {address, UINT64_MAX},     {UINT64_MAX - 4095, 4096}};
    for (const auto& [at, length] : bad) {
        const auto zapped = client.zap(at, length);
        ASSERT_FALSE(zapped) << at << " " << length;
        EXPECT_EQ(zapped.error().code, ErrorCode::invalid_argument);
    }
}

// Only holes count, and every way to punch one; the calls do what they do without the agent, errors among it.
TEST_F(Agent, CountsHolesThatArePunched) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    AgentClient client{std::move(ours)};
    auto handles = client.handles();
    ASSERT_TRUE(handles) << handles.error().to_string();
    ASSERT_TRUE(handles->discards.fd) << handles->discards.error;
    const int memory = handles->discards.fd.get();
    EXPECT_EQ(::mmap(nullptr, sizeof(pf_agent_discards), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0), MAP_FAILED);
    EXPECT_NE(::ftruncate(memory, 0), 0);
    void* const mapped = ::mmap(nullptr, sizeof(pf_agent_discards), PROT_READ, MAP_SHARED, memory, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    const auto* counters = static_cast<const volatile pf_agent_discards*>(mapped);
    const auto counted = [&](char what) {
        const std::uint64_t before = counters->begun;
        EXPECT_EQ(before, counters->ended);
        const std::array<char, 2> line{what, '\n'};
        EXPECT_EQ(::write(to_child.get(), line.data(), line.size()), 2);
        const std::string said = read_line();
        EXPECT_EQ(counters->begun, counters->ended);
        return std::pair{counters->begun - before, said};
    };
    for (const char punch : {'p', 'q', 'r'}) {
        ASSERT_EQ(::pwrite(file.get(), "y", 1, 4096), 1);
        EXPECT_EQ(counted(punch), std::pair(std::uint64_t{1}, std::string{"0 0 0"})) << punch;
    }
    ASSERT_EQ(::pwrite(file.get(), "y", 1, 4096), 1);
    for (const char harmless : {'d', 'a'}) {
        EXPECT_EQ(counted(harmless), std::pair(std::uint64_t{0}, std::string{"0 0 121"})) << harmless;
    }
    EXPECT_EQ(counted('e'), std::pair(std::uint64_t{1}, "-1 " + std::to_string(EBADF) + " 121"));
    ::munmap(mapped, sizeof(pf_agent_discards));
}

TEST_F(Agent, MakesMoreUserfaultfdsAndLetsGoOfThem) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    AgentClient client{std::move(ours)};
    auto first = client.new_userfaultfd();
    auto second = client.new_userfaultfd();
    ASSERT_TRUE(first) << first.error().to_string();
    ASSERT_TRUE(second);
    EXPECT_NE(first->get(), second->get());
    ASSERT_TRUE(client.release_faults());
    auto handles = client.handles();
    ASSERT_TRUE(handles);
    for (const AgentHandle& fault : handles->faults) {
        EXPECT_FALSE(fault.fd);
        EXPECT_EQ(fault.error, EBADF);
    }
    EXPECT_TRUE(handles->tracking.fd);
}

TEST_F(Agent, AStoppedProcessIsATimeoutAndLateAnswersAreDropped) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    AgentClient hasty{ours.duplicate(), std::chrono::milliseconds{100}};
    ::kill(child, SIGSTOP);
    ASSERT_EQ(::waitpid(child, nullptr, WUNTRACED), child); // all of its threads have stopped
    const auto late = hasty.mappings();
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, ErrorCode::timed_out);
    ::kill(child, SIGCONT);
    Result<void> zapped = hasty.zap(address, mib);
    for (int i = 0; i < 100 && !zapped && zapped.error().code == ErrorCode::timed_out; ++i) {
        zapped = hasty.zap(address, mib); // its answer, not that of mappings()
    }
    EXPECT_TRUE(zapped);
}

TEST_F(Agent, ItsEndIsClosed) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    AgentClient client{std::move(ours)};
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    child = -1;
    const auto handles = client.handles();
    ASSERT_FALSE(handles);
    EXPECT_EQ(handles.error().code, ErrorCode::closed);
}

TEST_F(Agent, GarbageEndsTheConversationAndNothingElse) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    ASSERT_EQ(::send(ours.get(), "hello", 5, 0), 5);
    AgentClient client{std::move(ours)};
    EXPECT_EQ(client.handles().error().code, ErrorCode::closed);
    ASSERT_EQ(::write(to_child.get(), "\n", 1), 1);
    EXPECT_EQ(read_line(), "x");
}

TEST_F(Agent, AnUnknownRequestIsAnsweredSo) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT);
    const pf_agent_request request{
        .magic = PF_AGENT_MAGIC, .version = PF_AGENT_VERSION, .type = 99, .sequence = 5, .address = 0, .length = 0};
    ASSERT_EQ(::send(ours.get(), &request, sizeof request, 0), static_cast<ssize_t>(sizeof request));
    pf_agent_header header{};
    ASSERT_EQ(::recv(ours.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
    EXPECT_EQ(header.kind, PF_AGENT_END);
    EXPECT_EQ(header.sequence, 5U);
    EXPECT_EQ(header.error, ENOSYS);
}

TEST_F(Agent, DoesNothingWhereItIsNotWanted) {
    start(PAGEFERRY_TEST_AGENT_HOST, PAGEFERRY_TEST_AGENT, false);
    EXPECT_EQ(threads, 1);
    EXPECT_EQ(preloaded, PAGEFERRY_TEST_AGENT);
}

TEST_F(Agent, OtherPreloadedLibrariesStay) {
    start(PAGEFERRY_TEST_AGENT_HOST, std::string{"libm.so.6:"} + PAGEFERRY_TEST_AGENT + " libdl.so.2");
    EXPECT_EQ(threads, 2);
    EXPECT_EQ(preloaded, "libm.so.6:libdl.so.2");
}

} // namespace
} // namespace pageferry::hypervisor
