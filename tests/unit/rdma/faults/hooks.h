// What this program puts between the transport and rdma-core: it defines functions of libibverbs and librdmacm itself and
// forwards them, and replaces those entries of a device's table that verbs.h calls directly. With nothing set they only watch.
//
// Threads: any.
#pragma once

#include "rdma/handshake.h"

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace pageferry::rdma::test {

enum class Side { caller, callee };

// One end of a lane.
struct LaneEnd {
    Side side = Side::caller;
    LaneKind kind = LaneKind::control;
    unsigned index = 0;
    auto operator<=>(const LaneEnd&) const = default;
};

class Hooks {
public:
    static constexpr std::uint32_t vendor_code = 0x5eed;

    static Hooks& get();
    void reset(); // nothing is injected any more, and nothing remembered of posts

    // The n-th completion from now of that end of a lane gets this status.
    void spoil_completion(const LaneEnd& lane, ibv_wc_status status, unsigned nth = 1);
    // Soft-RoCE's defect: the next READ there moves nothing and succeeds, and what comes behind it is flushed.
    void misread(const LaneEnd& lane);
    // The n-th work request from now is not taken, with this errno; those before it in the same call are.
    void refuse_send(const LaneEnd& lane, int error, unsigned nth = 1);
    void refuse_receive(const LaneEnd& lane, int error, unsigned nth = 1);
    // The n-th registration from now fails with this errno. Nothing for side: of either.
    void refuse_registration(std::optional<Side> side, int error, unsigned nth = 1);
    // The next so many registrations of that side wait until they are released.
    void hold_registrations(Side side, unsigned count);
    [[nodiscard]] bool registrations_are_held(); // all of them
    void release_registrations();
    // Destroying a queue pair waits until that is released, as it may in a kernel.
    void hold_destroying();
    [[nodiscard]] bool destroying_is_held(); // somebody waits
    void release_destroying();
    // Arming that completion queue fails from now on.
    void refuse_notification(const LaneEnd& lane, int error);
    // All that was asked to be injected has been.
    [[nodiscard]] bool all_injected();

    // nullptr: no such queue pair was seen.
    ibv_qp* pair_of(const LaneEnd& lane);
    // The latest WRITE posted there that has data.
    struct Write {
        ibv_sge piece{};
        std::uint64_t remote_address = 0;
        std::uint32_t remote_key = 0;
    };
    std::optional<Write> last_write(const LaneEnd& lane);
    // The rights, IBV_ACCESS_*, of each region registered on that side since reset().
    std::vector<unsigned> registrations(Side side);
    // Bytes of each SEND posted there since reset().
    std::vector<std::uint32_t> sends(const LaneEnd& lane);

    // While it lives, connections made after it hear of the device events told here, among those that the kernel tells.
    class DeviceEvents {
    public:
        explicit DeviceEvents(ibv_context* context);
        ~DeviceEvents(); // after the connections
        DeviceEvents(const DeviceEvents&) = delete;
        DeviceEvents& operator=(const DeviceEvents&) = delete;
        // Returns when the transport has taken it. false: it does not.
        [[nodiscard]] bool tell(const ibv_async_event& event);

    private:
        const int told_;
    };

    // By the functions that stand in for rdma-core's.
    void pair_made(rdma_cm_id& id, ibv_pd* pd);
    void asked(const rdma_cm_id& id, const Request& request);     // of the caller
    void requested(const rdma_cm_id* id, const Request& request); // at the callee
    int refused_registration(const ibv_pd* pd);                   // 0: go on
    void wait_while_held(const ibv_pd* pd);
    void wait_to_destroy();
    void registered(const ibv_pd* pd, unsigned access);
    std::optional<ibv_async_event> device_event(const ibv_context* context);
    bool acknowledged(); // true: it was one that was told here
    struct Watched {     // -1: nothing is told
        int asynchronous = -1;
        int told = -1;
    };
    [[nodiscard]] Watched device_events();

private:
    struct Injection {
        LaneEnd lane;
        int value = 0; // status or errno
        unsigned left = 1;
    };
    static int poll(ibv_cq* queue, int count, ibv_wc* completions);
    static int post_send(ibv_qp* pair, ibv_send_wr* first, ibv_send_wr** bad);
    static int post_receive(ibv_qp* pair, ibv_recv_wr* first, ibv_recv_wr** bad);
    static int request_notification(ibv_cq* queue, int solicited);
    void look_at(ibv_wc& completion);
    void remember(const LaneEnd& lane, const ibv_send_wr& request);
    void empty_a_read(const LaneEnd& lane, ibv_send_wr& request);
    // errno when it is this one's turn
    static int due(std::vector<Injection>& injections, const LaneEnd& lane);

    std::mutex mutex_;
    ibv_context_ops real_{}; // of the first device, which is the only one in these tests
    bool patched_ = false;
    std::map<std::uint32_t, LaneEnd> lanes_; // by number of queue pair
    std::map<LaneEnd, ibv_qp*> pairs_;
    std::map<const rdma_cm_id*, Request> requested_;
    std::map<const ibv_pd*, Side> domains_;
    std::vector<Injection> completions_;
    std::optional<LaneEnd> misread_; // to come
    std::optional<std::pair<LaneEnd, std::uint64_t>> misread_request_;
    std::vector<Injection> sends_;
    std::vector<Injection> receives_;
    std::vector<Injection> notifications_;
    struct Registration {
        std::optional<Side> side;
        int error = 0;
        unsigned left = 1;
    };
    std::optional<Registration> registration_;
    std::map<Side, std::vector<unsigned>> registered_;
    Side held_side_ = Side::caller;
    unsigned to_hold_ = 0; // registrations
    bool held_ = false;
    std::condition_variable released_;
    bool hold_destroying_ = false;
    unsigned waiting_to_destroy_ = 0;
    std::map<LaneEnd, Write> last_write_;
    std::map<LaneEnd, std::vector<std::uint32_t>> sent_;
    Watched watched_;
    std::deque<ibv_async_event> device_events_;
    bool told_one_ = false; // and it is not acknowledged yet: there is one thread for a device
    std::condition_variable acknowledged_;
};

} // namespace pageferry::rdma::test
