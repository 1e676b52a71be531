// Any words as a QEMU command line: one word a line. Whatever comes out, what was not touched is still there in order.
#include "tests/unit/hypervisor/fake_host.h"

#include <cstdlib>
#include <sstream>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pageferry::hypervisor;
    std::istringstream text{std::string(data, data + size)};
    std::vector<std::string> argv{"qemu-system-x86_64"};
    for (std::string word; std::getline(text, word);) {
        argv.push_back(word);
    }
    test::FakeHost host;
    host.files["/c"] = std::string(data, data + size);
    const auto plan = plan_launch(argv, host);
    if (!plan) {
        return plan.error().reason.empty() ? std::abort(), 0 : 0;
    }
    const auto words = render(*plan, [](Slot, std::size_t) { return 9; });
    if (plan->plain && words != argv) {
        std::abort();
    }
    for (const PlannedArgument& argument : plan->arguments) {
        const std::size_t made = argument.slot == Slot::ram_file ? plan->ram.size() : plan->monitors.size();
        if ((argument.slot == Slot::ram_file || argument.slot == Slot::user_monitor) && argument.index >= made) {
            std::abort();
        }
    }
    return 0;
}
