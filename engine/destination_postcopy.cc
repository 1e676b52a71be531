// The part of Destination that a postcopy and every later connection of a session need.
#include "engine/answer_timeout.h"
#include "engine/destination.h"
#include "engine/peer.h"

#include <string>

namespace pageferry::engine {

namespace session = transport::session;
using statemachine::Cause;
using statemachine::Status;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds progress_interval{200};
constexpr milliseconds revoke_timeout{10'000};

Error out_of_place(const session::Delivered& message, const std::string& reason) {
    return make_error(ErrorCode::protocol, "read Delivered",
                      "block " + std::to_string(message.block) + ", page " + std::to_string(message.first_page), reason);
}
} // namespace

bool Destination::about_pulls(const session::Message& message) {
    return std::holds_alternative<session::PullLimit>(message) || std::holds_alternative<session::Delivered>(message);
}

Result<void> Destination::note(const session::Message& about_pulls) {
    if (const auto* limit = std::get_if<session::PullLimit>(&about_pulls)) {
        receiver_->limit(limit->bytes_per_second);
        return {};
    }
    return delivered(std::get<session::Delivered>(about_pulls));
}

// All of it is looked at before any of it counts.
Result<void> Destination::delivered(const session::Delivered& message) {
    if (message.block >= blocks_.size()) {
        return std::unexpected(out_of_place(message, "no such block"));
    }
    const auto local = static_cast<std::size_t>(blocks_[message.block] - config_.blocks.data());
    if (message.first_page != receiver_->known(local)) {
        return std::unexpected(out_of_place(message, "told before are " + std::to_string(receiver_->known(local)) + " pages"));
    }
    const std::uint64_t left = blocks_[message.block]->pages() - message.first_page;
    // Parts but for the last of a block are whole words.
    if (message.pages == 0 || message.pages > left || (message.pages != left && message.pages % 64 != 0)) {
        return std::unexpected(out_of_place(message, std::to_string(message.pages) + " pages, the block has " +
                                                         std::to_string(left) + " from there on"));
    }
    const std::uint64_t beyond = message.pages % 64; // of the last word
    const bool fits = message.words.empty() ||
                      (message.words.size() == (message.pages + 63) / 64 && (beyond == 0 || message.words.back() >> beyond == 0));
    if (!fits) {
        return std::unexpected(out_of_place(message, std::to_string(message.words.size()) + " words do not fit " +
                                                         std::to_string(message.pages) + " pages"));
    }
    return receiver_->delivered(local, message.pages, message.words);
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

// A source that comes again has lost this connection, which may look whole from here until the dead-peer deadline has passed.
Result<void> Destination::look_at_the_door() {
    if (reception_.comes_again(session_, epoch_)) {
        return std::unexpected(make_error(ErrorCode::io, "migrate", reception_.uri(),
                                          "the source has lost this connection, and comes by a new one"));
    }
    return {};
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
            if (!about_pulls(**message)) {
                return std::unexpected(unexpected_message(**message, "pull pages"));
            }
            PAGEFERRY_TRY(note(**message));
        }
        if (auto error = receiver_->error()) {
            return std::unexpected(*error);
        }
        PAGEFERRY_TRY(look_at_the_door());
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
        receiver_->know_all();
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
