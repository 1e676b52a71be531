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

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

namespace pageferry::memory::testing {

namespace {

constexpr std::size_t tracking_handles = 3;
constexpr std::size_t most_handles = 32;
constexpr std::size_t most_pages = 65536; // of all blocks, whose visits are told
constexpr unsigned huge_2mb = 21U << 26;  // MFD_HUGE_2MB: of linux/memfd.h, which does not go with sys/mman.h

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

void send_handles(int socket, const std::vector<int>& handles, const std::vector<std::uint64_t>& addresses) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * most_handles)> control{};
    iovec data{.iov_base = const_cast<std::uint64_t*>(addresses.data()), .iov_len = addresses.size() * sizeof addresses[0]};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * handles.size());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * handles.size());
    std::memcpy(CMSG_DATA(header), handles.data(), sizeof(int) * handles.size());
    check(::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(data.iov_len), "sendmsg");
}

int open_userfaultfd() {
    return static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
}

} // namespace

struct HypervisorProcess::Told {
    struct Touch {
        std::atomic<std::uint64_t> word;
        std::atomic<bool> done;
    };
    struct Visited {
        std::atomic<std::uint64_t> read, wrote; // wrote is told last
    };
    std::array<Touch, 4096> touches;
    std::atomic<std::uint64_t> visits;
    std::array<Visited, most_pages> pages;
};

void HypervisorProcess::Unmap::operator()(Told* told) const {
    ::munmap(told, sizeof(Told));
}

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

HypervisorProcess::HypervisorProcess(const PageKind& kind, const std::vector<BlockSpec>& specs, std::size_t faults)
    : page_size_(kind.size) {
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
    void* const told = ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(told != MAP_FAILED, "mmap");
    told_.reset(new (told) Told{});
    std::array<int, 2> ends{};
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0, "socketpair");
    socket_ = Fd{ends[0]};
    const Fd theirs{ends[1]};
    pid_ = ::fork();
    check(pid_ >= 0, "fork");
    if (pid_ == 0) {
        child(theirs.get(), faults);
    }
    receive_handles(faults);
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

void HypervisorProcess::child(int socket, std::size_t faults) {
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
    const int userfaultfd = open_userfaultfd();
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    const int clear_refs = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    std::vector<int> handles{userfaultfd, pagemap, clear_refs};
    for (std::size_t i = 0; i < faults; ++i) {
        handles.push_back(open_userfaultfd());
        check(handles.back() >= 0, "userfaultfd");
    }
    send_handles(socket, handles, addresses);
    // Only the other side has them now: what it leaves unserved when it is gone hangs nobody.
    std::for_each(handles.begin() + tracking_handles, handles.end(), [](int fd) { ::close(fd); });
    Command command;
    while (receive_all(socket, &command, sizeof command)) {
        const std::uint64_t answer = obey(command, mappings, userfaultfd, socket);
        send_all(socket, &answer, sizeof answer);
    }
    ::_exit(0);
}

std::uint64_t HypervisorProcess::obey(const Command& command, const std::vector<Mapping>& mappings, int userfaultfd, int socket) {
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
    case Op::touch: {
        Told::Touch& touch = told_->touches[command.count];
        std::thread{[&touch, word = reinterpret_cast<volatile std::uint64_t*>(at(command.first))] {
            touch.word = *word;
            touch.done = true;
        }}.detach();
        return 0;
    }
    case Op::visit: start_visitors(mappings, command.count); return 0;
    case Op::stop: return 0;
    }
    return 0;
}

void HypervisorProcess::start_visitors(const std::vector<Mapping>& mappings, std::size_t threads) {
    static std::vector<std::pair<std::size_t, std::uint64_t>> all; // the threads have it for as long as they live
    for (std::size_t block = 0; block < mappings.size(); ++block) {
        for (std::uint64_t page = 0; page < mappings[block].pages; ++page) {
            all.emplace_back(block, page);
        }
    }
    std::ranges::shuffle(all, std::mt19937_64{all.size()});
    for (std::size_t thread = 0; thread < threads; ++thread) {
        std::thread{[this, &mappings, thread, threads] {
            for (std::size_t i = thread; i < all.size(); i += threads) {
                const auto [block, page] = all[i];
                auto* const words = reinterpret_cast<volatile std::uint64_t*>(mappings[block].address + page * page_size_);
                Told::Visited& told = told_->pages[number_of(block, page)];
                told.read = words[0];
                words[1] = ~std::uint64_t{i};
                told.wrote = ~std::uint64_t{i};
                ++told_->visits;
            }
        }}.detach();
    }
}

void HypervisorProcess::receive_handles(std::size_t faults) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * most_handles)> control{};
    std::vector<std::uint64_t> addresses(blocks_.size());
    iovec data{.iov_base = addresses.data(), .iov_len = addresses.size() * sizeof addresses[0]};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    check(::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC) == static_cast<ssize_t>(data.iov_len), "recvmsg");
    std::vector<int> handles(tracking_handles + faults);
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    check(header != nullptr && header->cmsg_len == CMSG_LEN(handles.size() * sizeof(int)), "not the descriptors");
    std::memcpy(handles.data(), CMSG_DATA(CMSG_FIRSTHDR(&message)), handles.size() * sizeof(int));
    for (std::size_t i = tracking_handles; i < handles.size(); ++i) {
        faults_.emplace_back(handles[i]);
    }
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

std::vector<Fd> HypervisorProcess::faults() const {
    std::vector<Fd> copies;
    for (const Fd& fault : faults_) {
        copies.push_back(fault.duplicate());
    }
    return copies;
}

std::uint64_t HypervisorProcess::ask(const Command& command) {
    const std::lock_guard lock{mutex_};
    return ask_locked(command);
}

std::uint64_t HypervisorProcess::ask_locked(const Command& command) {
    send_all(socket_.get(), &command, sizeof command);
    std::uint64_t answer = 0;
    check(receive_all(socket_.get(), &answer, sizeof answer), "the child is gone");
    return answer;
}

void HypervisorProcess::write(std::size_t block, const std::vector<std::uint64_t>& pages) {
    const Command command{.op = Op::write, .block = static_cast<std::uint32_t>(block), .count = pages.size()};
    const std::lock_guard lock{mutex_};
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
    const std::lock_guard lock{mutex_};
    const std::uint64_t written = ask_locked({.op = Op::stop}); // ends the run, which answers first
    std::uint64_t answer = 0;
    check(receive_all(socket_.get(), &answer, sizeof answer), "the child is gone");
    return written;
}

std::size_t HypervisorProcess::number_of(std::size_t block, std::uint64_t page) const {
    std::size_t number = page;
    for (std::size_t before = 0; before < block; ++before) {
        number += blocks_[before].pages();
    }
    return number;
}

std::size_t HypervisorProcess::touch(std::size_t block, std::uint64_t page) {
    std::size_t number = 0;
    {
        const std::lock_guard lock{mutex_};
        number = touches_++;
    }
    check(number < told_->touches.size(), "too many touches");
    ask({.op = Op::touch, .block = static_cast<std::uint32_t>(block), .first = page, .count = number});
    return number;
}

std::optional<std::uint64_t> HypervisorProcess::touched(std::size_t number) const {
    const Told::Touch& touch = told_->touches[number];
    return touch.done ? std::optional{touch.word.load()} : std::nullopt;
}

void HypervisorProcess::start_visiting(std::size_t threads) {
    std::uint64_t pages = 0;
    for (const RamBlock& block : blocks_) {
        pages += block.pages();
    }
    check(pages <= most_pages, "too many pages");
    ask({.op = Op::visit, .count = threads});
}

bool HypervisorProcess::visited_all() const {
    std::uint64_t pages = 0;
    for (const RamBlock& block : blocks_) {
        pages += block.pages();
    }
    return told_->visits == pages;
}

std::optional<HypervisorProcess::Visit> HypervisorProcess::visit(std::size_t block, std::uint64_t page) const {
    const Told::Visited& told = told_->pages[number_of(block, page)];
    const std::uint64_t wrote = told.wrote;
    return wrote != 0 ? std::optional{Visit{.read = told.read, .wrote = wrote}} : std::nullopt;
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
