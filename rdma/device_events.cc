#include "rdma/device_events.h"

#include "rdma/pump.h"
#include "transport/plugin/events.h"

#include <poll.h>

#include <array>

namespace pageferry::rdma {

namespace {

std::mutex& all_mutex() {
    static std::mutex mutex;
    return mutex;
}
std::map<ibv_context*, std::weak_ptr<DeviceEvents>>& all() {
    static std::map<ibv_context*, std::weak_ptr<DeviceEvents>> known;
    return known;
}

} // namespace

std::string name_of(ibv_event_type type) {
    switch (type) {
    case IBV_EVENT_CQ_ERR: return "IBV_EVENT_CQ_ERR";
    case IBV_EVENT_QP_FATAL: return "IBV_EVENT_QP_FATAL";
    case IBV_EVENT_QP_REQ_ERR: return "IBV_EVENT_QP_REQ_ERR";
    case IBV_EVENT_QP_ACCESS_ERR: return "IBV_EVENT_QP_ACCESS_ERR";
    case IBV_EVENT_DEVICE_FATAL: return "IBV_EVENT_DEVICE_FATAL";
    case IBV_EVENT_PORT_ACTIVE: return "IBV_EVENT_PORT_ACTIVE";
    case IBV_EVENT_PORT_ERR: return "IBV_EVENT_PORT_ERR";
    case IBV_EVENT_LID_CHANGE: return "IBV_EVENT_LID_CHANGE";
    case IBV_EVENT_PKEY_CHANGE: return "IBV_EVENT_PKEY_CHANGE";
    case IBV_EVENT_GID_CHANGE: return "IBV_EVENT_GID_CHANGE";
    default: return ibv_event_type_str(type);
    }
}

Result<std::shared_ptr<DeviceEvents>> DeviceEvents::of(ibv_context* context) {
    const std::scoped_lock lock{all_mutex()};
    if (auto known = all()[context].lock()) {
        return known;
    }
    auto stop = make_event();
    if (!stop) {
        return std::unexpected{std::move(stop.error())};
    }
    if (auto set = set_nonblocking(context->async_fd); !set) {
        return std::unexpected{std::move(set.error())};
    }
    std::shared_ptr<DeviceEvents> made{new DeviceEvents{context, std::move(*stop)}};
    auto thread = start_thread("rdma-async", [events = made.get()] { events->run(); });
    if (!thread) {
        return std::unexpected{std::move(thread.error())};
    }
    made->thread_ = std::move(*thread);
    all()[context] = made;
    return made;
}

DeviceEvents::~DeviceEvents() {
    raise_event(stop_.get());
    if (thread_.joinable()) {
        thread_.join();
    }
}

void DeviceEvents::subscribe(const void* who, Told told) {
    const std::scoped_lock lock{mutex_};
    told_[who] = std::move(told);
}

void DeviceEvents::unsubscribe(const void* who) {
    const std::scoped_lock lock{mutex_};
    told_.erase(who);
}

void DeviceEvents::run() {
    for (;;) {
        std::array<pollfd, 2> watched{pollfd{.fd = context_->async_fd, .events = POLLIN, .revents = 0},
                                      pollfd{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
        (void)::poll(watched.data(), watched.size(), -1);
        if (watched[1].revents != 0) {
            return;
        }
        ibv_async_event event{};
        if (watched[0].revents == 0 || ibv_get_async_event(context_, &event) != 0) {
            continue;
        }
        {
            const std::scoped_lock lock{mutex_};
            for (const auto& [who, told] : told_) {
                told(event);
            }
        }
        ibv_ack_async_event(&event); // destroying a queue pair waits for it
    }
}

} // namespace pageferry::rdma
