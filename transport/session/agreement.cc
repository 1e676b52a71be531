// What two peers must agree on before the first page: the version, and the RAM table.
#include "transport/session/messages.h"

#include <algorithm>
#include <utility>

namespace pageferry::transport::session {

namespace {

std::string figures(std::uint64_t bytes) {
    constexpr std::pair<std::uint64_t, const char*> units[] = {
        {1ULL << 30U, " GiB"}, {1ULL << 20U, " MiB"}, {1ULL << 10U, " KiB"}};
    std::string text = std::to_string(bytes) + " bytes";
    for (const auto& [unit, name] : units) {
        if (bytes >= unit && bytes % unit == 0) {
            return text + " (" + std::to_string(bytes / unit) + name + ")";
        }
    }
    return text;
}

std::string versions(std::uint16_t least, std::uint16_t most) {
    return least == most ? "version " + std::to_string(least)
                         : "versions " + std::to_string(least) + " to " + std::to_string(most);
}

std::unexpected<Error> differ(const std::string& block, std::string reason, std::string remedy) {
    return std::unexpected{make_error(ErrorCode::invalid_argument, "compare RAM tables", "RAM block " + block, std::move(reason),
                                      std::move(remedy))};
}

constexpr const char* same_machine = "start the destination with the same machine type, -m and memory backends as the source";

std::span<const RamTableEntry>::iterator find(std::span<const RamTableEntry> table, const std::string& name) {
    return std::ranges::find(table, name, &RamTableEntry::name);
}

const RamTableEntry* named_twice(std::span<const RamTableEntry> table) {
    for (std::size_t i = 1; i < table.size(); ++i) {
        if (find(table.first(i), table[i].name) != table.first(i).end()) {
            return &table[i];
        }
    }
    return nullptr;
}

} // namespace

Result<std::uint16_t> agree_version(const Hello& peer) {
    const std::uint16_t version = std::min(version_max, peer.version_max);
    if (version < version_min || version < peer.version_min) {
        return std::unexpected{make_error(ErrorCode::version, "agree on a protocol version", peer.software,
                                          "the peer speaks " + versions(peer.version_min, peer.version_max) + ", this side " +
                                              versions(version_min, version_max),
                                          "run the same release of Pageferry on both hosts, or one that is next to it")};
    }
    return version;
}

Result<std::vector<std::size_t>> match_ram_tables(std::span<const RamTableEntry> source, std::span<const RamTableEntry> local) {
    if (const RamTableEntry* twice = named_twice(source)) {
        return differ(twice->name, "the source names it twice", "give every memory backend an id of its own");
    }
    if (const RamTableEntry* twice = named_twice(local)) {
        return differ(twice->name, "the destination names it twice", "give every memory backend an id of its own");
    }
    std::vector<std::size_t> matches;
    matches.reserve(source.size());
    for (const RamTableEntry& theirs : source) {
        const auto ours = find(local, theirs.name);
        if (ours == local.end()) {
            return differ(theirs.name, figures(theirs.length) + " on the source, missing on the destination", same_machine);
        }
        if (ours->length != theirs.length) {
            return differ(theirs.name,
                          figures(theirs.length) + " on the source, " + figures(ours->length) + " on the destination",
                          same_machine);
        }
        if (ours->page_size != theirs.page_size) {
            return differ(theirs.name,
                          "pages of " + figures(theirs.page_size) + " on the source, of " + figures(ours->page_size) +
                              " on the destination",
                          "use the same kind of memory backend (hugepages or not) on both hosts");
        }
        matches.push_back(static_cast<std::size_t>(ours - local.begin()));
    }
    for (const RamTableEntry& ours : local) {
        if (find(source, ours.name) == source.end()) {
            return differ(ours.name, "missing on the source, " + figures(ours.length) + " on the destination", same_machine);
        }
    }
    return matches;
}

} // namespace pageferry::transport::session
