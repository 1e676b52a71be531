// Asynchronous events of a device (ibv_get_async_event(3)): one thread for each device that is in use, however many connections
// use it, for an event is given out only once.
//
// Threads: any.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "rdma/handles.h"
#include "rdma/kit.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace pageferry::rdma {

class DeviceEvents {
public:
    using Told = std::function<void(const ibv_async_event& event)>;

    // The one of this context, made where there is none. librdmacm shares one context among all ids of a process.
    static Result<std::shared_ptr<DeviceEvents>> of(ibv_context* context);
    ~DeviceEvents();
    DeviceEvents(const DeviceEvents&) = delete;
    DeviceEvents& operator=(const DeviceEvents&) = delete;

    // Called on the thread of the device; must not block, nor come back here.
    void subscribe(const void* who, Told told);
    void unsubscribe(const void* who); // after it no call is under way

private:
    DeviceEvents(ibv_context* context, Fd stop) : context_(context), stop_(std::move(stop)) {}
    void run();

    ibv_context* const context_;
    const Fd stop_;
    std::mutex mutex_;
    std::map<const void*, Told> told_;
    std::thread thread_;
};

// "IBV_EVENT_PORT_ERR"
std::string name_of(ibv_event_type type);

} // namespace pageferry::rdma
