#include "pipeline/frame_source.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/files.h"
#include "core/log.h"

namespace rfseg {
namespace {

namespace fs = std::filesystem;

class FrameSourceTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "rfseg-source-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string add_picture(const std::string& name, int width, int height) {
    const std::vector<uint8_t> pixels(static_cast<std::size_t>(width) * height * 3, 77);
    const std::vector<uint8_t> png = encode_png(pixels.data(), width, height, 3);
    const std::string path = (folder_ / name).string();
    fs::create_directories(fs::path(path).parent_path());
    write_file(path, {reinterpret_cast<const char*>(png.data()), png.size()});
    return path;
  }

  std::vector<Input> expand(const std::vector<std::string>& arguments,
                            const std::string& list = "") {
    std::istringstream stream(list);
    return expand_inputs(arguments, stream);
  }

  fs::path folder_;
};

TEST_F(FrameSourceTest, DirectoriesAreSortedAndHoldPicturesOnly) {
  add_picture("b.png", 3, 2);
  add_picture("a.PNG", 3, 2);
  add_picture("sub/c.png", 3, 2);
  write_file((folder_ / "notes.txt").string(), "no picture");
  const std::vector<Input> inputs = expand({folder_.string()});
  ASSERT_EQ(inputs.size(), 2u);
  EXPECT_EQ(inputs[0].path, (folder_ / "a.PNG").string());
  EXPECT_EQ(inputs[1].path, (folder_ / "b.png").string());
}

// Copies from a Mac leave a "._a.jpg" beside each "a.jpg", which holds no picture.
TEST_F(FrameSourceTest, HiddenFilesOfADirectoryAreLeftOut) {
  const std::string shown = add_picture("a.png", 3, 2), hidden = add_picture(".b.png", 3, 2);
  write_file((folder_ / "._a.png").string(), "attributes");
  const std::vector<Input> inputs = expand({folder_.string()});
  ASSERT_EQ(inputs.size(), 1u);
  EXPECT_EQ(inputs[0].path, shown);
  const std::vector<Input> named = expand({hidden});
  ASSERT_EQ(named.size(), 1u);
  EXPECT_EQ(named[0].path, hidden);
  EXPECT_EQ(named[0].error, "");
}

std::vector<std::string> g_messages;

TEST_F(FrameSourceTest, VideosOfADirectoryAreLeftOutAndToldOf) {
  add_picture("a.png", 3, 2);
  write_file((folder_ / "b.mp4").string(), "");
  write_file((folder_ / "c.MOV").string(), "");
  write_file((folder_ / "._b.mp4").string(), "");
  g_messages.clear();
  set_log_sink([](LogLevel, const std::string& message) { g_messages.push_back(message); });
  const std::vector<Input> inputs = expand({folder_.string()});
  set_log_sink(nullptr);
  EXPECT_EQ(inputs.size(), 1u);
  ASSERT_EQ(g_messages.size(), 1u);
  EXPECT_NE(g_messages[0].find(folder_.string() + ": 2 video"), std::string::npos) << g_messages[0];
}

TEST_F(FrameSourceTest, WhatCannotBeUsedKeepsItsPlaceInTheOrder) {
  const std::string picture = add_picture("a.png", 3, 2);
  fs::create_directory(folder_ / "empty");
  const std::vector<Input> inputs =
      expand({"/no/such/file.jpg", picture, (folder_ / "empty").string(), "rtsp://host/x",
              "/dev/video7", "v.mp4"});
  ASSERT_EQ(inputs.size(), 6u);
  EXPECT_NE(inputs[0].error.find("no such file"), std::string::npos);
  EXPECT_EQ(inputs[1].error, "");
  EXPECT_NE(inputs[2].error.find("holds no picture"), std::string::npos);
  EXPECT_EQ(inputs[3].kind, InputKind::kVideo);
  EXPECT_EQ(inputs[4].kind, InputKind::kVideo);
  EXPECT_NE(inputs[5].error.find("no such file"), std::string::npos);
}

// Nobody writes into the pipe: whoever opened it would wait.
TEST_F(FrameSourceTest, PipesSocketsAndDevicesAreNotOpened) {
  const std::string pipe = (folder_ / "p.jpg").string(), video = (folder_ / "p.mp4").string();
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ASSERT_EQ(mkfifo(video.c_str(), 0600), 0);
  struct sockaddr_un address {};
  address.sun_family = AF_UNIX;
  (folder_ / "s.png").string().copy(address.sun_path, sizeof address.sun_path - 1);
  const int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(descriptor);
  InputSource source(expand({pipe, video, address.sun_path, "/dev/zero"}), {});
  SourceFrame frame;
  for (const char* type :
       {"p.jpg: is a pipe", "p.mp4: is a pipe", "s.png: is a socket", "/dev/zero: is a device"}) {
    ASSERT_TRUE(source.next(frame));
    EXPECT_NE(frame.error.find(type), std::string::npos) << frame.error;
  }
  EXPECT_FALSE(source.next(frame));
}

TEST_F(FrameSourceTest, DashReadsPathsFromTheList) {
  const std::string a = add_picture("a.png", 3, 2), b = add_picture("b c.png", 3, 2);
  const std::vector<Input> inputs = expand({"-"}, b + "\r\n\n" + a + "\n");
  ASSERT_EQ(inputs.size(), 2u);
  EXPECT_EQ(inputs[0].path, b);
  EXPECT_EQ(inputs[1].path, a);
}

TEST_F(FrameSourceTest, ABrokenPictureDoesNotStopTheRest) {
  const std::string a = add_picture("a.png", 5, 4), z = add_picture("z.png", 6, 7);
  const std::string broken = (folder_ / "broken.png").string();
  write_file(broken, "\x89PNG\r\n\x1a\n nothing");
  InputSource source(expand({a, broken, "/none.mp4", z}), {});
  EXPECT_EQ(source.estimated_total(), 4);
  SourceFrame frame;
  ASSERT_TRUE(source.next(frame));
  EXPECT_EQ(frame.view.width, 5);
  EXPECT_EQ(frame.view.height, 4);
  ASSERT_TRUE(source.next(frame));
  EXPECT_NE(frame.error.find(broken), std::string::npos) << frame.error;
  EXPECT_EQ(frame.view.planes[0], nullptr);
  ASSERT_TRUE(source.next(frame));
  EXPECT_NE(frame.error.find("/none.mp4"), std::string::npos);
  ASSERT_TRUE(source.next(frame));
  EXPECT_EQ(frame.error, "");
  EXPECT_EQ(frame.file, z);
  EXPECT_EQ(frame.view.width, 6);
  EXPECT_FALSE(frame.frame.has_value());
  EXPECT_FALSE(source.next(frame));
}

TEST_F(FrameSourceTest, AFileNamedAsAVideoThatIsNoneIsReported) {
  const std::string video = (folder_ / "v.mp4").string();
  write_file(video, "not a video at all");
  const std::string a = add_picture("a.png", 5, 4);
  InputSource source(expand({video, a}), {});
  SourceFrame frame;
  ASSERT_TRUE(source.next(frame));
  EXPECT_NE(frame.error.find(video), std::string::npos) << frame.error;
  ASSERT_TRUE(source.next(frame));
  EXPECT_EQ(frame.file, a);
  EXPECT_EQ(frame.error, "");
  EXPECT_FALSE(source.next(frame));
}

TEST_F(FrameSourceTest, CancellingEndsTheSource) {
  const std::string a = add_picture("a.png", 5, 4);
  InputOptions options;
  bool stop = false;
  options.cancelled = [&] { return stop; };
  InputSource source(expand({a, a}), options);
  SourceFrame frame;
  ASSERT_TRUE(source.next(frame));
  stop = true;
  EXPECT_FALSE(source.next(frame));
}

}  // namespace
}  // namespace rfseg
