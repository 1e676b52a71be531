// The syntax of QEMU's command line: which words are options and which are their values, "key=value,..." lists, sizes, switches.
//
// Read in QEMU's qemu-options.hx, util/keyval.c and util/qemu-option.c, versions 6.0 to 11.1.
// Pure functions; any thread.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pageferry::hypervisor {

// One option of the command line, or one word that is none (a disk image).
struct Option {
    std::string name;  // without dashes: "machine"; empty for a word that is no option
    std::string given; // as written: "-machine", "--machine", "disk.img"
    std::string value; // the next word, where the option takes one
    bool has_value = false;
    [[nodiscard]] bool is(std::string_view a) const { return name == a; }
};

// The words after argv[0]. An option QEMU does not know yet is taken to have a value if the next word does not begin with "-".
std::vector<Option> split_options(std::span<const std::string> words);

// "-machine q35,accel=kvm" for messages.
std::string to_text(const Option& option);

// The value of an option as keys and values, in order.
class Properties {
public:
    // "first,key=value,flag,noflag": a first part without "=" is the value of `implied_key`; "flag" is on and "noflag" off; ",,"
    // is a comma. A value that begins with "{" is JSON; nested members become "a.b" and lists "a.0". invalid_argument: malformed
    // JSON.
    static Result<Properties> parse(std::string_view text, std::string_view implied_key = {});

    // The last value of this key.
    [[nodiscard]] std::optional<std::string> get(std::string_view key) const;
    [[nodiscard]] std::string get_or(std::string_view key, std::string_view otherwise) const;
    // Whether the key is there and on; `otherwise` where it is absent or neither on nor off.
    [[nodiscard]] bool flag(std::string_view key, bool otherwise) const;
    [[nodiscard]] bool has(std::string_view key) const { return get(key).has_value(); }
    void set(std::string_view key, std::string_view value); // replaces every value of the key, or appends
    void erase(std::string_view key);
    [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& all() const { return list_; }
    // "key=value,..." with commas doubled; the value of `implied_key` comes first and without its key.
    [[nodiscard]] std::string to_string(std::string_view implied_key = {}) const;

private:
    std::vector<std::pair<std::string, std::string>> list_;
};

// A value as it has to be written in a list: commas doubled.
std::string escape_commas(std::string_view value);

std::optional<bool> parse_switch(std::string_view text); // on, yes, true, y; off, no, false, n

// "4096", "4G", "1.5g", "0x1000": bytes. A number without suffix is in units of `unit` bytes. Empty where it is no size or too
// large.
std::optional<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit);

} // namespace pageferry::hypervisor
