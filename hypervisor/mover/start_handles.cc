#include "hypervisor/mover/start_handles.h"

#include <iterator>
#include <string>
#include <utility>

namespace pageferry::hypervisor {

Result<StartHandles> take_handles(const MoverStart& start, std::vector<Fd> fds) {
    StartHandles handles;
    std::size_t next = 0;
    const auto take = [&](bool there, Fd& into) {
        if (there && next < fds.size()) {
            into = std::move(fds[next]);
        }
        next += there ? 1 : 0;
    };
    take(true, handles.control_page);
    take(start.has_userfaultfd, handles.tracking.userfaultfd);
    take(start.has_pagemap, handles.tracking.pagemap);
    take(start.has_clear_refs, handles.tracking.clear_refs);
    take(start.has_discards, handles.discards);
    take(start.has_page_map, handles.page_map);
    if (fds.size() != next + start.faults + start.blocks.size()) {
        return std::unexpected(
            make_error(ErrorCode::protocol, "read", "start message", std::to_string(fds.size()) + " descriptors came with it"));
    }
    const auto faults = fds.begin() + static_cast<std::ptrdiff_t>(next);
    const auto files = faults + static_cast<std::ptrdiff_t>(start.faults);
    handles.faults.assign(std::make_move_iterator(faults), std::make_move_iterator(files));
    handles.files.assign(std::make_move_iterator(files), std::make_move_iterator(fds.end()));
    return handles;
}

} // namespace pageferry::hypervisor
