/* Counts holes that QEMU punches into shared memory: a page that a device has pinned is then no longer the guest's page, and who
 * pinned it must know. See discards.c and docs/decisions/discards.md. */
#ifndef PAGEFERRY_AGENT_DISCARDS_H
#define PAGEFERRY_AGENT_DISCARDS_H

#include "hypervisor/qemu/agent/agent_protocol.h"
#include "hypervisor/qemu/agent/descriptors.h"

/* From here on they are counted. The handle is of the memory with the counters (struct pf_agent_discards), which nobody else can
 * write; an error: they are not, or not all, counted. Once, before there are other threads. */
struct handle count_discards(void);

/* Where the counters are mapped here, NULL before. */
const struct pf_agent_discards* discards_counted(void);

#endif
