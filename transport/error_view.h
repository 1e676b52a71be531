// From what a plugin answers (a status, and a pf_error it may have filled) to an Error. Nothing a plugin writes there is trusted
// to be terminated or known.
//
// Internal to transport/. Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "transport/abi/pageferry_transport.h"

#include <string>

namespace pageferry::transport {

// A pf_error ready to be given to a plugin.
pf_error empty_error();

// operation is what was asked; it is used, with a reason of our own, where the plugin filled nothing in.
Error error_from(int status, const pf_error& filled, std::string operation, std::string object);

} // namespace pageferry::transport
