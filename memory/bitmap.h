// A bit for each page of a RAM block: the dirty bitmap of a source, the received bitmap of a destination.
//
// The bits are atomic 64-bit words in memory the owner gives (so that it may be shared between processes) or that the bitmap
// allocates. Threads: any may set, clear and test; a run found by next_set_run() may have changed when it is used. Setting
// releases and testing acquires: who sees a bit set sees what was written before it was set (a received page's data). Pages
// beyond pages() do not exist: test() says clear, the others change and find nothing there.
#pragma once

#include "memory/extent.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace pageferry::memory {

struct PageRun {
    std::uint64_t first = 0; // page number
    std::uint64_t count = 0; // pages
    bool operator==(const PageRun&) const = default;
};

class Bitmap {
public:
    using Word = std::atomic<std::uint64_t>;
    static_assert(Word::is_always_lock_free);

    explicit Bitmap(std::uint64_t pages);            // its own memory, all clear
    Bitmap(std::uint64_t pages, std::span<Word> in); // the owner's memory, as it is; at least words_for(pages)
    static std::size_t words_for(std::uint64_t pages) { return (pages + 63) / 64; }

    [[nodiscard]] std::uint64_t pages() const { return pages_; }
    [[nodiscard]] bool test(std::uint64_t page) const;
    bool set(std::uint64_t page);   // whether it was clear
    bool clear(std::uint64_t page); // whether it was set
    // How many of the run changed. Atomic for each word, not for the run.
    std::uint64_t set_run(PageRun run);
    std::uint64_t clear_run(PageRun run);
    [[nodiscard]] std::uint64_t word(std::size_t number) const; // pages 64 * number and on; 0 beyond the end
    // Sets (clears) these bits of a word; returns those that changed.
    std::uint64_t set_in_word(std::size_t number, std::uint64_t bits);
    std::uint64_t clear_in_word(std::size_t number, std::uint64_t bits);
    [[nodiscard]] std::uint64_t count() const; // set bits
    // The first run of set (clear) bits at or after `from`, at most `limit` pages long; nothing if there is none or `limit` is 0.
    [[nodiscard]] std::optional<PageRun> next_set_run(std::uint64_t from, std::uint64_t limit) const;
    [[nodiscard]] std::optional<PageRun> next_clear_run(std::uint64_t from, std::uint64_t limit) const;

private:
    [[nodiscard]] std::uint64_t valid_in_word(std::size_t number) const;
    [[nodiscard]] std::uint64_t find(std::uint64_t from, std::uint64_t end, bool value) const;
    [[nodiscard]] std::optional<PageRun> next_run(std::uint64_t from, std::uint64_t limit, bool value) const;
    template <class Change>
    std::uint64_t change_run(PageRun run, Change change);

    std::uint64_t pages_;
    std::unique_ptr<Word[]> own_;
    std::span<Word> words_;
};

} // namespace pageferry::memory
