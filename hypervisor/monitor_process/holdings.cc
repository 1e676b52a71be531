#include "hypervisor/monitor_process/holdings.h"

namespace pageferry::hypervisor {

std::vector<memory::RamBlockInfo> Holdings::infos() const {
    std::vector<memory::RamBlockInfo> infos;
    infos.reserve(blocks.size());
    for (const auto& block : blocks) {
        infos.push_back(block.info);
    }
    return infos;
}

std::vector<int> add_holdings(const Holdings& held, const StartFds& fds, MoverStart& start) {
    std::vector<int> all{fds.control_page};
    all.insert(all.end(), fds.tracking.begin(), fds.tracking.end());
    start.has_page_map = static_cast<bool>(held.page_map);
    if (start.has_page_map) {
        all.push_back(held.page_map.get());
    }
    start.faults = static_cast<std::uint32_t>(held.faults.size());
    for (const Fd& fault : held.faults) {
        all.push_back(fault.get());
    }
    start.vcpu_threads = held.vcpu_threads;
    start.blocks = held.infos();
    for (const auto& block : held.blocks) {
        all.push_back(block.file.get());
    }
    return all;
}

} // namespace pageferry::hypervisor
