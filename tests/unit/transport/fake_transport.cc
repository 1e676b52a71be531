#include "fake_transport.h"

#include <chrono>
#include <cstdio>
#include <cstring>

struct pf_connection {
    std::shared_ptr<pageferry::transport::fake::Wire> wire;
    int end = 0;
};

namespace pageferry::transport::fake {

namespace {

int fail(pf_error* error, pf_status status, const char* reason) {
    if (error != nullptr) {
        error->status = status;
        std::snprintf(error->reason, sizeof error->reason, "%s", reason);
        std::snprintf(error->peer, sizeof error->peer, "%s", "the other end");
    }
    return status;
}

template <class Condition>
bool wait(Wire& wire, std::unique_lock<std::mutex>& lock, std::int64_t timeout_ms, Condition condition) {
    return wire.changed.wait_for(lock, std::chrono::milliseconds{timeout_ms}, condition);
}

int send(pf_connection* one, const void* message, std::size_t length, std::int64_t timeout_ms, pf_error* error) {
    Wire& wire = *one->wire;
    std::unique_lock lock{wire.mutex};
    const int other = 1 - one->end;
    const auto stopped = [&] { return wire.cancelled[one->end] || wire.closed[other]; };
    if (!wait(wire, lock, timeout_ms, [&] { return stopped() || !wire.full[one->end]; })) {
        return fail(error, PF_TIMED_OUT, "the lane is full");
    }
    if (stopped()) {
        return wire.cancelled[one->end] ? fail(error, PF_CANCELLED, "cancelled") : fail(error, PF_CLOSED, "closed");
    }
    const auto* bytes = static_cast<const std::byte*>(message);
    wire.toward[other].emplace_back(bytes, bytes + length);
    ++wire.sent[one->end];
    wire.changed.notify_all();
    return PF_OK;
}

int receive(pf_connection* one, void* buffer, std::size_t /*capacity*/, std::size_t* length, std::int64_t timeout_ms,
            pf_error* error) {
    Wire& wire = *one->wire;
    std::unique_lock lock{wire.mutex};
    auto& queue = wire.toward[one->end];
    const auto stopped = [&] { return wire.cancelled[one->end] || wire.closed[1 - one->end]; };
    if (!wait(wire, lock, timeout_ms, [&] { return stopped() || !queue.empty(); })) {
        return PF_AGAIN;
    }
    if (wire.cancelled[one->end]) {
        return fail(error, PF_CANCELLED, "cancelled");
    }
    if (queue.empty()) {
        return fail(error, PF_CLOSED, "closed");
    }
    *length = queue.front().size();
    std::memcpy(buffer, queue.front().data(), *length);
    queue.pop_front();
    return PF_OK;
}

void set(pf_connection* one, bool (&flags)[2]) {
    const std::lock_guard lock{one->wire->mutex};
    flags[one->end] = true;
    one->wire->changed.notify_all();
}

pf_transport make_table() {
    pf_transport table{};
    table.size = sizeof table;
    table.abi_version = PF_TRANSPORT_ABI_VERSION;
    table.name = "fake";
    table.send = send;
    table.receive = receive;
    table.cancel = [](pf_connection* one) { set(one, one->wire->cancelled); };
    table.close = [](pf_connection* one) {
        set(one, one->wire->closed);
        delete one; // NOLINT(cppcoreguidelines-owning-memory): made in pair(), owned by Connection
    };
    table.describe = [](pf_connection* one, char* buffer, std::size_t capacity) -> int {
        std::snprintf(buffer, capacity, "fake end %d", one->end);
        return PF_OK;
    };
    return table;
}

} // namespace

std::pair<Connection, Connection> pair(const std::shared_ptr<Wire>& wire) {
    static const pf_transport table = make_table();
    const std::shared_ptr<const pf_transport> plugin{&table, [](const pf_transport*) {}};
    return {Connection{plugin, new pf_connection{wire, 0}}, Connection{plugin, new pf_connection{wire, 1}}};
}

void inject(Wire& wire, int end, std::vector<std::byte> bytes) {
    const std::lock_guard lock{wire.mutex};
    wire.toward[end].push_back(std::move(bytes));
    wire.changed.notify_all();
}

} // namespace pageferry::transport::fake
