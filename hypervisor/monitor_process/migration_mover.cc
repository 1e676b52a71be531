// The part of Migration that deals with its mover: what it says, what it asks for, and its end.
#include "hypervisor/monitor_process/guest_ram.h"
#include "hypervisor/monitor_process/migration.h"

#include <boost/asio/post.hpp>

#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Cause;
using statemachine::Side;
using statemachine::Status;

namespace {
constexpr std::chrono::seconds mover_end_limit{2};                  // for one that was told to stop
constexpr std::chrono::milliseconds destination_tells_its_own{250}; // of a recovery; then a user of both sides knows it of both
constexpr std::chrono::seconds killed_mover_limit{1};               // for one that was killed
} // namespace

void Migration::tell_mover(const json& message) {
    if (!mover_) {
        return;
    }
    if (auto sent = mover_->send(message); !sent) {
        log_(sent.error().to_string());
        mover_->kill(); // it does not read: its end is the end of the attempt
    }
}

void Migration::answer(std::uint64_t id, const Result<void>& result, json details, const Fd& fd) {
    details["type"] = "reply";
    details["id"] = id;
    if (!result) {
        details["error"] = to_json(result.error());
    }
    if (!mover_) {
        return;
    }
    const int number = fd.get();
    if (auto sent = mover_->send(details, fd ? std::span{&number, 1} : std::span<const int>{}); !sent) {
        log_(sent.error().to_string());
        mover_->kill();
    }
}

void Migration::answer(std::uint64_t id, const Result<Fd>& stream, json details) {
    if (stream) {
        answer(id, Result<void>{}, std::move(details), *stream);
    } else {
        answer(id, Result<void>{std::unexpect, stream.error()}, std::move(details));
    }
}

void Migration::end_mover() {
    if (mover_) {
        ++mover_number_;
        // It may be this very mover's message that is being handled.
        boost::asio::post(io_, [mover = std::shared_ptr<MoverProcess>{std::move(mover_)}]() mutable { mover.reset(); });
    }
}

void Migration::mover_message(LinkMessage& message) {
    const std::string type = message.text("type");
    if (type == "ready") {
        if (preparing_) {
            mover_ready(message);
        } else if (listen_reply_) {
            answer_listen({}); // it was started for that
        }
    } else if (type == "accepted") {
        if (read_session(message.text("session"), session_)) {
            epoch_ = static_cast<std::uint32_t>(message.number("epoch"));
            successors_ = 0;
        }
    } else if (type == "ended") {
        mover_said_ended_ = true;
    } else if (type == "refused" && preparing_) {
        refuse(error_from(message.body.value("error", json::object())));
    } else if (type == "refused") {
        const Error error = error_from(message.body.value("error", json::object()));
        log_("the mover refuses: " + error.to_string());
        answer_listen(std::unexpected(error));
    } else if (type == "listening") {
        mover_listens(message);
    } else if (type == "transport" && !preparing_) {
        mover_transport(message);
    } else if (type == "status" && !preparing_) {
        mover_status(message);
    } else if (type == "request" && !preparing_) {
        mover_request(message.number("id"), message);
    }
}

// On a destination: where it listens, and where it could not.
void Migration::mover_ready(const LinkMessage& message) {
    transport_ = {};
    if (status() == Status::postcopy_paused) {
        // a source comes again: what is known of the transport is of the connection that broke
    } else if (next_side_ == Side::destination) {
        if (auto uris = read_uris(message.body, "uris", candidates_); !uris.empty()) {
            uris_ = std::move(uris);
        }
        if (auto attempts = failed_transports_from(message.body.value("attempts", json::array()), candidates_)) {
            transport_.attempts = std::move(*attempts);
        } else {
            log_(attempts.error().to_string());
        }
    }
    if (!transport_.attempts.empty()) {
        sink_.broadcast("PAGEFERRY_TRANSPORT", shown(transport_));
    }
    begun();
}

// A migration that goes by anything but what the user asked for first is never silent.
void Migration::mover_transport(const LinkMessage& message) {
    auto report = transport_report_from(message.body, candidates_);
    if (!report) {
        return log_(report.error().to_string());
    }
    transport_ = std::move(*report);
    const bool first = as_asked_ && transport_.candidate == 0U;
    // That a recovery cannot begin by any of several is an event, too: its end says of each why not.
    const bool none = status() == Status::postcopy_recover_setup && transport_.attempts.size() == candidates_;
    if (none || (transport_.candidate && (!first || !transport_.attempts.empty()))) {
        sink_.broadcast("PAGEFERRY_TRANSPORT", shown(transport_));
    }
}

bool Migration::move(Status to, Cause cause, const std::string& error) {
    const auto moved = machine_->transition(to, cause, error);
    if (!moved) {
        log_(moved.error().to_string());
        return false;
    }
    switch (to) {
    case Status::completed:
    case Status::failed:
    case Status::cancelled: finished_ = std::chrono::steady_clock::now(); break;
    default: break;
    }
    report();
    follow(to, cause);
    if (to == Status::postcopy_recover) {
        answer_resume_within(destination_tells_its_own);
    } else if (to != Status::postcopy_recover_setup && to != Status::postcopy_active) {
        answer_resume();
    }
    return true;
}

void Migration::report() {
    while (auto event = events_.take()) {
        log_(std::string{statemachine::name_of(event->side)} + ": " + std::string{statemachine::name_of(event->from)} + " -> " +
             std::string{statemachine::name_of(event->to)} + (event->error.empty() ? "" : ": " + event->error));
        history_.note(*event);
        sink_.broadcast("MIGRATION", {{"status", std::string{statemachine::name_of(event->to)}}});
    }
}

void Migration::mover_status(const LinkMessage& message) {
    const auto to = statemachine::status_from_name(message.text("to"));
    const std::string error = message.text("error");
    if (!to) {
        return;
    }
    const bool source = machine_->side() == Side::source;
    switch (*to) {
    case Status::active: move(Status::active, Cause::connected); break;
    case Status::pre_switchover: move(Status::pre_switchover, Cause::stopped); break;
    case Status::device: move(Status::device, status() == Status::pre_switchover ? Cause::requested : Cause::stopped); break;
    case Status::failing:
    case Status::failed: attempt_failed(error); break;
    case Status::postcopy_device:
        postcopy_ = true;
        move(Status::postcopy_device, Cause::device_saved);
        break;
    case Status::postcopy_paused:
        if (source ? committed_ : load_told_) {
            const bool asked = message.text("cause") == statemachine::name_of(Cause::requested);
            move(Status::postcopy_paused, asked ? Cause::requested : Cause::connection_lost, error);
        } else {
            attempt_failed(error);
        }
        break;
    case Status::postcopy_recover: move(Status::postcopy_recover, Cause::connected); break;
    case Status::postcopy_active:
        move(Status::postcopy_active, status() == Status::postcopy_device ? Cause::device_loaded : Cause::connected);
        break;
    case Status::completed:
        if (source && committed_) {
            move(Status::completed, Cause::finished);
            leave_guest_alone();
            release_means();
        } else if (!source && ran_ && status() != Status::completed) {
            move(Status::completed, Cause::finished);
            release_means();
        }
        break;
    default: break; // cancelling: it was told so by us
    }
}

void Migration::mover_request(std::uint64_t id, const LinkMessage& message) {
    const std::string what = message.text("what");
    const bool source = machine_->side() == Side::source;
    const Status now = status();
    if (what == request::start_device_save && source && now == Status::active) {
        qemu_.start_save([this, id](Result<Fd> stream, bool was_running) {
            was_running_ = was_running;
            answer(id, stream, json::object());
        });
    } else if (what == request::finish_device_save && source && now == Status::device) {
        if (const auto buffered = no_disk_became_direct(); !buffered) {
            return answer(id, buffered);
        }
        qemu_.finish_save([this, id](const Result<void>& saved) { answer(id, saved); });
    } else if (what == request::commit && source && (now == Status::device || now == Status::postcopy_device)) {
        commit(id);
    } else if (what == request::start_device_load && !source && now == Status::active) {
        qemu_.start_load([this, id](Result<Fd> stream) { answer(id, stream, json::object()); });
    } else if (what == request::drop_mappings && !source && now == Status::active && postcopy_on_) {
        answer(id, drop_mappings());
    } else if (what == request::run && !source && load_told_ && (now == Status::active || now == Status::postcopy_active)) {
        run_guest(id, message.flag("running"));
    } else {
        answer(id, Result<void>{std::unexpect, make_error(now == Status::cancelling ? ErrorCode::cancelled : ErrorCode::state,
                                                          what, {}, "not in state " + std::string{statemachine::name_of(now)})});
    }
}

void Migration::run_guest(std::uint64_t id, bool running) {
    const auto ran = [this, id](const Result<void>& result) {
        if (result) {
            ran_ = true;
            incoming_ = false;
        }
        answer(id, result);
        if (result && !mover_ && !postcopy_) {
            move(Status::completed, Cause::finished); // the guest is here, whatever became of its mover
        }
    };
    if (running && autostart_) {
        qemu_.run([this, ran](const Result<void>& result) {
            ran(result);
            if (result && parameters_.announce().rounds > 0) {
                qemu_.announce(parameters_.announce());
            }
        });
    } else {
        ran({}); // it goes on standing still, now as this side's own
    }
}

// The point of no return. QEMU's own migration has ended well: finish_save() waited for that, and QEMU will never resume the
// guest by itself.
void Migration::commit(std::uint64_t id) {
    if (qemu_.active() || !qemu_.succeeded() || (status() != Status::device && status() != Status::postcopy_device)) {
        return answer(
            id, Result<void>{std::unexpect, make_error(ErrorCode::cancelled, "commit", {}, "the migration is being given up")});
    }
    // From here on a cancel comes too late, and only the destination's own word can bring the guest back.
    committed_ = true;
    answer(id, Result<void>{}, {{"running", was_running_}});
}

// QEMU's own migration is over.
void Migration::qemu_ended() {
    if (machine_->side() == Side::destination && qemu_.succeeded()) {
        load_told_ = true;
        tell_mover({{"type", "guest"}, {"what", "loaded"}});
        if (status() == Status::failed && exit_on_error_) {
            qemu_.fail_incoming(); // all had come before the connection broke: QEMU itself sees no error
        }
    }
}

void Migration::attempt_failed(const std::string& text) {
    if (machine_->side() == Side::destination) {
        if (ran_ || !move(Status::failed, Cause::error, text)) {
            return;
        }
        release_means(); // QEMU may be waiting for a page that will not come
        if (exit_on_error_) {
            log_("the incoming migration has failed, so QEMU ends: " + text);
            qemu_.fail_incoming();
        }
        return;
    }
    if (statemachine::is_legal(Side::source, status(), Status::failing, Cause::error) &&
        move(Status::failing, Cause::error, text)) {
        committed_ = false; // the destination said that it did not run the guest
        clean_up();
    }
}

// A killed process runs no code any more, but the kernel may hold it for as long as it likes, releasing what a device has of it.
// The guest does not wait for that.
void Migration::end_mover_within(std::chrono::milliseconds limit) {
    deadline_.expires_after(limit);
    deadline_.async_wait([this](const boost::system::error_code& error) {
        if (error || !mover_) {
            return;
        }
        log_("the mover did not end in time and is killed");
        mover_->kill();
        deadline_.expires_after(killed_mover_limit);
        deadline_.async_wait([this](const boost::system::error_code& cut_short) {
            if (!cut_short && mover_) {
                log_("the killed mover is held by the kernel, and left to it");
                end_mover();
                clean_up();
            }
        });
    });
}

// In failing or cancelling: first the mover goes, then the guest is put back, then the state says so.
void Migration::clean_up() {
    if (mover_) {
        return end_mover_within(mover_end_limit); // mover_ended() comes back here
    }
    deadline_.cancel();
    if (std::exchange(cleaning_up_, true)) {
        return;
    }
    leave_guest_alone();
    qemu_.restore(was_running_, [this](const Result<void>& restored) {
        cleaning_up_ = false;
        if (!restored) {
            log_("putting the guest back: " + restored.error().to_string());
        }
        release_means();
        move(status() == Status::cancelling ? Status::cancelled : Status::failed, Cause::cleaned_up);
    });
}

void Migration::mover_ended(const std::string& how) {
    end_mover();
    const std::string text = "the mover process ended in the middle: " + how;
    answer_listen(std::unexpected(make_error(ErrorCode::internal, "listen", "mover", text, "its log says why")));
    if (preparing_) {
        return refuse(make_error(ErrorCode::internal, "start", "mover", text, "its log says why"));
    }
    const Status now = status();
    if (now == Status::failing || now == Status::cancelling) {
        return clean_up();
    }
    const bool paused = now == Status::postcopy_paused;
    if (machine_->side() == Side::source) {
        if (!statemachine::is_running(now) || paused) {
            return;
        }
        return committed_ ? connection_lost(text) : attempt_failed(text);
    }
    if (mover_said_ended_ || now == Status::failed || now == Status::none) {
        return;
    }
    if (ran_ && !postcopy_) {
        if (now != Status::completed) {
            move(Status::completed, Cause::finished);
        }
        return wait_for_source_again(); // it may not know yet
    }
    if (!load_told_) {
        return statemachine::is_running(now) ? attempt_failed(text) : void();
    }
    if (!paused && now != Status::completed) {
        connection_lost(text);
    }
    wait_for_source_again();
}

void Migration::connection_lost(const std::string& text) {
    move(Status::postcopy_paused, Cause::connection_lost, text);
}

} // namespace pageferry::hypervisor
