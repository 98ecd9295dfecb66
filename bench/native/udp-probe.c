// Small UDP datagrams for `culvert bench path`: how many a second arrive, and how long one takes
// there and back. Starts in the network namespace of its end.
//
//   udp-probe flood ADDRESS PORT SIZE RATE SECONDS    prints how many were sent
//   udp-probe sink ADDRESS PORT        until standard input ends; prints how many came, and in how
//                                      many nanoseconds between the first and the last
//   udp-probe echo ADDRESS PORT        until standard input ends
//   udp-probe ping ADDRESS PORT COUNT PAUSE_US        prints each round trip in nanoseconds

#define _GNU_SOURCE

#include "path-device.h"

#include <time.h>

#define BATCH 32
#define SIZE_LIMIT 2048
#define SINK_BUFFER (16 << 20)
#define ANSWER_LIMIT_MS 200
#define WARM_UP 20
#define NANOSECONDS 1000000000LL

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (time.tv_sec * NANOSECONDS) + time.tv_nsec;
}

static void pauseFor(int64_t nanoseconds) {
  struct timespec time = {nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS};
  nanosleep(&time, NULL);
}

static int openConnected(const char *address, int port) {
  struct sockaddr_in remote = socketAddress(address, port);
  int fd = openUdp("0.0.0.0", 0);
  require(connect(fd, (struct sockaddr *)&remote, sizeof remote), "connect", address);
  return fd;
}

/** Messages of one part each, all over the same bytes. */
static void setMessages(struct mmsghdr *messages, struct iovec *parts, uint8_t *bytes, int size) {
  for (int index = 0; index < BATCH; index += 1) {
    parts[index] = (struct iovec){bytes, (size_t)size};
    messages[index] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[index], .msg_iovlen = 1}};
  }
}

/** Sends at a steady rate, or as fast as it can where that is less. */
static void flood(int fd, int size, int64_t rate, double seconds) {
  static uint8_t bytes[SIZE_LIMIT];
  struct mmsghdr messages[BATCH];
  struct iovec parts[BATCH];
  setMessages(messages, parts, bytes, size < SIZE_LIMIT ? size : SIZE_LIMIT);
  int64_t start = now();
  int64_t end = start + (int64_t)(seconds * (double)NANOSECONDS);
  int64_t count = 0;
  for (int64_t time = start; time < end; time = now()) {
    int64_t due = start + (count * NANOSECONDS / rate);
    if (due > time) pauseFor(due - time);
    int sent = sendmmsg(fd, messages, BATCH, 0);
    count += sent > 0 ? sent : 0;
  }
  printf("%lld\n", (long long)count);
}

static void sink(int fd) {
  static uint8_t bytes[SIZE_LIMIT];
  struct mmsghdr messages[BATCH];
  struct iovec parts[BATCH];
  struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {fd, POLLIN, 0}};
  setMessages(messages, parts, bytes, SIZE_LIMIT);
  setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, SINK_BUFFER, "SO_RCVBUFFORCE");
  int64_t first = 0, last = 0, count = 0;
  sayReady();
  while (waitForPackets(fds, 2)) {
    int received = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    if (received <= 0) continue;
    last = now();
    if (count == 0) first = last;
    count += received;
  }
  printf("%lld %lld\n", (long long)count, (long long)(last - first));
}

static void echo(int fd) {
  uint8_t bytes[SIZE_LIMIT];
  struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {fd, POLLIN, 0}};
  sayReady();
  while (waitForPackets(fds, 2)) {
    struct sockaddr_in from;
    socklen_t fromSize = sizeof from;
    ssize_t length = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from,
      &fromSize);
    if (length >= 0) sendto(fd, bytes, (size_t)length, 0, (struct sockaddr *)&from, fromSize);
  }
}

/** One exchange. Returns its nanoseconds, or -1 when no answer came in time. */
static int64_t exchange(int fd, int number) {
  int answer = -1;
  struct pollfd wait = {fd, POLLIN, 0};
  int64_t start = now();
  if (send(fd, &number, sizeof number, 0) < 0) return -1;
  // Answers to earlier ones that came late are passed over.
  while (answer != number) {
    if (poll(&wait, 1, ANSWER_LIMIT_MS) <= 0) return -1;
    if (recv(fd, &answer, sizeof answer, MSG_DONTWAIT) < 0) answer = -1;
  }
  return now() - start;
}

static void ping(int fd, int count, int64_t pauseNs) {
  for (int number = 0; number < count + WARM_UP; number += 1) {
    pauseFor(pauseNs);
    int64_t time = exchange(fd, number);
    if (number >= WARM_UP && time >= 0) printf("%lld\n", (long long)time);
  }
}

int main(int count, char **words) {
  const char *verb = count > 3 ? words[1] : "";
  int port = count > 3 ? atoi(words[3]) : 0;
  if (strcmp(verb, "sink") == 0) sink(openUdp(words[2], port));
  else if (strcmp(verb, "echo") == 0) echo(openUdp(words[2], port));
  else if (strcmp(verb, "flood") == 0 && count == 7) {
    flood(openConnected(words[2], port), atoi(words[4]), atoll(words[5]), atof(words[6]));
  } else if (strcmp(verb, "ping") == 0 && count == 6) {
    ping(openConnected(words[2], port), atoi(words[4]), atoll(words[5]) * 1000);
  } else {
    fprintf(stderr, "usage: udp-probe flood|sink|echo|ping ADDRESS PORT ...\n");
    return 2;
  }
  return 0;
}
