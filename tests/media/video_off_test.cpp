#include <gtest/gtest.h>

#include <string>

#include "media/video_io.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

TEST(VideoOff, SaysThatThisBuildHasNoVideo) {
  try {
    open_video(RFSEG_SOURCE_DIR "/tests/media/video/plain.mp4");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("RFSEG_VIDEO=OFF"), std::string::npos);
  }
  EXPECT_THROW(create_video("out.mp4", 32, 32, 25), Error);
  EXPECT_EQ(video_backend_version(), "");
  EXPECT_TRUE(is_video_name("a.mp4"));
}

}  // namespace
}  // namespace rfseg
