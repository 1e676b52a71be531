#include "hypervisor/qemu/plan_parts.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

namespace pageferry::hypervisor {

namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t page = 4 * kib;
constexpr std::string_view start = "start QEMU";

struct MachineDefaults {
    std::string_view ram_id; // QEMU's default_ram_id, so that the RAM block has the name it always has
    std::uint64_t ram_size;
};

// By machine type and architecture, as in QEMU's hw/*. An id that is not QEMU's own works just as well, if both sides use it.
MachineDefaults defaults_of(const std::string& binary, std::string_view type) {
    const std::string name = std::filesystem::path{binary}.filename();
    const auto built_for = [&](std::string_view architecture) { return name.find(architecture) != std::string::npos; };
    struct Row {
        std::string_view type_prefix;
        std::string_view architecture; // empty: any
        MachineDefaults defaults;
    };
    static constexpr auto rows = std::to_array<Row>({
        {.type_prefix = "microvm", .architecture = "", .defaults = {.ram_id = "microvm.ram", .ram_size = 128 * mib}},
        {.type_prefix = "", .architecture = "microvm", .defaults = {.ram_id = "microvm.ram", .ram_size = 128 * mib}},
        {.type_prefix = "pc", .architecture = "", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "q35", .architecture = "", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "isapc", .architecture = "", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "virt", .architecture = "aarch64", .defaults = {.ram_id = "mach-virt.ram", .ram_size = 128 * mib}},
        {.type_prefix = "virt", .architecture = "arm", .defaults = {.ram_id = "mach-virt.ram", .ram_size = 128 * mib}},
        {.type_prefix = "virt", .architecture = "riscv", .defaults = {.ram_id = "riscv_virt_board.ram", .ram_size = 128 * mib}},
        {.type_prefix = "virt", .architecture = "loongarch", .defaults = {.ram_id = "loongarch.ram", .ram_size = 1024 * mib}},
        {.type_prefix = "s390-ccw", .architecture = "", .defaults = {.ram_id = "s390.ram", .ram_size = 128 * mib}},
        {.type_prefix = "pseries", .architecture = "", .defaults = {.ram_id = "ppc_spapr.ram", .ram_size = 512 * mib}},
        {.type_prefix = "powernv", .architecture = "", .defaults = {.ram_id = "pnv.ram", .ram_size = 1024 * mib}},
        {.type_prefix = "malta", .architecture = "", .defaults = {.ram_id = "mips_malta.ram", .ram_size = 128 * mib}},
    });
    // Without -machine: the architecture's default machine.
    static constexpr auto without_type = std::to_array<Row>({
        {.type_prefix = "", .architecture = "x86_64", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "", .architecture = "i386", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "", .architecture = "kvm", .defaults = {.ram_id = "pc.ram", .ram_size = 128 * mib}},
        {.type_prefix = "", .architecture = "s390x", .defaults = {.ram_id = "s390.ram", .ram_size = 128 * mib}},
        {.type_prefix = "", .architecture = "ppc64", .defaults = {.ram_id = "ppc_spapr.ram", .ram_size = 512 * mib}},
        {.type_prefix = "", .architecture = "mips", .defaults = {.ram_id = "mips_malta.ram", .ram_size = 128 * mib}},
    });
    for (const Row& row : rows) {
        const bool type_fits = row.type_prefix.empty() || (!type.empty() && type.starts_with(row.type_prefix));
        if (type_fits && (row.architecture.empty() || built_for(row.architecture))) {
            return row.defaults;
        }
    }
    if (type.empty()) {
        for (const Row& row : without_type) {
            if (built_for(row.architecture)) {
                return row.defaults;
            }
        }
    }
    return {.ram_id = "pageferry.ram", .ram_size = 128 * mib};
}

// -m in all its forms, and -machine memory.size=.
Result<std::uint64_t> ram_size(const CommandLine& line, std::uint64_t otherwise) {
    std::uint64_t size = 0;
    const auto take = [&](const std::string& text, std::uint64_t unit, const std::string& where) -> Result<void> {
        const auto bytes = parse_size(text, unit);
        if (!bytes) {
            return std::unexpected(make_error(ErrorCode::invalid_argument, std::string{start}, where,
                                              join("'", text, "' is not a size"), "write it as -m 4G"));
        }
        size = *bytes;
        return {};
    };
    if (const auto text = line.machine.get("memory.size")) {
        if (auto taken = take(*text, 1, "-machine memory.size=" + *text); !taken) {
            return std::unexpected(taken.error());
        }
    }
    for (const Word& word : line.words) {
        if (!word.option.is("m")) {
            continue;
        }
        auto properties = Properties::parse(word.option.value, "size");
        if (!properties) {
            return std::unexpected(properties.error());
        }
        if (const auto text = properties->get("size")) {
            if (auto taken = take(*text, mib, to_text(word.option)); !taken) {
                return std::unexpected(taken.error());
            }
        }
    }
    if (size == 0) {
        return otherwise;
    }
    constexpr std::uint64_t unit = 8 * kib; // QEMU rounds up to this
    if (size > UINT64_MAX - unit) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, std::string{start}, "-m", "the size is too large"));
    }
    return (size + unit - 1) / unit * unit;
}

std::string human(std::uint64_t bytes) {
    const std::uint64_t unit = bytes >= 1024 * mib ? 1024 * mib : mib;
    const std::uint64_t tenths = bytes / (unit / 10);
    return join(tenths / 10, ".", tenths % 10, unit == mib ? " MiB" : " GiB");
}

// Bytes wanted so far from each file system, by its device and page size.
using Demand = std::map<std::string, std::uint64_t>;

Result<void> check_space(const std::string& object, const PathStatus& at, std::uint64_t size, Demand& demand) {
    std::uint64_t& wanted = demand[at.mount_point];
    wanted += size > at.allocated ? size - at.allocated : 0;
    const bool huge = at.file_system == PathStatus::FileSystem::hugetlbfs;
    if (huge && size % at.page_size != 0) {
        return std::unexpected(make_error(
            ErrorCode::invalid_argument, std::string{start}, object,
            join("the size is no multiple of the ", human(at.page_size), " pages of ", at.mount_point), "round the size up"));
    }
    const auto too_small = [&](const std::optional<std::uint64_t>& there) { return there && *there < wanted; };
    if (!too_small(at.total_bytes) && !too_small(at.free_bytes)) {
        return {};
    }
    const std::string remedy = huge ? join("echo the number of pages needed into /sys/kernel/mm/hugepages/hugepages-",
                                           at.page_size / kib, "kB/nr_hugepages")
                                    : join("mount -o remount,size=... ", at.mount_point,
                                           " (or give plain -m SIZE without a backend: that needs no space there)");
    return std::unexpected(make_error(ErrorCode::resources, std::string{start}, object,
                                      join(at.mount_point, " has ", human(at.free_bytes.value_or(0)), " free of ",
                                           human(at.total_bytes.value_or(0)), ", and ", human(wanted), " are needed"),
                                      remedy));
}

Error refuse(const std::string& object, std::string reason, const Properties& instead) {
    return make_error(ErrorCode::invalid_argument, std::string{start}, object, std::move(reason),
                      "use -object " + instead.to_string("qom-type"));
}

// A memory-backend-file's path: on tmpfs or hugetlbfs, with room for it.
Result<RamBackend> check_file(const std::string& object, const Properties& properties, const Host& host, Demand& demand) {
    const std::string path = properties.get_or("mem-path", "");
    const auto size = parse_size(properties.get_or("size", ""), 1);
    if (path.empty() || !size || *size == 0) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, std::string{start}, object,
                                          "it has no size or no mem-path",
                                          "use -object memory-backend-file,id=ID,size=SIZE,mem-path=/dev/shm,share=on"));
    }
    auto at = host.status(path);
    if (!at) {
        Error error = at.error();
        error.object = object;
        return std::unexpected(std::move(error));
    }
    if (at->file_system == PathStatus::FileSystem::other) {
        Properties instead = properties;
        instead.set("mem-path", "/dev/shm");
        return std::unexpected(refuse(
            object,
            join(path, " is on ", at->mount_point,
                 ", which is neither tmpfs nor hugetlbfs; the kernel cannot track or serve the pages of other file systems"),
            instead));
    }
    if (auto room = check_space(object, *at, *size, demand); !room) {
        return std::unexpected(room.error());
    }
    const bool known = at->exists && !at->directory;
    return RamBackend{.id = properties.get_or("id", ""),
                      .size = *size,
                      .mem_path = path,
                      .directory = at->directory,
                      .device = known ? at->device : 0,
                      .inode = known ? at->inode : 0};
}

Result<RamBackend> check_object(const Option& option, const Properties& properties, const Host& host, Demand& demand) {
    const std::string object = to_text(option);
    const std::string type = properties.get_or("qom-type", "");
    if (type != "memory-backend-file") { // huge pages need a mount of the user's
        Properties instead = properties;
        const bool huge = instead.flag("hugetlb", false);
        for (const char* key : {"hugetlb", "hugetlbsize", "seal", "shm"}) {
            instead.erase(key);
        }
        instead.set("qom-type", "memory-backend-file");
        instead.set("mem-path", huge ? "/dev/hugepages" : "/dev/shm");
        instead.set("share", "on");
        return std::unexpected(refuse(object, type + " is no file that Pageferry can map", instead));
    }
    if (!properties.flag("share", false)) {
        Properties instead = properties;
        instead.set("share", "on");
        return std::unexpected(refuse(object, "it is private to QEMU", instead));
    }
    return check_file(object, properties, host, demand);
}

// RAM without a file, which gets one of ours: no file system's limits, as with plain -m.
Result<PlannedRam> put_on_file(Word& word, const Properties& properties, std::size_t index) {
    const std::string object = to_text(word.option);
    const auto size = parse_size(properties.get_or("size", ""), 1);
    if (!size || *size == 0 || *size > UINT64_MAX - page) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, std::string{start}, object, "it has no size that is one",
                                          "add size=SIZE, such as size=4G"));
    }
    auto value = on_file_of_ours(word.option, properties, index);
    if (!value) {
        return std::unexpected(value.error());
    }
    word.replacement = {plain_argument(word.option.given), std::move(*value)};
    // QEMU's RAM block is of whole pages, and its file must not be smaller.
    const std::uint64_t length = (*size + page - 1) / page * page;
    return PlannedRam{.backend = {.id = properties.get_or("id", ""), .size = length}, .ours = true};
}

// Whether the user says himself where the machine's main memory is.
Result<bool> has_main_backend(const CommandLine& line) {
    if (line.machine.has("memory-backend")) {
        return true;
    }
    for (const Word& word : line.words) {
        if (!word.option.is("numa")) {
            continue;
        }
        auto properties = Properties::parse(word.option.value, "type");
        if (!properties) {
            return std::unexpected(properties.error());
        }
        if (properties->has("memdev")) {
            return true;
        }
    }
    return false;
}

Result<void> add_main_backend(CommandLine& line, const Host& host, LaunchPlan& plan, Demand& demand) {
    const MachineDefaults defaults = defaults_of(line.binary, line.machine.get_or("type", ""));
    const auto size = ram_size(line, defaults.ram_size);
    if (!size) {
        return std::unexpected(size.error());
    }
    PlannedRam ram{.backend = {.id = std::string{defaults.ram_id}, .size = *size}, .ours = true};
    // QEMU refuses -mem-path beside a backend; -mem-prealloc it applies to every backend.
    if (const auto path = line.value("mem-path")) {
        Properties properties;
        properties.set("id", defaults.ram_id);
        properties.set("size", std::to_string(*size));
        properties.set("mem-path", *path);
        auto backend = check_file("-mem-path " + *path, properties, host, demand);
        if (!backend) {
            Error error = backend.error();
            if (error.code == ErrorCode::invalid_argument) {
                error.remedy = "use -mem-path /dev/shm, a hugetlbfs mount, or leave -mem-path out";
            }
            return std::unexpected(std::move(error));
        }
        ram = {.backend = std::move(*backend), .ours = false};
        for (Word& word : line.words) {
            if (word.option.is("mem-path")) {
                word.replacement.emplace();
            }
        }
    }
    // Aligned, so that transparent huge pages fit; QEMU does that by itself only for RAM without a file. The last property keeps
    // the block's name for machine types before 4.0: "pc.ram" and not "/objects/pc.ram".
    const std::string head = join("memory-backend-file,id=", ram.backend.id, ",size=", ram.backend.size, ",mem-path=");
    const std::string tail = ",share=on,x-use-canonical-path-for-ramblock-id=off";
    line.add("-object");
    if (ram.ours) {
        line.added.push_back(
            {.before = head + "/proc/self/fd/", .slot = Slot::ram_file, .index = plan.ram.size(), .after = ",align=2M" + tail});
    } else {
        line.add(head + escape_commas(ram.backend.mem_path) + tail);
    }
    line.add("-machine"); // QEMU merges it with the user's
    line.add("memory-backend=" + ram.backend.id);
    plan.ram.push_back(std::move(ram));
    return {};
}

} // namespace

Result<void> plan_ram(CommandLine& line, const Host& host, LaunchPlan& plan) {
    Demand demand;
    for (Word& word : line.words) {
        if (!word.option.is("object")) {
            continue;
        }
        auto properties = Properties::parse(word.option.value, "qom-type");
        if (!properties) {
            return std::unexpected(properties.error());
        }
        const std::string type = properties->get_or("qom-type", "");
        if (!type.starts_with("memory-backend-")) {
            continue;
        }
        if (is_without_file(type) && !properties->flag("hugetlb", false)) {
            auto ram = put_on_file(word, *properties, plan.ram.size());
            if (!ram) {
                return std::unexpected(ram.error());
            }
            plan.ram.push_back(std::move(*ram));
            continue;
        }
        auto backend = check_object(word.option, *properties, host, demand);
        if (!backend) {
            return std::unexpected(backend.error());
        }
        plan.ram.push_back({.backend = std::move(*backend), .ours = false});
    }
    auto given = has_main_backend(line);
    if (!given) {
        return std::unexpected(given.error());
    }
    return *given ? Result<void>{} : add_main_backend(line, host, plan, demand);
}

} // namespace pageferry::hypervisor
