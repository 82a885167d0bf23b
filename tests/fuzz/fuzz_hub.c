// SPDX-License-Identifier: MIT
/* The head of a hub's answer, and the URL that its Location means. */
#include "fuzz.h"
#include "io/download.h"
#include "io/head.h"

static const piece pieces[] = {
    PIECE("HTTP/1.1 206 Partial Content\r\n"),
    PIECE("Content-Range: bytes 7-99/100\r\n"),
    PIECE("content-range:\t"),
    PIECE("bytes 7-"),
    PIECE("9223372036854775808"),
    PIECE("-1"),
    PIECE("Location: https://127.0.0.2:8443/a?b=c#d\r\n"),
    PIECE("Location: ../x%2e%2e/y\r\n"),
    PIECE("Location: //user:secret@host/\r\n"),
    PIECE("Location: file:///etc/passwd\r\n"),
    PIECE("X-Linked-Etag: \"0123456789012345678901234567890123456789\"\r\n"),
    PIECE("\r\n"),
    PIECE("\n"),
    PIECE(": "),
};

MUTATOR(data, size, max_size, seed) {
  dice d = {seed};
  return mutate_pieces(data, size, max_size, 0, pieces, sizeof pieces / sizeof *pieces, &d);
}

/* What follows from the answer: a value lies in the head, a URL is of http. */
static void read_head(const char *head) {
  moon_err err = {0};
  moon_url url;
  const char *location = moon_head_field(head, "location");
  if (location && (location < head || location > head + strlen(head)))
    __builtin_trap();
  if (moon_head_continues(head, 7, 100) && !moon_head_field(head, "Content-Range"))
    __builtin_trap();
  char *line = location ? strndup(location, strcspn(location, "\r\n")) : NULL;
  if (!line)
    return;
  moon_status status = moon_url_parse(&url, line, "https://hub.example/a/b", &err);
  check_message(status, &err);
  if (status == MOON_OK) {
    if (strcmp(url.scheme, "http") && strcmp(url.scheme, "https"))
      __builtin_trap();
    moon_url_free(&url);
  }
  free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *head = malloc(size + 1);
  memcpy(head, data, size);
  head[size] = 0;
  read_head(head);
  free(head);
  return 0;
}
