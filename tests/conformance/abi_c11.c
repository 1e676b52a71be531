/* The ABI header alone, in C: what a third party's plugin would start from. That this file compiles is the test. */
#include "transport/abi/pageferry_transport.h"

#include <assert.h>

static_assert(sizeof(pf_extent) == 32, "no padding that differs between compilers");
static_assert(sizeof(pf_completion) == 16, "no padding that differs between compilers");
static_assert(sizeof(pf_memory_block) == 48, "no padding that differs between compilers");
static_assert(offsetof(pf_transport, size) == 0 && offsetof(pf_transport, abi_version) == 4, "what a loader reads first");

uint32_t pageferry_abi_seen_from_c(pf_transport_entry_fn entry);

uint32_t pageferry_abi_seen_from_c(pf_transport_entry_fn entry) {
    const pf_transport* transport = entry(PF_TRANSPORT_ABI_VERSION);
    return transport == NULL || transport->size < PF_TRANSPORT_SIZE_MIN ? 0 : transport->abi_version;
}
