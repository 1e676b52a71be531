// Text that peers send to be shown to people: valid UTF-8 without control characters, so that it can go into JSON, a terminal and
// a log as it is.
//
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pageferry::transport::session {

// Valid UTF-8 in which there is no control character; with several_lines, newline and tab are allowed.
bool is_clean(std::string_view text, bool several_lines);

// The same text with each offending byte replaced by '?', cut between two characters to at most max bytes. Cannot fail: an error
// must reach the peer whatever a file name in it looks like.
std::string cleaned(std::string_view text, std::size_t max);

} // namespace pageferry::transport::session
