#include "monitor/parameters.h"

#include "monitor/arguments.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();

struct Number {
    std::string_view name;
    std::uint64_t initial;
    std::uint64_t least;
    std::uint64_t most;
    std::string_view range; // QEMU's words
    bool implemented;
    std::uint64_t type_most = no_limit; // the QAPI type's own end
    std::string_view type;
};

constexpr std::uint64_t byte_most = 255;
constexpr std::uint64_t default_max_bandwidth = std::uint64_t{128} << 20; // bytes/s, QEMU's

// QEMU 11.1's MigrationParameters that are numbers, then Pageferry's own.
// NOLINTBEGIN(modernize-use-designated-initializers): tables
constexpr std::array numbers{
    Number{"announce-initial", 50, 0, 100'000, "a value between 0 and 100000", true},
    Number{"announce-max", 550, 0, 100'000, "a value between 0 and 100000", true},
    Number{"announce-rounds", 5, 0, 1000, "a value between 0 and 1000", true},
    Number{"announce-step", 100, 1, 10'000, "a value between 0 and 10000", true},
    Number{"throttle-trigger-threshold", 50, 1, 100, "an integer in the range of 1 to 100", false, byte_most, "uint8_t"},
    Number{"cpu-throttle-initial", 20, 1, 99, "an integer in the range of 1 to 99", false, byte_most, "uint8_t"},
    Number{"cpu-throttle-increment", 10, 1, 99, "an integer in the range of 1 to 99", false, byte_most, "uint8_t"},
    Number{"max-bandwidth", default_max_bandwidth, 0, no_limit, "", true},
    Number{"avail-switchover-bandwidth", 0, 0, no_limit, "", true},
    Number{"downtime-limit", 300, 0, 2'000'000, "an integer in the range of 0 to (2000 * 1000) ms", true},
    Number{"x-checkpoint-delay", 20'000, 0, no_limit, "", false, std::numeric_limits<std::uint32_t>::max(), "uint32_t"},
    Number{"multifd-channels", 2, 1, 255, "a value between 1 and 255", true, byte_most, "uint8_t"},
    Number{"xbzrle-cache-size", 64 << 20, 4096, no_limit, "a power of two no less than the target page size", false},
    Number{"max-postcopy-bandwidth", 0, 0, no_limit, "", true},
    Number{"max-cpu-throttle", 99, 20, 99, "an integer in the range of cpu-throttle-initial to 99", false, byte_most, "uint8_t"},
    Number{"multifd-zlib-level", 1, 0, 9, "a value between 0 and 9", false, byte_most, "uint8_t"},
    Number{"multifd-zstd-level", 1, 0, 20, "a value between 0 and 20", false, byte_most, "uint8_t"},
    Number{"multifd-qatzip-level", 1, 1, 9, "a value between 1 and 9", false, byte_most, "uint8_t"},
    Number{"x-vcpu-dirty-limit-period", 1000, 1, 1000, "a value between 1 and 1000", false},
    Number{"vcpu-dirty-limit", 1, 1, no_limit, "a value of at least 1 MB/s", false},
    Number{"x-rdma-chunk-size", 1 << 20, 1 << 20, 1 << 30, "a power of 2 in the range 1MiB to 1024MiB", false},
    Number{"x-pageferry-dead-peer-timeout", 10'000, 100, 3'600'000, "an integer in the range of 100 to 3600000 ms", true},
    Number{"x-pageferry-connect-timeout", 30'000, 100, 3'600'000, "an integer in the range of 100 to 3600000 ms", true},
    Number{"x-pageferry-recover-attempts", 0, 0, 1000, "an integer in the range of 0 to 1000", true},
    Number{"x-pageferry-recover-backoff", 1000, 10, 600'000, "an integer in the range of 10 to 600000 ms", true},
    Number{"x-pageferry-recover-time-limit", 0, 0, 86'400'000, "an integer in the range of 0 to 86400000 ms", true},
};

constexpr std::array<std::string_view, 2> booleans{"cpu-throttle-tailslow", "direct-io"}; // not implemented: false
constexpr std::array<std::string_view, 3> encryption{"tls-creds", "tls-hostname", "tls-authz"};
constexpr std::array<std::string_view, 2> lists{"block-bitmap-mapping", "cpr-exec-command"}; // not implemented: empty

constexpr std::array<std::string_view, 6> compressions{"none", "zlib", "zstd", "qatzip", "qpl", "uadk"};
constexpr std::array<std::string_view, 4> modes{"normal", "cpr-reboot", "cpr-transfer", "cpr-exec"};
constexpr std::array<std::string_view, 3> zero_pages{"none", "legacy", "multifd"};

struct Choice {
    std::string_view name;
    std::string_view initial;
    std::span<const std::string_view> values;
    bool implemented = false; // false: its initial value alone
};

constexpr std::string_view rdma_name = "x-pageferry-rdma";
constexpr std::string_view carrier_name = "x-pageferry-carrier";
const std::array<Choice, 5> choices{Choice{"multifd-compression", "none", compressions}, Choice{"mode", "normal", modes},
                                    Choice{"zero-page-detection", "multifd", zero_pages},
                                    Choice{rdma_name, "preferred", rdma_policies, true},
                                    Choice{carrier_name, "pageferry", carrier_policies, true}};
// NOLINTEND(modernize-use-designated-initializers)

std::string not_implemented(std::string_view name) {
    return "Pageferry does not implement the parameter '" + std::string{name} + "'";
}

void read_number(Arguments& arguments, const Number& known, json& values) {
    const auto value = arguments.unsigned_integer(known.name);
    if (!value) {
        return;
    }
    const std::string name{known.name};
    if (*value > known.type_most) {
        arguments.fail("Parameter '" + name + "' expects " + std::string{known.type});
    } else if (*value < known.least || *value > known.most) {
        arguments.fail("Option " + name + " expects " + std::string{known.range});
    } else if (!known.implemented && *value != known.initial) {
        arguments.fail(not_implemented(name));
    } else {
        values[name] = *value;
    }
}

void read_encryption(Arguments& arguments, std::string_view name) {
    const json* const value = arguments.any(name);
    if (value == nullptr || value->is_null()) {
        return;
    }
    if (!value->is_string()) {
        arguments.fail("Invalid parameter type for '" + std::string{name} + "', expected: StrOrNull");
    } else if (!value->get_ref<const std::string&>().empty()) {
        arguments.fail(not_implemented(name) + ": it refuses, for encryption must never be dropped silently");
    }
}

void read_choice(Arguments& arguments, const Choice& known, json& values) {
    const auto value = arguments.string(known.name);
    if (!value) {
        return;
    }
    if (std::ranges::find(known.values, *value) == known.values.end()) {
        arguments.fail("Parameter '" + std::string{known.name} + "' does not accept value '" + *value + "'");
    } else if (known.implemented) {
        values[std::string{known.name}] = *value;
    } else if (*value != known.initial) {
        arguments.fail(not_implemented(known.name));
    }
}

} // namespace

Parameters::Parameters() : values_(std::make_unique<json>(json::object())) {
    json& values = *values_;
    for (const Number& one : numbers) {
        values[std::string{one.name}] = one.initial;
    }
    for (const std::string_view name : booleans) {
        values[std::string{name}] = false;
    }
    for (const std::string_view name : encryption) {
        values[std::string{name}] = "";
    }
    for (const Choice& one : choices) {
        values[std::string{one.name}] = one.initial;
    }
    values["cpr-exec-command"] = json::array(); // QEMU shows block-bitmap-mapping only once it was set
}

Parameters::Parameters(const Parameters& other) : values_(std::make_unique<json>(*other.values_)) {}
Parameters& Parameters::operator=(const Parameters& other) {
    *values_ = json(*other.values_);
    return *this;
}
Parameters::~Parameters() = default;

Result<void> Parameters::set(const nlohmann::json& arguments) {
    Arguments reader{arguments};
    json next = *values_;
    for (const Number& one : numbers) {
        read_number(reader, one, next);
    }
    for (const std::string_view name : booleans) {
        if (reader.boolean(name).value_or(false)) {
            reader.fail(not_implemented(name));
        }
    }
    for (const std::string_view name : encryption) {
        read_encryption(reader, name);
    }
    for (const Choice& one : choices) {
        read_choice(reader, one, next);
    }
    for (const std::string_view name : lists) {
        if (const json* const list = reader.array(name); list != nullptr && !list->empty()) {
            reader.fail(not_implemented(name));
        }
    }
    if (auto done = reader.finish(); !done) {
        return done;
    }
    *values_ = std::move(next);
    return {};
}

nlohmann::json Parameters::query() const {
    return *values_;
}

std::uint64_t Parameters::number(std::string_view name) const {
    const auto found = values_->find(std::string{name});
    return found != values_->end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

namespace {
std::chrono::milliseconds milliseconds(std::uint64_t value) {
    return std::chrono::milliseconds{static_cast<std::int64_t>(value)}; // every one of them has a far smaller end
}
} // namespace

std::uint64_t Parameters::max_bandwidth() const {
    return number("max-bandwidth");
}
std::uint64_t Parameters::avail_switchover_bandwidth() const {
    return number("avail-switchover-bandwidth");
}
std::uint64_t Parameters::max_postcopy_bandwidth() const {
    return number("max-postcopy-bandwidth");
}
std::chrono::milliseconds Parameters::downtime_limit() const {
    return milliseconds(number("downtime-limit"));
}
unsigned Parameters::multifd_channels() const {
    return static_cast<unsigned>(number("multifd-channels"));
}
Announce Parameters::announce() const {
    return {.initial = milliseconds(number("announce-initial")),
            .max = milliseconds(number("announce-max")),
            .rounds = number("announce-rounds"),
            .step = milliseconds(number("announce-step"))};
}
std::size_t Parameters::choice(std::string_view name, std::span<const std::string_view> values) const {
    const auto& value = values_->at(std::string{name}).get_ref<const std::string&>();
    return static_cast<std::size_t>(std::ranges::find(values, value) - values.begin());
}

std::chrono::milliseconds Parameters::dead_peer_timeout() const {
    return milliseconds(number("x-pageferry-dead-peer-timeout"));
}
std::chrono::milliseconds Parameters::connect_timeout() const {
    return milliseconds(number("x-pageferry-connect-timeout"));
}
unsigned Parameters::recover_attempts() const {
    return static_cast<unsigned>(number("x-pageferry-recover-attempts"));
}
std::chrono::milliseconds Parameters::recover_backoff() const {
    return milliseconds(number("x-pageferry-recover-backoff"));
}
std::chrono::milliseconds Parameters::recover_time_limit() const {
    return milliseconds(number("x-pageferry-recover-time-limit"));
}

RdmaPolicy Parameters::rdma() const {
    return static_cast<RdmaPolicy>(choice(rdma_name, rdma_policies));
}
CarrierPolicy Parameters::carrier() const {
    return static_cast<CarrierPolicy>(choice(carrier_name, carrier_policies));
}

nlohmann::json Parameters::for_qemu(const nlohmann::json& listed_by_qemu) const {
    json out = json::object();
    for (const Number& one : numbers) {
        const std::string name{one.name};
        if (one.implemented && listed_by_qemu.is_object() && listed_by_qemu.contains(name)) {
            out[name] = number(name);
        }
    }
    return out;
}

} // namespace pageferry::monitor
