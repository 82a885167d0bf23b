// SPDX-License-Identifier: MIT
#include "host/page.h"

#include <stddef.h>

/* Written by src/ui/build.mjs. */
extern const unsigned char moon_page_html[], moon_page_js[], moon_page_css[];
extern const size_t moon_page_html_size, moon_page_js_size, moon_page_css_size;

static void add_part(lua_State *L, const char *name, const unsigned char *bytes, size_t size) {
  lua_pushlstring(L, (const char *)bytes, size);
  lua_setfield(L, -2, name);
}

int luaopen_moonscope_page(lua_State *L) {
  lua_createtable(L, 0, 3);
  add_part(L, "html", moon_page_html, moon_page_html_size);
  add_part(L, "js", moon_page_js, moon_page_js_size);
  add_part(L, "css", moon_page_css, moon_page_css_size);
  return 1;
}
