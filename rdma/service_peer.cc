// What the peer says on the service lane, and what it is answered: regions it asks for, and fences.
#include "rdma/service.h"

#include <algorithm>

namespace pageferry::rdma {

namespace {

int remote_access(std::uint32_t rights) {
    return ((rights & PF_MEMORY_PUSH_TARGET) != 0 ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0) |
           ((rights & PF_MEMORY_PULL_SOURCE) != 0 ? IBV_ACCESS_REMOTE_READ : 0);
}

} // namespace

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

} // namespace pageferry::rdma
