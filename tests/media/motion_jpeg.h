#pragma once

#include <chrono>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "media/loopback_server.h"

// What a camera on the loopback address sends.

namespace rfseg {

/// A picture of 21x13 pixels.
inline std::string a_jpeg() {
  std::ifstream file(RFSEG_SOURCE_DIR "/tests/media/images/orientation_1.jpg", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Sends one JPEG after another (multipart/x-mixed-replace), each `pace` after the one before,
/// until there were so many or the client has gone.
inline void send_motion_jpeg(int client, int pictures, std::chrono::milliseconds pace,
                             const std::string& jpeg) {
  if (!take_request(client)) return;
  send_all(client, stream_head("multipart/x-mixed-replace;boundary=frame"));
  for (int i = 0; i < pictures; ++i) {
    if (!send_all(client, "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: " +
                              std::to_string(jpeg.size()) + "\r\n\r\n" + jpeg + "\r\n")) {
      return;
    }
    std::this_thread::sleep_for(pace);
  }
}

/// Sends a file as a stream without a length; false when the client has gone.
inline bool send_stream(int client, const std::string& body,
                        const std::string& type = "video/mp2t") {
  return take_request(client) && send_all(client, stream_head(type) + body);
}

}  // namespace rfseg
