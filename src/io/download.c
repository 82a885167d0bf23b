// SPDX-License-Identifier: MIT
#include "io/download.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/head.h"

#define LIBRARY        "libcurl.so.4"
#define HEAD_MAX       ((size_t)64 << 10)
#define BUFFER_SIZE    (512L << 10)
#define SLOW_BYTES     1024L /* a second, for */
#define SLOW_SECONDS   30L
#define MEMORY_SECONDS 60L /* for a whole answer that is kept in memory */

/* ---- the library ---- */

#define CURL_FUNCTIONS(X) \
  X(global_init)          \
  X(easy_init)            \
  X(easy_setopt)          \
  X(easy_getinfo)         \
  X(easy_strerror)        \
  X(easy_cleanup)         \
  X(multi_init)           \
  X(multi_add_handle)     \
  X(multi_remove_handle)  \
  X(multi_perform)        \
  X(multi_poll)           \
  X(multi_info_read)      \
  X(multi_strerror)       \
  X(multi_cleanup)        \
  X(slist_append)         \
  X(slist_free_all)       \
  X(url)                  \
  X(url_set)              \
  X(url_get)              \
  X(url_strerror)         \
  X(url_cleanup)          \
  X(free)

static struct {
#define X(name) __typeof__(curl_##name) *name; /* NOLINT(bugprone-macro-parentheses) */
  CURL_FUNCTIONS(X)
#undef X
  bool ready;
  moon_err why; /* it is not */
} curl;

static const struct {
  const char *name;
  void **place;
} functions[] = {
#define X(name) {"curl_" #name, (void **)&curl.name},
    CURL_FUNCTIONS(X)
#undef X
};

static void open_library(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    moon_fail(&curl.why, MOON_EUNSUPPORTED, "downloads need libcurl4: %s", dlerror());
    return;
  }
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    if (!(*functions[i].place = dlsym(library, functions[i].name))) {
      moon_fail(&curl.why, MOON_EUNSUPPORTED, "%s: no %s", LIBRARY, functions[i].name);
      return;
    }
  if (curl.global_init(CURL_GLOBAL_DEFAULT))
    moon_fail(&curl.why, MOON_EUNSUPPORTED, "%s: cannot be initialised", LIBRARY);
  else
    curl.ready = true;
}

static moon_status need_library(moon_err *err) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, open_library);
  return curl.ready ? MOON_OK : moon_fail(err, curl.why.code, "%s", curl.why.text);
}

/* ---- a transfer ---- */

typedef struct growing {
  char *data;
  size_t size, max;
} growing;

struct moon_transfer {
  CURL *easy;
  CURLM *multi;
  struct curl_slist *headers;
  char *url; /* without its query, which may hold a signature */
  moon_partial *partial;
  growing head, body;
  bool connected, stored, cut;
  int idle_timeout_ms;
  int64_t active_ms; /* when the last byte came */
  moon_err why;      /* a callback ended the transfer */
  char curl_text[CURL_ERROR_SIZE];
};

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* false: more than its limit, or no memory. */
static bool append(growing *to, const char *data, size_t size) {
  if (size > to->max - to->size)
    return false;
  char *grown = realloc(to->data, to->size + size + 1);
  if (!grown)
    return false;
  memcpy(grown + to->size, data, size);
  to->data = grown;
  to->size += size;
  grown[to->size] = '\0';
  return true;
}

static int status_of(const moon_transfer *t) {
  long status = 0;
  curl.easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  return (int)status;
}

static bool continues(const moon_transfer *t) {
  return moon_head_continues(t->head.data, moon_partial_done(t->partial),
                             moon_partial_size(t->partial));
}

/* What a callback returns to end the transfer. */
enum { STOP = 0 };

static size_t on_header(char *data, size_t one, size_t size, void *user) {
  moon_transfer *t = user;
  (void)one;
  t->active_ms = now_ms();
  if (size > 5 && !strncmp(data, "HTTP/", 5))
    t->head.size = 0; /* of an interim answer, or the proxy's */
  if (append(&t->head, data, size))
    return size;
  moon_fail(&t->why, MOON_EFORMAT, "%s: headers of more than %zu bytes", t->url, HEAD_MAX);
  return STOP;
}

/* Nothing of an answer that does not fit is wanted. */
static size_t cut(moon_transfer *t) {
  t->cut = true;
  return STOP;
}

static size_t store(moon_transfer *t, const char *data, size_t size) {
  if (!t->stored && status_of(t) == 200 && moon_partial_done(t->partial) > 0 &&
      moon_partial_restart(t->partial, &t->why) != MOON_OK)
    return STOP;
  if (!t->stored && status_of(t) != 200 && !continues(t))
    return cut(t);
  t->stored = true;
  return moon_partial_append(t->partial, data, size, &t->why) == MOON_OK ? size : STOP;
}

static size_t on_body(char *data, size_t one, size_t size, void *user) {
  moon_transfer *t = user;
  (void)one;
  t->active_ms = now_ms();
  int status = status_of(t);
  if (t->partial && (status == 200 || status == 206))
    return store(t, data, size);
  if (append(&t->body, data, size))
    return size;
  if (status >= 300)
    return cut(t);
  moon_fail(&t->why, MOON_EFORMAT, "%s: an answer of more than %zu bytes", t->url, t->body.max);
  return STOP;
}

/* The request goes out: from now on silence counts. */
static int on_connected(void *user, char *remote, char *local, int remote_port, int local_port) {
  moon_transfer *t = user;
  (void)remote, (void)local, (void)remote_port, (void)local_port;
  t->connected = true;
  t->active_ms = now_ms();
  return CURL_PREREQFUNC_OK;
}

static bool add_header(moon_transfer *t, const char *line) {
  struct curl_slist *longer = curl.slist_append(t->headers, line);
  if (longer)
    t->headers = longer;
  return longer != NULL;
}

static bool set_headers(moon_transfer *t, const moon_request *request) {
  bool ok = add_header(t, "Accept-Encoding: identity");
  for (size_t i = 0; i < request->n_headers && ok; i++)
    ok = add_header(t, request->headers[i]);
  return ok && !curl.easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
}

static bool set_range(const moon_transfer *t) {
  char range[32];
  if (!t->partial || moon_partial_done(t->partial) == 0)
    return true;
  snprintf(range, sizeof range, "%lld-", (long long)moon_partial_done(t->partial));
  return !curl.easy_setopt(t->easy, CURLOPT_RANGE, range);
}

static bool set_options(moon_transfer *t, const moon_request *request) {
  const char *protocols = request->plain_http ? "https,http" : "https";
  bool ok = true;
#define SET(option, value) ok = ok && !curl.easy_setopt(t->easy, CURLOPT_##option, value)
  SET(URL, request->url);
  SET(PROTOCOLS_STR, protocols);
  SET(REDIR_PROTOCOLS_STR, protocols);
  SET(FOLLOWLOCATION, 0L);
  SET(UNRESTRICTED_AUTH, 0L);
  SET(NETRC, (long)CURL_NETRC_IGNORED);
  SET(SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
  SET(SSL_VERIFYPEER, 1L);
  SET(SSL_VERIFYHOST, 2L);
  SET(HTTP_CONTENT_DECODING, 0L);
  SET(NOBODY, (long)request->head);
  SET(NOSIGNAL, 1L);
  SET(QUICK_EXIT, 1L); /* a name that is still looked up holds up no cancel */
  SET(BUFFERSIZE, BUFFER_SIZE);
  SET(CONNECTTIMEOUT_MS, (long)request->idle_timeout_ms);
  SET(LOW_SPEED_LIMIT, SLOW_BYTES);
  SET(LOW_SPEED_TIME, SLOW_SECONDS);
  SET(ERRORBUFFER, t->curl_text);
  SET(HEADERFUNCTION, on_header);
  SET(HEADERDATA, t);
  SET(WRITEFUNCTION, on_body);
  SET(WRITEDATA, t);
  SET(PREREQFUNCTION, on_connected);
  SET(PREREQDATA, t);
  if (request->ca_file)
    SET(CAINFO, request->ca_file);
  if (!request->partial)
    SET(TIMEOUT, MEMORY_SECONDS);
#undef SET
  return ok && set_headers(t, request) && set_range(t);
}

static bool set_up(moon_transfer *t, const moon_request *request) {
  *t = (moon_transfer){.easy = curl.easy_init(),
                       .multi = curl.multi_init(),
                       .url = strndup(request->url, strcspn(request->url, "?#")),
                       .head.max = HEAD_MAX,
                       .body.max = request->body_max,
                       .idle_timeout_ms = request->idle_timeout_ms};
  if (!t->easy || !t->multi || !t->url)
    return false;
  if (request->partial)
    t->partial = moon_partial_retain(request->partial);
  return set_options(t, request) && !curl.multi_add_handle(t->multi, t->easy);
}

moon_status moon_transfer_open(moon_transfer **out, const moon_request *request, moon_err *err) {
  *out = NULL;
  moon_status status = need_library(err);
  if (status != MOON_OK)
    return status;
  moon_transfer *t = calloc(1, sizeof *t);
  if (t && set_up(t, request))
    return *out = t, MOON_OK;
  moon_transfer_close(t);
  return moon_fail(err, MOON_ENOMEM, "no memory for a transfer");
}

void moon_transfer_close(moon_transfer *t) {
  if (!t)
    return;
  if (t->easy && t->multi)
    curl.multi_remove_handle(t->multi, t->easy);
  curl.easy_cleanup(t->easy);
  if (t->multi)
    curl.multi_cleanup(t->multi);
  curl.slist_free_all(t->headers);
  moon_partial_release(t->partial);
  free(t->url);
  free(t->head.data);
  free(t->body.data);
  free(t);
}

/* What another try would not change has another code than MOON_ENET. */
static moon_status status_of_curl(CURLcode code) {
  switch (code) {
    case CURLE_OUT_OF_MEMORY:
      return MOON_ENOMEM;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      return MOON_EACCES;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
      return MOON_EFORMAT;
    default:
      return MOON_ENET;
  }
}

static moon_status fail_curl(const moon_transfer *t, CURLcode code, moon_err *err) {
  return moon_fail(err, status_of_curl(code), "%s: %s", t->url,
                   *t->curl_text ? t->curl_text : curl.easy_strerror(code));
}

static moon_status finish(moon_transfer *t, CURLcode code, moon_err *err) {
  if (t->why.code != MOON_OK)
    return moon_fail(err, t->why.code, "%s", t->why.text);
  if (code != CURLE_OK && !t->cut)
    return fail_curl(t, code, err);
  if (t->partial && status_of(t) == 200 && !t->stored) { /* an empty body */
    t->stored = true;
    return moon_partial_restart(t->partial, err);
  }
  return MOON_OK;
}

static moon_status check_idle(const moon_transfer *t, moon_err *err) {
  if (!t->connected || now_ms() - t->active_ms <= t->idle_timeout_ms)
    return MOON_OK;
  return moon_fail(err, MOON_ENET, "%s: no byte for %g seconds", t->url,
                   t->idle_timeout_ms / 1000.0);
}

moon_status moon_transfer_step(moon_transfer *t, int timeout_ms, bool *over, moon_err *err) {
  int running, left;
  *over = false;
  CURLMcode code = curl.multi_perform(t->multi, &running);
  if (!code && running)
    code = curl.multi_poll(t->multi, NULL, 0, timeout_ms, NULL);
  if (code)
    return moon_fail(err, MOON_ENET, "%s: %s", t->url, curl.multi_strerror(code));
  const CURLMsg *message = curl.multi_info_read(t->multi, &left);
  if (!message)
    return check_idle(t, err);
  *over = true;
  return finish(t, message->data.result, err);
}

moon_answer moon_transfer_answer(const moon_transfer *t) {
  return (moon_answer){.status = status_of(t),
                       .head = t->head.data ? t->head.data : "",
                       .head_size = t->head.size,
                       .body = t->body.data ? t->body.data : "",
                       .body_size = t->body.size,
                       .stored = t->stored};
}

/* ---- URLs ---- */

static moon_status get_part(char **out, CURLU *url, CURLUPart part, moon_err *err) {
  char *value = NULL;
  CURLUcode code = curl.url_get(url, part, &value, CURLU_DEFAULT_PORT);
  *out = code ? NULL : strdup(value);
  curl.free(value);
  if (code)
    return moon_fail(err, MOON_EFORMAT, "%s", curl.url_strerror(code));
  return *out ? MOON_OK : moon_fail(err, MOON_ENOMEM, "no memory for a URL");
}

static moon_status get_parts(moon_url *out, CURLU *url, moon_err *err) {
  char *whole = NULL;
  CURLUcode code = curl.url_get(url, CURLUPART_URL, &whole, 0);
  out->text = code ? NULL : strdup(whole);
  curl.free(whole);
  if (!out->text)
    return moon_fail(err, MOON_EFORMAT, "%s", curl.url_strerror(code));
  moon_status status = get_part(&out->scheme, url, CURLUPART_SCHEME, err);
  if (status == MOON_OK)
    status = get_part(&out->host, url, CURLUPART_HOST, err);
  if (status == MOON_OK)
    status = get_part(&out->port, url, CURLUPART_PORT, err);
  if (status == MOON_OK && strcmp(out->scheme, "https") && strcmp(out->scheme, "http"))
    return moon_fail(err, MOON_EFORMAT, "found scheme %s, expected https", out->scheme);
  return status;
}

moon_status moon_url_parse(moon_url *out, const char *text, const char *base, moon_err *err) {
  *out = (moon_url){0};
  moon_status status = need_library(err);
  if (status != MOON_OK)
    return status;
  CURLU *url = curl.url();
  if (!url)
    return moon_fail(err, MOON_ENOMEM, "no memory for a URL");
  CURLUcode code = base ? curl.url_set(url, CURLUPART_URL, base, 0) : CURLUE_OK;
  if (!code)
    code = curl.url_set(url, CURLUPART_URL, text, CURLU_DISALLOW_USER);
  status =
      code ? moon_fail(err, MOON_EFORMAT, "%s", curl.url_strerror(code)) : get_parts(out, url, err);
  curl.url_cleanup(url);
  if (status != MOON_OK)
    moon_url_free(out);
  return status;
}

void moon_url_free(moon_url *url) {
  free(url->text);
  free(url->scheme);
  free(url->host);
  free(url->port);
  *url = (moon_url){0};
}
