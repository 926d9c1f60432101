#pragma once

#include <functional>
#include <memory>
#include <string>

#include "media/video_io.h"

namespace rfseg {

/// Opens the same stream again; throws as open_video does.
using OpenStream = std::function<std::unique_ptr<VideoReader>(const VideoOptions& options)>;

/// A live stream that is connected again when it breaks off, goes silent or ends: at once (unless
/// it lasted less than two seconds), then after 0.25, 0.5, 1, 2, 4 and every 8 seconds, for
/// VideoOptions::reconnect_s since the last frame was decoded, delivered or not. Then it is given
/// up: an error is logged, and the stream has ended. Frames go on being counted; after a break
/// their times are those of the clock on the wall since the first frame, or follow on the last
/// frame's where that is later, and their size stays the first one's. VideoOptions::every, start_s
/// and end_s hold for these numbers and times, and once the end has passed nothing is connected
/// again. `first` is the stream, open. `cancelled` may be empty.
std::unique_ptr<VideoReader> keep_connected(const std::string& name,
                                            std::unique_ptr<VideoReader> first, OpenStream open,
                                            const VideoOptions& options,
                                            std::function<bool()> cancelled);

}  // namespace rfseg
