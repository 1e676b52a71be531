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
            stopped_ |= what == "stopped";
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

Result<engine::DeviceSave> MonitorPort::start_device_save() {
    auto reply = ask(request::start_device_save);
    if (!reply) {
        return std::unexpected(std::move(reply.error()));
    }
    if (reply->fds.empty()) {
        return std::unexpected(make_error(ErrorCode::internal, "start device save", {}, "no stream came with the answer"));
    }
    return engine::DeviceSave{.stream = std::move(reply->fds.front()), .was_running = reply->flag("running")};
}

Result<bool> MonitorPort::stopped(std::chrono::milliseconds wait) {
    return wait_for(stopped_, wait);
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

Result<void> MonitorPort::commit() {
    PAGEFERRY_TRY(ask(request::commit));
    return {};
}

Result<Fd> MonitorPort::start_device_load() {
    auto reply = ask(request::start_device_load);
    if (!reply) {
        return std::unexpected(std::move(reply.error()));
    }
    if (reply->fds.empty()) {
        return std::unexpected(make_error(ErrorCode::internal, "start device load", {}, "no stream came with the answer"));
    }
    return std::move(reply->fds.front());
}

Result<void> MonitorPort::run(bool running) {
    PAGEFERRY_TRY(ask(request::run, {{"running", running}}));
    return {};
}

} // namespace pageferry::hypervisor
