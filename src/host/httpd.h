// SPDX-License-Identifier: MIT
/*
 * The HTTP server's C half: require "moonscope.httpd", which only the program has. One thread: the
 * daemon is run by the event loop whenever the server's descriptor is readable (libmicrohttpd's
 * external epoll mode), and calls back into Lua from there. Lua's half is lua/moonscope/server.
 *
 * A request is an exchange. Lua answers it at once, or the connection is suspended until it does. A
 * suspended connection is invisible to libmicrohttpd, so its socket is watched here: a client that
 * leaves is told to Lua. Streams are suspended whenever they have nothing to send.
 */
#ifndef MOON_HOST_HTTPD_H
#define MOON_HOST_HTTPD_H

#include <lauxlib.h>
#include <lua.h>
#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "host/gate.h"
#include "host/log.h"

enum {
  HTTP_MAX_BODY = 8 << 20,  /* bytes of a request's body */
  HTTP_MAX_QUEUE = 1 << 20, /* bytes that wait for a slow reader, who is then dropped */
};

/* What an event of the server's epoll is about; first member of whatever is watched. */
typedef enum http_watched { HTTP_DAEMON, HTTP_EXCHANGE, HTTP_WEBSOCKET } http_watched;

typedef struct http_server http_server;
typedef struct http_exchange http_exchange;
typedef struct http_websocket http_websocket;

typedef enum http_phase {
  HTTP_IDLE,   /* between requests: nothing has come */
  HTTP_HEADER, /* the first bytes of a request have come */
  HTTP_BODY,
  HTTP_BUSY, /* the request is complete: as long as the answer takes */
} http_phase;

/* A request's body, as far as it has come. */
typedef struct http_body {
  char *bytes; /* NULL: none */
  size_t size, capacity;
  bool too_big;
} http_body;

typedef struct http_connection {
  int fd;
  http_phase phase;
  uint64_t since_ns; /* the start of this phase; HTTP_BUSY begins with the last byte that came */
  uint64_t n_bytes;  /* received when it became idle; 0 while that is not known */
  http_body body;
  http_exchange *exchange; /* from when Lua is asked until it is over */
  struct http_connection *next, *before;
} http_connection;

struct http_server {
  http_watched kind;         /* HTTP_DAEMON */
  struct MHD_Daemon *daemon; /* NULL: stopped */
  lua_State *L;              /* whoever runs the daemon at present */
  int self, callbacks;       /* in the registry while it runs; callbacks: an object */
  int asked;                 /* in the registry: the exchange for which Lua was last asked */
  int epoll_fd, listen_fd, port;
  char address[64];
  bool loopback;
  bool resumed; /* some connection, since the daemon last ran */
  uint64_t n_exchanges;
  char id_prefix[16]; /* of this server's requests */
  http_log log;
  gate_rules rules;
  char **hosts, *token; /* the rules' */
  int limit, n_connections;
  unsigned n_calls; /* by libmicrohttpd: it comes further */
  http_connection *connections;
  http_websocket *websockets;
};

typedef enum http_state {
  HTTP_OPEN,      /* Lua has it and has not answered */
  HTTP_ANSWERED,  /* with a whole body, or an upgrade */
  HTTP_STREAMING, /* the answer's head is there, more may come */
  HTTP_FINISHED,  /* the stream's end is known */
  HTTP_GONE,      /* the client left, or was dropped; or all is over */
} http_state;

struct http_exchange {
  http_watched kind; /* HTTP_EXCHANGE */
  http_server *server;
  http_connection *on;               /* NULL: over */
  struct MHD_Connection *connection; /* NULL: over */
  int self;                          /* in the registry; LUA_NOREF: over when Lua returns */
  uint64_t serial;                   /* its id, behind the server's prefix */
  uint64_t start_ns;
  http_state state;
  bool inside;                   /* libmicrohttpd is calling: an answer can be given right now */
  bool suspended;                /* and watched */
  struct MHD_Response *response; /* to be given at the next chance */
  unsigned status;
  bool is_prepared; /* the response is another's */
  int prepared;     /* in the registry: whose; LUA_NOREF: it lives long enough */
  http_body body;
  char *out; /* what a stream has to send: out[out_start...out_end) */
  size_t out_start, out_end, out_capacity;
};

/* Calls callbacks:name() with the n_args on top of the stack, which it pops. An error is logged:
 * false. */
bool http_call_back(http_server *server, const char *name, int n_args);

/* Of the monotonic clock. */
uint64_t http_now_ns(void);
uint64_t http_now_ms(void);

/* Keeps a part of the body; what is above the limit is dropped and noted. */
void http_body_receive(http_body *body, const char *data, size_t size);
void http_body_free(http_body *body);

/* Pushes an exchange for a request that has come, with its body. It lives until the next request
 * comes; one that waits longer is anchored before, and lives until it is over. */
http_exchange *http_exchange_new(lua_State *L, http_server *server, http_connection *on,
                                 struct MHD_Connection *connection);
void http_exchange_anchor(lua_State *L, http_exchange *x);
/* Gives the answer if there is one, else suspends until there is. */
enum MHD_Result http_exchange_answer(http_exchange *x);
/* The socket of a suspended one was closed from the other side. */
void http_exchange_hang_up(http_exchange *x);
/* libmicrohttpd is done with it. */
void http_exchange_end(http_exchange *x);
/* Lets a suspended connection go on. */
void http_exchange_resume(http_exchange *x);

/* httpd.prepare(status, content_type, text, headers) -> an answer for exchange:respond_prepared */
int http_prepare(lua_State *L);

/* exchange:upgrade(): the response that makes a WebSocket of a connection; NULL where the request
 * is none (error: the text says why). */
struct MHD_Response *http_websocket_response(http_exchange *x, const char **error);
void http_websocket_event(http_websocket *ws, uint32_t events);
/* Pings those that are quiet, drops those that stay so. */
void http_websockets_sweep(http_server *server, uint64_t now_ms);
void http_websocket_drop(http_websocket *ws);

/* Each makes its type's metatable. */
void http_open_exchange(lua_State *L);
void http_open_websocket(lua_State *L);

/* require "moonscope.httpd" */
int http_open(lua_State *L);

#endif
