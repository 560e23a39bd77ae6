/* The limit: one HTTP request, then nothing but recv() and clock_gettime() until the server closes.
 *
 * usage: raw_client PORT TARGET BODY_BYTES
 * Prints: cpu_ns wall_ns sent_ns, then "ns bytes" for each receive. Times: CLOCK_MONOTONIC, as perf_counter_ns.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READS_MAX 1000000

static long long now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    static char received[65536];
    long long *at = malloc(READS_MAX * sizeof *at);
    long *bytes = malloc(READS_MAX * sizeof *bytes);
    int body = atoi(argv[3]);
    char *request = malloc(4096 + body);
    if (!at || !bytes || !request) return 3;
    int size = snprintf(request, 4096,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n",
                        argv[2], body);
    memset(request + size, 'x', body);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, reads = 0;
    long long cpu = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) return 4;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (write(fd, request, size + body) != size + body) return 5;
    long long sent = now(CLOCK_MONOTONIC);
    ssize_t n;
    while ((n = recv(fd, received, sizeof received, 0)) > 0 && reads < READS_MAX) {
        at[reads] = now(CLOCK_MONOTONIC);
        bytes[reads++] = n;
    }
    long long wall = now(CLOCK_MONOTONIC) - start;
    printf("%lld %lld %lld\n", now(CLOCK_PROCESS_CPUTIME_ID) - cpu, wall, sent);
    for (int i = 0; i < reads; i++) printf("%lld %ld\n", at[i], bytes[i]);
    return 0;
}
