#include "hooks.h"

#include <dlfcn.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <span>
#include <utility>

namespace pageferry::rdma::test {

Hooks& Hooks::get() {
    static Hooks hooks;
    return hooks;
}

void Hooks::reset() {
    const std::scoped_lock lock{mutex_};
    completions_.clear();
    misread_.reset();
    misread_request_.reset();
    sends_.clear();
    receives_.clear();
    notifications_.clear();
    registration_.reset();
    registered_.clear();
    last_write_.clear();
    sent_.clear();
}

void Hooks::spoil_completion(const LaneEnd& lane, ibv_wc_status status, unsigned nth) {
    const std::scoped_lock lock{mutex_};
    completions_.push_back({.lane = lane, .value = static_cast<int>(status), .left = nth});
}

void Hooks::misread(const LaneEnd& lane) {
    const std::scoped_lock lock{mutex_};
    misread_ = lane;
}

void Hooks::empty_a_read(const LaneEnd& lane, ibv_send_wr& request) {
    if (misread_ == lane && request.opcode == IBV_WR_RDMA_READ) {
        misread_.reset();
        misread_request_ = {lane, request.wr_id};
        request.opcode = IBV_WR_RDMA_WRITE;
        request.num_sge = 0;
    }
}

void Hooks::refuse_send(const LaneEnd& lane, int error, unsigned nth) {
    const std::scoped_lock lock{mutex_};
    sends_.push_back({.lane = lane, .value = error, .left = nth});
}

void Hooks::refuse_receive(const LaneEnd& lane, int error, unsigned nth) {
    const std::scoped_lock lock{mutex_};
    receives_.push_back({.lane = lane, .value = error, .left = nth});
}

void Hooks::refuse_registration(std::optional<Side> side, int error, unsigned nth) {
    const std::scoped_lock lock{mutex_};
    registration_ = Registration{.side = side, .error = error, .left = nth};
}

void Hooks::refuse_notification(const LaneEnd& lane, int error) {
    const std::scoped_lock lock{mutex_};
    notifications_.push_back({.lane = lane, .value = error, .left = 1});
}

bool Hooks::all_injected() {
    const std::scoped_lock lock{mutex_};
    return completions_.empty() && sends_.empty() && receives_.empty() && !registration_ && !misread_;
}

ibv_qp* Hooks::pair_of(const LaneEnd& lane) {
    const std::scoped_lock lock{mutex_};
    const auto found = pairs_.find(lane);
    return found == pairs_.end() ? nullptr : found->second;
}

std::optional<Hooks::Write> Hooks::last_write(const LaneEnd& lane) {
    const std::scoped_lock lock{mutex_};
    const auto found = last_write_.find(lane);
    return found == last_write_.end() ? std::nullopt : std::optional{found->second};
}

std::vector<std::uint32_t> Hooks::sends(const LaneEnd& lane) {
    const std::scoped_lock lock{mutex_};
    return sent_[lane];
}

// --- which queue pair is which

void Hooks::pair_made(rdma_cm_id& id, ibv_pd* pd) {
    const std::scoped_lock lock{mutex_};
    if (!patched_) { // nothing of the device is in use yet
        patched_ = true;
        real_ = id.verbs->ops;
        id.verbs->ops.poll_cq = poll;
        id.verbs->ops.post_send = post_send;
        id.verbs->ops.post_recv = post_receive;
        id.verbs->ops.req_notify_cq = request_notification;
    }
    const auto found = requested_.find(&id);
    domains_[pd] = found == requested_.end() ? Side::caller : Side::callee;
    if (found != requested_.end()) {
        const LaneEnd lane{.side = Side::callee, .kind = found->second.kind, .index = found->second.index};
        lanes_[id.qp->qp_num] = lane;
        pairs_[lane] = id.qp;
        requested_.erase(found);
    }
}

void Hooks::asked(const rdma_cm_id& id, const Request& request) {
    const std::scoped_lock lock{mutex_};
    const LaneEnd lane{.side = Side::caller, .kind = request.kind, .index = request.index};
    lanes_[id.qp->qp_num] = lane;
    pairs_[lane] = id.qp;
}

void Hooks::requested(const rdma_cm_id* id, const Request& request) {
    const std::scoped_lock lock{mutex_};
    requested_[id] = request;
}

// --- what is injected

int Hooks::due(std::vector<Injection>& injections, const LaneEnd& lane) {
    const auto found = std::ranges::find(injections, lane, &Injection::lane);
    if (found == injections.end() || --found->left > 0) {
        return 0;
    }
    const int value = found->value;
    injections.erase(found);
    return value;
}

void Hooks::look_at(ibv_wc& completion) {
    const auto lane = lanes_.find(completion.qp_num);
    if (lane == lanes_.end() || completion.status != IBV_WC_SUCCESS) {
        return;
    }
    if (misread_request_ && misread_request_->first == lane->second && completion.wr_id != misread_request_->second) {
        completion.status = IBV_WC_WR_FLUSH_ERR;
        return;
    }
    if (const int status = due(completions_, lane->second); status != 0) {
        completion.status = static_cast<ibv_wc_status>(status);
        completion.vendor_err = vendor_code;
    }
}

int Hooks::poll(ibv_cq* queue, int count, ibv_wc* completions) {
    Hooks& hooks = get();
    const int got = hooks.real_.poll_cq(queue, count, completions);
    if (got > 0) {
        const std::scoped_lock lock{hooks.mutex_};
        for (ibv_wc& completion : std::span{completions, static_cast<std::size_t>(got)}) {
            hooks.look_at(completion);
        }
    }
    return got;
}

void Hooks::remember(const LaneEnd& lane, const ibv_send_wr& request) {
    if (request.opcode == IBV_WR_RDMA_WRITE && request.num_sge == 1) {
        last_write_[lane] =
            Write{.piece = *request.sg_list, .remote_address = request.wr.rdma.remote_addr, .remote_key = request.wr.rdma.rkey};
    } else if (request.opcode == IBV_WR_SEND) {
        sent_[lane].push_back(request.sg_list->length);
    }
}

int Hooks::post_send(ibv_qp* pair, ibv_send_wr* first, ibv_send_wr** bad) {
    Hooks& hooks = get();
    ibv_send_wr* last = nullptr; // before the one that is refused
    int error = 0;
    {
        const std::scoped_lock lock{hooks.mutex_};
        if (const auto lane = hooks.lanes_.find(pair->qp_num); lane != hooks.lanes_.end()) {
            for (ibv_send_wr* request = first; request != nullptr && error == 0; request = request->next) {
                error = due(hooks.sends_, lane->second);
                if (error != 0) {
                    *bad = request;
                } else {
                    last = request;
                    hooks.empty_a_read(lane->second, *request);
                    hooks.remember(lane->second, *request);
                }
            }
        }
    }
    if (error == 0) {
        return hooks.real_.post_send(pair, first, bad);
    }
    if (last != nullptr) {
        ibv_send_wr* none = nullptr;
        ibv_send_wr* const refused = std::exchange(last->next, nullptr);
        (void)hooks.real_.post_send(pair, first, &none);
        last->next = refused;
    }
    return error;
}

int Hooks::post_receive(ibv_qp* pair, ibv_recv_wr* first, ibv_recv_wr** bad) {
    Hooks& hooks = get();
    {
        const std::scoped_lock lock{hooks.mutex_};
        const auto lane = hooks.lanes_.find(pair->qp_num);
        if (const int error = lane == hooks.lanes_.end() ? 0 : due(hooks.receives_, lane->second); error != 0) {
            *bad = first;
            return error;
        }
    }
    return hooks.real_.post_recv(pair, first, bad);
}

int Hooks::request_notification(ibv_cq* queue, int solicited) {
    Hooks& hooks = get();
    {
        const std::scoped_lock lock{hooks.mutex_};
        for (const Injection& one : hooks.notifications_) {
            if (hooks.pairs_[one.lane]->send_cq == queue) {
                return one.value;
            }
        }
    }
    return hooks.real_.req_notify_cq(queue, solicited);
}

int Hooks::refused_registration(const ibv_pd* pd) {
    const std::scoped_lock lock{mutex_};
    if (!registration_) {
        return 0;
    }
    if (registration_->side) {
        const auto side = domains_.find(pd);
        if (side == domains_.end() || side->second != *registration_->side) {
            return 0;
        }
    }
    if (--registration_->left > 0) {
        return 0;
    }
    const int error = registration_->error;
    registration_.reset();
    return error;
}

void Hooks::registered(const ibv_pd* pd, unsigned access) {
    const std::scoped_lock lock{mutex_};
    if (const auto side = domains_.find(pd); side != domains_.end()) {
        registered_[side->second].push_back(access);
    }
}

std::vector<unsigned> Hooks::registrations(Side side) {
    const std::scoped_lock lock{mutex_};
    return registered_[side];
}

void Hooks::hold_registrations(Side side, unsigned count) {
    const std::scoped_lock lock{mutex_};
    held_side_ = side;
    to_hold_ = count;
    held_ = true;
}

bool Hooks::registrations_are_held() {
    const std::scoped_lock lock{mutex_};
    return to_hold_ == 0;
}

void Hooks::release_registrations() {
    const std::scoped_lock lock{mutex_};
    held_ = false;
    to_hold_ = 0;
    released_.notify_all();
}

void Hooks::wait_while_held(const ibv_pd* pd) {
    std::unique_lock lock{mutex_};
    const auto side = domains_.find(pd);
    if (to_hold_ > 0 && side != domains_.end() && side->second == held_side_) {
        --to_hold_;
        released_.wait(lock, [this] { return !held_; });
    }
}

void Hooks::hold_destroying() {
    const std::scoped_lock lock{mutex_};
    hold_destroying_ = true;
}

bool Hooks::destroying_is_held() {
    const std::scoped_lock lock{mutex_};
    return waiting_to_destroy_ > 0;
}

void Hooks::release_destroying() {
    const std::scoped_lock lock{mutex_};
    hold_destroying_ = false;
    released_.notify_all();
}

void Hooks::wait_to_destroy() {
    std::unique_lock lock{mutex_};
    ++waiting_to_destroy_;
    released_.wait(lock, [this] { return !hold_destroying_; });
    --waiting_to_destroy_;
}

// --- device events

Hooks::DeviceEvents::DeviceEvents(ibv_context* context) : told_(::eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC | EFD_NONBLOCK)) {
    const std::scoped_lock lock{get().mutex_};
    get().watched_ = {.asynchronous = context->async_fd, .told = told_};
}

Hooks::DeviceEvents::~DeviceEvents() {
    const std::scoped_lock lock{get().mutex_};
    get().watched_ = {};
    get().device_events_.clear();
    ::close(told_);
}

bool Hooks::DeviceEvents::tell(const ibv_async_event& event) {
    Hooks& hooks = get();
    std::unique_lock lock{hooks.mutex_};
    hooks.device_events_.push_back(event);
    (void)::eventfd_write(told_, 1);
    return hooks.acknowledged_.wait_for(lock, std::chrono::minutes{1},
                                        [&] { return hooks.device_events_.empty() && !hooks.told_one_; });
}

std::optional<ibv_async_event> Hooks::device_event(const ibv_context* context) {
    const std::scoped_lock lock{mutex_};
    if (device_events_.empty() || watched_.asynchronous != context->async_fd) {
        return std::nullopt;
    }
    eventfd_t taken = 0;
    (void)::eventfd_read(watched_.told, &taken);
    const ibv_async_event event = device_events_.front();
    device_events_.pop_front();
    told_one_ = true;
    return event;
}

bool Hooks::acknowledged() {
    const std::scoped_lock lock{mutex_};
    acknowledged_.notify_all();
    return std::exchange(told_one_, false);
}

Hooks::Watched Hooks::device_events() {
    const std::scoped_lock lock{mutex_};
    return watched_;
}

namespace {

template <class Function>
Function* next(const char* name) {
    return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

} // namespace

} // namespace pageferry::rdma::test

// --- in the place of libibverbs' and librdmacm's

#undef ibv_reg_mr // a macro over the two functions below

using pageferry::rdma::decode_request;
using pageferry::rdma::test::Hooks;
using pageferry::rdma::test::next;

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): words instead of theirs
extern "C" {

void rdma_destroy_qp(rdma_cm_id* id) {
    static const auto real = next<void(rdma_cm_id*)>("rdma_destroy_qp");
    Hooks::get().wait_to_destroy();
    real(id);
}

ibv_mr* ibv_reg_mr(ibv_pd* pd, void* address, size_t length, int access) {
    return ibv_reg_mr_iova2(pd, address, length, reinterpret_cast<uintptr_t>(address), static_cast<unsigned int>(access));
}

ibv_mr* ibv_reg_mr_iova2(ibv_pd* pd, void* address, size_t length, uint64_t iova, unsigned int access) {
    static const auto real = next<ibv_mr*(ibv_pd*, void*, size_t, uint64_t, unsigned int)>("ibv_reg_mr_iova2");
    Hooks::get().wait_while_held(pd);
    if (const int error = Hooks::get().refused_registration(pd); error != 0) {
        errno = error;
        return nullptr;
    }
    Hooks::get().registered(pd, access);
    return real(pd, address, length, iova, access);
}

// The transport sleeps on the device's descriptor: what is told here must wake it as well.
int poll(pollfd* watched, nfds_t count, int timeout) {
    static const auto real = next<int(pollfd*, nfds_t, int)>("poll");
    const auto events = Hooks::get().device_events();
    const std::span given{watched, count};
    const auto device = std::ranges::find(given, events.asynchronous, &pollfd::fd);
    if (events.asynchronous < 0 || device == given.end()) {
        return real(watched, count, timeout);
    }
    std::vector<pollfd> all{given.begin(), given.end()};
    all.push_back({.fd = events.told, .events = POLLIN, .revents = 0});
    int ready = real(all.data(), all.size(), timeout);
    std::ranges::copy(std::span{all}.first(count), given.begin());
    if (ready > 0 && all.back().revents != 0) {
        ready -= device->revents != 0 ? 1 : 0;
        device->revents = static_cast<short>(device->revents | POLLIN);
    }
    return ready;
}

int ibv_get_async_event(ibv_context* context, ibv_async_event* event) {
    static const auto real = next<int(ibv_context*, ibv_async_event*)>("ibv_get_async_event");
    if (const auto told = Hooks::get().device_event(context)) {
        *event = *told;
        return 0;
    }
    return real(context, event);
}

void ibv_ack_async_event(ibv_async_event* event) {
    static const auto real = next<void(ibv_async_event*)>("ibv_ack_async_event");
    if (!Hooks::get().acknowledged()) { // one that the kernel has not given would spoil its count
        real(event);
    }
}

int rdma_create_qp(rdma_cm_id* id, ibv_pd* pd, ibv_qp_init_attr* attributes) {
    static const auto real = next<int(rdma_cm_id*, ibv_pd*, ibv_qp_init_attr*)>("rdma_create_qp");
    const int status = real(id, pd, attributes);
    if (status == 0) {
        Hooks::get().pair_made(*id, pd);
    }
    return status;
}

int rdma_connect(rdma_cm_id* id, rdma_conn_param* parameters) {
    static const auto real = next<int(rdma_cm_id*, rdma_conn_param*)>("rdma_connect");
    const auto said =
        decode_request({static_cast<const std::byte*>(parameters->private_data), std::size_t{parameters->private_data_len}});
    if (said && id->qp != nullptr) {
        Hooks::get().asked(*id, *said);
    }
    return real(id, parameters);
}

int rdma_get_cm_event(rdma_event_channel* channel, rdma_cm_event** event) {
    static const auto real = next<int(rdma_event_channel*, rdma_cm_event**)>("rdma_get_cm_event");
    const int status = real(channel, event);
    if (status == 0 && (*event)->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        const rdma_conn_param& parameters = (*event)->param.conn;
        const auto said =
            decode_request({static_cast<const std::byte*>(parameters.private_data), std::size_t{parameters.private_data_len}});
        if (said) {
            Hooks::get().requested((*event)->id, *said);
        }
    }
    return status;
}

} // extern "C"
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
