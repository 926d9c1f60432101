#pragma once

// A loopback HTTP server of one answer a connection, which can break in all the ways that networks
// do.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace rfseg::test {

/// One accepted request and the means to answer it.
class Exchange {
 public:
  Exchange(int socket, std::string request, const std::atomic<bool>& stopping)
      : request(std::move(request)), socket_(socket), stopping_(stopping) {}

  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  /// Says nothing until the client hangs up or the server stops.
  void stall() const {
    pollfd events{socket_, POLLIN, 0};
    while (!stopping_) {
      char byte;
      if (poll(&events, 1, 20) > 0 && recv(socket_, &byte, 1, MSG_DONTWAIT) == 0) return;
    }
  }
  std::string path() const { return request.substr(4, request.find(' ', 4) - 4); }
  /// First byte asked for, 0 if none.
  uint64_t range() const {
    const std::size_t at = request.find("Range: bytes=");
    return at == std::string::npos ? 0 : std::stoull(request.substr(at + 13));
  }
  /// A whole honest answer, from the asked byte on.
  void answer(const std::string& body) const { answer_part(body, body.size()); }
  /// As `answer`, but the connection breaks after `count` bytes of the body.
  void answer_part(const std::string& body, std::size_t count) const {
    const uint64_t from = range();
    if (from >= body.size() && from > 0) {
      send("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    std::string head = from > 0 ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " +
                                      std::to_string(from) + "-" + std::to_string(body.size() - 1) +
                                      "/" + std::to_string(body.size()) + "\r\n"
                                : "HTTP/1.1 200 OK\r\n";
    send(head + "Content-Length: " + std::to_string(body.size() - from) + "\r\n\r\n");
    send(std::string_view(body).substr(from, count));
  }

  const std::string request;

 private:
  int socket_;
  const std::atomic<bool>& stopping_;
};

class HttpServer {
 public:
  using Handler = std::function<void(const Exchange&)>;

  explicit HttpServer(Handler handler) : handler_(std::move(handler)) {
    setenv("no_proxy", "127.0.0.1", 1);  // whatever proxy the environment names
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (listener_ < 0 || bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listener_, 16) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw std::runtime_error("no loopback server");
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~HttpServer() {
    stopping_ = true;
    thread_.join();
    close(listener_);
  }

  std::string url(const std::string& path = "") const {
    return "http://127.0.0.1:" + std::to_string(port_) + "/" + path;
  }
  std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void serve() {
    pollfd events{listener_, POLLIN, 0};
    while (!stopping_) {
      if (poll(&events, 1, 20) <= 0) continue;
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) continue;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t n = recv(connection, buffer, sizeof(buffer), 0);
        if (n <= 0) break;
        request.append(buffer, static_cast<std::size_t>(n));
      }
      if (request.find("\r\n\r\n") != std::string::npos) {
        {
          const std::lock_guard lock(mutex_);
          requests_.push_back(request);
        }
        handler_(Exchange(connection, request, stopping_));
      }
      shutdown(connection, SHUT_RDWR);
      close(connection);
    }
  }

  Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

}  // namespace rfseg::test
