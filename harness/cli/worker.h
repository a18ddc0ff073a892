// The worker: reads case lines on stdin, answers each with one line of JSON. The gate runs it in processes of
// its own, so that a case that aborts, hangs or exhausts memory costs only itself.
#pragma once

namespace meshparity::cli {

// Body of the `worker` command; returns the exit code at end of input.
int worker_main();

}  // namespace meshparity::cli
