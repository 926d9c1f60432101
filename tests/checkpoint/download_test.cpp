// Downloads over networks that break, against a loopback server.

#include "checkpoint/download.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>

#include "checkpoint/checkpoint.h"
#include "checkpoint/http_server.h"
#include "checkpoint/test_files.h"
#include "core/temporary_folder.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using test::Exchange;
using test::HttpServer;
using test::TemporaryFolder;

// 100,000 bytes, and their MD5 as `md5sum` prints it.
std::string body() {
  std::string bytes;
  for (int i = 0; bytes.size() < 100'000; ++i) bytes += "line " + std::to_string(i) + "\n";
  bytes.resize(100'000);
  return bytes;
}
constexpr char kMd5[] = "e5197e995938b200a9fb5875db90272b";

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool exists(const std::string& path) { return std::filesystem::exists(path); }

DownloadOptions quick() {
  DownloadOptions options;
  options.stall_timeout_s = 1;
  options.attempts = 2;
  return options;
}

template <class Function>
std::string error_of(const Function& function, ErrorCode code) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return "";
}

class Download : public testing::Test {
 protected:
  void SetUp() override { setenv("no_proxy", "127.0.0.1", 1); }
  void expect_good() const {
    EXPECT_EQ(contents(path_), body());
    EXPECT_FALSE(exists(path_ + ".part"));
  }
  TemporaryFolder folder_;
  const std::string path_ = folder_ / "weights.pth";
};

TEST_F(Download, WholeFileWithProgress) {
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  uint64_t done = 0, total = 0;
  DownloadOptions options = quick();
  options.progress = [&](uint64_t d, uint64_t t) {
    EXPECT_GE(d, done);
    done = d;
    total = t;
  };
  download_file(server.url("a/b.pth"), path_, kMd5, options);
  expect_good();
  EXPECT_EQ(done, 100'000u);
  EXPECT_EQ(total, 100'000u);
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_EQ(server.requests()[0].rfind("GET /a/b.pth ", 0), 0u);
}

TEST_F(Download, AGoodFileIsNotFetchedAgain) {
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  std::ofstream(path_, std::ios::binary) << body();
  download_file(server.url(), path_, kMd5, quick());
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(Download, AnotherFileOfThatNameIsReplacedOnlyByAGoodOne) {
  std::ofstream(path_, std::ios::binary) << "older";
  {
    HttpServer server([](const Exchange& e) { e.answer("not it"); });
    error_of([&] { download_file(server.url(), path_, kMd5, quick()); }, ErrorCode::kInput);
    EXPECT_EQ(contents(path_), "older");
  }
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
}

TEST_F(Download, BrokenTransfersContinueByThemselves) {
  HttpServer server([](const Exchange& e) { e.answer_part(body(), 30'000); });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].find("Range:"), std::string::npos);
  EXPECT_NE(requests[1].find("Range: bytes=30000-"), std::string::npos);
  EXPECT_NE(requests[3].find("Range: bytes=90000-"), std::string::npos);
}

TEST_F(Download, TheNextCallContinuesWhatWasLeft) {
  {
    HttpServer server([](const Exchange& e) {
      if (e.range() == 0) return e.answer_part(body(), 40'000);
      e.stall();
    });
    const std::string text =
        error_of([&] { download_file(server.url(), path_, kMd5, quick()); }, ErrorCode::kInput);
    EXPECT_NE(text.find("no data for 1 seconds"), std::string::npos) << text;
    EXPECT_NE(text.find("40000 bytes are kept"), std::string::npos) << text;
  }
  EXPECT_FALSE(exists(path_));
  EXPECT_EQ(contents(path_ + ".part").size(), 40'000u);
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
  EXPECT_NE(server.requests().at(0).find("Range: bytes=40000-"), std::string::npos);
}

TEST_F(Download, ServerThatIgnoresRanges) {
  std::ofstream(path_ + ".part", std::ios::binary) << body().substr(0, 70'000);
  HttpServer server([](const Exchange& e) {
    e.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    e.send(body());
  });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
}

TEST_F(Download, ServerThatSendsAnotherRange) {
  std::ofstream(path_ + ".part", std::ios::binary) << body().substr(0, 70'000);
  HttpServer server([](const Exchange& e) {
    if (e.range() == 0) return e.answer(body());
    e.send(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-99999/100000\r\n"
        "Content-Length: 99995\r\n\r\n");
    e.send(body().substr(5));
  });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
}

TEST_F(Download, WholeOrTooLongPart) {
  for (const std::string extra : {"", "more"}) {
    std::filesystem::remove(path_);
    std::ofstream(path_ + ".part", std::ios::binary) << body() << extra;
    HttpServer server([](const Exchange& e) { e.answer(body()); });
    download_file(server.url(), path_, kMd5, quick());
    expect_good();
    EXPECT_EQ(server.requests().size(), extra.empty() ? 1u : 2u);
  }
}

TEST_F(Download, PartOfAnotherFileStartsAgain) {
  std::ofstream(path_ + ".part", std::ios::binary) << std::string(70'000, 'x');
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST_F(Download, WrongContentsAreThrownAway) {
  HttpServer server([](const Exchange& e) { e.answer("<html>captive portal</html>"); });
  const std::string text =
      error_of([&] { download_file(server.url("w"), path_, kMd5, quick()); }, ErrorCode::kInput);
  EXPECT_NE(text.find(server.url("w")), std::string::npos) << text;
  EXPECT_NE(text.find(kMd5), std::string::npos) << text;
  EXPECT_FALSE(exists(path_));
  EXPECT_FALSE(exists(path_ + ".part"));
}

TEST_F(Download, NotFoundIsSaidAtOnce) {
  HttpServer server([](const Exchange& e) {
    e.send("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found");
  });
  const std::string text =
      error_of([&] { download_file(server.url(), path_, kMd5, quick()); }, ErrorCode::kInput);
  EXPECT_NE(text.find("404"), std::string::npos) << text;
  EXPECT_EQ(server.requests().size(), 1u);
  EXPECT_FALSE(exists(path_));
}

TEST_F(Download, ServerErrorsAreTriedAgain) {
  std::atomic<int> calls{0};
  HttpServer server([&](const Exchange& e) {
    if (calls++ == 0) return e.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    e.answer(body());
  });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
}

TEST_F(Download, SilentServerIsGivenUp) {
  HttpServer server([](const Exchange& e) { e.stall(); });
  const std::string text =
      error_of([&] { download_file(server.url(), path_, kMd5, quick()); }, ErrorCode::kInput);
  EXPECT_NE(text.find("no data"), std::string::npos) << text;
  EXPECT_FALSE(exists(path_));
}

TEST_F(Download, SlowButSteadyIsNotGivenUp) {
  HttpServer server([](const Exchange& e) {
    const std::string whole = body();
    e.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    for (std::size_t at = 0; at < whole.size(); at += 20'000) {
      e.send(std::string_view(whole).substr(at, 20'000));
      std::this_thread::sleep_for(std::chrono::milliseconds(400));
    }
  });
  download_file(server.url(), path_, kMd5, quick());
  expect_good();
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST_F(Download, NobodyThere) {
  std::string url;
  {
    HttpServer gone([](const Exchange&) {});
    url = gone.url();
  }
  error_of([&] { download_file(url, path_, kMd5, quick()); }, ErrorCode::kInput);
  error_of([&] { download_file("file:///etc/passwd", path_, kMd5, quick()); }, ErrorCode::kInput);
  EXPECT_FALSE(exists(path_));
}

TEST_F(Download, RedirectsAreFollowed) {
  HttpServer server([&](const Exchange& e) {
    if (e.path() == "/old")
      return e.send("HTTP/1.1 302 Found\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n");
    e.answer(body());
  });
  download_file(server.url("old"), path_, kMd5, quick());
  expect_good();
}

TEST_F(Download, Cancelling) {
  HttpServer server([](const Exchange& e) {
    e.answer_part(body(), 40'000);
    e.stall();
  });
  DownloadOptions options = quick();
  options.stall_timeout_s = 60;
  const auto start = std::chrono::steady_clock::now();
  options.cancelled = [&] {
    return std::chrono::steady_clock::now() - start > std::chrono::milliseconds(300);
  };
  error_of([&] { download_file(server.url(), path_, kMd5, options); }, ErrorCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_FALSE(exists(path_));
  EXPECT_EQ(contents(path_ + ".part").size(), 40'000u);
}

TEST_F(Download, PlacesThatCannotBeWritten) {
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  error_of([&] { download_file(server.url(), folder_ / "none/x.pth", kMd5, quick()); },
           ErrorCode::kOutput);
  error_of([&] { download_file(server.url(), folder_ / "", kMd5, quick()); }, ErrorCode::kOutput);
  const int other = open((path_ + ".part").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(flock(other, LOCK_EX), 0);
  const std::string text =
      error_of([&] { download_file(server.url(), path_, kMd5, quick()); }, ErrorCode::kOutput);
  EXPECT_NE(text.find("another download"), std::string::npos) << text;
  close(other);
  EXPECT_TRUE(server.requests().empty());
}

// ---------------------------------------------------------------------------- official weights

class Releases : public testing::Test {
 protected:
  void SetUp() override {
    setenv("no_proxy", "127.0.0.1", 1);
    setenv("RF_HOME", (folder_ / "cache").c_str(), 1);
    unsetenv("ROBOFLOW_HOME");
    unsetenv("RFSEG_WEIGHTS_URL");
  }
  void TearDown() override {
    unsetenv("RF_HOME");
    unsetenv("RFSEG_WEIGHTS_URL");
  }
  TemporaryFolder folder_;
};

TEST_F(Releases, EveryVariantHasOne) {
  ASSERT_EQ(weights_releases().size(), stock_variants().size());
  std::set<std::string> sums;
  for (std::size_t i = 0; i < stock_variants().size(); ++i) {
    const WeightsRelease& release = weights_releases()[i];
    EXPECT_EQ(release.variant, stock_variants()[i]);
    EXPECT_EQ(release.md5.size(), 32u);
    EXPECT_EQ(release.md5.find_first_not_of("0123456789abcdef"), std::string::npos);
    sums.insert(release.md5);
    const bool platform = release.variant == "xlarge" || release.variant == "2xlarge";
    EXPECT_EQ(release.license, platform ? "PML-1.0" : "Apache-2.0");
  }
  EXPECT_EQ(sums.size(), 15u);
  error_of([] { weights_release("seg-giant"); }, ErrorCode::kUsage);
  error_of([] { download_weights("seg-giant"); }, ErrorCode::kUsage);
}

TEST_F(Releases, FolderFollowsTheEnvironment) {
  EXPECT_EQ(weights_folder(), folder_ / "cache");
  setenv("ROBOFLOW_HOME", "/somewhere", 1);
  EXPECT_EQ(weights_folder(), folder_ / "cache");
  unsetenv("RF_HOME");
  EXPECT_EQ(weights_folder(), "/somewhere");
  unsetenv("ROBOFLOW_HOME");
  const char* set = std::getenv("HOME");
  const std::optional<std::string> home =
      set != nullptr ? std::optional<std::string>(set) : std::nullopt;
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(weights_folder(), "/home/someone/.roboflow/models");
  unsetenv("HOME");
  EXPECT_NE(error_of([] { weights_folder(); }, ErrorCode::kUsage).find("RF_HOME"),
            std::string::npos);
  if (home) setenv("HOME", home->c_str(), 1);
}

TEST_F(Releases, AsksTheMirrorForTheOfficialFileAndVerifiesIt) {
  HttpServer server([](const Exchange& e) { e.answer(body()); });
  setenv("RFSEG_WEIGHTS_URL", server.url("mirror").c_str(), 1);
  const std::string text =
      error_of([] { download_weights("seg-nano", "", "", quick()); }, ErrorCode::kInput);
  EXPECT_NE(text.find("9995497791d0ff1664a1d9ddee9cfd20"), std::string::npos) << text;
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_EQ(server.requests()[0].rfind("GET /mirror/rf-detr-seg-n-ft.pth ", 0), 0u);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "cache"));
  EXPECT_FALSE(find_downloaded("seg-nano").has_value());
  // A base URL that is given goes before the environment's.
  error_of([&] { download_weights("xlarge", folder_ / "x.pth", server.url("other/"), quick()); },
           ErrorCode::kInput);
  EXPECT_EQ(server.requests().at(1).rfind("GET /other/platform-licensed/rf-detr-xlarge.pth ", 0),
            0u);
}

TEST_F(Releases, FindsWhatWasDownloaded) {
  EXPECT_FALSE(find_downloaded("seg-2xlarge").has_value());
  std::filesystem::create_directories(folder_ / "cache");
  std::ofstream(folder_ / "cache/rf-detr-seg-xxlarge.pt") << "weights";
  EXPECT_EQ(find_downloaded("seg-2xlarge"), folder_ / "cache/rf-detr-seg-xxlarge.pt");
}

}  // namespace
}  // namespace rfseg
