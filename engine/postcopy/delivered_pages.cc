#include "engine/postcopy/delivered_pages.h"

#include "transport/session/messages.h"

#include <algorithm>

namespace pageferry::engine {

namespace session = transport::session;

namespace {
constexpr std::uint64_t word_bits = 64;
constexpr std::uint64_t most_pages = session::max_words * word_bits; // of one message

std::uint64_t first_bits(std::uint64_t count) {
    return count >= word_bits ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}
} // namespace

Result<void> DeliveredPages::tell_while_stopped() {
    using Clock = std::chrono::steady_clock;
    for (const auto end = Clock::now() + telling_.while_stopped; !all_told() && Clock::now() < end;) {
        PAGEFERRY_TRY(tell_part());
    }
    return {};
}

Result<void> DeliveredPages::tell_part() {
    const memory::RamBlockInfo& info = blocks_[block_].info();
    const std::uint64_t pages = info.length / info.page_size;
    // Whole words, for the messages.
    const std::uint64_t most = std::max(telling_.part_bytes / info.page_size / word_bits, std::uint64_t{1}) * word_bits;
    const std::uint64_t part = tracker_.cheap_in_parts() ? std::min(most, pages - page_) : pages - page_;
    const std::uint64_t first = page_;
    if (!pending_.all(block_, {.first = first, .count = part})) {
        dirty_.clear();
        const auto looked =
            tracker_.collect_part(block_, {.offset = first * info.page_size, .length = part * info.page_size}, dirty_);
        pending_.add(dirty_); // also on failure: what was made clean must not be lost
        PAGEFERRY_TRY(looked);
    }
    for (std::uint64_t told = 0; told < part; told += most_pages) {
        PAGEFERRY_TRY(send(first + told, std::min(part - told, most_pages)));
    }
    page_ += part;
    while (block_ < blocks_.size() && page_ == blocks_[block_].pages()) {
        ++block_;
        page_ = 0;
    }
    return {};
}

Result<void> DeliveredPages::send(std::uint64_t first, std::uint64_t pages) {
    session::Delivered message{.block = static_cast<std::uint32_t>(block_), .first_page = first, .pages = pages, .words = {}};
    message.words.resize((pages + word_bits - 1) / word_bits);
    pending_.copy_words(block_, first / word_bits, message.words);
    for (std::size_t word = 0; word < message.words.size(); ++word) {
        message.words[word] = ~message.words[word] & first_bits(pages - word * word_bits);
    }
    if (std::ranges::all_of(message.words, [](std::uint64_t word) { return word == 0; })) {
        message.words.clear();
    }
    return peer_.send(message);
}

} // namespace pageferry::engine
