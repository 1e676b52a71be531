#include "perf/fake_hypervisor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace pageferry::perf {

namespace {

// What the child sends: this, and on success three descriptors beside it.
struct Report {
    std::uint64_t guest_address = 0;
    int error = 0;
    std::array<char, 32> operation{};
};

constexpr std::size_t handles = 3;

[[noreturn]] void child(int channel, int file, std::uint64_t length, bool populate) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Report report;
    const auto fail = [&](const char* operation) {
        report.error = errno;
        std::strncpy(report.operation.data(), operation, report.operation.size() - 1);
        (void)::send(channel, &report, sizeof report, MSG_NOSIGNAL);
        ::_exit(1);
    };
    void* ram = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (ram == MAP_FAILED) {
        fail("mmap");
    }
    if (populate && ::madvise(ram, length, MADV_POPULATE_WRITE) != 0) {
        fail("populate");
    }
    std::array<int, handles> fds{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)),
                                 ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
                                 ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)};
    if (fds[0] < 0) {
        fail("userfaultfd");
    }
    if (fds[1] < 0 || fds[2] < 0) {
        fail("open /proc/self/pagemap");
    }
    report.guest_address = reinterpret_cast<std::uint64_t>(ram);
    iovec part{.iov_base = &report, .iov_len = sizeof report};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fds);
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof fds);
    (void)::sendmsg(channel, &message, MSG_NOSIGNAL);
    char byte = 0;
    (void)::recv(channel, &byte, 1, 0); // until the parent is gone or done
    ::_exit(0);
}

} // namespace

Result<FakeHypervisor> FakeHypervisor::start(int file, std::uint64_t length, bool populate) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return std::unexpected(errno_error(errno, "socketpair"));
    }
    Fd ours{ends[0]};
    Fd theirs{ends[1]};
    FakeHypervisor hypervisor;
    hypervisor.child_ = ::fork();
    if (hypervisor.child_ < 0) {
        return std::unexpected(errno_error(errno, "fork"));
    }
    if (hypervisor.child_ == 0) {
        child(theirs.get(), file, length, populate);
    }
    theirs.reset();
    Report report;
    std::array<int, handles> fds{};
    iovec part{.iov_base = &report, .iov_len = sizeof report};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(ours.get(), &message, MSG_CMSG_CLOEXEC);
    if (got != static_cast<ssize_t>(sizeof report)) {
        return std::unexpected(make_error(ErrorCode::resources, "start", "the process that stands for the hypervisor",
                                          "It ended before it was ready", "is there enough memory for --size"));
    }
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (report.error != 0 || header == nullptr || header->cmsg_len != CMSG_LEN(sizeof fds)) {
        return std::unexpected(
            errno_error(report.error, report.operation.data(), "the process that stands for the hypervisor", "run as root"));
    }
    std::memcpy(fds.data(), CMSG_DATA(header), sizeof fds);
    hypervisor.guest_address_ = report.guest_address;
    hypervisor.handles_.userfaultfd.reset(fds[0]);
    hypervisor.handles_.pagemap.reset(fds[1]);
    hypervisor.handles_.clear_refs.reset(fds[2]);
    hypervisor.channel_ = std::move(ours);
    return hypervisor;
}

FakeHypervisor::FakeHypervisor(FakeHypervisor&& other) noexcept
    : child_(std::exchange(other.child_, -1)), guest_address_(other.guest_address_), handles_(std::move(other.handles_)),
      channel_(std::move(other.channel_)) {}

FakeHypervisor::~FakeHypervisor() {
    if (child_ > 0) {
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
    }
}

} // namespace pageferry::perf
