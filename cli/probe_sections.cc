#include "cli/probe_sections.h"

#include "cli/units.h"

#include <nlohmann/json.hpp>

#include <utility>

namespace pageferry::cli {

namespace {

using Verdict = Finding::Verdict;
using hypervisor::UserfaultfdRights;
using memory::UserfaultfdWay;

Finding told(std::string what, std::string value) {
    Finding line;
    line.what = std::move(what);
    line.value = std::move(value);
    return line;
}

Finding good(std::string what, std::string value) {
    Finding line = told(std::move(what), std::move(value));
    line.verdict = Verdict::ok;
    return line;
}

Finding bad(std::string what, std::string value, std::string reason, std::string remedy) {
    Finding line = told(std::move(what), std::move(value));
    line.verdict = Verdict::no;
    line.reason = std::move(reason);
    line.remedy = std::move(remedy);
    return line;
}

Finding judged(std::string what, std::string value, const Result<void>& result, const std::string& remedy) {
    return result ? good(std::move(what), std::move(value))
                  : bad(std::move(what), std::move(value), reason_of(result.error()),
                        result.error().remedy.empty() ? remedy : result.error().remedy);
}

Finding faults(std::string what, const Result<void>& result) {
    const bool not_tried = !result && result.error().code == ErrorCode::resources;
    if (not_tried) {
        return good(std::move(what), "not tried: no huge page is free");
    }
    return judged(std::move(what), result ? "tried" : "", result, "postcopy needs it: boot a newer kernel");
}

constexpr const char* who_may =
    "run QEMU as root, give its user rights on /dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1";

Finding own_rights(const UserfaultfdRights& rights) {
    const std::string what = "userfaultfd, this user";
    switch (rights.own.way) {
    case UserfaultfdWay::device: return good(what, "all faults, by /dev/userfaultfd");
    case UserfaultfdWay::system_call: return good(what, "all faults, by userfaultfd(2)");
    case UserfaultfdWay::user_mode_only:
        return bad(what, "user-mode faults only",
                   "enough for a source, but virtual processors under KVM fault in the kernel: no postcopy to this host",
                   who_may);
    case UserfaultfdWay::none: break;
    }
    return bad(what, "none", reason_of(errno_error(rights.own.error, "userfaultfd")),
               std::string{who_may} + "; in a container, allow the system call userfaultfd");
}

Finding others_rights(const UserfaultfdRights& rights) {
    std::string value = !rights.unprivileged   ? "root"
                        : *rights.unprivileged ? "everybody (vm.unprivileged_userfaultfd=1)"
                                               : "root (vm.unprivileged_userfaultfd=0)";
    value += rights.device_rights ? ", and who may open /dev/userfaultfd (" + *rights.device_rights + ")" : "";
    return told("userfaultfd, who may", std::move(value));
}

std::string limit_text(std::uint64_t bytes) {
    return bytes == no_memlock_limit ? "unlimited" : format_size(bytes);
}

void add_memlock(Section& section, const Memlock& limit) {
    Finding soft = told("memlock, soft limit", limit_text(limit.soft));
    soft.bytes = limit.soft;
    Finding hard = told("memlock, hard limit", limit_text(limit.hard));
    hard.bytes = limit.hard;
    section.findings.push_back(std::move(soft));
    section.findings.push_back(std::move(hard));
    section.findings.push_back(
        told("memlock, CAP_IPC_LOCK", limit.exempt ? "yes: the limits do not count" : "no: the limits count"));

    const std::string what = "memlock, guest RAM by rdma";
    const std::uint64_t allowed = limit.allowed();
    if (allowed == no_memlock_limit) {
        section.findings.push_back(good(what, "unlimited"));
        return;
    }
    const std::uint64_t guest = allowed > memlock_overhead ? allowed - memlock_overhead : 0;
    Finding line = guest > 0 ? good(what, "at most " + format_size(guest))
                             : bad(what, "none", "RDMA pins all of a guest's RAM, and the limit is less than its queues take",
                                   "raise it for the process that starts QEMU: ulimit -l KIBIBYTES, LimitMEMLOCK= in its systemd "
                                   "unit, or <memtune><hard_limit> in libvirt");
    line.bytes = guest;
    section.findings.push_back(std::move(line));
}

// The lines that a plugin tells; what is not in the form that the ABI gives is left out.
std::vector<Finding> findings_of(const nlohmann::json& told_json) {
    std::vector<Finding> lines;
    const auto text = [](const nlohmann::json& object, const char* name) {
        const auto member = object.find(name);
        return member != object.end() && member->is_string() ? member->get<std::string>() : std::string{};
    };
    const auto list = told_json.find("findings");
    if (list == told_json.end() || !list->is_array()) {
        return lines;
    }
    for (const auto& one : *list) {
        if (!one.is_object()) {
            continue;
        }
        Finding line = told(text(one, "what"), text(one, "value"));
        if (const auto ok = one.find("ok"); ok != one.end() && ok->is_boolean()) {
            line.verdict = ok->get<bool>() ? Verdict::ok : Verdict::no;
            line.reason = text(one, "reason");
            line.remedy = text(one, "remedy");
        }
        lines.push_back(std::move(line));
    }
    return lines;
}

} // namespace

std::string reason_of(const Error& error) {
    if (error.native == 0) {
        return error.reason;
    }
    Error alone = error; // the kernel's words say nothing without what was tried
    alone.remedy.clear();
    return alone.to_string();
}

Section kernel_section(const hypervisor::KernelFeatures& kernel, const UserfaultfdRights& rights) {
    Section section{.title = "kernel", .findings = {}, .details = {}};
    section.findings.push_back(told("release", kernel.release + " " + kernel.machine));
    const bool either = kernel.write_protect || kernel.soft_dirty;
    const std::string other = either
                                  ? "not needed: this kernel has the other way"
                                  : "a guest cannot leave this host alive: boot Linux 6.7 or later, or one with soft-dirty bits";
    section.findings.push_back(judged("dirty tracking, write-protect", "WP_ASYNC, PAGEMAP_SCAN", kernel.write_protect, other));
    section.findings.push_back(judged("dirty tracking, soft-dirty", "clear_refs, pagemap", kernel.soft_dirty, other));
    section.findings.push_back(faults("missing faults, shared memory", kernel.missing_shmem));
    section.findings.push_back(faults("minor faults, shared memory", kernel.minor_shmem));
    section.findings.push_back(faults("missing faults, huge pages", kernel.missing_huge));
    section.findings.push_back(faults("minor faults, huge pages", kernel.minor_huge));
    section.findings.push_back(own_rights(rights));
    section.findings.push_back(others_rights(rights));
    return section;
}

Section memory_section(const Result<Memlock>& memlock, const std::vector<hypervisor::HugePages>& pools) {
    Section section{.title = "memory", .findings = {}, .details = {}};
    if (memlock) {
        add_memlock(section, *memlock);
    } else {
        section.findings.push_back(bad("memlock", "", reason_of(memlock.error()), memlock.error().remedy));
    }
    for (const auto& pool : pools) {
        Finding line = told("huge pages of " + format_size(pool.page_size),
                            std::to_string(pool.free) + " free of " + std::to_string(pool.total));
        line.bytes = pool.free * pool.page_size;
        section.findings.push_back(std::move(line));
    }
    return section;
}

Section qemu_section(const std::vector<hypervisor::QemuFound>& qemus) {
    Section section{.title = "QEMU", .findings = {}, .details = {}};
    for (const auto& one : qemus) {
        section.findings.push_back(judged(one.file, one.version.empty() ? "?" : one.version, one.served, ""));
    }
    if (qemus.empty()) {
        section.findings.push_back(
            bad("qemu-system-*", "none", "there is none in PATH",
                "install QEMU, for instance the package qemu-system-x86; to probe connections it is not needed"));
    }
    return section;
}

std::vector<Section> transport_sections(const std::vector<TransportFound>& transports) {
    std::vector<Section> sections{Section{.title = "transports", .findings = {}, .details = {}}};
    for (const auto& one : transports) {
        sections.front().findings.push_back(judged(one.scheme, one.file.empty() ? "not installed" : one.file, one.usable, ""));
        if (one.inspected && one.inspected->empty()) {
            continue;
        }
        Section own{.title = one.scheme, .findings = {}, .details = {}};
        const auto parsed = one.inspected ? nlohmann::json::parse(*one.inspected, nullptr, false)
                                          : nlohmann::json(nlohmann::json::value_t::discarded);
        if (!parsed.is_object()) {
            own.findings.push_back(
                bad("inspect", "", one.inspected ? "what the plugin tells is no JSON object" : reason_of(one.inspected.error()),
                    "this is a defect of the plugin"));
        } else {
            own.findings = findings_of(parsed);
            nlohmann::json rest = parsed;
            rest.erase("findings");
            own.details = rest.dump();
        }
        sections.push_back(std::move(own));
    }
    return sections;
}

} // namespace pageferry::cli
