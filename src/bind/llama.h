// SPDX-License-Identifier: MIT
/* What bind/llama.c, bind/pass.c and bind/sae.c know of each other's types. */
#ifndef MOON_BIND_LLAMA_H
#define MOON_BIND_LLAMA_H

#include "bind/bind.h"
#include "llama/forward.h"
#include "sae/features.h"

/* The object behind a userdata at this index; throws for another type or a closed one. Borrowed. */
moon_llama *l_llama_check(lua_State *L, int index);
moon_session *l_session_check(lua_State *L, int index);
moon_sae *l_sae_check(lua_State *L, int index);

/* Pushes a moonscope.Features that takes over. */
void l_features_push(lua_State *L, moon_features **features);

void l_open_pass(lua_State *L);

#endif
