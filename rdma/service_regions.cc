// Memory regions: those that this side needs, here and at the peer, in the order in which they are needed; and those that the
// peer asks for.
#include "rdma/service.h"

#include <algorithm>
#include <cerrno>

namespace pageferry::rdma {

namespace {

constexpr std::size_t requests_ahead = 8; // unanswered at once, of max_requests

int local_access(std::uint32_t rights) {
    return (rights & PF_MEMORY_PULL_TARGET) != 0 ? IBV_ACCESS_LOCAL_WRITE : 0;
}

int remote_access(std::uint32_t rights) {
    return ((rights & PF_MEMORY_PUSH_TARGET) != 0 ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0) |
           ((rights & PF_MEMORY_PULL_SOURCE) != 0 ? IBV_ACCESS_REMOTE_READ : 0);
}

} // namespace

Result<void> Service::register_memory(const Wanted& wanted, Urgency urgency) {
    const auto done = [this, wanted](Result<MemoryRegion> region, std::uint64_t round) {
        {
            const std::scoped_lock lock{mutex_};
            finished_.push_back(Finished{.wanted = wanted, .round = round, .region = std::move(region)});
        }
        kick();
    };
    return registrar_.add({.address = wanted.address,
                           .length = wanted.length,
                           .access = wanted.access,
                           .for_peer = wanted.for_peer,
                           .number = wanted.number,
                           .done = done},
                          urgency);
}

void Service::begin(const Region& region, Urgency urgency) {
    if (region.local_asked) {
        hurry(region);
    } else if (register_local(region, urgency) && !region.remote_asked) {
        to_ask_[static_cast<std::size_t>(urgency)].push_back(region);
    }
}

void Service::hurry(const Region& region) {
    registrar_.hurry(region.number);
    for (const Urgency urgency : {Urgency::soon, Urgency::later}) {
        auto& waiting = to_ask_[static_cast<std::size_t>(urgency)];
        if (const auto found = std::ranges::find(waiting, region.number, &Region::number); found != waiting.end()) {
            to_ask_[static_cast<std::size_t>(Urgency::now)].push_back(*found);
            waiting.erase(found);
            return;
        }
    }
}

bool Service::register_local(const Region& region, Urgency urgency) {
    auto begun = register_memory(
        {.address = region.address, .length = region.length, .access = local_access(region.access), .number = region.number},
        urgency);
    if (!begun) {
        end_now(Fault{.error = std::move(begun.error())});
    }
    return begun.has_value();
}

// Few are asked for at once that no fault waits for: one that comes then finds the peer with little to do before it.
void Service::ask() {
    for (const Urgency urgency : {Urgency::now, Urgency::soon, Urgency::later}) {
        auto& waiting = to_ask_[static_cast<std::size_t>(urgency)];
        const bool fault = urgency == Urgency::now;
        while (!waiting.empty() && asked_ < (fault ? max_requests : requests_ahead)) {
            answered_at_ = asked_ == 0 ? Clock::now() : answered_at_;
            const Region region = waiting.front();
            waiting.pop_front();
            ++asked_;
            send({.type = ServiceMessage::Type::ask,
                  .status = fault ? fault_waits : std::uint16_t{PF_OK},
                  .number = region.number,
                  .block = region.block,
                  .offset = region.offset,
                  .length = region.length});
        }
    }
    flush();
}

void Service::finish(Finished& finished) {
    if (finished.wanted.for_peer) {
        finish_for_peer(finished);
        return;
    }
    if (!finished.region) {
        end_now(Fault{.error = std::move(finished.region.error())});
        return;
    }
    if (const auto again = data_->region_local(finished.wanted.number, *finished.region, finished.round)) {
        finished.region->reset(); // first: both together may be more than may be locked
        register_local(*again, again->urgency);
    }
}

void Service::finish_for_peer(Finished& finished) {
    {
        const std::scoped_lock lock{mutex_};
        if (revoked_) {
            return; // never told, and gone with `finished`
        }
    }
    if (!finished.region) {
        // What was pushed from is pinned for that, and counts once more for the peer's pulls: it is given back for them.
        const bool room = finished.region.error().native == ENOMEM && data_->forget(registrar_.new_round());
        if (room && register_memory(finished.wanted, Urgency::now)) {
            return;
        }
        Fault fault{.error = std::move(finished.region.error())};
        send({.type = ServiceMessage::Type::denied,
              .status = static_cast<std::uint16_t>(fault.error.code),
              .number = finished.wanted.number,
              .native = static_cast<std::uint32_t>(fault.error.native)});
        flush();
        end_now(std::move(fault));
        return;
    }
    const ibv_mr* const region = finished.region->get();
    const ServiceMessage answer{.type = ServiceMessage::Type::registered,
                                .number = finished.wanted.number,
                                .address = reinterpret_cast<std::uintptr_t>(region->addr),
                                .key = region->rkey};
    {
        const std::scoped_lock lock{mutex_};
        if (revoked_) {
            return;
        }
        for_peer_.push_back(std::move(*finished.region));
    }
    send(answer);
}

void Service::answer(const ServiceMessage& asked) {
    const MemoryTable* table = nullptr;
    bool revoked = false;
    {
        const std::scoped_lock lock{mutex_};
        table = table_;
        revoked = revoked_;
    }
    const auto deny = [&](const Error& why) {
        send({.type = ServiceMessage::Type::denied,
              .status = static_cast<std::uint16_t>(why.code),
              .number = asked.number,
              .native = static_cast<std::uint32_t>(why.native)});
    };
    if (revoked) {
        deny(make_error(ErrorCode::state, "register memory", {}, "revoked"));
        return;
    }
    constexpr std::uint32_t rights = PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_SOURCE;
    const auto address = table->at(asked.block, asked.offset, asked.length, rights);
    if (!address) {
        deny(address.error());
        return;
    }
    const auto block = std::ranges::find(table->blocks(), asked.block, &Block::number);
    const Wanted wanted{.address = *address,
                        .length = asked.length,
                        .access = remote_access(block->access),
                        .number = asked.number,
                        .for_peer = true};
    if (auto begun = register_memory(wanted, asked.status == fault_waits ? Urgency::now : Urgency::soon); !begun) {
        deny(begun.error());
        if (begun.error().code != ErrorCode::state) { // that is: revoked just now
            end_now(Fault{.error = std::move(begun.error())});
        }
    }
}

} // namespace pageferry::rdma
