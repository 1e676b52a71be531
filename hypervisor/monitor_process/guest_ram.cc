#include "hypervisor/monitor_process/guest_ram.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>

namespace pageferry::hypervisor {

namespace {

namespace fs = std::filesystem;

// QEMU makes its file in a directory as qemu_back_mem.NAME.XXXXXX, with '/' of the name as '_', and unlinks it
// (softmmu/physmem.c, file_ram_open).
bool made_in_directory(const RamBackend& backend, std::string_view path) {
    constexpr std::string_view deleted = " (deleted)";
    constexpr std::size_t random_letters = 6; // mkstemp
    if (path.ends_with(deleted)) {
        path.remove_suffix(deleted.size());
    }
    std::string id = backend.id;
    std::ranges::replace(id, '/', '_');
    const std::string prefix = "qemu_back_mem." + id + ".";
    const fs::path file{path};
    const std::string name = file.filename();
    std::error_code error;
    return name.starts_with(prefix) && name.size() == prefix.size() + random_letters &&
           name.find('.', prefix.size()) == std::string::npos && file.parent_path() == fs::canonical(backend.mem_path, error);
}

bool belongs(const RamBackend& backend, const AgentMapping& mapping) {
    if (backend.directory) {
        return made_in_directory(backend, mapping.path);
    }
    if (backend.inode != 0) {
        return mapping.device == backend.device && mapping.inode == backend.inode;
    }
    struct stat status{};
    return ::stat(backend.mem_path.c_str(), &status) == 0 && status.st_dev == mapping.device && status.st_ino == mapping.inode;
}

Error no_mapping(const RamBackend& backend) {
    return make_error(ErrorCode::unsupported, "find", "RAM block " + backend.id,
                      "QEMU has no shared mapping of a named file for this memory backend",
                      "give it as: -object memory-backend-file,id=" + backend.id + ",size=" + std::to_string(backend.size) +
                          ",mem-path=/dev/shm,share=on");
}

} // namespace

Result<std::vector<GuestRamBlock>> find_guest_ram(std::span<const RamBackend> backends, std::span<const AgentMapping> mappings) {
    std::vector<GuestRamBlock> blocks;
    for (const auto& backend : backends) {
        std::uint64_t length = 0;
        GuestRamBlock block;
        for (const auto& mapping : mappings) {
            if (!belongs(backend, mapping)) {
                continue;
            }
            if (mapping.error != 0 || !mapping.fd) {
                return std::unexpected(
                    errno_error(mapping.error, "get a descriptor of", mapping.path, "QEMU must keep its RAM file open"));
            }
            if (length == 0) {
                block.info = memory::RamBlockInfo{.name = backend.id,
                                                  .length = 0,
                                                  .page_size = mapping.page_size,
                                                  .file_offset = mapping.file_offset,
                                                  .guest_address = mapping.address};
                block.file = mapping.fd.duplicate();
                if (!block.file) {
                    return std::unexpected(errno_error(errno, "duplicate the descriptor of", mapping.path));
                }
            } else if (mapping.address != block.info.guest_address + length ||
                       mapping.file_offset != block.info.file_offset + length) {
                return std::unexpected(make_error(ErrorCode::unsupported, "find", "RAM block " + backend.id,
                                                  "its file is mapped more than once",
                                                  "give each memory backend a file of its own"));
            }
            length += mapping.length; // the kernel may have split one mapping into adjacent ones
        }
        if (length < backend.size) {
            return std::unexpected(no_mapping(backend));
        }
        block.info.length = backend.size; // QEMU maps whole huge pages; the block is what the user asked for
        blocks.push_back(std::move(block));
    }
    if (blocks.empty()) {
        return std::unexpected(make_error(ErrorCode::unsupported, "find", "guest RAM", "this QEMU has no memory backend"));
    }
    std::ranges::sort(blocks, {}, [](const GuestRamBlock& block) { return block.info.name; });
    return blocks;
}

void stop_tracking(const Fd& userfaultfd, std::span<const memory::RamBlockInfo> blocks) {
    if (!userfaultfd) {
        return;
    }
    for (const auto& block : blocks) {
        uffdio_range range{.start = block.guest_address, .len = block.length};
        // EINVAL: not registered, or unmapped since. There is nothing left to undo then.
        ::ioctl(userfaultfd.get(), UFFDIO_UNREGISTER, &range);
    }
}

} // namespace pageferry::hypervisor
