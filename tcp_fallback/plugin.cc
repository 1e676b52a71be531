// pageferry-transport-tcp.so: the one symbol it exports.
#include "tcp_fallback/abi.h"

extern "C" __attribute__((visibility("default"))) const pf_transport* pageferry_transport_entry(uint32_t host_abi_version);

const pf_transport* pageferry_transport_entry(uint32_t host_abi_version) {
    return pageferry::tcp::transport_table(host_abi_version);
}
