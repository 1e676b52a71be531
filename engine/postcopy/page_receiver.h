// The destination's RAM in a postcopy: faults are served, and over whichever connection there is everything that is missing is
// pulled.
//
// Threads: the engine's, but for limit(), which any may call while there is a connection. "pf-faults" and "pf-pulls" are its own.
#pragma once

#include "base/error.h"
#include "engine/control_page.h"
#include "engine/postcopy/fault_server.h"
#include "engine/postcopy/fault_stats.h"
#include "engine/postcopy/puller.h"
#include "memory/fault_regions.h"
#include "memory/page_map.h"
#include "transport/connection.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace pageferry::engine {

// What a destination needs to be able to take a guest by postcopy. All of it outlives the process that uses it.
struct PostcopyMeans {
    memory::PageMap pages;
    memory::FaultRegions faults;
    std::vector<std::uint32_t> vcpu_threads; // kernel's ids, in the order of the virtual processors; may be empty
};

class PageReceiver {
public:
    // changed: told, on one of its threads, when complete() or error() may have changed.
    PageReceiver(std::span<const memory::RamBlock> blocks, PostcopyMeans means, ControlPage& page, std::function<void()> changed);
    ~PageReceiver();
    PageReceiver(const PageReceiver&) = delete;
    PageReceiver& operator=(const PageReceiver&) = delete;

    [[nodiscard]] memory::PageMap& pages() { return means_.pages; }

    // A postcopy may come: no page is received, as far as is known.
    void begin();
    // So many pages of the block from its beginning were spoken of by delivered().
    [[nodiscard]] std::uint64_t known(std::size_t block) const { return known_[block]; }
    // Of the next pages of the block: those in words, from the first on, are here already; no words: none.
    Result<void> delivered(std::size_t block, std::uint64_t pages, std::span<const std::uint64_t> words);

    // Faults on the blocks that miss pages wait from here on; who has such a page mapped has to drop it afterwards.
    Result<void> arm();
    // Faults are served.
    void start();
    // Both, in the place of a process that died: also for those whose faults it had read and not served.
    Result<void> take_over();
    // Of what was not spoken of nobody will speak any more: it is pulled.
    void know_all();
    // Pulls over this connection, on which the memory was added; numbers: its number of each block.
    void connect(transport::Connection& connection, std::vector<std::uint32_t> numbers);
    // Before the connection goes: it is over or cancelled.
    void disconnect();
    void limit(std::uint64_t bytes_per_second); // of background pulls, 0: none

    [[nodiscard]] bool started() const { return started_; }
    [[nodiscard]] bool complete() const { return means_.pages.missing_bytes() == 0; }
    [[nodiscard]] std::optional<Error> error() const;
    [[nodiscard]] bool broken() const { return server_.error().has_value(); } // faults are served no more, with any connection
    // Everything is here: faults are the kernel's own business again.
    Result<void> finish();

private:
    [[nodiscard]] PullTarget target();
    void prepare(std::size_t block, memory::PageRun run);

    std::span<const memory::RamBlock> blocks_;
    PostcopyMeans means_;
    ControlPage& page_;
    std::function<void()> changed_;
    FaultStats stats_;
    FaultServer server_;
    std::vector<std::uint64_t> known_; // pages, by block
    transport::Connection* connection_ = nullptr;
    std::vector<std::uint32_t> numbers_;
    std::unique_ptr<Puller> puller_;
    std::uint64_t limit_ = 0;
    bool started_ = false;
};

} // namespace pageferry::engine
