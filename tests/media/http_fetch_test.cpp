// Pictures over networks that break, against a loopback server.

#include "media/http_fetch.h"

#include <gtest/gtest.h>

#include <chrono>

#include "checkpoint/http_server.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using test::Exchange;
using test::HttpServer;

FetchOptions quick() {
  FetchOptions options;
  options.stall_timeout_s = 1;
  return options;
}

std::string error_of(const std::string& url, const FetchOptions& options, ErrorCode code) {
  try {
    fetch_url(url, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return "";
}

TEST(HttpFetchTest, GivesTheBytesAlsoAfterARedirection) {
  std::string body;
  for (int i = 0; i < 70000; ++i) body += static_cast<char>(i * 31);
  HttpServer server([&](const Exchange& exchange) {
    if (exchange.path() == "/old.jpg?size=2") {
      exchange.send("HTTP/1.1 302 Found\r\nLocation: /new.jpg\r\nContent-Length: 0\r\n\r\n");
    } else {
      exchange.answer(body);
    }
  });
  const std::vector<uint8_t> bytes = fetch_url(server.url("old.jpg?size=2"), quick());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), body);
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST(HttpFetchTest, FailuresNameTheUrl) {
  HttpServer server([](const Exchange& exchange) {
    if (exchange.path() == "/none.jpg") {
      exchange.send("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone");
    } else if (exchange.path() == "/cut.jpg") {
      exchange.answer_part(std::string(1000, 'x'), 400);
    } else if (exchange.path() == "/loop.jpg") {
      exchange.send("HTTP/1.1 302 Found\r\nLocation: /loop.jpg\r\nContent-Length: 0\r\n\r\n");
    } else if (exchange.path() == "/file.jpg") {
      exchange.send("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n");
    } else {
      exchange.answer_part(std::string(1000, 'x'), 10);
      exchange.stall();
    }
  });
  for (const char* name : {"none.jpg", "cut.jpg", "loop.jpg", "file.jpg", "slow.jpg"}) {
    const std::string url = server.url(name);
    EXPECT_NE(error_of(url, quick(), ErrorCode::kInput).find(url + ": "), std::string::npos);
  }
  EXPECT_NE(error_of(server.url("none.jpg"), quick(), ErrorCode::kInput).find("404"),
            std::string::npos);
}

TEST(HttpFetchTest, MemoryIsBounded) {
  // No length is stated and the server would send for ever.
  HttpServer server([](const Exchange& exchange) {
    exchange.send("HTTP/1.1 200 OK\r\n\r\n");
    for (int i = 0; i < 10000; ++i) exchange.send(std::string(1000, 'x'));
  });
  FetchOptions options = quick();
  options.max_bytes = 5000;
  EXPECT_NE(error_of(server.url("a.jpg"), options, ErrorCode::kInput).find("5000 bytes"),
            std::string::npos);
  options.max_bytes = 10000000;
  EXPECT_EQ(fetch_url(server.url("a.jpg"), options).size(), 10000000u);
}

TEST(HttpFetchTest, CancellingEndsAStalledTransfer) {
  HttpServer server([](const Exchange& exchange) { exchange.stall(); });
  FetchOptions options;
  const auto start = std::chrono::steady_clock::now();
  options.cancelled = [&] {
    return std::chrono::steady_clock::now() - start > std::chrono::milliseconds(100);
  };
  error_of(server.url("a.jpg"), options, ErrorCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(HttpFetchTest, PicturesAreToldByThePathOfTheUrl) {
  for (const char* url :
       {"http://host/a.jpg", "HTTPS://host:1/b/a.PNG?size=3&x=y.mp4", "http://host/a.webp#part"}) {
    EXPECT_TRUE(is_image_url(url)) << url;
  }
  for (const char* url : {"http://host/a.mp4", "http://host/stream", "rtsp://host/a.jpg",
                          "http://host/?name=a.jpg", "http://host.bmp", "/folder/a.jpg"}) {
    EXPECT_FALSE(is_image_url(url)) << url;
  }
}

}  // namespace
}  // namespace rfseg
