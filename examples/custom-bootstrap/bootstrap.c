/* A custom runtime in C: any static program called `bootstrap` is one. It asks the Runtime API for an event, answers with what the
 * event was, and asks again. One connection for each call keeps the HTTP to what fits here. */

#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* An event is at most 6 MB, its head a few hundred bytes. */
#define MAX_ANSWER (7 * 1024 * 1024)
#define MAX_HEAD 1024
#define API "/2018-06-01/runtime/invocation/"

static char answer[MAX_ANSWER + 1];
static struct sockaddr_in address;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* AWS_LAMBDA_RUNTIME_API is ADDRESS:PORT. */
static void find_api(void) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    const char *colon = api ? strrchr(api, ':') : NULL;
    char host[64];
    if (!colon || (size_t)(colon - api) >= sizeof host) {
        fputs("AWS_LAMBDA_RUNTIME_API is no address\n", stderr);
        exit(1);
    }
    memcpy(host, api, (size_t)(colon - api));
    host[colon - api] = 0;
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail(host);
}

static void send_all(int connection, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(connection, bytes, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) fail("send");
        bytes += sent;
        length -= (size_t)sent;
    }
}

/* Sends a request and reads the whole answer, whose body is returned; its length too. */
static char *call(const char *method, const char *path, const char *body, size_t *length) {
    char head[MAX_HEAD];
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    int size = snprintf(head, sizeof head,
                        "%s " API "%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                        method, path, getenv("AWS_LAMBDA_RUNTIME_API"), *length);
    if (size < 0 || (size_t)size >= sizeof head) exit(1);
    send_all(connection, head, (size_t)size);
    send_all(connection, body, *length);
    size_t have = 0;
    for (;;) {
        ssize_t got = read(connection, answer + have, MAX_ANSWER - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("read");
        if (got == 0) break;
        have += (size_t)got;
    }
    close(connection);
    answer[have] = 0;
    char *end = strstr(answer, "\r\n\r\n");
    if (!end) {
        fputs("an answer without an end of its head\n", stderr);
        exit(1);
    }
    *end = 0;
    *length = have - (size_t)(end + 4 - answer);
    return end + 4;
}

/* The value of a header of the last answer, up to its line's end. */
static int header(const char *name, char *value, size_t room) {
    for (char *line = strstr(answer, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, strlen(name)) || line[strlen(name)] != ':') continue;
        line += strlen(name) + 1;
        line += strspn(line, " ");
        size_t length = strcspn(line, "\r\n");
        if (length >= room) return 0;
        memcpy(value, line, length);
        value[length] = 0;
        return 1;
    }
    return 0;
}

int main(void) {
    static char made[MAX_ANSWER + MAX_HEAD];
    find_api();
    for (unsigned long calls = 1;; calls++) {
        char request_id[128], path[192];
        size_t length = 0;
        char *event = call("GET", "next", "", &length);
        if (!header("lambda-runtime-aws-request-id", request_id, sizeof request_id)) exit(1);
        printf("event %lu has %zu bytes\n", calls, length);
        fflush(stdout);
        int size = snprintf(made, sizeof made, "{\"event\":%s,\"calls\":%lu,\"from\":\"C\"}", event, calls);
        snprintf(path, sizeof path, "%s/response", request_id);
        length = (size_t)size;
        call("POST", path, made, &length);
    }
}
