#include "rdma/lane_set.h"

#include "rdma/pump.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace pageferry::rdma {

namespace {

constexpr std::uint32_t bulk_depth = 256; // work requests: enough to keep the wire busy with 4 KiB pages
constexpr std::uint32_t wanted_inline = 220;

struct Depths {
    std::uint32_t send;
    std::uint32_t receive;
};

Depths depths_of(LaneKind kind) {
    switch (kind) {
    case LaneKind::control: return {.send = control_slots + 4, .receive = control_slots};
    case LaneKind::service: return {.send = service_depth + 4, .receive = service_depth};
    default: return {.send = bulk_depth, .receive = data_receives};
    }
}

Error post_error(int error, const Lane& lane) {
    Error result = errno_error(error, "ibv_post_recv", lane.name.title + " (" + lane.name.device + ")");
    result.peer = lane.name.peer;
    return result;
}

// A receive's wr_id is its slot.
Result<void> post_one(const Lane& lane, std::byte* address, std::size_t length, std::uint32_t key, std::uint64_t slot) {
    ibv_sge piece{.addr = reinterpret_cast<std::uintptr_t>(address), .length = static_cast<std::uint32_t>(length), .lkey = key};
    ibv_recv_wr request{};
    request.wr_id = slot;
    request.sg_list = length > 0 ? &piece : nullptr;
    request.num_sge = length > 0 ? 1 : 0;
    ibv_recv_wr* bad = nullptr;
    const int error = ibv_post_recv(lane.qp(), &request, &bad);
    return error == 0 ? Result<void>{} : std::unexpected{post_error(error, lane)};
}

} // namespace

void Unmap::operator()(std::byte* memory) const {
    ::munmap(memory, bytes);
}

Result<Buffer> Buffer::make(ibv_pd* pd, std::size_t bytes) {
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return std::unexpected{errno_error(errno, "mmap", "message buffers")};
    }
    Buffer buffer;
    buffer.memory_ = std::unique_ptr<std::byte, Unmap>{static_cast<std::byte*>(memory), Unmap{bytes}};
    buffer.region_.reset(ibv_reg_mr(pd, memory, bytes, IBV_ACCESS_LOCAL_WRITE));
    if (!buffer.region_) {
        return std::unexpected{errno_error(errno, "ibv_reg_mr", "message buffers of " + std::to_string(bytes) + " bytes",
                                           "raise the memlock limit (ulimit -l)")};
    }
    return buffer;
}

LaneSet::~LaneSet() {
    all_.clear();
}

namespace {

void move_to(const Lane& lane, ibv_qp_state state) {
    if (ibv_qp* const pair = lane.qp()) {
        ibv_qp_attr attributes{};
        attributes.qp_state = state;
        (void)ibv_modify_qp(pair, &attributes, IBV_QP_STATE); // one that does not go there is destroyed all the same
    }
}

} // namespace

void LaneSet::stop() const {
    for (const auto& lane : all_) {
        move_to(*lane, IBV_QPS_ERR);
    }
}

void LaneSet::reset() const {
    for (const auto& lane : all_) {
        move_to(*lane, IBV_QPS_RESET);
    }
}

Result<void> LaneSet::make_queue(Queue& queue, std::size_t entries) const {
    queue.channel.reset(ibv_create_comp_channel(context_));
    if (!queue.channel) {
        return std::unexpected{errno_error(errno, "ibv_create_comp_channel", ibv_get_device_name(context_->device))};
    }
    if (auto set = set_nonblocking(queue.channel->fd); !set) {
        return set;
    }
    const auto fit = static_cast<int>(std::min<std::size_t>(entries, limits_.max_cqe));
    queue.queue.reset(ibv_create_cq(context_, fit, nullptr, queue.channel.get(), 0));
    if (!queue.queue) {
        return std::unexpected{
            errno_error(errno, "ibv_create_cq",
                        std::string{ibv_get_device_name(context_->device)} + ", " + std::to_string(fit) + " entries")};
    }
    return {};
}

Result<void> LaneSet::open_device(ibv_context* context) {
    if (context == nullptr) {
        return std::unexpected{make_error(ErrorCode::not_found, "open", "RDMA device", "the connection manager gave no device",
                                          "check with `rdma link` that a device is on the interface that has the address")};
    }
    context_ = context;
    auto limits = limits_of(context);
    if (!limits) {
        return std::unexpected{std::move(limits.error())};
    }
    limits_ = *limits;
    pd_.reset(ibv_alloc_pd(context));
    if (!pd_) {
        return std::unexpected{errno_error(errno, "ibv_alloc_pd", ibv_get_device_name(context->device))};
    }
    const std::size_t data_lanes = lanes_ + 1;
    PAGEFERRY_TRY(make_queue(control, (2 * control_slots) + 8));
    PAGEFERRY_TRY(make_queue(service, (2 * service_depth) + 8 + (data_lanes * data_receives)));
    PAGEFERRY_TRY(make_queue(data, data_lanes * bulk_depth));
    const auto make = [&](Buffer& buffer, std::size_t bytes) -> Result<void> {
        auto made = Buffer::make(pd_.get(), bytes);
        if (!made) {
            return std::unexpected{std::move(made.error())};
        }
        buffer = std::move(*made);
        return {};
    };
    PAGEFERRY_TRY(make(control_buffer, 2 * control_slots * control_slot_bytes));
    PAGEFERRY_TRY(make(service_buffer, 2 * service_depth * service_bytes));
    return make(proof_buffer, proof_bytes);
}

Result<void> LaneSet::make_pair(Lane& lane) const {
    const bool is_control = lane.kind == LaneKind::control;
    const bool is_service = lane.kind == LaneKind::service;
    const Depths depths = depths_of(lane.kind);
    ibv_qp_init_attr attributes{};
    attributes.send_cq = is_control ? control.queue.get() : is_service ? service.queue.get() : data.queue.get();
    attributes.recv_cq = is_control ? control.queue.get() : service.queue.get();
    attributes.qp_type = IBV_QPT_RC;
    attributes.sq_sig_all = 0;
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_sge = 1;
    attributes.cap.max_send_wr = std::min(depths.send, limits_.max_qp_wr);
    attributes.cap.max_recv_wr = std::min(depths.receive, limits_.max_qp_wr);
    lane.send_depth = attributes.cap.max_send_wr;
    attributes.cap.max_inline_data = is_control || is_service ? wanted_inline : 0;
    ibv_qp_init_attr asked = attributes;
    if (rdma_create_qp(lane.id.get(), pd_.get(), &asked) != 0) {
        asked = attributes; // some devices have no room for data in a work request
        asked.cap.max_inline_data = 0;
        if (rdma_create_qp(lane.id.get(), pd_.get(), &asked) != 0) {
            Error error = errno_error(errno, "rdma_create_qp", lane.name.title + " (" + lane.name.device + ")");
            error.peer = lane.name.peer;
            return std::unexpected{std::move(error)};
        }
    }
    lane.pair.reset(lane.id.get());
    lane.inline_bytes = asked.cap.max_inline_data;
    return {};
}

Result<Lane*> LaneSet::add(CmId&& id, LaneKind kind, unsigned index, std::string peer) {
    if (context_ == nullptr) {
        if (auto opened = open_device(id->verbs); !opened) {
            return std::unexpected{std::move(opened.error())};
        }
    } else if (id->verbs != context_) {
        return std::unexpected{make_error(ErrorCode::unsupported, "connect", title_of(kind, index),
                                          "it came by another RDMA device than the control lane")};
    }
    auto lane = std::make_unique<Lane>();
    lane->kind = kind;
    lane->index = index;
    lane->name = LaneName{.title = title_of(kind, index),
                          .number = number_of(kind, index, lanes_),
                          .device = describe_device(*id),
                          .peer = std::move(peer)};
    lane->id = std::move(id);
    auto ready = make_pair(*lane);
    if (ready) {
        ready = post_receives(*lane);
    }
    if (!ready) {
        lane->pair.reset();
        id = std::move(lane->id);
        return std::unexpected{std::move(ready.error())};
    }
    all_.push_back(std::move(lane));
    return all_.back().get();
}

Result<void> LaneSet::post_receives(const Lane& lane) const {
    switch (lane.kind) {
    case LaneKind::control:
        for (std::size_t slot = 0; slot < control_slots; ++slot) {
            PAGEFERRY_TRY(
                post_one(lane, control_buffer.at(slot * control_slot_bytes), control_slot_bytes, control_buffer.key(), slot));
        }
        return {};
    case LaneKind::service:
        for (std::size_t slot = 0; slot < service_depth; ++slot) {
            PAGEFERRY_TRY(post_one(lane, service_buffer.at(slot * service_bytes), service_bytes, service_buffer.key(), slot));
        }
        return {};
    default:
        for (std::size_t i = 0; i < data_receives; ++i) {
            PAGEFERRY_TRY(post_one(lane, nullptr, 0, 0, 0));
        }
        return {};
    }
}

Result<void> LaneSet::post_control_receive(std::size_t slot) const {
    return post_one(*find(LaneKind::control, 0), control_buffer.at(slot * control_slot_bytes), control_slot_bytes,
                    control_buffer.key(), slot);
}

Result<void> LaneSet::post_service_receive(std::size_t slot) const {
    return post_one(*find(LaneKind::service, 0), service_buffer.at(slot * service_bytes), service_bytes, service_buffer.key(),
                    slot);
}

Result<void> LaneSet::post_data_receive(const Lane& lane) const {
    return post_one(lane, nullptr, 0, 0, 0);
}

Lane* LaneSet::find(const rdma_cm_id* id) const {
    const auto found = std::ranges::find(all_, id, [](const auto& lane) { return lane->id.get(); });
    return found == all_.end() ? nullptr : found->get();
}

Lane* LaneSet::find(std::uint32_t qp_number) const {
    const auto found = std::ranges::find(all_, qp_number, [](const auto& lane) { return lane->qp()->qp_num; });
    return found == all_.end() ? nullptr : found->get();
}

Lane* LaneSet::find(LaneKind kind, unsigned index) const {
    const auto found = std::ranges::find_if(all_, [&](const auto& lane) { return lane->kind == kind && lane->index == index; });
    return found == all_.end() ? nullptr : found->get();
}

bool LaneSet::whole() const {
    return all_.size() == lanes_ + std::size_t{3} && std::ranges::all_of(all_, &Lane::established);
}

} // namespace pageferry::rdma
