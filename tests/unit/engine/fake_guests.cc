#include "tests/unit/engine/fake_guests.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace pageferry::engine::testing {

std::vector<memory::RamBlock> again(const memory::testing::HypervisorProcess& process) {
    std::vector<memory::RamBlock> blocks;
    for (const auto* block : process.blocks()) {
        auto mapped = memory::RamBlock::map(block->info(), Fd{::fcntl(block->file(), F_DUPFD_CLOEXEC, 0)});
        EXPECT_TRUE(mapped) << mapped.error().to_string();
        blocks.push_back(std::move(*mapped));
    }
    return blocks;
}

namespace {

Result<std::pair<Fd, Fd>> stream_pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return std::unexpected(errno_error(errno, "socketpair"));
    }
    return std::pair{Fd{ends[0]}, Fd{ends[1]}};
}

bool send_all(const Fd& fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t sent = ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        text.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
}

} // namespace

Result<Fd> FakeSourceGuest::start_device_save() {
    auto ends = stream_pair();
    if (!ends) {
        return std::unexpected(ends.error());
    }
    stream_ = std::move(ends->first);
    if (!send_all(stream_, device_state.substr(0, 1000))) {
        return std::unexpected(make_error(ErrorCode::io, "send", "device state", "closed"));
    }
    if (on_start_save) {
        on_start_save();
    }
    if (writing) {
        process_.stop_writing();
    }
    stopped_at_ = std::chrono::steady_clock::now();
    return std::move(ends->second);
}

Result<void> FakeSourceGuest::finish_device_save() {
    process_.write(0, on_save);
    if (!send_all(stream_, device_state.substr(1000))) {
        return std::unexpected(make_error(ErrorCode::io, "send", "device state", "closed"));
    }
    return {};
}

Result<bool> FakeSourceGuest::commit() {
    committed = true;
    if (on_commit) {
        PAGEFERRY_TRY(on_commit());
    }
    return true;
}

Result<Fd> FakeDestinationGuest::start_device_load() {
    auto ends = stream_pair();
    if (!ends) {
        return std::unexpected(ends.error());
    }
    stream_ = std::move(ends->first);
    return std::move(ends->second);
}

Result<bool> FakeDestinationGuest::loaded(std::chrono::milliseconds wait) {
    if (on_load) {
        on_load();
        on_load = nullptr;
    }
    pollfd polled{.fd = stream_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&polled, 1, static_cast<int>(wait.count())) == 1) {
        std::array<char, 65536> buffer{};
        const ssize_t count = ::recv(stream_.get(), buffer.data(), buffer.size(), 0);
        if (count <= 0) {
            return std::unexpected(make_error(ErrorCode::io, "receive", "device state", "closed"));
        }
        state.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return state.size() >= device_state.size();
}

Result<void> FakeDestinationGuest::run(bool running) {
    if (on_run) {
        if (auto result = on_run(); !result) {
            return result;
        }
    }
    ran = true;
    ran_running = running;
    return {};
}

} // namespace pageferry::engine::testing
