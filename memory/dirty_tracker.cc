#include "memory/dirty_tracker.h"

#include "memory/kernel_probe.h"
#include "memory/soft_dirty_tracker.h"
#include "memory/uffd_tracker.h"

#include <utility>

namespace pageferry::memory {

Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(TrackingHandles handles) {
    std::string uffd_lacks;
    std::string permission; // the remedy, where this is all that lacks
    if (!handles.userfaultfd) {
        uffd_lacks = "the hypervisor handed over no userfaultfd";
        permission = "start the hypervisor as root, or give its user access to /dev/userfaultfd; otherwise ";
    } else if (!handles.pagemap) {
        uffd_lacks = "the hypervisor handed over no pagemap";
    } else if (auto probed = probe_write_protect(handles.pagemap.get()); probed) {
        return make_uffd_tracker(std::move(handles.userfaultfd), std::move(handles.pagemap), *probed);
    } else {
        uffd_lacks = probed.error().reason;
    }
    std::string soft_dirty_lacks;
    if (!handles.pagemap || !handles.clear_refs) {
        soft_dirty_lacks = "the hypervisor handed over no pagemap and clear_refs";
    } else if (auto probed = probe_soft_dirty(); probed) {
        return make_soft_dirty_tracker(std::move(handles.pagemap), std::move(handles.clear_refs));
    } else {
        soft_dirty_lacks = probed.error().reason;
    }
    return std::unexpected(
        make_error(ErrorCode::unsupported, "track dirty pages", "",
                   "userfaultfd write-protect: " + uffd_lacks + "; soft-dirty: " + soft_dirty_lacks,
                   permission + "only postcopy and stop-and-copy are possible here; precopy needs Linux 6.7 or a kernel with "
                                "CONFIG_MEM_SOFT_DIRTY"));
}

} // namespace pageferry::memory
