#pragma once

namespace rfseg {

/// Processors that this process may use: its affinity mask, bounded by the cgroup's CPU quota.
int available_cpus();

}  // namespace rfseg
