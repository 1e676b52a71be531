// pageferry-qemu: QEMU's place in libvirt's <emulator> (emulator.h).
#include "hypervisor/qemu/emulator.h"

#include <cstdio>
#include <exception>

int main(int argc, char** argv) {
    try {
        return pageferry::hypervisor::run_emulator({argv, argv + argc});
    } catch (const std::exception& error) { // out of memory, or a file name the library cannot take; nothing of ours throws
        std::fprintf(stderr, "pageferry-qemu: %s\n", error.what());
        return 1;
    }
}
