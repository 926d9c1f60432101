#include "core/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "rfseg/error.h"

namespace rfseg {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "rfseg-files-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const char* name) const { return (folder_ / name).string(); }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }
  static std::string contents(const std::string& name) {
    std::ifstream file(name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  fs::path folder_;
};

TEST_F(FilesTest, OutputAppearsOnlyWithCommit) {
  {
    OutputFile file(path("a.txt"));
    file.write("half");
    EXPECT_FALSE(fs::exists(path("a.txt")));
  }
  EXPECT_EQ(entries(), 0u);
  OutputFile file(path("a.txt"));
  file.write("whole");
  file.commit();
  EXPECT_EQ(contents(path("a.txt")), "whole");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FilesTest, AbandonedOutputLeavesTheOldFile) {
  write_file(path("a.txt"), "old");
  {
    OutputFile file(path("a.txt"));
    file.write("new");
  }
  EXPECT_EQ(contents(path("a.txt")), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FilesTest, OutputHasTheUsualPermissions) {
  const mode_t mask = umask(022);
  write_file(path("a.txt"), "x");
  umask(mask);
  struct stat info {};
  ASSERT_EQ(stat(path("a.txt").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644u);
}

TEST_F(FilesTest, AStreamNamedAsAFileKeepsWhatItHolds) {
  std::FILE* stream = std::fopen(path("log").c_str(), "ab");
  ASSERT_NE(stream, nullptr);
  std::fputs("before ", stream);
  std::fflush(stream);
  write_file("/dev/fd/" + std::to_string(fileno(stream)), "between ");
  write_file("/proc/self/fd/" + std::to_string(fileno(stream)), "more ");
  std::fputs("after", stream);
  std::fclose(stream);
  EXPECT_EQ(contents(path("log")), "before between more after");
  EXPECT_EQ(entries(), 1u);
  try {
    write_file("/dev/fd/987654", "x");
    FAIL() << "a descriptor that is not open was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("/dev/fd/987654"), std::string::npos);
  }
}

TEST_F(FilesTest, PipesAreWrittenDirectly) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  std::string received;
  std::thread reader([&] { received = contents(path("pipe")); });
  write_file(path("pipe"), "through");
  reader.join();
  EXPECT_EQ(received, "through");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FilesTest, FullDiskIsAnOutputError) {
  try {
    write_file("/dev/full", std::string(100000, 'x'));
    FAIL() << "writing to a full device succeeded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos);
  }
}

TEST_F(FilesTest, MissingFolderAndFolderAsTargetAreOutputErrors) {
  for (const std::string& target : {path("no/such/a.txt"), folder_.string()}) {
    try {
      write_file(target, "x");
      FAIL() << target;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutput);
      EXPECT_NE(std::string(error.what()).find(target), std::string::npos);
    }
  }
}

TEST_F(FilesTest, ReadReturnsAllBytesAndRefusesWhatIsTooLarge) {
  const std::string text(200001, 'y');
  write_file(path("a"), text);
  const auto bytes = read_file(path("a"));
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), text);
  EXPECT_THROW(read_file(path("a"), 200000), Error);
  EXPECT_EQ(read_file(path("a"), 200001).size(), text.size());
  EXPECT_THROW(read_file(path("none")), Error);
  EXPECT_THROW(read_file(folder_.string()), Error);
  EXPECT_THROW(read_file("/dev/zero", 100000), Error);
}

}  // namespace
}  // namespace rfseg
