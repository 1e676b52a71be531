// Bytes from a client, cut into messages whole and piece by piece: the same messages either way, and each one parses to a value
// or to an error without harm.
#include "monitor/json_stream.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
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
            // What is shown of it is JSON again.
            if (parsed && !pageferry::monitor::parse_json(pageferry::monitor::to_text(*parsed))) {
                std::abort();
            }
        }
    }
    return 0;
}
