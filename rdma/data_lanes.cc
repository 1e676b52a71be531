#include "rdma/data_lanes.h"

#include <arpa/inet.h>

#include <algorithm>
#include <thread>

namespace pageferry::rdma {

namespace {
constexpr std::chrono::microseconds busy{50};         // pages come in a stream: the next completion is never far
constexpr std::chrono::microseconds urgent_busy{250}; // after a fault was asked for: somebody stands still until it is here
constexpr std::size_t kinds = 3;                      // of OpKind
constexpr std::uint32_t fence_mask = 0xffffff;        // beside it in the immediate data: how many lanes take part
} // namespace

DataLanes::DataLanes(LaneSet& set, const Ending& ending, Fd kick, std::size_t depth, Want want, ControlLane::Fail fail)
    : set_(set), ending_(ending), want_(std::move(want)), fail_(std::move(fail)),
      pump_(set.data.queue.get(), set.data.channel.get(), ending, std::move(kick), busy,
            [this](const ibv_wc& completion) { handle(completion); }),
      depth_(depth), ops_(kinds * depth), done_(kinds * depth) {
    for (std::size_t kind = 0; kind < kinds; ++kind) {
        queues_.push_back(Queue{.free = {}, .waiting = Ring<std::uint32_t>{depth}});
        queues_[kind].free.reserve(depth);
        for (std::size_t i = depth; i > 0; --i) {
            queues_[kind].free.push_back(static_cast<std::uint32_t>((kind * depth) + i - 1));
        }
    }
    for (unsigned i = 0; i <= set.bulk_lanes(); ++i) {
        Lane* const lane = i < set.bulk_lanes() ? set.find(LaneKind::bulk, i) : set.find(LaneKind::urgent, 0);
        // An operation is named once for each request of the lane that it is in, and once more where requests were put together.
        lanes_.push_back(DataLane{.lane = lane,
                                  .number = i,
                                  .posted = Ring<Posted>{lane->send_depth},
                                  .operations = Ring<std::uint32_t>{lane->send_depth + (kinds * depth)}});
    }
}

void DataLanes::set_memory(const MemoryTable& table) {
    const std::scoped_lock lock{mutex_};
    table_ = &table;
    regions_.emplace(table.blocks(), set_.limits().max_mr_size);
}

void DataLanes::cover(std::span<const pf_extent> extents, Urgency urgency) {
    added_.clear();
    for (const pf_extent& extent : extents) {
        regions_->cover(extent.block, extent.offset, extent.length, added_);
    }
    if (added_.empty() && !forgotten_ && urgency != Urgency::now) {
        return;
    }
    wanted_.clear();
    for (const pf_extent& extent : extents) {
        want_missing(extent, urgency);
    }
    if (!wanted_.empty()) {
        want_(wanted_, urgency);
    }
}

// Of the regions of an extent those that are new, or that memory_replaced() has made so; and those that are on their way, when a
// fault waits for them and none did before.
void DataLanes::want_missing(const pf_extent& extent, Urgency urgency) {
    for (std::uint64_t at = extent.offset; at < extent.offset + extent.length;) {
        Region* const region = regions_->find(extent.block, at);
        if (region == nullptr) {
            return;
        }
        const bool overtakes = urgency == Urgency::now && region->urgency != Urgency::now && !region->ready();
        if (!region->local_asked || overtakes) {
            region->urgency = std::max(region->urgency, urgency);
            wanted_.push_back(*region); // as it was: whether the peer was asked before
            region->local_asked = true;
            region->remote_asked = true;
        }
        at = region->end();
    }
}

// What is being registered meanwhile is asked for and stays so: it comes with its round.
Outcome<void> DataLanes::memory_replaced(std::uint64_t round) {
    std::vector<MemoryRegion> gone; // deregistered on return: before any of them is registered again, and not under the lock
    const std::scoped_lock lock{mutex_};
    if (!idle()) {
        return failed(make_error(ErrorCode::state, "register memory again", "bulk lanes",
                                 "pushes or pulls are under way, or their completions were not fetched"));
    }
    forget_local(round, gone);
    return {};
}

bool DataLanes::forget(std::uint64_t round) {
    std::vector<MemoryRegion> gone;
    const std::scoped_lock lock{mutex_};
    if (!idle()) {
        return false;
    }
    forget_local(round, gone);
    return std::ranges::any_of(gone, [](const MemoryRegion& region) { return region != nullptr; });
}

bool DataLanes::idle() const {
    return std::ranges::all_of(queues_, [this](const Queue& queue) { return queue.free.size() == depth_; });
}

void DataLanes::forget_local(std::uint64_t round, std::vector<MemoryRegion>& gone) {
    for (std::uint32_t number = 0; regions_ && number < regions_->size(); ++number) {
        Region& region = *regions_->at(number);
        region.local_asked = region.local_asked && !region.local_ready;
        region.local_ready = false;
    }
    gone.swap(local_);
    round_ = round;
    forgotten_ = true;
}

void DataLanes::prepare(std::span<const pf_extent> extents) {
    const std::scoped_lock lock{mutex_};
    cover(extents, Urgency::later);
}

Outcome<std::size_t> DataLanes::submit(OpKind kind, std::span<const pf_extent> extents) {
    auto lock = pump_.enter(mutex_);
    Queue& queue = queue_of(kind);
    const std::size_t taken = std::min(extents.size(), queue.free.size());
    for (const pf_extent& extent : extents.first(taken)) {
        const std::uint32_t slot = queue.free.back();
        queue.free.pop_back();
        ops_[slot] = Op{.extent = extent, .kind = kind};
        queue.waiting.push(slot);
    }
    const bool fault = kind == OpKind::pull_urgent;
    cover(extents.first(taken), fault ? Urgency::now : Urgency::soon);
    advance();
    if (fault && taken > 0 && pump_.expect(urgent_busy)) {
        lock.unlock();
        pump_.wake(); // while the page is on its way
    }
    return taken;
}

// --- posting

void DataLanes::advance() {
    if (ending_.over()) {
        return;
    }
    const std::span all{lanes_};
    advance(queue_of(OpKind::pull_urgent), all.last(1));
    advance(queue_of(OpKind::push), all.first(all.size() - 1));
    advance(queue_of(OpKind::pull), all.first(all.size() - 1));
}

void DataLanes::advance(Queue& queue, std::span<DataLane> lanes) {
    while (!queue.waiting.empty() && post_some(queue, lanes)) {
    }
}

bool DataLanes::has_room(DataLane& lane) const {
    return lane.posted.size() + reserved < lane.lane->send_depth;
}

DataLanes::DataLane* DataLanes::least_busy(std::span<DataLane> lanes) const {
    DataLane* best = nullptr;
    for (DataLane& lane : lanes) {
        if (has_room(lane) && (best == nullptr || lane.bytes < best->bytes)) {
            best = &lane;
        }
    }
    return best;
}

bool DataLanes::post_some(Queue& queue, std::span<DataLane> lanes) {
    DataLane* const lane = least_busy(lanes);
    if (lane == nullptr) {
        return false;
    }
    std::array<ibv_send_wr, batch + 1> requests{};
    std::array<ibv_sge, batch + 1> pieces{};
    const std::size_t room = std::min<std::size_t>(batch, lane->lane->send_depth - reserved - lane->posted.size());
    std::size_t count = 0;
    std::uint64_t bytes = 0;
    while (count < room && bytes < batch_bytes && !queue.waiting.empty()) {
        const std::uint32_t slot = queue.waiting.front();
        Op& op = ops_[slot];
        const std::uint64_t at = op.extent.offset + op.taken;
        const Region* const region = regions_->find(op.extent.block, at);
        if (region == nullptr || !region->ready()) {
            break;
        }
        const bool is_push = op.kind == OpKind::push;
        const std::uint64_t most = is_push ? longest : longest_pull;
        std::uint64_t length = std::min({op.extent.length - op.taken, region->end() - at, most});
        const std::uint64_t remote = region->remote_address + (at - region->offset);
        const auto local = reinterpret_cast<std::uintptr_t>(region->address) + (at - region->offset);
        ibv_send_wr* const before = count > 0 ? &requests[count - 1] : nullptr;
        const bool adjacent = before != nullptr && before->wr.rdma.rkey == region->remote_key &&
                              pieces[count - 1].lkey == region->local_key &&
                              pieces[count - 1].addr + pieces[count - 1].length == local && pieces[count - 1].length < most;
        if (adjacent) { // the next extent goes on where this one ends: one request for both
            length = std::min<std::uint64_t>(length, most - pieces[count - 1].length);
            pieces[count - 1].length += static_cast<std::uint32_t>(length);
            ++lane->posted.back().operations;
            lane->posted.back().bytes += length;
        } else {
            pieces[count] = ibv_sge{.addr = local, .length = static_cast<std::uint32_t>(length), .lkey = region->local_key};
            ibv_send_wr& request = requests[count];
            request.wr_id = (++lane->sequence << 8U) | lane->number;
            request.sg_list = &pieces[count];
            request.num_sge = 1;
            request.opcode = is_push ? IBV_WR_RDMA_WRITE : IBV_WR_RDMA_READ;
            request.wr.rdma.remote_addr = remote;
            request.wr.rdma.rkey = region->remote_key;
            if (before != nullptr) {
                before->next = &request;
            }
            if (lane->posted.empty()) {
                lane->moved = Clock::now();
            }
            lane->posted.push(Posted{.sequence = lane->sequence, .operations = 1, .bytes = length});
            ++count;
        }
        lane->operations.push(slot);
        lane->unfenced = lane->unfenced || is_push;
        bytes += length;
        op.taken += length;
        ++op.pending;
        if (op.taken == op.extent.length) {
            queue.waiting.pop();
        }
    }
    if (count == 0) {
        return false;
    }
    lane->bytes += bytes;
    if (requests[0].opcode == IBV_WR_RDMA_READ) {
        add_proof(*lane, requests[count - 1], requests[count], pieces[count]);
        ++count;
    }
    requests[count - 1].send_flags = IBV_SEND_SIGNALED; // its completion is that of all before it
    return post(*lane, requests.data());
}

// A read counts when what comes behind it on its lane has succeeded as well: soft-RoCE reports one as done whose answer it could
// not make sense of, in the moment in which it gives up the queue pair (docs/decisions/rdma-lanes.md). Behind it is another one,
// of some bytes of the same memory, to where nobody looks.
void DataLanes::add_proof(DataLane& lane, ibv_send_wr& last_read, ibv_send_wr& proof, ibv_sge& piece) const {
    piece = ibv_sge{.addr = reinterpret_cast<std::uintptr_t>(set_.proof_buffer.at(0)),
                    .length = proof_bytes,
                    .lkey = set_.proof_buffer.key()};
    proof.wr_id = (++lane.sequence << 8U) | lane.number;
    proof.sg_list = &piece;
    proof.num_sge = 1;
    proof.opcode = IBV_WR_RDMA_READ;
    proof.wr.rdma = last_read.wr.rdma;
    last_read.next = &proof;
    lane.posted.push(Posted{.sequence = lane.sequence, .operations = 0, .bytes = 0});
}

bool DataLanes::post(DataLane& lane, ibv_send_wr* first) {
    ibv_send_wr* bad = nullptr;
    const int error = ibv_post_send(lane.lane->qp(), first, &bad);
    if (error == 0) {
        return true;
    }
    // What becomes of requests before the bad one is not known: the queue pair must end.
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_ERR;
    (void)ibv_modify_qp(lane.lane->qp(), &attributes, IBV_QP_STATE);
    Fault fault{.error = errno_error(error, "ibv_post_send", lane.lane->name.title + " (" + lane.lane->name.device + ")"),
                .lane = lane.lane->name.number};
    fault.error.peer = lane.lane->name.peer;
    fail_(std::move(fault), false);
    return false;
}

// --- completing

void DataLanes::handle(const ibv_wc& completion) {
    const auto number = static_cast<std::size_t>(completion.wr_id & 0xff);
    if (number >= lanes_.size()) {
        return;
    }
    DataLane& lane = lanes_[number];
    lane.seen = completion.wr_id >> 8U;
    if (completion.status != IBV_WC_SUCCESS) {
        fail_(fault_of(completion, lane.lane->name), is_consequence(completion.status));
        return;
    }
    complete(lane, completion.wr_id >> 8U);
}

void DataLanes::complete(DataLane& lane, std::uint64_t through) {
    lane.moved = Clock::now();
    while (!lane.posted.empty() && lane.posted.front().sequence <= through) {
        const Posted posted = lane.posted.pop();
        lane.bytes -= posted.bytes;
        for (std::uint32_t i = 0; i < posted.operations; ++i) {
            const std::uint32_t slot = lane.operations.pop();
            Op& op = ops_[slot];
            if (--op.pending > 0 || op.taken < op.extent.length) {
                continue;
            }
            (op.kind == OpKind::push ? pushed_ : pulled_).fetch_add(op.extent.length, std::memory_order_relaxed);
            done_.push(slot);
        }
    }
    advance();
}

Outcome<std::size_t> DataLanes::poll(std::span<pf_completion> completions, const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    if (ending_.over()) {
        return std::unexpected{ending_.why()};
    }
    if (!pump_.run(lock, deadline, [this] { return !done_.empty(); })) {
        if (ending_.over()) {
            return std::unexpected{ending_.why()};
        }
        return std::size_t{0};
    }
    std::size_t count = 0;
    while (count < completions.size() && !done_.empty()) {
        const std::uint32_t slot = done_.pop();
        completions[count++] = pf_completion{.cookie = ops_[slot].extent.cookie, .status = PF_OK, .reserved = 0};
        queue_of(ops_[slot].kind).free.push_back(slot);
    }
    return count;
}

// --- fence

// Behind every push of a lane one request without data but with a number: the peer's device completes its receive after all that
// came before it on the lane is in memory.
bool DataLanes::post_fences(std::uint32_t number) {
    const auto lanes = static_cast<std::uint32_t>(std::ranges::count(lanes_, true, &DataLane::unfenced));
    for (DataLane& lane : lanes_) {
        if (!lane.unfenced) {
            continue;
        }
        ibv_send_wr request{};
        request.wr_id = (++lane.sequence << 8U) | lane.number;
        request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
        request.send_flags = IBV_SEND_SIGNALED;
        request.imm_data = htonl((number << 8U) | lanes);
        if (lane.posted.empty()) {
            lane.moved = Clock::now();
        }
        lane.posted.push(Posted{.sequence = lane.sequence, .operations = 0, .bytes = 0});
        lane.unfenced = false;
        if (!post(lane, &request)) {
            return false;
        }
    }
    return true;
}

Outcome<void> DataLanes::fence(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    const auto over = [&]() -> Outcome<void> {
        if (ending_.over()) {
            return std::unexpected{ending_.why()};
        }
        return failed(make_error(ErrorCode::timed_out, "fence", "bulk lanes", "the peer has not answered it in time"));
    };
    // All that was pushed is posted; pushes that others submit meanwhile may be, too.
    if (!pump_.run(lock, deadline, [this] {
            advance();
            return queue_of(OpKind::push).waiting.empty();
        })) {
        return over();
    }
    if (ending_.over()) {
        return over();
    }
    const bool anything = std::ranges::any_of(lanes_, &DataLane::unfenced);
    if (anything) {
        if (((fences_ - fenced_) & fence_mask) >= max_fences) {
            return over(); // earlier ones that timed out
        }
        fences_ = (fences_ + 1) & fence_mask;
        if (!post_fences(fences_)) {
            return over();
        }
    }
    const std::uint32_t mine = fences_;
    if (!pump_.run(lock, deadline, [&] { return fenced_ == mine; })) {
        return over();
    }
    return {};
}

// --- news from the service lane

std::optional<Region> DataLanes::region_local(std::uint32_t number, MemoryRegion& region, std::uint64_t round) {
    const auto lock = pump_.enter(mutex_);
    Region* const here = regions_ ? regions_->at(number) : nullptr;
    if (here == nullptr) {
        return {};
    }
    if (round < round_) {
        return *here;
    }
    here->local_key = region->lkey;
    here->local_ready = true;
    local_.resize(std::max<std::size_t>(local_.size(), regions_->size()));
    local_[number] = std::move(region);
    advance();
    pump_.notify();
    return {};
}

void DataLanes::region_remote(std::uint32_t number, std::uint64_t address, std::uint32_t key) {
    const auto lock = pump_.enter(mutex_);
    if (Region* const region = regions_ ? regions_->at(number) : nullptr) {
        region->remote_address = address;
        region->remote_key = key;
        region->remote_ready = true;
        advance();
        pump_.notify();
    }
}

void DataLanes::fenced(std::uint32_t number) {
    const auto lock = pump_.enter(mutex_);
    fenced_ = number;
    pump_.notify();
}

std::optional<Region> DataLanes::region(std::uint32_t number) {
    const std::scoped_lock lock{mutex_};
    const Region* const region = regions_ ? regions_->at(number) : nullptr;
    return region != nullptr ? std::optional{*region} : std::nullopt;
}

bool DataLanes::flush(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    const auto back = [](const DataLane& lane) { return lane.posted.empty() || lane.seen >= lane.sequence; };
    for (;;) {
        pump_.drain();
        if (std::ranges::all_of(lanes_, back)) {
            return true;
        }
        if (deadline.passed()) {
            return false;
        }
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::microseconds{200});
        lock.lock();
    }
}

Clock::duration DataLanes::stalled_for() {
    const std::scoped_lock lock{mutex_};
    if (ending_.over()) {
        return {};
    }
    pump_.drain(); // nobody may have polled for a while, which is no stall
    Clock::duration longest_stall{};
    const auto now = Clock::now();
    for (const DataLane& lane : lanes_) {
        if (!lane.posted.empty()) {
            longest_stall = std::max(longest_stall, now - lane.moved);
        }
    }
    return longest_stall;
}

} // namespace pageferry::rdma
