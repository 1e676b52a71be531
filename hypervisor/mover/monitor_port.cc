#include "hypervisor/mover/monitor_port.h"

#include <string>

namespace pageferry::hypervisor {

using nlohmann::json;

Result<LinkMessage> MonitorPort::ask(std::string_view what, json details) {
    PAGEFERRY_TRY(report_());
    std::unique_lock lock{mutex_};
    if (end_) {
        return std::unexpected(*end_);
    }
    details["type"] = "request";
    details["id"] = ++asked_;
    details["what"] = std::string{what};
    reply_.reset();
    PAGEFERRY_TRY(link_.send(details));
    // The monitor process answers everything, with an error where it must: it holds the deadlines, for it sees the hypervisor.
    changed_.wait(lock, [this] { return reply_ || end_; });
    if (!reply_) {
        return std::unexpected(*end_);
    }
    LinkMessage reply = std::move(*reply_);
    reply_.reset();
    if (const auto error = reply.body.find("error"); error != reply.body.end()) {
        return std::unexpected(error_from(*error));
    }
    return reply;
}

Result<bool> MonitorPort::wait_for(const bool& flag, std::chrono::milliseconds wait) {
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, wait, [&] { return flag || end_ || guest_error_; });
    if (end_) {
        return std::unexpected(*end_);
    }
    if (guest_error_) {
        return std::unexpected(*guest_error_);
    }
    return flag;
}

void MonitorPort::deliver(LinkMessage message) {
    {
        const std::lock_guard lock{mutex_};
        const std::string type = message.text("type");
        if (type == "reply" && message.number("id") == asked_) {
            reply_ = std::move(message);
        } else if (type == "continue") {
            continued_ = true;
        } else if (type == "guest") {
            const std::string what = message.text("what");
            if (what == "stopped" && !stopped_) {
                stopped_ = true;
                stopped_at_ = std::chrono::steady_clock::now();
            }
            loaded_ |= what == "loaded";
            if (const auto error = message.body.find("error"); error != message.body.end()) {
                guest_error_ = error_from(*error);
            }
        }
    }
    changed_.notify_all();
}

void MonitorPort::end(Error error) {
    {
        const std::lock_guard lock{mutex_};
        if (!end_) {
            end_ = std::move(error);
        }
    }
    changed_.notify_all();
}

void MonitorPort::cancel() {
    end(make_error(ErrorCode::cancelled, "migrate", {}, "cancelled"));
}

void MonitorPort::lost() {
    end(make_error(ErrorCode::closed, "migrate", "monitor process", "the monitor process or its QEMU is gone"));
}

Result<Fd> MonitorPort::ask_for_stream(std::string_view what) {
    auto reply = ask(what);
    if (!reply) {
        return std::unexpected(std::move(reply.error()));
    }
    if (reply->fds.empty()) {
        return std::unexpected(make_error(ErrorCode::internal, std::string{what}, {}, "no stream came with the answer"));
    }
    return std::move(reply->fds.front());
}

Result<Fd> MonitorPort::start_device_save() {
    return ask_for_stream(request::start_device_save);
}
Result<Fd> MonitorPort::start_device_load() {
    return ask_for_stream(request::start_device_load);
}
Result<bool> MonitorPort::stopped(std::chrono::milliseconds wait) {
    return wait_for(stopped_, wait);
}
std::chrono::steady_clock::time_point MonitorPort::stopped_at() const {
    const std::lock_guard lock{mutex_};
    return stopped_at_;
}

Result<bool> MonitorPort::continued(std::chrono::milliseconds wait) {
    return wait_for(continued_, wait);
}
Result<bool> MonitorPort::loaded(std::chrono::milliseconds wait) {
    return wait_for(loaded_, wait);
}

Result<void> MonitorPort::finish_device_save() {
    PAGEFERRY_TRY(ask(request::finish_device_save));
    return {};
}

Result<bool> MonitorPort::commit() {
    const auto reply = ask(request::commit);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    return reply->flag("running");
}

Result<void> MonitorPort::drop_mappings() {
    PAGEFERRY_TRY(ask(request::drop_mappings));
    return {};
}

Result<void> MonitorPort::run(bool running) {
    PAGEFERRY_TRY(ask(request::run, {{"running", running}}));
    return {};
}

} // namespace pageferry::hypervisor
