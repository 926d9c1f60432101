#pragma once

#include "core/cuda/simt.h"

namespace rfseg::cuda {

/// Of a block whose threads are kTeams times kThreads, which do the same for rows of their own:
/// this thread's team, and its place in it. For one team a constant and the index that the compiler
/// knows: a kernel of the decoder had a third more instructions otherwise.
template <int kTeams, int kThreads>
RFSEG_DEVICE int team_index() {
  // Told by a lane, so that the compiler knows it to be the warp's.
  return kTeams == 1 ? 0 : warp_read(thread_index() / kThreads, 0);
}
template <int kTeams, int kThreads>
RFSEG_DEVICE int team_thread() {
  return kTeams == 1 ? thread_index() : thread_index() % kThreads;
}

}  // namespace rfseg::cuda
