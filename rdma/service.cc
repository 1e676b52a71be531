#include "rdma/service.h"

#include "transport/plugin/events.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace pageferry::rdma {

using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t sent_mark = 1ULL << 32; // in wr_id: a send; else a receive, of that slot

} // namespace

Service::Service(LaneSet& set, const Ending& ending, milliseconds dead_peer, Fd kick, std::function<void(Fault)> end)
    : set_(set), lane_(*set.find(LaneKind::service, 0)), ending_(ending), dead_peer_(dead_peer), kick_(std::move(kick)),
      end_(std::move(end)), registrar_(set.pd()) {}

Service::~Service() {
    stop();
}

Result<void> Service::start(DataLanes& data) {
    data_ = &data;
    auto device = DeviceEvents::of(set_.context());
    if (!device) {
        return std::unexpected{std::move(device.error())};
    }
    device_ = std::move(*device);
    device_->subscribe(this, [this](const ibv_async_event& event) { device_event(event); });
    auto thread = start_thread("rdma-service", [this] { run(); });
    if (!thread) {
        return std::unexpected{std::move(thread.error())};
    }
    thread_ = std::move(*thread);
    return {};
}

void Service::stop() {
    stop_ = true;
    kick();
    if (thread_.joinable()) {
        thread_.join();
    }
    registrar_.stop();
    if (device_) {
        device_->unsubscribe(this);
    }
}

void Service::kick() const {
    raise_event(kick_.get());
}

void Service::set_memory(const MemoryTable& table) {
    {
        const std::scoped_lock lock{mutex_};
        table_ = &table;
    }
    kick();
}

void Service::want(std::span<const Region> regions, Urgency urgency) {
    {
        const std::scoped_lock lock{mutex_};
        for (const Region& region : regions) {
            wanted_.emplace_back(region, urgency);
        }
    }
    kick();
}

Outcome<void> Service::memory_replaced() {
    return data_->memory_replaced(registrar_.new_round());
}

void Service::revoke() {
    registrar_.stop_for_peer(); // what is queued is dropped, what is under way has come to finished_
    std::vector<MemoryRegion> gone;
    {
        const std::scoped_lock lock{mutex_};
        revoked_ = true;
        gone = std::move(for_peer_);
        for_peer_.clear();
        for (Finished& one : finished_) {
            if (one.wanted.for_peer && one.region) {
                gone.push_back(std::move(*one.region));
            }
        }
        std::erase_if(finished_, [](const Finished& one) { return one.wanted.for_peer; });
    }
    // Deregistered here, on return.
}

// --- the thread

int Service::milliseconds_to_wait() const {
    return static_cast<int>(std::max<std::int64_t>(dead_peer_.count() / 4, 20));
}

void Service::run() {
    while (!stop_) {
        take_work();
        drain();
        flush();
        ask();
        tick();
        if (const int error = ibv_req_notify_cq(set_.service.queue.get(), 0); error != 0) {
            Error why = errno_error(error, "ibv_req_notify_cq", lane_.name.title + " (" + lane_.name.device + ")");
            why.peer = lane_.name.peer;
            end_now(Fault{.error = std::move(why), .lane = lane_.name.number});
            return;
        }
        drain(); // what came before the request
        ask();   // an answer among it has made room, and may have been the last thing to wake this thread
        bool waits_for_a_cause = false;
        {
            const std::scoped_lock lock{mutex_};
            waits_for_a_cause = consequence_.has_value();
        }
        std::array<pollfd, 3> watched{pollfd{.fd = set_.service.channel->fd, .events = POLLIN, .revents = 0},
                                      pollfd{.fd = kick_.get(), .events = POLLIN, .revents = 0},
                                      pollfd{.fd = set_.channel->fd, .events = POLLIN, .revents = 0}};
        (void)::poll(watched.data(), watched.size(),
                     waits_for_a_cause ? static_cast<int>(patience_for_a_cause.count() / 4) : milliseconds_to_wait());
        if (watched[0].revents != 0) {
            ibv_cq* queue = nullptr;
            void* context = nullptr;
            if (ibv_get_cq_event(set_.service.channel.get(), &queue, &context) == 0) {
                ibv_ack_cq_events(queue, 1);
            }
        }
        if (watched[1].revents != 0) {
            eventfd_t taken = 0;
            (void)::eventfd_read(kick_.get(), &taken);
        }
        if (watched[2].revents != 0) {
            connection_manager();
        }
    }
}

void Service::take_work() {
    std::vector<std::pair<Region, Urgency>> wanted;
    std::vector<Finished> finished;
    std::deque<ServiceMessage> asked;
    {
        const std::scoped_lock lock{mutex_};
        wanted.swap(wanted_);
        finished.swap(finished_);
        if (table_ != nullptr) {
            asked.swap(held_);
        }
    }
    for (const auto& [region, urgency] : wanted) {
        begin(region, urgency);
    }
    for (Finished& one : finished) {
        finish(one);
    }
    for (const ServiceMessage& message : asked) {
        answer(message);
    }
}

// --- the service lane

void Service::drain() {
    std::array<ibv_wc, 32> completions; // NOLINT(cppcoreguidelines-pro-type-member-init): filled by the device
    for (;;) {
        const int count = ibv_poll_cq(set_.service.queue.get(), static_cast<int>(completions.size()), completions.data());
        for (int i = 0; i < count; ++i) {
            handle(completions[static_cast<std::size_t>(i)]);
        }
        if (count < 0) {
            end_now(fault_of(unreadable_queue(), lane_.name));
        }
        if (count <= 0) {
            return;
        }
        moved_ = Clock::now();
    }
}

void Service::handle(const ibv_wc& completion) {
    const Lane* const lane = set_.find(completion.qp_num);
    if (lane == nullptr) {
        return;
    }
    const bool was_sent = (completion.wr_id & sent_mark) != 0;
    if (was_sent) {
        --in_flight_;
    }
    if (completion.status != IBV_WC_SUCCESS) {
        fail(fault_of(completion, lane->name), is_consequence(completion.status));
        return;
    }
    if (was_sent) {
        return;
    }
    if (lane->kind != LaneKind::service) {
        if (auto posted = set_.post_data_receive(*lane); !posted) {
            end_now(Fault{.error = std::move(posted.error()), .lane = lane->name.number});
            return;
        }
        if (completion.opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
            fence_arrived(ntohl(completion.imm_data));
        }
        return;
    }
    const auto slot = static_cast<std::size_t>(completion.wr_id);
    auto said =
        decode_service({set_.service_buffer.at(slot * service_bytes), std::min<std::size_t>(completion.byte_len, service_bytes)});
    if (auto posted = set_.post_service_receive(slot); !posted) {
        end_now(Fault{.error = std::move(posted.error()), .lane = lane->name.number});
        return;
    }
    if (!said) {
        said.error().peer = lane_.name.peer;
        end_now(Fault{.error = std::move(said.error()), .lane = lane->name.number});
        return;
    }
    message(*said);
}

void Service::message(const ServiceMessage& message) {
    switch (message.type) {
    case ServiceMessage::Type::ask: {
        bool there = false;
        {
            const std::scoped_lock lock{mutex_};
            there = table_ != nullptr;
            if (!there && held_.size() < max_requests) {
                held_.push_back(message);
                return;
            }
        }
        if (there) {
            answer(message);
        } else {
            Error error = make_error(ErrorCode::protocol, "register memory", lane_.name.title,
                                     "the peer asks for more regions at once than it may");
            error.peer = lane_.name.peer;
            end_now(Fault{.error = std::move(error), .lane = lane_.name.number});
        }
        return;
    }
    case ServiceMessage::Type::registered:
        asked_ -= asked_ > 0 ? 1 : 0;
        answered_at_ = Clock::now();
        data_->region_remote(message.number, message.address, message.key);
        return;
    case ServiceMessage::Type::denied: {
        asked_ -= asked_ > 0 ? 1 : 0;
        answered_at_ = Clock::now();
        const auto region = data_->region(message.number);
        const bool known = message.status > PF_AGAIN && message.status <= PF_INTERNAL;
        Error error = make_error(known ? static_cast<ErrorCode>(message.status) : ErrorCode::refused, "register memory",
                                 region ? std::to_string(region->length) + " bytes of RAM block " +
                                              std::to_string(region->block) + " at " + std::to_string(region->offset)
                                        : "a region",
                                 "the peer could not register it, or does not allow it", "look into the peer's log");
        error.peer = lane_.name.peer;
        error.native = static_cast<int>(message.native);
        end_now(Fault{.error = std::move(error), .lane = lane_.name.number});
        return;
    }
    case ServiceMessage::Type::fenced: data_->fenced(message.number); return;
    }
}

// A fence is there when the requests of all its lanes have come.
void Service::fence_arrived(std::uint32_t immediate) {
    const std::uint32_t number = immediate >> 8U;
    const std::uint32_t lanes = immediate & 0xffU;
    if (lanes == 0 || (!fences_.contains(number) && fences_.size() >= max_fences)) {
        Error error = make_error(ErrorCode::protocol, "fence", "bulk lanes", "the peer sent a fence that is none");
        error.peer = lane_.name.peer;
        end_now(Fault{.error = std::move(error)});
        return;
    }
    std::uint32_t& left = fences_.try_emplace(number, lanes).first->second;
    if (--left == 0) {
        fences_.erase(number);
        send({.type = ServiceMessage::Type::fenced, .number = number});
    }
}

void Service::send(const ServiceMessage& message) {
    outgoing_.push_back(message);
}

void Service::flush() {
    while (!outgoing_.empty() && in_flight_ < service_depth && !ending_.over()) {
        std::byte* const at = set_.service_buffer.at((service_depth + next_slot_) * service_bytes);
        const auto bytes = encode(outgoing_.front());
        outgoing_.pop_front();
        std::memcpy(at, bytes.data(), bytes.size());
        ibv_sge piece{.addr = reinterpret_cast<std::uintptr_t>(at), .length = service_bytes, .lkey = set_.service_buffer.key()};
        ibv_send_wr request{};
        request.sg_list = &piece;
        request.num_sge = 1;
        request.opcode = IBV_WR_SEND;
        request.send_flags = service_bytes <= lane_.inline_bytes ? IBV_SEND_SIGNALED | IBV_SEND_INLINE : IBV_SEND_SIGNALED;
        next_slot_ = static_cast<std::uint32_t>((next_slot_ + 1) %
                                                service_depth); // in order, so a slot's last use is complete when it comes round
        post(request);
    }
}

void Service::post(ibv_send_wr& request) {
    request.wr_id = sent_mark;
    if (in_flight_ == 0) {
        moved_ = Clock::now();
    }
    ibv_send_wr* bad = nullptr;
    if (const int error = ibv_post_send(lane_.qp(), &request, &bad); error != 0) {
        Fault fault{.error = errno_error(error, "ibv_post_send", lane_.name.title + " (" + lane_.name.device + ")"),
                    .lane = lane_.name.number};
        fault.error.peer = lane_.name.peer;
        end_now(std::move(fault));
        return;
    }
    ++in_flight_;
}

// --- silence

void Service::tick() {
    std::optional<Fault> due;
    {
        const std::scoped_lock lock{mutex_};
        if (consequence_ && Clock::now() >= consequence_at_) {
            due = std::exchange(consequence_, std::nullopt);
            if (!port_down_) {
                due->error.reason += "; nothing else was reported: the path to the peer may be dead";
            }
        }
    }
    if (due) {
        end_now(std::move(*due));
    }
    if (!ending_.over()) {
        watch_for_silence();
    }
}

} // namespace pageferry::rdma
