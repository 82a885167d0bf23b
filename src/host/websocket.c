// SPDX-License-Identifier: MIT
/*
 * moonscope.WebSocket: a connection after its upgrade. wslay does the framing; the socket is
 * watched by the server's epoll. Pings tell a client that is gone without a word.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "host/httpd.h"

#define TYPE "moonscope.WebSocket"

enum {
  MAX_MESSAGE = 1 << 20, /* bytes that a client may send in one */
  PING_AFTER_MS = 30000, /* without a byte from the client */
  DROP_AFTER_MS = 90000,
};

struct http_websocket {
  http_watched kind; /* HTTP_WEBSOCKET */
  http_server *server;
  struct MHD_UpgradeResponseHandle *handle; /* NULL: closed */
  wslay_event_context_ptr frames;
  int fd, self;
  char *early; /* came with the request: early[early_start...early_end) */
  size_t early_start, early_end;
  uint64_t heard_ms;
  bool pinged, receiving, broken;
  struct http_websocket *next, *before;
};

/* Upgrading */

static bool has_word(const char *list, const char *word) {
  size_t size = strlen(word);
  for (const char *p = list; p && *p; p++)
    if (strncasecmp(p, word, size) == 0 && (p == list || p[-1] == ' ' || p[-1] == ',') &&
        (p[size] == '\0' || p[size] == ',' || p[size] == ' '))
      return true;
  return false;
}

/* RFC 6455, 4.2.2: the client's key and a constant, hashed */
static bool accept_text(char out[64], const char *key) {
  static const char constant[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  char text[64 + sizeof constant];
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned size;
  if (strlen(key) != 24)
    return false;
  strcpy(text, key);
  strcat(text, constant);
  if (!EVP_Digest(text, strlen(text), hash, &size, EVP_sha1(), NULL))
    return false;
  EVP_EncodeBlock((unsigned char *)out, hash, (int)size);
  return true;
}

static void on_upgrade(void *user, struct MHD_Connection *connection, void *con_cls,
                       const char *extra, size_t extra_size, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle);

static const char *header_of(const http_exchange *x, const char *name) {
  return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

struct MHD_Response *http_websocket_response(http_exchange *x, const char **error) {
  const char *version = header_of(x, "Sec-WebSocket-Version"),
             *key = header_of(x, "Sec-WebSocket-Key"), *upgrade = header_of(x, "Upgrade");
  char accept[64];
  *error = NULL;
  if (!upgrade || strcasecmp(upgrade, "websocket") != 0 ||
      !has_word(header_of(x, "Connection"), "upgrade"))
    *error = "expected the headers Upgrade: websocket and Connection: Upgrade";
  else if (!version || strcmp(version, "13") != 0)
    *error = "Sec-WebSocket-Version: expected 13";
  else if (!key || !accept_text(accept, key))
    *error = "Sec-WebSocket-Key: expected 24 characters";
  if (*error)
    return NULL;
  struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgrade, x);
  if (response && MHD_add_response_header(response, "Upgrade", "websocket") == MHD_YES &&
      MHD_add_response_header(response, "Sec-WebSocket-Accept", accept) == MHD_YES)
    return response;
  if (response)
    MHD_destroy_response(response);
  *error = "no memory";
  return NULL;
}

/* wslay's ways to the socket */

static ssize_t from_early(http_websocket *ws, uint8_t *to, size_t size) {
  size_t left = ws->early_end - ws->early_start, n = left < size ? left : size;
  memcpy(to, ws->early + ws->early_start, n);
  ws->early_start += n;
  return (ssize_t)n;
}

static ssize_t read_socket(wslay_event_context_ptr frames, uint8_t *to, size_t size, int flags,
                           void *user) {
  http_websocket *ws = user;
  (void)flags;
  if (ws->early_start < ws->early_end)
    return from_early(ws, to, size);
  ssize_t n = recv(ws->fd, to, size, 0);
  if (n > 0)
    return n;
  bool later = n < 0 && (errno == EAGAIN || errno == EINTR);
  wslay_event_set_error(frames, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
  return -1;
}

static ssize_t write_socket(wslay_event_context_ptr frames, const uint8_t *data, size_t size,
                            int flags, void *user) {
  const http_websocket *ws = user;
  (void)flags;
  ssize_t n = send(ws->fd, data, size, MSG_NOSIGNAL);
  if (n >= 0)
    return n;
  bool later = errno == EAGAIN || errno == EINTR;
  wslay_event_set_error(frames, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
  return -1;
}

static void on_message(wslay_event_context_ptr frames,
                       const struct wslay_event_on_msg_recv_arg *message, void *user) {
  const http_websocket *ws = user;
  lua_State *L = ws->server->L;
  (void)frames;
  if (message->opcode != WSLAY_TEXT_FRAME && message->opcode != WSLAY_BINARY_FRAME)
    return;
  luaL_checkstack(L, 8, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, ws->self);
  lua_pushlstring(L, (const char *)message->msg, message->msg_length);
  http_call_back(ws->server, "message", 2);
}

/* The socket's life */

static void watch(http_websocket *ws, int how) {
  struct epoll_event event = {.events = (wslay_event_want_read(ws->frames) ? EPOLLIN : 0U) |
                                        (wslay_event_want_write(ws->frames) ? EPOLLOUT : 0U),
                              .data.ptr = ws};
  epoll_ctl(ws->server->epoll_fd, how, ws->fd, &event);
}

void http_websocket_drop(http_websocket *ws) {
  if (!ws->handle)
    return;
  http_server *server = ws->server;
  epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, ws->fd, NULL);
  *(ws->before ? &ws->before->next : &server->websockets) = ws->next;
  if (ws->next)
    ws->next->before = ws->before;
  wslay_event_context_free(ws->frames);
  free(ws->early);
  MHD_upgrade_action(ws->handle, MHD_UPGRADE_ACTION_CLOSE);
  ws->handle = NULL;
  lua_rawgeti(server->L, LUA_REGISTRYINDEX, ws->self);
  luaL_unref(server->L, LUA_REGISTRYINDEX, ws->self);
  http_call_back(server, "closed", 1);
}

/* Sends what can be sent; closes where all is said, or nothing goes any more. */
static void flush(http_websocket *ws) {
  if (ws->receiving)
    return; /* whoever receives flushes then */
  if (wslay_event_get_queued_msg_length(ws->frames) > HTTP_MAX_QUEUE ||
      (wslay_event_want_write(ws->frames) && wslay_event_send(ws->frames)))
    ws->broken = true;
  if (ws->broken || (!wslay_event_want_read(ws->frames) && !wslay_event_want_write(ws->frames)))
    http_websocket_drop(ws);
  else
    watch(ws, EPOLL_CTL_MOD);
}

static void receive(http_websocket *ws) {
  ws->heard_ms = http_now_ms();
  ws->pinged = false;
  ws->receiving = true;
  if (wslay_event_recv(ws->frames))
    ws->broken = true;
  ws->receiving = false;
}

void http_websocket_event(http_websocket *ws, uint32_t events) {
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
    receive(ws);
  flush(ws);
}

/* Returns whether the list is as it was: a callback may have dropped any. */
static bool sweep_one(http_websocket *ws, uint64_t now_ms) {
  static const struct wslay_event_msg ping = {.opcode = WSLAY_PING};
  if (now_ms - ws->heard_ms > DROP_AFTER_MS) {
    http_websocket_drop(ws);
    return false;
  }
  if (ws->pinged || now_ms - ws->heard_ms <= PING_AFTER_MS)
    return true;
  ws->pinged = true;
  wslay_event_queue_msg(ws->frames, &ping);
  flush(ws);
  return false;
}

void http_websockets_sweep(http_server *server, uint64_t now_ms) {
  http_websocket *ws = server->websockets;
  while (ws)
    ws = sweep_one(ws, now_ms) ? ws->next : server->websockets;
}

/* lightuserdata websocket's ingredients: see on_upgrade */
typedef struct upgraded {
  http_exchange *exchange;
  http_websocket *ws; /* NULL: it was not made */
} upgraded;

static int new_websocket(lua_State *L) {
  upgraded *u = lua_touserdata(L, 1);
  http_websocket *ws = lua_newuserdatauv(L, sizeof *ws, 0);
  memset(ws, 0, sizeof *ws);
  ws->kind = HTTP_WEBSOCKET;
  ws->server = u->exchange->server;
  luaL_setmetatable(L, TYPE);
  ws->self = luaL_ref(L, LUA_REGISTRYINDEX);
  u->ws = ws;
  return 0;
}

static bool start_frames(http_websocket *ws, const char *extra, size_t size) {
  static const struct wslay_event_callbacks callbacks = {.recv_callback = read_socket,
                                                         .send_callback = write_socket,
                                                         .on_msg_recv_callback = on_message};
  if (size && !(ws->early = malloc(size)))
    return false;
  if (size)
    memcpy(ws->early, extra, size);
  ws->early_end = size;
  if (wslay_event_context_server_init(&ws->frames, &callbacks, ws))
    return false;
  wslay_event_config_set_max_recv_msg_length(ws->frames, MAX_MESSAGE);
  return true;
}

static void on_upgrade(void *user, struct MHD_Connection *connection, void *con_cls,
                       const char *extra, size_t extra_size, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle) {
  upgraded u = {.exchange = user};
  http_server *server = u.exchange->server;
  lua_State *L = server->L;
  (void)connection, (void)con_cls;
  lua_pushcfunction(L, new_websocket);
  lua_pushlightuserdata(L, &u);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
    return;
  }
  http_websocket *ws = u.ws;
  if (!start_frames(ws, extra, extra_size)) {
    free(ws->early);
    luaL_unref(L, LUA_REGISTRYINDEX, ws->self);
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
    return;
  }
  ws->handle = handle;
  ws->fd = fd;
  ws->heard_ms = http_now_ms();
  ws->next = server->websockets;
  if (ws->next)
    ws->next->before = ws;
  server->websockets = ws;
  watch(ws, EPOLL_CTL_ADD);
  lua_rawgeti(L, LUA_REGISTRYINDEX, u.exchange->self);
  lua_rawgeti(L, LUA_REGISTRYINDEX, ws->self);
  http_call_back(server, "opened", 2);
  if (ws->handle && extra_size)
    http_websocket_event(ws, EPOLLIN);
}

/* Lua's side */

static http_websocket *check(lua_State *L) {
  return luaL_checkudata(L, 1, TYPE);
}

/* websocket:send(text) -> true; false: it is closed, or the client was dropped because it reads too
 * slowly */
static int send_text(lua_State *L) {
  http_websocket *ws = check(L);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  const struct wslay_event_msg message = {
      .opcode = WSLAY_TEXT_FRAME, .msg = (const uint8_t *)text, .msg_length = size};
  bool queued = ws->handle && wslay_event_queue_msg(ws->frames, &message) == 0;
  if (queued)
    flush(ws);
  lua_pushboolean(L, queued && ws->handle);
  return 1;
}

/* websocket:close(code): says so and waits for the other side to say it too */
static int close_websocket(lua_State *L) {
  http_websocket *ws = check(L);
  lua_Integer code = luaL_optinteger(L, 2, WSLAY_CODE_NORMAL_CLOSURE);
  luaL_argcheck(L, code >= 1000 && code <= 4999, 2, "a close code from 1000 to 4999 expected");
  if (ws->handle) {
    wslay_event_queue_close(ws->frames, (uint16_t)code, NULL, 0);
    flush(ws);
  }
  return 0;
}

static int is_open(lua_State *L) {
  lua_pushboolean(L, check(L)->handle != NULL);
  return 1;
}

void http_open_websocket(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"send", send_text}, {"close", close_websocket}, {"is_open", is_open}, {NULL, NULL}};
  luaL_newmetatable(L, TYPE);
  luaL_newlib(L, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
