#include "rdma/work_completion.h"

namespace pageferry::rdma {

namespace {

struct Meaning {
    ErrorCode code;
    const char* reason;
    const char* remedy;
};

Meaning meaning_of(ibv_wc_status status) {
    using enum ErrorCode;
    switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
        return {timed_out, "the peer, or the path to it, does not answer: all retries are used up",
                "check the link, and that UDP port 4791 (RoCE v2) passes between the hosts"};
    case IBV_WC_RNR_RETRY_EXC_ERR:
        return {timed_out, "the peer had no receive buffer ready", "the peer is stopped or overloaded"};
    case IBV_WC_REM_ACCESS_ERR:
        return {permission, "the peer's device does not let us at that memory: it was revoked, or never registered", ""};
    case IBV_WC_REM_INV_REQ_ERR: return {protocol, "the peer's device refused the request as invalid", ""};
    case IBV_WC_REM_OP_ERR: return {io, "the peer's device could not complete the operation", "look into the peer's kernel log"};
    case IBV_WC_REM_ABORT_ERR: return {closed, "the peer aborted the operation", ""};
    case IBV_WC_WR_FLUSH_ERR: return {closed, "the queue pair is in error, and what it held was flushed", ""};
    case IBV_WC_RESP_TIMEOUT_ERR: return {timed_out, "the peer's device did not respond in time", "check the link"};
    case IBV_WC_LOC_LEN_ERR: return {internal, "a message is longer than its buffer", ""};
    case IBV_WC_LOC_PROT_ERR: return {internal, "a work request names memory that is not registered for it", ""};
    case IBV_WC_LOC_QP_OP_ERR: return {internal, "the device refused a work request as wrong", ""};
    case IBV_WC_LOC_ACCESS_ERR: return {internal, "the peer wrote where this side did not allow it", ""};
    case IBV_WC_FATAL_ERR: return {io, "the device has failed", "look into the kernel log"};
    default: return {io, "the device reports an error", "look into the kernel log"};
    }
}

} // namespace

const char* name_of(ibv_wc_status status) {
    switch (status) {
    case IBV_WC_SUCCESS: return "IBV_WC_SUCCESS";
    case IBV_WC_LOC_LEN_ERR: return "IBV_WC_LOC_LEN_ERR";
    case IBV_WC_LOC_QP_OP_ERR: return "IBV_WC_LOC_QP_OP_ERR";
    case IBV_WC_LOC_EEC_OP_ERR: return "IBV_WC_LOC_EEC_OP_ERR";
    case IBV_WC_LOC_PROT_ERR: return "IBV_WC_LOC_PROT_ERR";
    case IBV_WC_WR_FLUSH_ERR: return "IBV_WC_WR_FLUSH_ERR";
    case IBV_WC_MW_BIND_ERR: return "IBV_WC_MW_BIND_ERR";
    case IBV_WC_BAD_RESP_ERR: return "IBV_WC_BAD_RESP_ERR";
    case IBV_WC_LOC_ACCESS_ERR: return "IBV_WC_LOC_ACCESS_ERR";
    case IBV_WC_REM_INV_REQ_ERR: return "IBV_WC_REM_INV_REQ_ERR";
    case IBV_WC_REM_ACCESS_ERR: return "IBV_WC_REM_ACCESS_ERR";
    case IBV_WC_REM_OP_ERR: return "IBV_WC_REM_OP_ERR";
    case IBV_WC_RETRY_EXC_ERR: return "IBV_WC_RETRY_EXC_ERR";
    case IBV_WC_RNR_RETRY_EXC_ERR: return "IBV_WC_RNR_RETRY_EXC_ERR";
    case IBV_WC_LOC_RDD_VIOL_ERR: return "IBV_WC_LOC_RDD_VIOL_ERR";
    case IBV_WC_REM_INV_RD_REQ_ERR: return "IBV_WC_REM_INV_RD_REQ_ERR";
    case IBV_WC_REM_ABORT_ERR: return "IBV_WC_REM_ABORT_ERR";
    case IBV_WC_INV_EECN_ERR: return "IBV_WC_INV_EECN_ERR";
    case IBV_WC_INV_EEC_STATE_ERR: return "IBV_WC_INV_EEC_STATE_ERR";
    case IBV_WC_FATAL_ERR: return "IBV_WC_FATAL_ERR";
    case IBV_WC_RESP_TIMEOUT_ERR: return "IBV_WC_RESP_TIMEOUT_ERR";
    case IBV_WC_GENERAL_ERR: return "IBV_WC_GENERAL_ERR";
    case IBV_WC_TM_ERR: return "IBV_WC_TM_ERR";
    case IBV_WC_TM_RNDV_INCOMPLETE: return "IBV_WC_TM_RNDV_INCOMPLETE";
    default: return "an unknown status";
    }
}

Fault fault_of(const ibv_wc& completion, const LaneName& lane) {
    const Meaning meaning = meaning_of(completion.status);
    Error error = make_error(meaning.code, "work completion",
                             lane.title + " (queue pair " + std::to_string(completion.qp_num) + ", " + lane.device + ")",
                             std::string{meaning.reason} + " (" + name_of(completion.status) + ", vendor code " +
                                 std::to_string(completion.vendor_err) + ")",
                             meaning.remedy);
    error.peer = lane.peer;
    error.native = static_cast<int>(completion.status);
    return Fault{.error = std::move(error), .lane = lane.number};
}

} // namespace pageferry::rdma
