#include "hypervisor_process.h"

#include "memory/kernel_abi.h"
#include "memory/ram_file.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>

namespace pageferry::memory::testing {

namespace {

constexpr std::size_t handle_count = 3;
constexpr unsigned huge_2mb = 21U << 26; // MFD_HUGE_2MB: of linux/memfd.h, which does not go with sys/mman.h

void check(bool good, const char* what) {
    if (!good) {
        std::perror(what);
        std::abort();
    }
}

void send_all(int socket, const void* data, std::size_t size) {
    check(::send(socket, data, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size), "send");
}

bool receive_all(int socket, void* data, std::size_t size) {
    return ::recv(socket, data, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

void send_handles(int socket, const std::array<int, handle_count>& handles, const std::vector<std::uint64_t>& addresses) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof handles)> control{};
    iovec data{.iov_base = const_cast<std::uint64_t*>(addresses.data()), .iov_len = addresses.size() * sizeof addresses[0]};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof handles);
    std::memcpy(CMSG_DATA(header), handles.data(), sizeof handles);
    check(::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(data.iov_len), "sendmsg");
}

} // namespace

Fd make_ram_file(std::uint64_t page_size, std::uint64_t length) {
    Fd file{::memfd_create("pageferry-test", page_size == 4096 ? MFD_CLOEXEC : MFD_CLOEXEC | MFD_HUGETLB | huge_2mb)};
    check(static_cast<bool>(file) && ::ftruncate(file.get(), static_cast<off_t>(length)) == 0, "memfd");
    return file;
}

bool available(const PageKind& kind) {
    return !kind.transparent_huge || make_huge_ram_file("pageferry-test", kind.size).has_value();
}

HypervisorProcess::HypervisorProcess(std::uint64_t page_size, const std::vector<BlockSpec>& specs)
    : HypervisorProcess(PageKind{.name = "", .size = page_size, .transparent_huge = false}, specs) {}

HypervisorProcess::HypervisorProcess(const PageKind& kind, const std::vector<BlockSpec>& specs) : page_size_(kind.size) {
    const std::uint64_t page_size = kind.size;
    for (const BlockSpec& spec : specs) {
        const std::uint64_t offset = spec.file_offset_pages * page_size;
        const std::uint64_t length = offset + spec.pages * page_size;
        auto block = RamBlock::map({.name = spec.name, .length = spec.pages * page_size, .file_offset = offset},
                                   kind.transparent_huge ? make_huge_ram_file("pageferry-test", length).value()
                                                         : make_ram_file(page_size, length));
        check(block.has_value(), "RamBlock::map");
        blocks_.push_back(std::move(*block));
    }
    std::array<int, 2> ends{};
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0, "socketpair");
    socket_ = Fd{ends[0]};
    const Fd theirs{ends[1]};
    pid_ = ::fork();
    check(pid_ >= 0, "fork");
    if (pid_ == 0) {
        child(theirs.get());
    }
    receive_handles();
}

HypervisorProcess::~HypervisorProcess() {
    kill();
}

void HypervisorProcess::kill() {
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
}

void HypervisorProcess::child(int socket) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::vector<Mapping> mappings;
    std::vector<std::uint64_t> addresses;
    for (const RamBlock& block : blocks_) {
        void* const address = ::mmap(nullptr, block.info().length, PROT_READ | PROT_WRITE, MAP_SHARED, block.file(),
                                     static_cast<off_t>(block.info().file_offset));
        check(address != MAP_FAILED, "mmap");
        ::madvise(address, block.info().length, MADV_HUGEPAGE); // as QEMU does
        mappings.push_back({static_cast<volatile std::byte*>(address), block.pages()});
        addresses.push_back(reinterpret_cast<std::uint64_t>(address));
    }
    const int userfaultfd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const int clear_refs = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    send_handles(socket, {userfaultfd, pagemap, clear_refs}, addresses);
    Command command;
    while (receive_all(socket, &command, sizeof command)) {
        const std::uint64_t answer = obey(command, mappings, userfaultfd, socket);
        send_all(socket, &answer, sizeof answer);
    }
    ::_exit(0);
}

std::uint64_t HypervisorProcess::obey(const Command& command, const std::vector<Mapping>& mappings, int userfaultfd,
                                      int socket) const {
    static std::uint64_t counter = 0;
    const Mapping& mapping = mappings[command.block];
    const auto at = [&](std::uint64_t page) { return mapping.address + page * page_size_; };
    switch (command.op) {
    case Op::write: {
        std::vector<std::uint64_t> pages(command.count);
        check(pages.empty() || receive_all(socket, pages.data(), pages.size() * sizeof pages[0]), "recv");
        for (const std::uint64_t page : pages) {
            *reinterpret_cast<volatile std::uint64_t*>(at(page)) = ++counter;
        }
        return 0;
    }
    case Op::read: return static_cast<std::uint64_t>(*at(command.first));
    case Op::drop:
    case Op::punch: {
        void* const address = const_cast<std::byte*>(at(command.first));
        check(::madvise(address, command.count * page_size_, command.op == Op::drop ? MADV_DONTNEED : MADV_REMOVE) == 0,
              "madvise");
        return 0;
    }
    case Op::handshake: {
        uffdio_api api = {.api = UFFD_API, .features = command.first, .ioctls = 0};
        return ::ioctl(userfaultfd, UFFDIO_API, &api) == 0 ? 0 : static_cast<std::uint64_t>(errno);
    }
    case Op::run: {
        std::mt19937_64 random{command.first};
        const std::uint64_t started = counter;
        const std::uint64_t none = 0;
        send_all(socket, &none, sizeof none); // told that it runs
        for (pollfd stop{.fd = socket, .events = POLLIN, .revents = 0}; ::poll(&stop, 1, 0) == 0;) {
            for (int i = 0; i < 64; ++i) {
                const Mapping& any = mappings[random() % mappings.size()];
                // Anywhere in the page, so that a page differs by more than one word.
                const std::uint64_t word = random() % (page_size_ / 8);
                reinterpret_cast<volatile std::uint64_t*>(any.address + random() % any.pages * page_size_)[word] = ++counter;
            }
        }
        return counter - started; // the answer to the command that waits
    }
    case Op::stop: return 0;
    }
    return 0;
}

void HypervisorProcess::receive_handles() {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * handle_count)> control{};
    std::vector<std::uint64_t> addresses(blocks_.size());
    iovec data{.iov_base = addresses.data(), .iov_len = addresses.size() * sizeof addresses[0]};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    check(::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC) == static_cast<ssize_t>(data.iov_len), "recvmsg");
    std::array<int, handle_count> handles{};
    check(CMSG_FIRSTHDR(&message) != nullptr, "no descriptors");
    std::memcpy(handles.data(), CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof handles);
    handles_ = {.userfaultfd = Fd{handles[0]}, .pagemap = Fd{handles[1]}, .clear_refs = Fd{handles[2]}};
    // The blocks were mapped before the child told where it has them: once more, with what it said.
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
        RamBlockInfo info = blocks_[i].info();
        info.guest_address = addresses[i];
        auto block = RamBlock::map(info, Fd{::fcntl(blocks_[i].file(), F_DUPFD_CLOEXEC, 0)});
        check(block.has_value(), "RamBlock::map");
        blocks_[i] = std::move(*block);
    }
}

std::vector<const RamBlock*> HypervisorProcess::blocks() const {
    std::vector<const RamBlock*> pointers;
    for (const RamBlock& block : blocks_) {
        pointers.push_back(&block);
    }
    return pointers;
}

TrackingHandles HypervisorProcess::handles() const {
    return {.userfaultfd = handles_.userfaultfd.duplicate(),
            .pagemap = handles_.pagemap.duplicate(),
            .clear_refs = handles_.clear_refs.duplicate()};
}

std::uint64_t HypervisorProcess::ask(const Command& command) {
    send_all(socket_.get(), &command, sizeof command);
    std::uint64_t answer = 0;
    check(receive_all(socket_.get(), &answer, sizeof answer), "the child is gone");
    return answer;
}

void HypervisorProcess::write(std::size_t block, const std::vector<std::uint64_t>& pages) {
    const Command command{.op = Op::write, .block = static_cast<std::uint32_t>(block), .count = pages.size()};
    send_all(socket_.get(), &command, sizeof command);
    if (!pages.empty()) {
        send_all(socket_.get(), pages.data(), pages.size() * sizeof pages[0]);
    }
    std::uint64_t answer = 0;
    check(receive_all(socket_.get(), &answer, sizeof answer), "the child is gone");
}

void HypervisorProcess::read(std::size_t block, std::uint64_t page) {
    ask({.op = Op::read, .block = static_cast<std::uint32_t>(block), .first = page});
}
void HypervisorProcess::drop(std::size_t block, std::uint64_t first, std::uint64_t count) {
    ask({.op = Op::drop, .block = static_cast<std::uint32_t>(block), .first = first, .count = count});
}
void HypervisorProcess::punch(std::size_t block, std::uint64_t first, std::uint64_t count) {
    ask({.op = Op::punch, .block = static_cast<std::uint32_t>(block), .first = first, .count = count});
}
int HypervisorProcess::handshake(std::uint64_t features) {
    return static_cast<int>(ask({.op = Op::handshake, .first = features}));
}
void HypervisorProcess::start_writing(std::uint64_t seed) {
    ask({.op = Op::run, .first = seed});
}

std::uint64_t HypervisorProcess::stop_writing() {
    const std::uint64_t written = ask({.op = Op::stop}); // ends the run, which answers first
    std::uint64_t answer = 0;
    check(receive_all(socket_.get(), &answer, sizeof answer), "the child is gone");
    return written;
}

HugePages::HugePages(std::uint64_t pages)
    : setting_(::open("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", O_RDWR | O_CLOEXEC)) {
    if (!setting_ || ::flock(setting_.get(), LOCK_EX) != 0) {
        return;
    }
    const auto read_setting = [&] {
        std::array<char, 32> text{};
        const ssize_t got = ::pread(setting_.get(), text.data(), text.size() - 1, 0);
        return std::string{text.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
    };
    before_ = read_setting();
    const std::uint64_t wanted = std::strtoull(before_.c_str(), nullptr, 10) + pages;
    const std::string text = std::to_string(wanted);
    available_ = ::pwrite(setting_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
                 std::strtoull(read_setting().c_str(), nullptr, 10) >= wanted;
}

HugePages::~HugePages() {
    if (!before_.empty() && ::pwrite(setting_.get(), before_.data(), before_.size(), 0) < 0) {
        std::perror("nr_hugepages was not put back");
    }
}

} // namespace pageferry::memory::testing
