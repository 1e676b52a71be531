// Reads the arguments of a QMP command as QEMU's QAPI visitor does: member by member, the first fault kept, in QEMU's words.
//
// Pure; one thread. The JSON outlives the reader.
#pragma once

#include "base/error.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

// An error that carries QEMU's text and nothing else.
std::unexpected<Error> refuse_with(std::string text);

class Arguments {
public:
    // path: where the object stands, "capabilities[0]"; empty for the command's own arguments.
    explicit Arguments(const nlohmann::json& object, std::string path = {});

    [[nodiscard]] bool good() const { return fault_.empty(); }
    void fail(std::string text); // the first one stays

    // A member that is there and of the right type. After a fault, or where it is absent: empty, false, null.
    std::string required_string(std::string_view name);
    bool required_boolean(std::string_view name);
    const nlohmann::json* required_array(std::string_view name);
    const nlohmann::json* required_object(std::string_view name);
    std::optional<std::string> string(std::string_view name);
    std::optional<bool> boolean(std::string_view name);
    std::optional<std::uint64_t> unsigned_integer(std::string_view name); // a negative one wraps around, as in QEMU
    const nlohmann::json* array(std::string_view name);
    const nlohmann::json* any(std::string_view name);
    // A value that is not among these is refused.
    std::string required_enum(std::string_view name, std::span<const std::string_view> values);

    // The first fault, or a member that nobody asked for.
    [[nodiscard]] Result<void> finish() const;

private:
    const nlohmann::json* member(std::string_view name);
    const nlohmann::json* required(std::string_view name);
    [[nodiscard]] std::string full(std::string_view name) const;
    void wrong_type(std::string_view name, std::string_view expected);

    const nlohmann::json& object_;
    std::string path_;
    std::vector<std::string> asked_;
    std::string fault_;
};

} // namespace pageferry::monitor
