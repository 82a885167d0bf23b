// SPDX-License-Identifier: MIT
/* moonscope.Exchange: one request and its answer. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "host/httpd.h"

#define TYPE     "moonscope.Exchange"
#define PREPARED "moonscope.PreparedAnswer"

enum { BLOCK = 16384 };

/* An answer that many exchanges get. */
typedef struct prepared {
  struct MHD_Response *response;
  unsigned status;
} prepared;

/* The type's metatable lies in the registry under this address, too, where it is found faster than
 * by name. */
static const char type_key;

static http_exchange *check(lua_State *L) {
  http_exchange *x = lua_touserdata(L, 1);
  if (!x || !lua_getmetatable(L, 1))
    return luaL_checkudata(L, 1, TYPE); /* throws */
  lua_rawgetp(L, LUA_REGISTRYINDEX, &type_key);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same ? x : luaL_checkudata(L, 1, TYPE);
}

http_exchange *http_exchange_new(lua_State *L, http_server *server, http_connection *on,
                                 struct MHD_Connection *connection) {
  http_exchange *x = lua_newuserdatauv(L, sizeof *x, 1);
  memset(x, 0, sizeof *x);
  x->kind = HTTP_EXCHANGE;
  x->server = server; /* which lives as long as any exchange */
  lua_rawgeti(L, LUA_REGISTRYINDEX, server->self);
  lua_setiuservalue(L, -2, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &type_key);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawseti(L, LUA_REGISTRYINDEX, server->asked);
  x->self = LUA_NOREF;
  x->prepared = LUA_NOREF;
  x->state = HTTP_OPEN;
  x->serial = ++server->n_exchanges;
  x->start_ns = on->since_ns;
  x->body = on->body;
  on->body = (http_body){0};
  x->on = on; /* from here on it is over only by http_exchange_end */
  x->connection = connection;
  on->exchange = x;
  return x;
}

void http_exchange_anchor(lua_State *L, http_exchange *x) {
  if (x->self != LUA_NOREF)
    return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, x->server->asked);
  x->self = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Makes room for size more bytes at *end; false: no memory. */
static bool make_room(char **bytes, size_t *capacity, size_t end, size_t size) {
  if (*capacity - end >= size)
    return true;
  size_t wanted = *capacity ? *capacity : 4096;
  while (wanted - end < size)
    wanted *= 2;
  char *more = realloc(*bytes, wanted);
  if (!more)
    return false;
  *bytes = more;
  *capacity = wanted;
  return true;
}

void http_body_free(http_body *body) {
  free(body->bytes);
  *body = (http_body){0};
}

void http_body_receive(http_body *body, const char *data, size_t size) {
  if (body->too_big)
    return;
  if (body->size + size > HTTP_MAX_BODY ||
      !make_room(&body->bytes, &body->capacity, body->size, size)) {
    http_body_free(body);
    body->too_big = true;
    return;
  }
  memcpy(body->bytes + body->size, data, size);
  body->size += size;
}

/* Suspending, and watching the socket meanwhile */

static void suspend(http_exchange *x) {
  MHD_suspend_connection(x->connection);
  x->suspended = true;
  struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = x};
  epoll_ctl(x->server->epoll_fd, EPOLL_CTL_ADD, x->on->fd, &event);
}

void http_exchange_resume(http_exchange *x) {
  if (!x->suspended)
    return;
  x->suspended = false;
  epoll_ctl(x->server->epoll_fd, EPOLL_CTL_DEL, x->on->fd, NULL);
  MHD_resume_connection(x->connection);
  x->server->resumed = true;
}

/* Ends a connection from this side; libmicrohttpd sees the end of its socket. */
static void drop(http_exchange *x) {
  x->state = HTTP_GONE;
  shutdown(x->on->fd, SHUT_RDWR);
  http_exchange_resume(x);
}

void http_exchange_hang_up(http_exchange *x) {
  drop(x);
  lua_State *L = x->server->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, x->self);
  http_call_back(x->server, "gone", 1);
}

/* libmicrohttpd has the response, or nobody will. */
static void let_go(http_exchange *x) {
  if (x->response && !x->is_prepared)
    MHD_destroy_response(x->response);
  x->response = NULL;
  luaL_unref(x->server->L, LUA_REGISTRYINDEX, x->prepared);
  x->prepared = LUA_NOREF;
}

void http_exchange_end(http_exchange *x) {
  http_server *server = x->server;
  bool told = x->state != HTTP_GONE && x->state != HTTP_ANSWERED;
  bool whole = x->state == HTTP_FINISHED && x->out_start == x->out_end;
  if (x->suspended)
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, x->on->fd, NULL);
  x->on->exchange = NULL;
  x->on = NULL;
  x->connection = NULL;
  x->state = HTTP_GONE;
  http_body_free(&x->body);
  free(x->out);
  x->out = NULL;
  let_go(x);
  if (told && !whole) { /* the client left while libmicrohttpd was looking */
    lua_rawgeti(server->L, LUA_REGISTRYINDEX, x->self);
    http_call_back(server, "gone", 1);
  }
  luaL_unref(server->L, LUA_REGISTRYINDEX, x->self);
}

/* Answering */

enum MHD_Result http_exchange_answer(http_exchange *x) {
  if (x->state == HTTP_GONE)
    return MHD_NO;
  if (!x->response) {
    suspend(x);
    return MHD_YES;
  }
  enum MHD_Result result = MHD_queue_response(x->connection, x->status, x->response);
  let_go(x);
  return result;
}

/* The answer goes out when libmicrohttpd asks next: after the call that is under way, or once
 * resumed. */
static void set_answer(http_exchange *x, unsigned status, struct MHD_Response *response,
                       http_state state) {
  x->response = response;
  x->status = status;
  x->state = state;
  if (!x->inside)
    http_exchange_resume(x);
}

/* An exchange that has no answer yet; NULL after pushing false: its client is gone. Throws where it
 * is answered. */
static http_exchange *check_open(lua_State *L) {
  http_exchange *x = check(L);
  if (x->state == HTTP_GONE) {
    lua_pushboolean(L, false);
    return NULL;
  }
  if (x->state != HTTP_OPEN)
    luaL_error(L, "exchange: answered already");
  return x;
}

static bool is_clean(const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < ' ' || *text == 0x7F)
      return false;
  return true;
}

/* Adds the headers of a list { name, value, name, value ... } at index; false: one is not legal. */
static bool add_headers(lua_State *L, int index, struct MHD_Response *response) {
  if (lua_isnoneornil(L, index))
    return true;
  lua_Integer n = luaL_len(L, index);
  bool ok = true;
  for (lua_Integer i = 1; ok && i < n; i += 2) {
    lua_rawgeti(L, index, i);
    lua_rawgeti(L, index, i + 1);
    const char *name = lua_tostring(L, -2), *value = lua_tostring(L, -1);
    ok = name && value && is_clean(value) &&
         MHD_add_response_header(response, name, value) == MHD_YES;
    lua_pop(L, 2);
  }
  return ok;
}

static bool add_head(lua_State *L, struct MHD_Response *response, const char *type, int headers) {
  return MHD_add_response_header(response, "Content-Type", type) == MHD_YES &&
         MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") == MHD_YES &&
         add_headers(L, headers, response);
}

static int finish_head(lua_State *L, http_exchange *x, struct MHD_Response *response,
                       http_state state) {
  lua_Integer status = lua_tointeger(L, 2);
  if (!response)
    return luaL_error(L, "exchange: no memory for the answer");
  if (!add_head(L, response, lua_tostring(L, 3), 5)) {
    MHD_destroy_response(response);
    return luaL_error(L, "exchange: a header is not one");
  }
  set_answer(x, (unsigned)status, response, state);
  lua_pushboolean(L, true);
  return 1;
}

static void check_head(lua_State *L) {
  lua_Integer status = luaL_checkinteger(L, 2);
  luaL_argcheck(L, status >= 200 && status <= 599, 2, "a status from 200 to 599 expected");
  luaL_checkstring(L, 3);
  if (!lua_isnoneornil(L, 5))
    luaL_checktype(L, 5, LUA_TTABLE);
}

/* exchange:respond(status, content_type, body, headers) -> true; false: the client is gone */
static int respond(lua_State *L) {
  check_head(L);
  size_t size;
  const char *body = luaL_checklstring(L, 4, &size);
  http_exchange *x = check_open(L);
  if (!x)
    return 1;
  return finish_head(L, x,
                     MHD_create_response_from_buffer(size, (void *)body, MHD_RESPMEM_MUST_COPY),
                     HTTP_ANSWERED);
}

static int prepared_gc(lua_State *L) {
  prepared *p = luaL_checkudata(L, 1, PREPARED);
  if (p->response)
    MHD_destroy_response(p->response);
  p->response = NULL;
  return 0;
}

int http_prepare(lua_State *L) {
  lua_settop(L, 4);
  lua_Integer status = luaL_checkinteger(L, 1);
  size_t size;
  const char *text = luaL_checklstring(L, 3, &size);
  luaL_checktype(L, 4, LUA_TTABLE);
  prepared *p = lua_newuserdatauv(L, sizeof *p, 0);
  *p = (prepared){.status = (unsigned)status};
  luaL_setmetatable(L, PREPARED);
  p->response = MHD_create_response_from_buffer(size, (void *)text, MHD_RESPMEM_MUST_COPY);
  if (!p->response || !add_head(L, p->response, luaL_checkstring(L, 2), 4))
    return luaL_error(L, "exchange: no memory for the answer, or a header is not one");
  return 1;
}

/* exchange:respond_prepared(prepared) -> true; false: the client is gone */
static int respond_prepared(lua_State *L) {
  const prepared *p = luaL_checkudata(L, 2, PREPARED);
  http_exchange *x = check_open(L);
  if (!x)
    return 1;
  if (!x->inside) { /* it has to live until libmicrohttpd asks */
    lua_pushvalue(L, 2);
    x->prepared = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  x->is_prepared = true;
  set_answer(x, p->status, p->response, HTTP_ANSWERED);
  lua_pushboolean(L, true);
  return 1;
}

/* exchange:respond_file(status, content_type, {fd, size}, headers): takes the open file over */
static int respond_file(lua_State *L) {
  check_head(L);
  luaL_checktype(L, 4, LUA_TTABLE);
  lua_rawgeti(L, 4, 1);
  lua_rawgeti(L, 4, 2);
  int fd = (int)luaL_checkinteger(L, -2);
  lua_Integer size = luaL_checkinteger(L, -1);
  http_exchange *x = check_open(L);
  if (!x)
    return 1;
  return finish_head(L, x, MHD_create_response_from_fd64((uint64_t)size, fd), HTTP_ANSWERED);
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t read_stream(void *user, uint64_t position, char *to, size_t size) {
  http_exchange *x = user;
  (void)position;
  size_t left = x->out_end - x->out_start;
  if (x->state == HTTP_GONE)
    return MHD_CONTENT_READER_END_WITH_ERROR;
  if (!left && x->state == HTTP_FINISHED)
    return MHD_CONTENT_READER_END_OF_STREAM;
  if (!left) {
    suspend(x);
    return 0;
  }
  size_t n = left < size ? left : size;
  memcpy(to, x->out + x->out_start, n);
  x->out_start += n;
  if (x->out_start == x->out_end)
    x->out_start = x->out_end = 0;
  return (ssize_t)n;
}

/* exchange:stream(status, content_type, nil, headers) -> true; false: the client is gone */
static int stream(lua_State *L) {
  lua_settop(L, 5);
  check_head(L);
  http_exchange *x = check_open(L);
  if (!x)
    return 1;
  http_exchange_anchor(L, x);
  return finish_head(
      L, x, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, x, NULL),
      HTTP_STREAMING);
}

/* exchange:write(text) -> true; false: the client is gone, or was dropped because it reads too
 * slowly */
static int write_stream(lua_State *L) {
  http_exchange *x = check(L);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  if (x->state != HTTP_STREAMING && x->state != HTTP_GONE)
    return luaL_error(L, "exchange: not a stream, or finished");
  if (x->state == HTTP_STREAMING) {
    if (x->out_start > x->out_capacity / 2) {
      memmove(x->out, x->out + x->out_start, x->out_end - x->out_start);
      x->out_end -= x->out_start;
      x->out_start = 0;
    }
    if (x->out_end - x->out_start + size > HTTP_MAX_QUEUE ||
        !make_room(&x->out, &x->out_capacity, x->out_end, size)) {
      drop(x);
    } else {
      memcpy(x->out + x->out_end, text, size);
      x->out_end += size;
      if (!x->response) /* else its head has not gone out yet, which resumes */
        http_exchange_resume(x);
    }
  }
  lua_pushboolean(L, x->state == HTTP_STREAMING);
  return 1;
}

/* exchange:finish(): what was written goes out, and the stream ends */
static int finish(lua_State *L) {
  http_exchange *x = check(L);
  if (x->state == HTTP_STREAMING) {
    x->state = HTTP_FINISHED;
    if (!x->response)
      http_exchange_resume(x);
  }
  return 0;
}

/* exchange:drop(): closes the connection without an end */
static int drop_exchange(lua_State *L) {
  http_exchange *x = check(L);
  if (x->on && x->state != HTTP_GONE)
    drop(x);
  return 0;
}

/* exchange:upgrade() -> true; or nil, what is wrong with the request */
static int upgrade(lua_State *L) {
  http_exchange *x = check_open(L);
  if (!x)
    return 1;
  http_exchange_anchor(L, x);
  const char *error = NULL;
  struct MHD_Response *response = http_websocket_response(x, &error);
  if (!response) {
    luaL_pushfail(L);
    lua_pushstring(L, error);
    return 2;
  }
  set_answer(x, MHD_HTTP_SWITCHING_PROTOCOLS, response, HTTP_ANSWERED);
  lua_pushboolean(L, true);
  return 1;
}

/* Asking. Once it is over all that was not asked for is gone. */

static int header(lua_State *L) {
  const http_exchange *x = check(L);
  const char *name = luaL_checkstring(L, 2);
  lua_pushstring(
      L, x->connection ? MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name) : NULL);
  return 1;
}

static enum MHD_Result collect_argument(void *user, enum MHD_ValueKind kind, const char *key,
                                        size_t key_size, const char *value, size_t value_size) {
  lua_State *L = user;
  (void)kind;
  lua_Integer n = luaL_len(L, -1);
  lua_pushlstring(L, key, key_size);
  lua_rawseti(L, -2, n + 1);
  lua_pushlstring(L, value ? value : "", value_size);
  lua_rawseti(L, -2, n + 2);
  return MHD_YES;
}

/* exchange:query() -> { name, value, name, value ... }, as they came but for "+", which is a space
 */
static int query(lua_State *L) {
  const http_exchange *x = check(L);
  lua_newtable(L);
  if (x->connection)
    MHD_get_connection_values_n(x->connection, MHD_GET_ARGUMENT_KIND, collect_argument, L);
  return 1;
}

/* exchange:body() -> text; nil, true: it was larger than the limit */
static int body(lua_State *L) {
  const http_exchange *x = check(L);
  if (x->body.too_big) {
    luaL_pushfail(L);
    lua_pushboolean(L, true);
    return 2;
  }
  lua_pushlstring(L, x->body.bytes ? x->body.bytes : "", x->body.size);
  return 1;
}

/* exchange:id() -> text that names the request in the log */
static int id(lua_State *L) {
  const http_exchange *x = check(L);
  lua_pushfstring(L, "%s%I", x->server->id_prefix, (LUAI_UACINT)x->serial);
  return 1;
}

/* exchange:log(head, route, status, n_bytes): adds its line to the server's log; log.h tells which
 * texts. */
static int log_line(lua_State *L) {
  const http_exchange *x = check(L);
  const http_log_entry entry = {.head = luaL_checkstring(L, 2),
                                .route = luaL_checkstring(L, 3),
                                .status = (unsigned)luaL_checkinteger(L, 4),
                                .n_bytes = (uint64_t)luaL_checkinteger(L, 5),
                                .took_ns = http_now_ns() - x->start_ns,
                                .id_prefix = x->server->id_prefix,
                                .serial = x->serial};
  http_log_add(&x->server->log, &entry);
  return 0;
}

void http_open_exchange(lua_State *L) {
  static const luaL_Reg methods[] = {{"respond", respond},
                                     {"respond_file", respond_file},
                                     {"respond_prepared", respond_prepared},
                                     {"stream", stream},
                                     {"write", write_stream},
                                     {"finish", finish},
                                     {"drop", drop_exchange},
                                     {"upgrade", upgrade},
                                     {"header", header},
                                     {"query", query},
                                     {"body", body},
                                     {"id", id},
                                     {"log", log_line},
                                     {NULL, NULL}};
  luaL_newmetatable(L, TYPE);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &type_key);
  luaL_newmetatable(L, PREPARED);
  lua_pushcfunction(L, prepared_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 2);
}
