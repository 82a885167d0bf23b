// SPDX-License-Identifier: MIT
/* moonscope.HttpServer: libmicrohttpd's daemon on the event loop, its connections and their
 * deadlines. */
#include "host/httpd.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "host/listen.h"
#include "moon.h"

#define TYPE "moonscope.HttpServer"

enum {
  SPARE_CONNECTIONS = 64, /* above the limit: those that are told so */
  IDLE_SECONDS = 120,     /* libmicrohttpd's: a connection on which nothing goes either way */
  MAX_EVENTS = 64,
  MAX_ROUNDS = 64,                 /* of the daemon in one run: the loop has others to serve */
  MAX_IDLE_ROUNDS = 8,             /* of them without a call */
  MEMORY_OF_CONNECTION = 16 << 10, /* libmicrohttpd's: bounds the headers. It is zeroed for each
                                      request, so all of it counts for idle connections, too */
};

static const uint64_t HEADER_NS = UINT64_C(10000000000), /* in all, from the first byte, however it
                                                            dribbles */
    BODY_NS = UINT64_C(30000000000);

uint64_t http_now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t http_now_ms(void) {
  return http_now_ns() / 1000000;
}

/* Logs what was thrown, and pops it. */
static void log_thrown(lua_State *L, const char *name) {
  const char *message = lua_tostring(L, -1);
  moon_log(MOON_LOG_ERROR, "http: %s: %s", name, message ? message : "an error that is no text");
  lua_pop(L, 1);
}

/* Pushes a method of the object that is called back, and the object. */
static void push_callback(lua_State *L, const http_server *server, const char *name) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, server->callbacks);
  lua_getfield(L, -1, name);
  lua_insert(L, -2);
}

bool http_call_back(http_server *server, const char *name, int n_args) {
  lua_State *L = server->L;
  if (server->callbacks == LUA_NOREF || !lua_checkstack(L, 4)) {
    lua_pop(L, n_args);
    return false;
  }
  push_callback(L, server, name);
  lua_rotate(L, -2 - n_args, 2);
  if (lua_pcall(L, n_args + 1, 0, 0) == LUA_OK)
    return true;
  log_thrown(L, name);
  return false;
}

/* Requests */

typedef struct headers {
  gate_header list[GATE_MAX_HEADERS + 1];
  size_t n;
} headers;

static enum MHD_Result collect_header(void *user, enum MHD_ValueKind kind, const char *name,
                                      size_t name_size, const char *value, size_t value_size) {
  headers *h = user;
  (void)kind;
  h->list[h->n++] = (gate_header){{name, name_size}, {value ? value : "", value_size}};
  return h->n <= GATE_MAX_HEADERS ? MHD_YES : MHD_NO;
}

/* A request for which libmicrohttpd calls. */
typedef struct call {
  http_server *server;
  http_connection *on;
  struct MHD_Connection *connection;
  const char *method, *path;
  bool token_in_query;
  gate_verdict verdict; /* status 0: accepted */
} call;

static bool has_token_in_query(const call *c) {
  const char *secret = c->server->rules.token;
  if (!secret || strcmp(c->method, "GET") != 0)
    return false;
  const char *token = MHD_lookup_connection_value(c->connection, MHD_GET_ARGUMENT_KIND, "token");
  return token && gate_same_secret(secret, (gate_text){token, strlen(token)});
}

static gate_verdict check_request(const call *c, const char *version) {
  headers h;
  h.n = 0;
  if (c->server->n_connections > c->server->limit)
    return (gate_verdict){503, "EBUSY", "too many connections"};
  MHD_get_connection_values_n(c->connection, MHD_HEADER_KIND, collect_header, &h);
  const gate_request request = {c->method, c->path, version, h.list, h.n, c->token_in_query};
  return gate_check(&c->server->rules, &request);
}

/* Calls back with a new exchange, its method and path and what the verdict says, in protected mode:
 * lightuserdata of a call. */
static int call_back(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  const gate_verdict *verdict = &c->verdict;
  push_callback(L, c->server, verdict->status ? "refused" : "request");
  http_exchange *x = http_exchange_new(L, c->server, c->on, c->connection);
  lua_pushstring(L, c->method);
  lua_pushstring(L, c->path);
  if (verdict->status) {
    lua_pushinteger(L, verdict->status);
    lua_pushstring(L, verdict->code);
    lua_pushstring(L, verdict->detail);
  } else {
    lua_pushboolean(L, c->token_in_query);
  }
  x->inside = true;
  lua_call(L, verdict->status ? 7 : 5, 0);
  if (x->state == HTTP_OPEN)
    http_exchange_anchor(L, x);
  return 0;
}

static enum MHD_Result ask(call *c) {
  lua_State *L = c->server->L;
  if (c->server->callbacks == LUA_NOREF || !lua_checkstack(L, 16))
    return MHD_NO;
  c->on->phase = HTTP_BUSY;
  if (c->on->body.bytes)
    c->on->since_ns = http_now_ns();
  lua_pushcfunction(L, call_back);
  lua_pushlightuserdata(L, c);
  bool called = lua_pcall(L, 1, 0, 0) == LUA_OK;
  if (!called)
    log_thrown(L, "request");
  http_exchange *x = c->on->exchange;
  if (!x)
    return MHD_NO;
  x->inside = false;
  if (!x->response && (!called || c->verdict.status)) /* nobody will answer */
    x->state = HTTP_GONE;
  enum MHD_Result result = http_exchange_answer(x);
  if (x->self == LUA_NOREF) /* nothing more comes to it */
    http_exchange_end(x);
  return result;
}

static http_connection *connection_of(struct MHD_Connection *connection) {
  return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* Called when the headers have come, for each part of the body, when all has come, and whenever the
 * connection was resumed. */
static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state) {
  http_connection *on = connection_of(connection);
  call c = {.server = user, .on = on, .connection = connection, .method = method, .path = path};
  c.server->n_calls++;
  if (!on)
    return MHD_NO;
  if (!*state) {
    *state = on;
    on->phase = HTTP_BODY;
    on->since_ns = http_now_ns();
    c.token_in_query = has_token_in_query(&c);
    c.verdict = check_request(&c, version);
    return c.verdict.status ? ask(&c) : MHD_YES;
  }
  if (*size) {
    http_body_receive(&on->body, data, *size);
    *size = 0;
    return MHD_YES;
  }
  if (on->exchange)
    return http_exchange_answer(on->exchange);
  c.token_in_query = has_token_in_query(&c);
  return ask(&c);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why) {
  http_connection *on = connection_of(connection);
  (void)why;
  ((http_server *)user)->n_calls++;
  *state = NULL;
  if (!on)
    return;
  if (on->exchange)
    http_exchange_end(on->exchange);
  http_body_free(&on->body);
  on->phase = HTTP_IDLE;
  on->n_bytes = 0;
}

/* A path and the arguments of a query stay as they came; Lua decodes them, and refuses what is
 * wrong. */
static size_t keep_escapes(void *user, struct MHD_Connection *connection, char *text) {
  (void)user, (void)connection;
  return strlen(text);
}

/* Connections */

static void on_connection(void *user, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what) {
  http_server *server = user;
  http_connection *c = *context;
  server->n_calls++;
  if (what == MHD_CONNECTION_NOTIFY_STARTED) {
    c = calloc(1, sizeof *c);
    if (!c)
      return; /* its requests are refused */
    c->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    c->n_bytes = 1; /* nothing yet, see received_bytes */
    c->next = server->connections;
    if (c->next)
      c->next->before = c;
    server->connections = c;
    server->n_connections++;
    *context = c;
  } else if (c) {
    *(c->before ? &c->before->next : &server->connections) = c->next;
    if (c->next)
      c->next->before = c->before;
    server->n_connections--;
    free(c);
  }
}

static uint64_t received_bytes(int fd) {
  struct tcp_info info = {0};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
    return 0;
  return info.tcpi_bytes_received + 1; /* 0 stands for: not known */
}

/* libmicrohttpd does not tell when the first bytes of a request come, and its timeout only sees
 * inactivity: the kernel's count of received bytes tells. */
static void check_deadline(http_connection *c, uint64_t now_ns) {
  if (c->phase == HTTP_IDLE) {
    uint64_t n_bytes = received_bytes(c->fd);
    if (c->n_bytes && n_bytes != c->n_bytes) {
      c->phase = HTTP_HEADER;
      c->since_ns = now_ns;
    }
    c->n_bytes = n_bytes;
  }
  if ((c->phase == HTTP_HEADER && now_ns - c->since_ns > HEADER_NS) ||
      (c->phase == HTTP_BODY && now_ns - c->since_ns > BODY_NS))
    shutdown(c->fd, SHUT_RDWR);
}

/* The server */

static http_server *check_server(lua_State *L) {
  http_server *s = luaL_checkudata(L, 1, TYPE);
  if (!s->daemon)
    luaL_error(L, "http server: stopped");
  s->L = L;
  return s;
}

/* Whether the daemon has more to do. LATER: it says so, but comes no further: 0.9.75 is like that
 * while a chunk's extension fills its buffer, until a deadline ends that connection. */
typedef enum run_result { RUN_DONE, RUN_AGAIN, RUN_LATER } run_result;

static run_result run_daemon(http_server *s) {
  MHD_UNSIGNED_LONG_LONG timeout_ms;
  int n_idle = 0;
  for (int i = 0; i < MAX_ROUNDS; i++) {
    unsigned before = s->n_calls;
    s->resumed = false;
    MHD_run(s->daemon);
    if (!s->resumed && (MHD_get_timeout(s->daemon, &timeout_ms) != MHD_YES || timeout_ms > 0))
      return RUN_DONE;
    if (s->n_calls == before && !s->resumed && ++n_idle == MAX_IDLE_ROUNDS)
      return RUN_LATER;
  }
  return RUN_AGAIN;
}

/* One event at a time: what it calls back may end what another is about. */
static void take_events(http_server *s) {
  struct epoll_event event;
  for (int i = 0; i < MAX_EVENTS && epoll_wait(s->epoll_fd, &event, 1, 0) == 1; i++) {
    void *what = event.data.ptr;
    if (*(http_watched *)what == HTTP_EXCHANGE)
      http_exchange_hang_up(what);
    else if (*(http_watched *)what == HTTP_WEBSOCKET)
      http_websocket_event(what, event.events);
    else
      return; /* the daemon; what waits behind it comes first next time */
  }
}

/* server:run(): what there is to do, when its descriptor is readable -> nil; "again": there is
 * more; "later": in some milliseconds */
static int run(lua_State *L) {
  static const char *const results[] = {NULL, "again", "later"};
  http_server *s = check_server(L);
  take_events(s);
  lua_pushstring(L, results[run_daemon(s)]);
  return 1;
}

/* server:has_resumed(): a connection was let go on since the last run, which no descriptor tells */
static int has_resumed(lua_State *L) {
  lua_pushboolean(L, check_server(L)->resumed);
  return 1;
}

/* server:sweep(): deadlines; once a second */
static int sweep(lua_State *L) {
  http_server *s = check_server(L);
  uint64_t now_ns = http_now_ns();
  for (http_connection *c = s->connections; c; c = c->next)
    check_deadline(c, now_ns);
  http_websockets_sweep(s, now_ns / 1000000);
  return 0;
}

/* server:flush_log(): writes the lines that exchange:log has gathered */
static int flush_log(lua_State *L) {
  http_server *s = luaL_checkudata(L, 1, TYPE);
  http_log_flush(&s->log);
  return 0;
}

/* server:quiesce(): accepts no more connections */
static int quiesce(lua_State *L) {
  http_server *s = check_server(L);
  if (s->listen_fd >= 0 && MHD_quiesce_daemon(s->daemon) != MHD_INVALID_SOCKET) {
    close(s->listen_fd);
    s->listen_fd = -1;
  }
  return 0;
}

/* Everybody goes: websockets and suspended connections first, since libmicrohttpd does not know of
 * them. */
static void stop_server(http_server *s) {
  if (s->daemon) {
    while (s->websockets)
      http_websocket_drop(s->websockets);
    for (http_connection *c = s->connections; c; c = c->next)
      if (c->exchange) {
        c->exchange->state = HTTP_GONE;
        http_exchange_resume(c->exchange);
      }
    run_daemon(s);
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
  }
  if (s->listen_fd >= 0)
    close(s->listen_fd);
  if (s->epoll_fd >= 0)
    close(s->epoll_fd);
  s->listen_fd = s->epoll_fd = -1;
  for (char **host = s->hosts; host && *host; host++)
    free(*host);
  free(s->hosts);
  free(s->token);
  s->hosts = NULL;
  s->token = NULL;
}

static int stop(lua_State *L) {
  http_server *s = luaL_checkudata(L, 1, TYPE);
  s->L = L;
  luaL_unref(L, LUA_REGISTRYINDEX, s->self);
  luaL_unref(L, LUA_REGISTRYINDEX, s->callbacks);
  luaL_unref(L, LUA_REGISTRYINDEX, s->asked);
  s->self = s->callbacks = s->asked = LUA_NOREF; /* nobody is told any more */
  stop_server(s);
  return 0;
}

static bool watch_daemon(http_server *s) {
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
  s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return info && s->epoll_fd >= 0 &&
         epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, info->epoll_fd, &event) == 0;
}

static bool start_daemon(http_server *s) {
  s->daemon = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE, 0, NULL, NULL, on_request, s,
      MHD_OPTION_LISTEN_SOCKET, s->listen_fd, MHD_OPTION_STRICT_FOR_CLIENT, 1,
      MHD_OPTION_CONNECTION_LIMIT, (unsigned)(s->limit + SPARE_CONNECTIONS),
      MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      (size_t)MEMORY_OF_CONNECTION, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
      MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, s,
      MHD_OPTION_END);
  return s->daemon && watch_daemon(s);
}

/* The names that a Host header may have: a copy of the list at this index, lower case, NULL at the
 * end. */
static void copy_hosts(lua_State *L, int index, http_server *s) {
  lua_Integer n = luaL_len(L, index);
  s->hosts = calloc((size_t)n + 1, sizeof *s->hosts);
  for (lua_Integer i = 0; s->hosts && i < n; i++) {
    lua_rawgeti(L, index, i + 1);
    s->hosts[i] = strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
    if (!s->hosts[i])
      break;
  }
  s->rules.hosts = (const char *const *)s->hosts;
}

static void take_listener(http_server *s, const http_listener *listener) {
  s->listen_fd = listener->fd;
  s->port = listener->port;
  s->loopback = listener->loopback;
  s->rules.any_address = listener->all;
  memcpy(s->address, listener->address, sizeof s->address);
}

static int fail(lua_State *L, const moon_err *err) {
  luaL_pushfail(L);
  lua_pushstring(L, err->text);
  lua_pushstring(L, moon_status_name(err->code));
  return 3;
}

/*
 * httpd.listen(host, port, connections) -> server, which answers nobody yet; nil, message, code
 */
static int listen_on(lua_State *L) {
  const char *host = luaL_checkstring(L, 1);
  lua_Integer port = luaL_checkinteger(L, 2), connections = luaL_checkinteger(L, 3);
  luaL_argcheck(L, port >= 0 && port <= 65535, 2, "a port from 0 to 65535 expected");
  luaL_argcheck(L, connections > 0 && connections <= 1000000, 3, "1 to 1000000 expected");
  http_server *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  s->listen_fd = s->epoll_fd = -1;
  s->self = s->callbacks = s->asked = LUA_NOREF;
  luaL_setmetatable(L, TYPE);
  http_listener listener;
  moon_err err;
  if (http_listen(&listener, host, (int)port, &err))
    return fail(L, &err);
  take_listener(s, &listener);
  s->limit = http_make_room((int)connections);
  s->rules.max_body_bytes = HTTP_MAX_BODY;
  return 1;
}

/*
 * server:start(callbacks, hosts, id_prefix, token): from now on it answers, by calling
 *
 *   callbacks:request(exchange, method, path, token_in_query)         has come as a whole
 *   callbacks:refused(exchange, method, path, status, code, detail)   answer it at once
 *   callbacks:gone(exchange)                                          its client left before the
 * end callbacks:opened(exchange, websocket)  :message(websocket, text)  :closed(websocket)
 *
 * hosts: a list of lower-case names. token: nil where none is needed.
 */
static int start(lua_State *L) {
  http_server *s = luaL_checkudata(L, 1, TYPE);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  const char *prefix = luaL_checkstring(L, 4), *token = luaL_optstring(L, 5, NULL);
  if (s->daemon || s->listen_fd < 0)
    return luaL_error(L, "http server: started already, or stopped");
  s->L = L;
  snprintf(s->id_prefix, sizeof s->id_prefix, "%s", prefix);
  copy_hosts(L, 3, s);
  s->token = token ? strdup(token) : NULL;
  s->rules.token = s->token;
  if (!s->hosts || (token && !s->token) || !start_daemon(s)) {
    stop_server(s);
    return luaL_error(L, "http server: no memory");
  }
  lua_pushvalue(L, 1);
  s->self = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, 2);
  s->callbacks = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushboolean(L, false);
  s->asked = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int fd(lua_State *L) {
  lua_pushinteger(L, check_server(L)->epoll_fd);
  return 1;
}

/* server:info() -> {address=, port=, loopback=, limit=, connections=} */
static int info(lua_State *L) {
  const http_server *s = luaL_checkudata(L, 1, TYPE);
  lua_newtable(L);
  lua_pushstring(L, s->address);
  lua_setfield(L, -2, "address");
  lua_pushboolean(L, s->loopback);
  lua_setfield(L, -2, "loopback");
  const struct {
    const char *name;
    int value;
  } numbers[] = {{"port", s->port}, {"limit", s->limit}, {"connections", s->n_connections}};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    lua_pushinteger(L, numbers[i].value);
    lua_setfield(L, -2, numbers[i].name);
  }
  return 1;
}

static void open_server(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"start", start},         {"run", run},   {"sweep", sweep}, {"has_resumed", has_resumed},
      {"quiesce", quiesce},     {"stop", stop}, {"fd", fd},       {"info", info},
      {"flush_log", flush_log}, {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__gc", stop}, {"__close", stop}, {NULL, NULL}};
  luaL_newmetatable(L, TYPE);
  luaL_setfuncs(L, metamethods, 0);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

int http_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"listen", listen_on}, {"prepare", http_prepare}, {NULL, NULL}};
  open_server(L);
  http_open_exchange(L);
  http_open_websocket(L);
  luaL_newlib(L, functions);
  return 1;
}
