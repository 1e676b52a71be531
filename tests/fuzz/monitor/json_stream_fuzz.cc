// Bytes from a client, cut into messages whole and piece by piece: the same messages either way, and each one parses to a value
// or to an error without harm.
#include "monitor/json_stream.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace {

using pageferry::monitor::Frame;
using pageferry::monitor::JsonStream;

std::vector<Frame> cut(std::string_view bytes, std::size_t piece) {
    JsonStream stream{{.bytes = 4096, .tokens = 512, .nesting = 64}};
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        stream.feed(bytes.substr(at, piece));
    }
    std::vector<Frame> frames;
    while (auto frame = stream.next()) {
        frames.push_back(std::move(*frame));
    }
    return frames;
}

// What is shown of a message is JSON again, its outermost members are the same, and without its white space it means the same.
bool same_in_other_words(const std::string& text, const nlohmann::json& parsed) {
    namespace monitor = pageferry::monitor;
    const std::string shown = monitor::to_text(parsed);
    const auto again = monitor::parse_json(shown);
    const auto shorter = monitor::parse_request(monitor::without_space(text));
    if (!again || !shorter || *shorter != parsed) {
        return false;
    }
    const auto members = monitor::members_of(shown);
    if (!again->is_object()) {
        return !members;
    }
    return members && members->size() == again->size() && std::ranges::all_of(*members, [&](const auto& member) {
               const auto key = monitor::parse_json(member.first);
               const auto value = monitor::parse_json(member.second);
               return key && key->is_string() && value && again->contains(key->template get<std::string>()) &&
                      *value == (*again)[key->template get<std::string>()];
           });
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(data, data + size);
    const auto whole = cut(text, size + 1);
    const auto pieces = cut(text, 1 + size % 7);
    if (whole.size() != pieces.size()) {
        std::abort();
    }
    for (std::size_t i = 0; i < whole.size(); ++i) {
        if (whole[i].text != pieces[i].text || whole[i].error != pieces[i].error ||
            whole[i].text.empty() == whole[i].error.empty()) {
            std::abort();
        }
        if (whole[i].error.empty()) {
            const auto parsed = pageferry::monitor::parse_request(whole[i].text);
            std::ignore = pageferry::monitor::members_of(whole[i].text);
            if (parsed && !same_in_other_words(whole[i].text, *parsed)) {
                std::abort();
            }
        }
    }
    return 0;
}
