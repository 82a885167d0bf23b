// SPDX-License-Identifier: MIT
/* moonscope.Tokenizer and moonscope.Decoder. Only loading is a job, aside of the queue, so that it
 * goes on while weights are loaded: nothing here reads tensor data. */
#include "llama/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "bind/bind.h"
#include "utf8.h"

#define TOKENIZER "moonscope.Tokenizer"
#define DECODER   "moonscope.Decoder"
#define ENCODING  "moonscope.Encoding" /* not for Lua: frees the ids, whatever Lua throws */

typedef struct l_tokenizer {
  moon_tokenizer *tokenizer; /* NULL: closed */
} l_tokenizer;

static moon_tokenizer *check(lua_State *L) {
  l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER);
  if (!u->tokenizer)
    luaL_error(L, "tokenizer: closed");
  return u->tokenizer;
}

/* Loading */

typedef struct load_task {
  moon_task task;
  char *path;
  moon_tokenizer *tokenizer;
} load_task;

static moon_status run_load(moon_task *task, moon_progress *progress, moon_err *err) {
  load_task *t = (load_task *)task;
  (void)progress;
  return moon_tokenizer_load(&t->tokenizer, t->path, err);
}

static int push_load(lua_State *L, moon_task *task) {
  load_task *t = (load_task *)task;
  l_tokenizer *u = lua_newuserdatauv(L, sizeof *u, 1);
  u->tokenizer = NULL;
  luaL_setmetatable(L, TOKENIZER);
  u->tokenizer = t->tokenizer;
  t->tokenizer = NULL;
  return 1;
}

static void drop_load(moon_task *task) {
  load_task *t = (load_task *)task;
  moon_tokenizer_release(t->tokenizer);
  free(t->path);
}

/* core.load_tokenizer(path of a tokenizer.json) -> job -> Tokenizer */
static int load_tokenizer(lua_State *L) {
  static const l_job_kind kind = {"load_tokenizer", sizeof(load_task), run_load,     push_load,
                                  drop_load,        .soft = true,      .aside = true};
  const char *path = l_path_check(L, 1);
  load_task *t = l_job_new(L, &kind);
  t->path = strdup(path);
  if (!t->path)
    return luaL_error(L, "load_tokenizer: not enough memory");
  return l_job_start(L, t);
}

static int tokenizer_close(lua_State *L) {
  l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER);
  moon_tokenizer_release(u->tokenizer);
  u->tokenizer = NULL;
  return 0;
}

static int tokenizer_tostring(lua_State *L) {
  const l_tokenizer *u = luaL_checkudata(L, 1, TOKENIZER);
  if (u->tokenizer)
    lua_pushfstring(L, TOKENIZER " %d tokens", (int)moon_tokenizer_n_vocab(u->tokenizer));
  else
    lua_pushliteral(L, TOKENIZER " (closed)");
  return 1;
}

/* Encoding */

static int encoding_free(lua_State *L) {
  moon_encoding_free(luaL_checkudata(L, 1, ENCODING));
  return 0;
}

static void push_ids(lua_State *L, const moon_encoding *encoding) {
  lua_createtable(L, (int)encoding->n, 0);
  for (size_t i = 0; i < encoding->n; i++) {
    lua_pushinteger(L, encoding->ids[i]);
    lua_rawseti(L, -2, i + 1);
  }
}

/* {first, last} for each id, as text:sub takes them: counted from 1, the last one included. */
static void push_offsets(lua_State *L, const moon_encoding *encoding) {
  lua_createtable(L, (int)encoding->n, 0);
  for (size_t i = 0; i < encoding->n; i++) {
    lua_createtable(L, 2, 0);
    lua_pushinteger(L, i ? encoding->ends[i - 1] + 1 : 1);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, encoding->ends[i]);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, i + 1);
  }
}

/* Of the arguments bos, literal and goes_on, which follow the text. */
static int flags_of(lua_State *L) {
  return (lua_toboolean(L, 3) ? MOON_ENCODE_BOS : 0) |
         (lua_toboolean(L, 4) ? MOON_ENCODE_LITERAL : 0) |
         (lua_toboolean(L, 5) ? MOON_ENCODE_ON : 0);
}

/* A long text is encoded in a job, so that the Lua thread need not wait. */
typedef struct encode_task {
  moon_task task;
  moon_tokenizer *tokenizer;
  char *text;
  size_t size;
  int flags;
  moon_encoding encoding;
} encode_task;

static moon_status run_encode(moon_task *task, moon_progress *progress, moon_err *err) {
  encode_task *t = (encode_task *)task;
  (void)progress;
  return moon_tokenizer_encode(t->tokenizer, t->text, t->size, t->flags, &t->encoding, err);
}

static int push_encode(lua_State *L, moon_task *task) {
  push_ids(L, &((encode_task *)task)->encoding);
  return 1;
}

static void drop_encode(moon_task *task) {
  encode_task *t = (encode_task *)task;
  moon_encoding_free(&t->encoding);
  moon_tokenizer_release(t->tokenizer);
  free(t->text);
}

/* tokenizer:_encode_long(text, bos, literal, goes_on) -> job -> ids */
static int tokenizer_encode_long(lua_State *L) {
  static const l_job_kind kind = {"encode",    sizeof(encode_task), run_encode,
                                  push_encode, drop_encode,         .aside = true};
  moon_tokenizer *tokenizer = check(L);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  int flags = flags_of(L);
  encode_task *t = l_job_new(L, &kind);
  t->tokenizer = moon_tokenizer_retain(tokenizer);
  t->flags = flags;
  t->size = size;
  t->text = malloc(size + 1);
  if (!t->text)
    return luaL_error(L, "encode: not enough memory");
  memcpy(t->text, text, size);
  return l_job_start(L, t);
}

/* tokenizer:_encode(text, bos, literal, goes_on, offsets) -> ids, offsets if wanted */
static int tokenizer_encode(lua_State *L) {
  const moon_tokenizer *tokenizer = check(L);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  int flags = flags_of(L);
  bool offsets = lua_toboolean(L, 6);
  moon_encoding *encoding = lua_newuserdatauv(L, sizeof *encoding, 0);
  *encoding = (moon_encoding){0};
  luaL_setmetatable(L, ENCODING);
  moon_err err;
  if (moon_tokenizer_encode(tokenizer, text, size, flags, encoding, &err))
    return l_throw(L, &err);
  push_ids(L, encoding);
  if (offsets)
    push_offsets(L, encoding);
  moon_encoding_free(encoding);
  return offsets ? 2 : 1;
}

/* Decoding */

static moon_token token_of(lua_State *L, const moon_tokenizer *tokenizer, lua_Integer id) {
  moon_token token;
  moon_err err;
  if (moon_tokenizer_token(tokenizer, id, &token, &err))
    l_throw(L, &err);
  return token;
}

/* tokenizer:_decode(ids, skip_special) -> text */
static int tokenizer_decode(lua_State *L) {
  const moon_tokenizer *tokenizer = check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool skip_special = lua_toboolean(L, 3), strips = moon_tokenizer_strips_space(tokenizer);
  lua_Integer n = luaL_len(L, 2);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  for (lua_Integer i = 1; i <= n; i++) {
    int is_integer;
    lua_rawgeti(L, 2, i);
    lua_Integer id = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer)
      return luaL_error(L, "decode: ids[%I]: found %s, expected a token id", i,
                        luaL_typename(L, -1));
    lua_pop(L, 1);
    moon_token token = token_of(L, tokenizer, id);
    if (skip_special && token.special)
      continue;
    bool strip = strips && token.size > 0 && token.bytes[0] == ' ';
    luaL_addlstring(&text, token.bytes + strip, token.size - strip);
    strips = strips && token.size == 0;
  }
  luaL_pushresult(&text);
  return 1;
}

static int tokenizer_token(lua_State *L) {
  moon_token token = token_of(L, check(L), luaL_checkinteger(L, 2));
  lua_pushlstring(L, token.bytes, token.size);
  return 1;
}

static int tokenizer_is_special(lua_State *L) {
  lua_pushboolean(L, token_of(L, check(L), luaL_checkinteger(L, 2)).special);
  return 1;
}

static int push_id(lua_State *L, int32_t id) {
  if (id < 0)
    luaL_pushfail(L);
  else
    lua_pushinteger(L, id);
  return 1;
}

static int tokenizer_id(lua_State *L) {
  const moon_tokenizer *tokenizer = check(L);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  return push_id(L, moon_tokenizer_find(tokenizer, text, size));
}

static int tokenizer_bos_id(lua_State *L) {
  return push_id(L, moon_tokenizer_bos(check(L)));
}

static int tokenizer_n_vocab(lua_State *L) {
  lua_pushinteger(L, moon_tokenizer_n_vocab(check(L)));
  return 1;
}

/* Streams: ids in one by one, whole characters out */

typedef struct l_decoder {
  moon_tokenizer *tokenizer; /* one reference; NULL: closed */
  bool skip_special;
  char held[3]; /* the start of a character that the next ids may complete */
  size_t n_held;
} l_decoder;

static l_decoder *check_decoder(lua_State *L) {
  l_decoder *decoder = luaL_checkudata(L, 1, DECODER);
  if (!decoder->tokenizer)
    luaL_error(L, "decoder: closed");
  return decoder;
}

/* tokenizer:_stream(skip_special) -> Decoder */
static int tokenizer_stream(lua_State *L) {
  moon_tokenizer *tokenizer = check(L);
  l_decoder *decoder = lua_newuserdatauv(L, sizeof *decoder, 0);
  *decoder = (l_decoder){.skip_special = lua_toboolean(L, 2)};
  luaL_setmetatable(L, DECODER);
  decoder->tokenizer = moon_tokenizer_retain(tokenizer);
  return 1;
}

/* decoder:feed(id) -> the text that is complete now, maybe "" */
static int decoder_feed(lua_State *L) {
  l_decoder *decoder = check_decoder(L);
  moon_token token = token_of(L, decoder->tokenizer, luaL_checkinteger(L, 2));
  if (decoder->skip_special && token.special)
    token.size = 0;
  lua_pushlstring(L, decoder->held, decoder->n_held);
  lua_pushlstring(L, token.bytes, token.size);
  lua_concat(L, 2);
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  size_t whole = moon_utf8_whole(text, size);
  lua_pushlstring(L, text, whole);
  decoder->n_held = size - whole;
  memcpy(decoder->held, text + whole, decoder->n_held);
  return 1;
}

/* decoder:finish() -> what is left: the start of a character that never came whole, or "" */
static int decoder_finish(lua_State *L) {
  l_decoder *decoder = check_decoder(L);
  lua_pushlstring(L, decoder->held, decoder->n_held);
  decoder->n_held = 0;
  return 1;
}

static int decoder_close(lua_State *L) {
  l_decoder *decoder = luaL_checkudata(L, 1, DECODER);
  moon_tokenizer_release(decoder->tokenizer);
  decoder->tokenizer = NULL;
  return 0;
}

static int decoder_tostring(lua_State *L) {
  const l_decoder *decoder = luaL_checkudata(L, 1, DECODER);
  lua_pushfstring(L, DECODER "%s", decoder->tokenizer ? "" : " (closed)");
  return 1;
}

static int tokenizer_live(lua_State *L) {
  lua_pushinteger(L, moon_tokenizer_live());
  return 1;
}

void l_open_tokenizer(lua_State *L) {
  static const luaL_Reg methods[] = {{"_encode", tokenizer_encode},
                                     {"_encode_long", tokenizer_encode_long},
                                     {"_decode", tokenizer_decode},
                                     {"_stream", tokenizer_stream},
                                     {"token", tokenizer_token},
                                     {"id", tokenizer_id},
                                     {"is_special", tokenizer_is_special},
                                     {"bos_id", tokenizer_bos_id},
                                     {"n_vocab", tokenizer_n_vocab},
                                     {"close", tokenizer_close},
                                     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__gc", tokenizer_close},
                                         {"__close", tokenizer_close},
                                         {"__tostring", tokenizer_tostring},
                                         {NULL, NULL}};
  static const luaL_Reg decoder_methods[] = {
      {"feed", decoder_feed}, {"finish", decoder_finish}, {"close", decoder_close}, {NULL, NULL}};
  static const luaL_Reg decoder_metamethods[] = {{"__gc", decoder_close},
                                                 {"__close", decoder_close},
                                                 {"__tostring", decoder_tostring},
                                                 {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"load_tokenizer", load_tokenizer}, {"tokenizer_live", tokenizer_live}, {NULL, NULL}};
  l_register(L, TOKENIZER, methods, metamethods, true);
  l_register(L, DECODER, decoder_methods, decoder_metamethods, false);
  luaL_newmetatable(L, ENCODING);
  lua_pushcfunction(L, encoding_free);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}
