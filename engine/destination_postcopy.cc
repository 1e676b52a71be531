// The part of Destination that a postcopy and every later connection of a session need.
#include "engine/answer_timeout.h"
#include "engine/destination.h"
#include "engine/peer.h"

#include <bit>

namespace pageferry::engine {

namespace session = transport::session;
using statemachine::Cause;
using statemachine::Status;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds progress_interval{200};
constexpr milliseconds revoke_timeout{10'000};

Error out_of_place(const session::Missing& message, const std::string& reason) {
    return make_error(ErrorCode::protocol, "read Missing", "block " + std::to_string(message.block), reason);
}
} // namespace

Result<void> Destination::missing(const session::Missing& message) {
    if (message.block >= blocks_.size()) {
        return std::unexpected(out_of_place(message, "no such block"));
    }
    const auto& block = *blocks_[message.block];
    const auto local = static_cast<std::size_t>(&block - config_.blocks.data());
    // All of it is looked at before any of it counts.
    for (std::size_t word = 0; word < message.words.size(); ++word) {
        if (message.words[word] == 0) {
            continue;
        }
        const std::uint64_t from = 64 * word;
        const auto width = static_cast<std::uint64_t>(std::bit_width(message.words[word]));
        if (message.first_page >= block.pages() || from + width > block.pages() - message.first_page) {
            return std::unexpected(out_of_place(message, "a page of the 64 from " + std::to_string(message.first_page) + " + " +
                                                             std::to_string(from) + " is beyond its end"));
        }
    }
    for (std::size_t word = 0; word < message.words.size(); ++word) {
        for (std::uint64_t bits = message.words[word]; bits != 0;) {
            const auto first = static_cast<unsigned>(std::countr_zero(bits));
            const auto count = static_cast<unsigned>(std::countr_one(bits >> first));
            receiver_->pages().missing_run(local, {.first = message.first_page + (64 * word) + first, .count = count});
            bits = first + count == 64 ? 0 : bits >> (first + count) << (first + count);
        }
    }
    return {};
}

// From here on the source pushes nothing, and what is missing is pulled. Faults are served before device state is loaded, for
// loading it touches guest RAM.
Result<void> Destination::start_pulling() {
    PAGEFERRY_TRY(reception_.connection().revoke_memory(revoke_timeout));
    memory_shared_ = false;
    PAGEFERRY_TRY(receiver_->arm());
    PAGEFERRY_TRY(guest_.drop_mappings());
    postcopy_ = true;
    receiver_->start();
    pull();
    return machine_.transition(Status::postcopy_device, Cause::device_saved);
}

void Destination::pull() {
    receiver_->connect(reception_.connection(), numbers_);
}

Result<void> Destination::say_progress() {
    const auto& figures = config_.page->postcopy;
    return reception_.channel().send(session::PullProgress{
        .missing = receiver_->pages().missing_bytes(), .pulled = figures.bytes, .requests = figures.requests});
}

// The guest runs here and takes what it still needs; at the end its page faults are the kernel's own business again.
Result<void> Destination::pull_the_rest() {
    if (!postcopy_) {
        return {};
    }
    while (!receiver_->complete()) {
        const auto message = reception_.inbox().wait(progress_interval);
        if (!message) {
            return std::unexpected(message.error());
        }
        if (*message) {
            const auto* limit = std::get_if<session::PullLimit>(&**message);
            if (limit == nullptr) {
                return std::unexpected(unexpected_message(**message, "pull pages"));
            }
            receiver_->limit(limit->bytes_per_second);
        }
        if (auto error = receiver_->error()) {
            return std::unexpected(*error);
        }
        PAGEFERRY_TRY(say_progress());
    }
    receiver_->disconnect();
    PAGEFERRY_TRY(receiver_->finish());
    return say_progress();
}

// One more connection of the same session: what it has come for is the permit, if it had not come, the pages that are missing,
// and the word that all is done.
Result<void> Destination::settle() {
    for (;;) {
        const auto hello = reception_.next();
        if (!hello) {
            deaf_ = true;
            return std::unexpected(hello.error());
        }
        if (!*hello) {
            continue;
        }
        const auto peer = greet_again(**hello);
        if (!peer) {
            return std::unexpected(peer.error());
        }
        if (*peer == Peer::source) {
            break;
        }
    }
    if (postcopy_ && !receiver_->complete()) {
        pull();
    }
    if (!ran_) {
        const auto message = answer("Permit", answer_timeout);
        if (!message) {
            return std::unexpected(message.error());
        }
        const auto* permit = std::get_if<session::Permit>(&*message);
        if (permit == nullptr) {
            return std::unexpected(unexpected_message(*message, "wait for Permit"));
        }
        PAGEFERRY_TRY(run_guest(permit->running));
        PAGEFERRY_TRY(reception_.channel().send(session::Running{}));
    }
    PAGEFERRY_TRY(pull_the_rest());
    return finish(session::Received{});
}

Result<Destination::Peer> Destination::greet_again(const session::Hello& hello) {
    if (hello.session != session_ || hello.epoch <= epoch_) {
        return turn_away(make_error(ErrorCode::refused, "hello", reception_.uri(),
                                    "this destination waits for another session, or for a later connection of it"));
    }
    if (auto welcomed = reception_.welcome(hello); !welcomed) {
        return turn_away(welcomed.error());
    }
    epoch_ = hello.epoch;
    paused_ = false; // what was asked for while there was no connection has been so already
    config_.accepted(session_, epoch_);
    reception_.tell();
    const bool open = machine_.status() == Status::postcopy_paused;
    if (open) {
        PAGEFERRY_TRY(machine_.transition(Status::postcopy_recover, Cause::connected));
    }
    const auto order = agree_on_ram();
    if (!order) {
        return std::unexpected(order.error());
    }
    PAGEFERRY_TRY(share_memory(*order));
    const auto message = answer("PullLimit", answer_timeout);
    if (!message) {
        return std::unexpected(message.error());
    }
    const auto* limit = std::get_if<session::PullLimit>(&*message);
    if (limit == nullptr) {
        return std::unexpected(unexpected_message(*message, "recover"));
    }
    if (receiver_) {
        receiver_->limit(limit->bytes_per_second);
    }
    PAGEFERRY_TRY(
        reception_.channel().send(session::Resume{.runs = ran_, .missing = postcopy_ ? receiver_->pages().missing_bytes() : 0}));
    if (open) {
        PAGEFERRY_TRY(machine_.transition(Status::postcopy_active, Cause::connected));
    }
    return Peer::source;
}

} // namespace pageferry::engine
