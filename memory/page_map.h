// Which pages of a guest in postcopy are here: for each RAM block the received bitmap, and the wanted bitmap of pages that
// somebody waits for.
//
// It lies in a shared file that outlives the process which fills it: a new process goes on where a dead one stopped. A page is
// marked received only once its data has landed, and mapped for the guest only after that; so whatever a process had under way
// when it died is not marked, was never seen by the guest, and is pulled again.
//
// Layout of the file: for each block in order its received words, then its wanted words (memory/bitmap.h). All zero: nothing is
// received. Threads: as Bitmap; received_run() may be called by any number of threads.
//
// Who waits for a page marks it wanted first and then looks whether it was received: received_run() does it the other way round,
// so either the waiter sees that it was received, or whoever received it maps it after the waiter was there.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/bitmap.h"
#include "memory/ram_block.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace pageferry::memory {

class PageMap {
public:
    // Maps the file shared, which has page_map_bytes() (page_map_layout.h) at least. Its content is taken as it is.
    // invalid_argument: it is too short, or a page size is not known; else mmap's error.
    static Result<PageMap> map(std::span<const RamBlockInfo> blocks, const Fd& file);
    PageMap(PageMap&&) noexcept;
    PageMap& operator=(PageMap&&) noexcept;
    ~PageMap(); // unmaps; the file keeps it

    [[nodiscard]] std::size_t blocks() const;
    [[nodiscard]] const Bitmap& received(std::size_t block) const;
    [[nodiscard]] Bitmap& wanted(std::size_t block);
    [[nodiscard]] std::uint64_t page_size(std::size_t block) const; // bytes

    // Marks them received and no longer wanted; those that were new count. The data is there already.
    std::uint64_t received_run(std::size_t block, PageRun run);
    // The same for these pages of 64: bit N is page 64 * word + N. Those that somebody waited for are returned.
    std::uint64_t received_in_word(std::size_t block, std::size_t word, std::uint64_t bits);
    // At the beginning of a postcopy alone: nothing is received.
    void clear();
    // Bytes not received; counted once at map() and clear(), then kept.
    [[nodiscard]] std::uint64_t missing_bytes() const;

private:
    struct Mapping; // the file's mapping and the bitmaps in it
    explicit PageMap(std::unique_ptr<Mapping> mapping);
    std::unique_ptr<Mapping> mapping_;
};

} // namespace pageferry::memory
