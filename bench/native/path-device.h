// Devices of the programs that `culvert bench path` compares with: a TUN or TAP and a UDP socket,
// opened in the network namespace that the program was started in.

#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/** Ends the program with the cause on standard error. */
__attribute__((noreturn)) static inline void fail(const char *operation, const char *object) {
  fprintf(stderr, "%s %s: %s\n", operation, object, strerror(errno));
  exit(1);
}

static inline void require(int result, const char *operation, const char *object) {
  if (result < 0) fail(operation, object);
}

/** Creates a device; `flags` are those of TUNSETIFF. Its descriptor does not block. */
static inline int openDevice(const char *name, int flags) {
  struct ifreq request = {.ifr_flags = (short)flags};
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  require(fd, "open", "/dev/net/tun");
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  require(ioctl(fd, TUNSETIFF, &request), "ioctl(TUNSETIFF)", name);
  return fd;
}

static inline struct sockaddr_in socketAddress(const char *address, int port) {
  struct sockaddr_in result = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, address, &result.sin_addr) == 1) return result;
  errno = EINVAL;
  fail("parse address", address);
}

/** Opens a UDP socket bound to `address`, port 0 for any. */
static inline int openUdp(const char *address, int port) {
  struct sockaddr_in local = socketAddress(address, port);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  require(fd, "socket", address);
  require(bind(fd, (struct sockaddr *)&local, sizeof local), "bind", address);
  return fd;
}

static inline void setOption(int fd, int level, int option, int value, const char *name) {
  require(setsockopt(fd, level, option, &value, sizeof value), "setsockopt", name);
}

/** Says that the devices are there. */
static inline void sayReady(void) {
  require((int)write(STDERR_FILENO, "ready\n", 6), "write", "standard error");
}

/** Waits for packets. Returns false once standard input has ended: whoever started us is gone. */
static inline bool waitForPackets(struct pollfd *fds, int count) {
  require(poll(fds, (nfds_t)count, -1) < 0 && errno != EINTR ? -1 : 0, "poll", "devices");
  return (fds[0].revents & (POLLHUP | POLLERR | POLLIN)) == 0;
}
