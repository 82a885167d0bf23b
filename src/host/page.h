// SPDX-License-Identifier: MIT
/* The web page of src/ui, bundled when the program was built. */
#ifndef MOON_HOST_PAGE_H
#define MOON_HOST_PAGE_H

#include <lua.h>

/* require "moonscope.page": { html =, js =, css = }, the bytes of each part. */
int luaopen_moonscope_page(lua_State *L);

#endif
