// SPDX-License-Identifier: MIT
#include "host/gate.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <string.h>
#include <strings.h>

/* The headers that decide, and how often each came. */
typedef struct deciding {
  gate_text host, length, encoding, origin, site, authorization, cookie;
  int n_host, n_length, n_encoding, n_origin, n_site, n_authorization;
} deciding;

static const deciding nothing = {.host = {"", 0},
                                 .length = {"", 0},
                                 .encoding = {"", 0},
                                 .origin = {"", 0},
                                 .site = {"", 0},
                                 .authorization = {"", 0},
                                 .cookie = {"", 0}};

static const gate_verdict accepted = {0};

static gate_verdict refuse(unsigned status, const char *code, const char *detail) {
  return (gate_verdict){status, code, detail};
}

static bool is(gate_text text, const char *word) {
  return text.size == strlen(word) && strncasecmp(text.bytes, word, text.size) == 0;
}

/* RFC 9110's token: what a name or a method is made of */
static bool is_token(gate_text text) {
  for (size_t i = 0; i < text.size; i++) {
    unsigned char c = (unsigned char)text.bytes[i];
    if (c <= ' ' || c >= 0x7F || strchr("\"(),/:;<=>?@[\\]{}", c))
      return false;
  }
  return text.size > 0;
}

static bool has_control_bytes(gate_text text) {
  for (size_t i = 0; i < text.size; i++) {
    unsigned char c = (unsigned char)text.bytes[i];
    if ((c < ' ' && c != '\t') || c == 0x7F)
      return true;
  }
  return false;
}

static bool is_visible_ascii(const char *text) {
  for (; *text; text++)
    if (*text <= ' ' || *text >= 0x7F) /* a signed char is below ' ' from 0x80 on */
      return false;
  return true;
}

static gate_verdict gather(const gate_request *request, deciding *d) {
  const struct {
    const char *name;
    gate_text *value;
    int *count;
  } wanted[] = {
      {"host", &d->host, &d->n_host},
      {"content-length", &d->length, &d->n_length},
      {"transfer-encoding", &d->encoding, &d->n_encoding},
      {"origin", &d->origin, &d->n_origin},
      {"sec-fetch-site", &d->site, &d->n_site},
      {"authorization", &d->authorization, &d->n_authorization},
      {"cookie", &d->cookie, NULL},
  };
  for (size_t i = 0; i < request->n_headers; i++) {
    const gate_header *h = &request->headers[i];
    if (!is_token(h->name))
      return refuse(400, "EHEADER", "a header's name has a character that no name has");
    if (has_control_bytes(h->value))
      return refuse(400, "EHEADER", "a header's value has a control character");
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++)
      if (is(h->name, wanted[w].name)) {
        *wanted[w].value = h->value;
        if (wanted[w].count)
          ++*wanted[w].count;
        break;
      }
  }
  return accepted;
}

static bool is_digits(gate_text text) {
  for (size_t i = 0; i < text.size; i++)
    if (text.bytes[i] < '0' || text.bytes[i] > '9')
      return false;
  return text.size > 0;
}

/* More digits than 18 are more than any limit. */
static bool is_above(gate_text digits, uint64_t limit) {
  uint64_t n = 0;
  for (size_t i = 0; i < digits.size; i++) {
    n = n * 10 + (uint64_t)(digits.bytes[i] - '0');
    if (n > limit)
      return true;
  }
  return false;
}

static gate_verdict check_framing(const gate_rules *rules, const gate_request *request,
                                  const deciding *d) {
  if (d->n_host > 1 || d->n_length > 1 || d->n_encoding > 1)
    return refuse(400, "EHEADER",
                  "Host, Content-Length and Transfer-Encoding may each come once only");
  if (d->n_length && d->n_encoding)
    return refuse(400, "EHEADER", "Content-Length and Transfer-Encoding may not come together");
  if (d->n_encoding && !is(d->encoding, "chunked"))
    return refuse(400, "EHEADER", "Transfer-Encoding: expected chunked");
  if (d->n_encoding && !strcmp(request->version, "HTTP/1.0"))
    return refuse(400, "EHEADER", "Transfer-Encoding: HTTP/1.0 has none");
  if (d->n_length && !is_digits(d->length))
    return refuse(400, "EHEADER", "Content-Length: expected digits");
  if (d->n_length && is_above(d->length, rules->max_body_bytes))
    return refuse(413, "ETOOBIG", "the body is larger than the limit of 8 MiB");
  return accepted;
}

/* "localhost:8000" without its port. An empty text where the port is none. */
static gate_text name_of(gate_text host) {
  const gate_text none = {"", 0};
  const char *end = host.bytes + host.size, *after = host.bytes;
  if (host.size && *host.bytes == '[') {
    after = memchr(host.bytes, ']', host.size);
    after = after ? after + 1 : end;
  } else {
    while (after < end && *after != ':')
      after++;
  }
  gate_text port = {after, (size_t)(end - after)};
  if (port.size && (*port.bytes != ':' || port.size < 2 || port.size > 6 ||
                    !is_digits((gate_text){port.bytes + 1, port.size - 1})))
    return none;
  return (gate_text){host.bytes, (size_t)(after - host.bytes)};
}

static bool is_address(gate_text name) {
  char text[INET6_ADDRSTRLEN + 2];
  unsigned char address[sizeof(struct in6_addr)];
  if (name.size >= sizeof text)
    return false;
  memcpy(text, name.bytes, name.size);
  text[name.size] = '\0';
  if (*text != '[')
    return inet_pton(AF_INET, text, address) == 1;
  char *end = strchr(text, ']');
  if (!end)
    return false;
  *end = '\0';
  return inet_pton(AF_INET6, text + 1, address) == 1;
}

static gate_verdict check_host(const gate_rules *rules, const deciding *d) {
  gate_text name = name_of(d->host);
  for (const char *const *host = rules->hosts; *host; host++)
    if (is(name, *host))
      return accepted;
  if (rules->any_address && is_address(name))
    return accepted;
  return refuse(d->n_host ? 403 : 400, "EHOST",
                "the Host header is none of this server's names (--allow-host NAME adds one)");
}

/* The Origin of our own pages is http:// or https:// and the Host, port included. */
static gate_verdict check_origin(const deciding *d) {
  if (d->n_site > 1 || d->n_origin > 1)
    return refuse(400, "EHEADER", "Origin and Sec-Fetch-Site may each come once only");
  if (d->n_site && !is(d->site, "same-origin") && !is(d->site, "none"))
    return refuse(403, "EORIGIN", "a page of another site may not use this server");
  if (!d->n_origin)
    return accepted;
  static const char *const schemes[] = {"http://", "https://"};
  for (size_t i = 0; i < 2; i++) {
    size_t size = strlen(schemes[i]);
    if (d->origin.size == size + d->host.size &&
        strncasecmp(d->origin.bytes, schemes[i], size) == 0 &&
        strncasecmp(d->origin.bytes + size, d->host.bytes, d->host.size) == 0)
      return accepted;
  }
  return refuse(403, "EORIGIN", "a page of another origin may not use this server");
}

bool gate_same_secret(const char *secret, gate_text given) {
  return strlen(secret) == given.size && CRYPTO_memcmp(secret, given.bytes, given.size) == 0;
}

/* The value of one cookie in "a=b; moonscope_token=x"; empty: it is not there. */
static gate_text cookie_value(gate_text cookie, const char *name) {
  const char *p = cookie.bytes, *end = p + cookie.size;
  size_t size = strlen(name);
  while (p < end) {
    while (p < end && (*p == ' ' || *p == ';'))
      p++;
    const char *stop = memchr(p, ';', (size_t)(end - p));
    stop = stop ? stop : end;
    if ((size_t)(stop - p) > size && !memcmp(p, name, size) && p[size] == '=')
      return (gate_text){p + size + 1, (size_t)(stop - p) - size - 1};
    p = stop;
  }
  return (gate_text){"", 0};
}

static gate_verdict check_token(const gate_rules *rules, const gate_request *request,
                                const deciding *d) {
  static const char bearer[] = "Bearer ";
  if (!rules->token || request->token_in_query)
    return accepted;
  gate_text given = {"", 0};
  if (d->n_authorization == 1 && d->authorization.size >= sizeof bearer &&
      strncasecmp(d->authorization.bytes, bearer, sizeof bearer - 1) == 0)
    given = (gate_text){d->authorization.bytes + sizeof bearer - 1,
                        d->authorization.size - (sizeof bearer - 1)};
  else if (d->cookie.size)
    given = cookie_value(d->cookie, "moonscope_token");
  if (gate_same_secret(rules->token, given))
    return accepted;
  return refuse(401, "ETOKEN", "this server needs its token: Authorization: Bearer TOKEN");
}

gate_verdict gate_check(const gate_rules *rules, const gate_request *request) {
  deciding d = nothing;
  if (request->n_headers > GATE_MAX_HEADERS)
    return refuse(431, "EHEADER", "more than 100 headers");
  if (!is_token((gate_text){request->method, strlen(request->method)}) ||
      !is_visible_ascii(request->path) || *request->path != '/')
    return refuse(400, "EHEADER", "the request's method or path has a character that none has");
  gate_verdict verdict = gather(request, &d);
  if (!verdict.status)
    verdict = check_framing(rules, request, &d);
  if (!verdict.status)
    verdict = check_host(rules, &d);
  if (!verdict.status)
    verdict = check_origin(&d);
  if (!verdict.status)
    verdict = check_token(rules, request, &d);
  return verdict;
}
