// pageferry-transport-rdma.so: the one symbol it exports.
#include "rdma/abi.h"

extern "C" __attribute__((visibility("default"))) const pf_transport* pageferry_transport_entry(uint32_t host_abi_version);

const pf_transport* pageferry_transport_entry(uint32_t host_abi_version) {
    return pageferry::rdma::transport_table(host_abi_version);
}
