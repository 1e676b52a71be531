#include "memory/bitmap.h"

#include <algorithm>
#include <bit>

namespace pageferry::memory {

namespace {

constexpr std::uint64_t word_bits = 64;

// Bits [first, end) of a word; 0 <= first < end <= 64.
constexpr std::uint64_t mask(std::uint64_t first, std::uint64_t end) {
    return (~std::uint64_t{0} << first) & (~std::uint64_t{0} >> (word_bits - end));
}

} // namespace

Bitmap::Bitmap(std::uint64_t pages)
    : pages_(pages), own_(std::make_unique<Word[]>(words_for(pages))), words_(own_.get(), words_for(pages)) {}

Bitmap::Bitmap(std::uint64_t pages, std::span<Word> in)
    // Never more pages than the memory has bits for, whatever the owner said.
    : pages_(std::min<std::uint64_t>(pages, in.size() * word_bits)), words_(in.first(words_for(pages_))) {}

bool Bitmap::test(std::uint64_t page) const {
    return page < pages_ && (words_[page / word_bits].load(std::memory_order_acquire) >> (page % word_bits) & 1) != 0;
}

bool Bitmap::set(std::uint64_t page) {
    return set_run({.first = page, .count = 1}) == 1;
}

bool Bitmap::clear(std::uint64_t page) {
    return clear_run({.first = page, .count = 1}) == 1;
}

template <class Change>
std::uint64_t Bitmap::change_run(PageRun run, Change change) {
    if (run.first >= pages_) {
        return 0;
    }
    const std::uint64_t end = run.first + std::min(run.count, pages_ - run.first);
    std::uint64_t changed = 0;
    for (std::uint64_t page = run.first; page < end;) {
        const std::uint64_t word = page / word_bits;
        const std::uint64_t stop = std::min(end, (word + 1) * word_bits);
        changed +=
            static_cast<std::uint64_t>(std::popcount(change(words_[word], mask(page % word_bits, stop - word * word_bits))));
        page = stop;
    }
    return changed;
}

std::uint64_t Bitmap::set_run(PageRun run) {
    return change_run(run, [](Word& word, std::uint64_t bits) { return bits & ~word.fetch_or(bits, std::memory_order_acq_rel); });
}

std::uint64_t Bitmap::clear_run(PageRun run) {
    return change_run(run,
                      [](Word& word, std::uint64_t bits) { return bits & word.fetch_and(~bits, std::memory_order_acq_rel); });
}

std::uint64_t Bitmap::word(std::size_t number) const {
    return number < words_for(pages_) ? words_[number].load(std::memory_order_acquire) : 0;
}

// The owner's memory may have anything in the bits after the last page.
std::uint64_t Bitmap::valid_in_word(std::size_t number) const {
    return number < words_for(pages_) ? mask(0, std::min(word_bits, pages_ - number * word_bits)) : 0;
}

std::uint64_t Bitmap::set_in_word(std::size_t number, std::uint64_t bits) {
    bits &= valid_in_word(number);
    return bits == 0 ? 0 : bits & ~words_[number].fetch_or(bits, std::memory_order_acq_rel);
}

std::uint64_t Bitmap::clear_in_word(std::size_t number, std::uint64_t bits) {
    bits &= valid_in_word(number);
    return bits == 0 ? 0 : bits & words_[number].fetch_and(~bits, std::memory_order_acq_rel);
}

std::uint64_t Bitmap::count() const {
    std::uint64_t total = 0;
    for (std::size_t number = 0; number < words_for(pages_); ++number) {
        const std::uint64_t set = words_[number].load(std::memory_order_acquire) & valid_in_word(number);
        total += static_cast<std::uint64_t>(std::popcount(set));
    }
    return total;
}

// The first page in [from, end) whose bit is `value`; `end` if there is none.
std::uint64_t Bitmap::find(std::uint64_t from, std::uint64_t end, bool value) const {
    while (from < end) {
        const std::uint64_t word = from / word_bits;
        std::uint64_t bits = words_[word].load(std::memory_order_acquire);
        bits = (value ? bits : ~bits) & mask(from % word_bits, word_bits);
        if (bits != 0) {
            return std::min(end, word * word_bits + static_cast<std::uint64_t>(std::countr_zero(bits)));
        }
        from = (word + 1) * word_bits;
    }
    return end;
}

std::optional<PageRun> Bitmap::next_run(std::uint64_t from, std::uint64_t limit, bool value) const {
    const std::uint64_t first = find(from, pages_, value);
    if (first >= pages_ || limit == 0) {
        return std::nullopt;
    }
    const std::uint64_t last = find(first, first + std::min(limit, pages_ - first), !value);
    // Another thread may have changed the very bit that was found.
    return PageRun{.first = first, .count = std::max<std::uint64_t>(last - first, 1)};
}

std::optional<PageRun> Bitmap::next_set_run(std::uint64_t from, std::uint64_t limit) const {
    return next_run(from, limit, true);
}

std::optional<PageRun> Bitmap::next_clear_run(std::uint64_t from, std::uint64_t limit) const {
    return next_run(from, limit, false);
}

} // namespace pageferry::memory
