#include "engine/inbox.h"

#include <pthread.h>

#include <utility>

namespace pageferry::engine {

namespace {
constexpr std::chrono::milliseconds receive_wait{100};
constexpr std::chrono::milliseconds last_word_wait{2000};
} // namespace

Inbox::Inbox(transport::Connection& connection, transport::session::Channel& channel)
    : connection_(connection), channel_(channel), thread_([this] { run(); }) {
    pthread_setname_np(thread_.native_handle(), "pf-control");
}

Inbox::~Inbox() {
    {
        const std::lock_guard lock{mutex_};
        stop_ = true;
    }
    thread_.join();
}

void Inbox::run() {
    for (;;) {
        {
            const std::lock_guard lock{mutex_};
            if (stop_) {
                return;
            }
        }
        auto message = channel_.receive(receive_wait);
        if (!message) {
            bool end_expected = false;
            {
                const std::lock_guard lock{mutex_};
                error_ = message.error();
                end_expected = end_expected_;
            }
            changed_.notify_all();
            if (!end_expected) {
                connection_.cancel();
            }
            return;
        }
        if (!*message) {
            continue;
        }
        {
            const std::lock_guard lock{mutex_};
            messages_.push_back(std::move(**message));
        }
        changed_.notify_all();
    }
}

Result<std::optional<transport::session::Message>> Inbox::wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, timeout, [this] { return !messages_.empty() || error_.has_value() || woken_; });
    woken_ = false;
    if (!messages_.empty()) {
        auto message = std::move(messages_.front());
        messages_.pop_front();
        return message;
    }
    if (error_) {
        return std::unexpected(*error_);
    }
    return std::nullopt;
}

void Inbox::wake() {
    {
        const std::lock_guard lock{mutex_};
        woken_ = true;
    }
    changed_.notify_all();
}

std::optional<Error> Inbox::error() const {
    const std::lock_guard lock{mutex_};
    return error_;
}

Error Inbox::cause_of(const Error& seen) {
    std::unique_lock lock{mutex_};
    if (seen.code == ErrorCode::closed) {
        changed_.wait_for(lock, last_word_wait, [this] { return error_.has_value(); });
    }
    return error_ ? *error_ : seen;
}

void Inbox::expect_end() {
    const std::lock_guard lock{mutex_};
    end_expected_ = true;
}

} // namespace pageferry::engine
