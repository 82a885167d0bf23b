// SPDX-License-Identifier: MIT
/* moonscope.HttpServer: libmicrohttpd's daemon on the event loop, its connections and their
 * deadlines. */
#include "host/httpd.h"

#include <linux/tcp.h>
#include <netinet/in.h>
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
  HEADER_MS = 10000,      /* in all, from the first byte, however it dribbles */
  BODY_MS = 30000,
  MAX_EVENTS = 64,
  MAX_ROUNDS = 64,                 /* of the daemon in one run: the loop has others to serve */
  MAX_IDLE_ROUNDS = 8,             /* of them without a call */
  MEMORY_OF_CONNECTION = 32 << 10, /* libmicrohttpd's: bounds the headers */
};

uint64_t http_now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool http_call_back(http_server *server, const char *name, int n_args) {
  lua_State *L = server->L;
  if (server->callbacks == LUA_NOREF || !lua_checkstack(L, 4)) {
    lua_pop(L, n_args);
    return false;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, server->callbacks);
  lua_getfield(L, -1, name);
  lua_replace(L, -2);
  lua_insert(L, -1 - n_args);
  if (lua_pcall(L, n_args, 0, 0) == LUA_OK)
    return true;
  const char *message = lua_tostring(L, -1);
  moon_log(MOON_LOG_ERROR, "http: %s: %s", name, message ? message : "an error that is no text");
  lua_pop(L, 1);
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

static bool has_token_in_query(const http_exchange *x) {
  const char *token = MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, "token");
  return token && x->server->rules.token &&
         gate_same_secret(x->server->rules.token, (gate_text){token, strlen(token)});
}

static gate_verdict check_request(http_exchange *x, const char *version) {
  headers h;
  h.n = 0;
  if (x->server->n_connections > x->server->limit)
    return (gate_verdict){503, "EBUSY", "too many connections"};
  MHD_get_connection_values_n(x->connection, MHD_HEADER_KIND, collect_header, &h);
  x->token_in_query = has_token_in_query(x);
  const gate_request request = {x->method, x->path, version,
                                h.list,    h.n,     x->token_in_query && !strcmp(x->method, "GET")};
  return gate_check(&x->server->rules, &request);
}

/* Calls back with the exchange, its method, its path and the n texts or numbers that were pushed
 * after. */
static void ask(http_exchange *x, const char *name, const gate_verdict *verdict) {
  lua_State *L = x->server->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, x->self);
  lua_pushstring(L, x->method);
  lua_pushstring(L, x->path);
  if (verdict) {
    lua_pushinteger(L, verdict->status);
    lua_pushstring(L, verdict->code);
    lua_pushstring(L, verdict->detail);
  }
  x->state = HTTP_OPEN;
  x->asked = true;
  x->inside = true;
  bool called = http_call_back(x->server, name, verdict ? 6 : 3);
  x->inside = false;
  if (!x->response && (!called || verdict)) /* nobody will answer */
    x->state = HTTP_GONE;
}

/* What may fail for lack of memory, in protected mode: lightuserdata of this. */
typedef struct call {
  http_server *server;
  struct MHD_Connection *connection;
  http_connection *on;
  http_exchange *exchange;
  const char *method, *path, *version;
} call;

/* A request whose headers have come. */
static int begin(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  http_exchange *x = http_exchange_new(L, c->server, c->on, c->connection);
  c->exchange = x;
  x->method = c->method;
  x->path = c->path;
  gate_verdict verdict = check_request(x, c->version);
  if (verdict.status)
    ask(x, "refused", &verdict);
  return 0;
}

/* A request that has come as a whole. */
static int dispatch(lua_State *L) {
  call *c = lua_touserdata(L, 1);
  c->exchange->method = c->method;
  c->exchange->path = c->path;
  c->on->phase = HTTP_BUSY;
  ask(c->exchange, "request", NULL);
  return 0;
}

static bool protected(call *c, lua_CFunction fn) {
  lua_State *L = c->server->L;
  if (!lua_checkstack(L, 8))
    return false;
  lua_pushcfunction(L, fn);
  lua_pushlightuserdata(L, c);
  bool done = lua_pcall(L, 1, 0, 0) == LUA_OK;
  if (!done)
    lua_pop(L, 1);
  return done;
}

static http_connection *connection_of(struct MHD_Connection *connection) {
  return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state) {
  http_exchange *x = *state;
  ((http_server *)user)->n_calls++;
  call c = {user, connection, connection_of(connection), x, method, path, version};
  if (!c.on)
    return MHD_NO;
  if (!x) {
    c.on->phase = HTTP_BODY;
    c.on->since_ms = http_now_ms();
    bool begun = protected(&c, begin);
    *state = c.exchange;
    if (!begun)
      return MHD_NO;
    return c.exchange->asked ? http_exchange_answer(c.exchange) : MHD_YES;
  }
  if (*size) {
    http_exchange_receive(x, data, *size);
    *size = 0;
    return MHD_YES;
  }
  if (!x->asked && !protected(&c, dispatch))
    return MHD_NO;
  return http_exchange_answer(x);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why) {
  http_connection *on = connection_of(connection);
  (void)why;
  ((http_server *)user)->n_calls++;
  if (*state)
    http_exchange_end(*state);
  *state = NULL;
  if (on) {
    on->phase = HTTP_IDLE;
    on->n_bytes = 0;
  }
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
static void check_deadline(http_connection *c, uint64_t now_ms) {
  if (c->phase == HTTP_IDLE) {
    uint64_t n_bytes = received_bytes(c->fd);
    if (c->n_bytes && n_bytes != c->n_bytes) {
      c->phase = HTTP_HEADER;
      c->since_ms = now_ms;
    }
    c->n_bytes = n_bytes;
  }
  if ((c->phase == HTTP_HEADER && now_ms - c->since_ms > HEADER_MS) ||
      (c->phase == HTTP_BODY && now_ms - c->since_ms > BODY_MS))
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
  uint64_t now_ms = http_now_ms();
  for (http_connection *c = s->connections; c; c = c->next)
    check_deadline(c, now_ms);
  http_websockets_sweep(s, now_ms);
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
  luaL_unref(L, LUA_REGISTRYINDEX, s->callbacks);
  s->callbacks = LUA_NOREF; /* nobody is told any more */
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
  s->callbacks = LUA_NOREF;
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
 * server:start(callbacks, hosts, token): from now on it answers. callbacks:
 *   request(exchange, method, path)                          has come as a whole
 *   refused(exchange, method, path, status, code, detail)    answer it at once
 *   gone(exchange)                                           its client left before the answer was
 * complete opened(exchange, websocket)  message(websocket, text)  closed(websocket) hosts: a list
 * of lower-case names. token: nil where none is needed.
 */
static int start(lua_State *L) {
  http_server *s = luaL_checkudata(L, 1, TYPE);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  const char *token = luaL_optstring(L, 4, NULL);
  if (s->daemon || s->listen_fd < 0)
    return luaL_error(L, "http server: started already, or stopped");
  s->L = L;
  copy_hosts(L, 3, s);
  s->token = token ? strdup(token) : NULL;
  s->rules.token = s->token;
  if (!s->hosts || (token && !s->token) || !start_daemon(s)) {
    stop_server(s);
    return luaL_error(L, "http server: no memory");
  }
  lua_pushvalue(L, 2);
  s->callbacks = luaL_ref(L, LUA_REGISTRYINDEX);
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
      {"start", start},     {"run", run},   {"sweep", sweep}, {"has_resumed", has_resumed},
      {"quiesce", quiesce}, {"stop", stop}, {"fd", fd},       {"info", info},
      {NULL, NULL}};
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
