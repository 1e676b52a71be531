// What happens to a connection by itself: events of the connection manager and of the device, silence, and how they end it.
#include "rdma/cm_event.h"
#include "rdma/service.h"

#include <utility>

namespace pageferry::rdma {

using std::chrono::milliseconds;

namespace {

constexpr std::size_t most_notes = 8;
constexpr int registration_patience = 6; // times that of a dead peer

} // namespace

void Service::connection_manager() {
    rdma_cm_event* raw = nullptr;
    while (rdma_get_cm_event(set_.channel.get(), &raw) == 0) {
        const CmEvent event{raw};
        const Lane* const lane = set_.find(event->id);
        Fault fault = fault_of(*event, lane_.name.peer, 0);
        fault.lane = lane != nullptr ? lane->name.number : PF_LANE_NONE;
        fault.error.object = lane != nullptr ? lane->name.title + " (" + lane->name.device + ")" : fault.error.object;
        switch (event->event) {
        case RDMA_CM_EVENT_DISCONNECTED:
        case RDMA_CM_EVENT_DEVICE_REMOVAL: end_now(std::move(fault)); break;
        case RDMA_CM_EVENT_TIMEWAIT_EXIT:
        case RDMA_CM_EVENT_ESTABLISHED: break;
        default: {
            // Said of connections that go on working (unreachable after the carrier was lost, a new address): worth telling
            // when the connection ends, and no reason to end it.
            const std::scoped_lock lock{mutex_};
            if (notes_.size() < most_notes) {
                notes_.push_back(name_of(event->event));
            }
        }
        }
    }
}

void Service::device_event(const ibv_async_event& event) {
    const auto of_a_pair = [&](const char* reason, ErrorCode code) {
        const Lane* const lane = set_.find(event.element.qp->qp_num);
        if (lane == nullptr || lane->qp() != event.element.qp) {
            return; // another connection's
        }
        Error error = make_error(code, "connection", lane->name.title + " (" + lane->name.device + ")",
                                 std::string{reason} + " (" + name_of(event.event_type) + ")");
        error.peer = lane->name.peer;
        fail(Fault{.error = std::move(error), .lane = lane->name.number}, true);
    };
    const auto of_the_device = [&] {
        fail(Fault{.error =
                       make_error(ErrorCode::io, "connection", lane_.name.device,
                                  "the RDMA device has failed (" + name_of(event.event_type) + ")", "look into the kernel log")},
             false);
    };
    switch (event.event_type) {
    case IBV_EVENT_QP_FATAL: of_a_pair("the device could not go on with the queue pair", ErrorCode::io); break;
    case IBV_EVENT_QP_REQ_ERR: of_a_pair("the peer sent an invalid request", ErrorCode::protocol); break;
    case IBV_EVENT_QP_ACCESS_ERR: of_a_pair("the peer asked for memory it may not touch", ErrorCode::permission); break;
    case IBV_EVENT_DEVICE_FATAL: of_the_device(); break;
    case IBV_EVENT_CQ_ERR:
        if (const ibv_cq* const queue = event.element.cq;
            queue == set_.control.queue.get() || queue == set_.service.queue.get() || queue == set_.data.queue.get()) {
            of_the_device();
        }
        break;
    case IBV_EVENT_PORT_ERR: {
        const std::scoped_lock lock{mutex_};
        if (event.element.port_num == lane_.id->port_num) {
            port_down_ = name_of(event.event_type);
        }
        break;
    }
    case IBV_EVENT_PORT_ACTIVE: {
        const std::scoped_lock lock{mutex_};
        if (event.element.port_num == lane_.id->port_num) {
            port_down_.reset();
        }
        break;
    }
    case IBV_EVENT_GID_CHANGE:
    case IBV_EVENT_LID_CHANGE:
    case IBV_EVENT_PKEY_CHANGE: {
        const std::scoped_lock lock{mutex_};
        if (notes_.size() < most_notes) {
            notes_.push_back(name_of(event.event_type));
        }
        break;
    }
    default: break;
    }
}

void Service::fail(Fault fault, bool consequence) {
    if (!consequence) {
        end_now(std::move(fault));
        return;
    }
    {
        const std::scoped_lock lock{mutex_};
        if (consequence_ || ending_.over()) {
            return;
        }
        consequence_ = std::move(fault);
        consequence_at_ = Clock::now() + patience_for_a_cause;
    }
    kick();
}

void Service::end_now(Fault fault) {
    {
        const std::scoped_lock lock{mutex_};
        if (port_down_) {
            fault.error.reason += "; the port of the RDMA device is down (" + *port_down_ + ")";
            fault.error.remedy = "check the cable and `ip link`";
            fault.error.code = fault.error.code == ErrorCode::closed ? ErrorCode::unreachable : fault.error.code;
        }
        for (std::size_t i = 0; i < notes_.size(); ++i) {
            fault.error.reason += (i == 0 ? "; seen before: " : ", ") + notes_[i];
        }
    }
    end_(std::move(fault));
}

// The device's own retries are bounded, but not on every device by what they should be; and an idle connection sends nothing that
// could fail. A write of no bytes asks the peer's device, not its processor.
void Service::watch_for_silence() {
    // Its device is alive, but nobody registers memory there, which may take long when memory is short.
    if (asked_ > 0 && Clock::now() - answered_at_ >= registration_patience * dead_peer_) {
        Error error = make_error(ErrorCode::timed_out, "register memory", lane_.name.title,
                                 "the peer has not answered " + std::to_string(asked_) + " requests to register memory",
                                 "look into the peer's log, and whether it is short of memory");
        error.peer = lane_.name.peer;
        end_now(Fault{.error = std::move(error), .lane = lane_.name.number});
        return;
    }
    const auto silent =
        std::max<Clock::duration>(data_->stalled_for(), in_flight_ > 0 ? Clock::now() - moved_ : Clock::duration{});
    if (silent >= dead_peer_ * 3 / 4) { // looked at every quarter: so within the whole
        Error error = make_error(ErrorCode::timed_out, "connection", lane_.name.device,
                                 "the peer, or the path to it, has acknowledged nothing for " +
                                     std::to_string(std::chrono::duration_cast<milliseconds>(silent).count()) + " ms",
                                 "check the link, and that UDP port 4791 (RoCE v2) passes between the hosts");
        error.peer = lane_.name.peer;
        end_now(Fault{.error = std::move(error)});
        return;
    }
    if (in_flight_ == 0 && Clock::now() - moved_ >= dead_peer_ / 5) { // at every look
        ibv_send_wr request{};
        request.opcode = IBV_WR_RDMA_WRITE;
        request.send_flags = IBV_SEND_SIGNALED;
        post(request);
    }
}

} // namespace pageferry::rdma
