// SPDX-License-Identifier: MIT
/*
 * The program: finds its Lua files beside itself, then runs a script, a line of code, a command of
 * lua/moonscope/cli, or the prompt.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bind/bind.h"
#include "host/host.h"
#include "host/httpd.h"
#include "host/page.h"

enum { EXIT_USAGE = 2, EXIT_SIGNAL = 128 /* and the signal's number, as shells have it */ };

static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};

/* user: not NULL where journald reads stderr; a line may begin with its priority then. */
static void print_log(void *user, moon_log_level level, const char *text) {
  static const char *const priorities[] = {"<3>", "<4>", "<6>", "<7>"};
  fprintf(stderr, "%smoonscope: %s: %s\n", user ? priorities[level] : "", log_levels[level], text);
}

static int set_log_level(lua_State *L) {
  moon_log_set_level((moon_log_level)luaL_checkoption(L, 1, NULL, log_levels));
  return 0;
}

/* require "moonscope.host": what only the program has */
static int open_host(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"set_log_level", set_log_level},  {"interrupt_to", host_interrupt_to},
      {"limit_turns", host_limit_turns}, {"notify", host_notify},
      {"serve_bare", host_serve_bare},   {NULL, NULL}};
  luaL_newlib(L, functions);
  return 1;
}

/* The entries of a search path that do not depend on the working directory: a folder that somebody
 * else may write to must not decide what `require` runs. Each has a ';' in front. */
static void push_absolute_entries(lua_State *L, const char *path) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  while (*path) {
    size_t size = strcspn(path, ";");
    if (*path == '/') {
      luaL_addchar(&b, ';');
      luaL_addlstring(&b, path, size);
    }
    path += size + (path[size] == ';');
  }
  luaL_pushresult(&b);
}

/* package.path = folder/?.lua;folder/?/init.lua and the absolute entries that it had. */
static void add_folder(lua_State *L, const char *folder) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  push_absolute_entries(L, lua_tostring(L, -1));
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua%s", folder, folder, lua_tostring(L, -1));
  lua_setfield(L, -4, "path");
  lua_pop(L, 3);
}

static void drop_relative_modules(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "cpath");
  push_absolute_entries(L, lua_tostring(L, -1));
  const char *entries = lua_tostring(L, -1);
  lua_pushstring(L, entries + (*entries == ';'));
  lua_setfield(L, -4, "cpath");
  lua_pop(L, 3);
}

/* EXECUTABLE/../share/lua/5.4, in the build tree as well as where it is installed */
static void add_own_folder(lua_State *L) {
  char path[PATH_MAX];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  if (size <= 0)
    luaL_error(L, "/proc/self/exe: cannot be read, so moonscope does not find its Lua files");
  path[size] = '\0';
  for (int i = 0; i < 2; i++) /* the name, then bin/ */
    *strrchr(path, '/') = '\0';
  lua_pushfstring(L, "%s/share/lua/5.4", path);
  add_folder(L, lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* A script's modules may lie beside it. */
static void add_script_folder(lua_State *L, const char *script) {
  char path[PATH_MAX];
  if (!realpath(script, path))
    return; /* loading it says what is wrong */
  *strrchr(path, '/') = '\0';
  add_folder(L, *path ? path : "/");
}

/* __index of the globals for -e, the prompt and a pipe: `ms` and `help` are loaded when used. */
static int load_offered(lua_State *L) {
  static const char *const offered[][2] = {{"ms", "moonscope"}, {"help", "moonscope.help"}};
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  for (size_t i = 0; i < sizeof offered / sizeof *offered; i++) {
    if (strcmp(name, offered[i][0]) != 0)
      continue;
    lua_getglobal(L, "require");
    lua_pushstring(L, offered[i][1]);
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setglobal(L, name);
    return 1;
  }
  return 0;
}

static void offer_modules(lua_State *L) {
  lua_pushglobaltable(L);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, load_offered);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
}

/* arg[0] = argv[name], arg[1...] what follows; what stands before has negative numbers, as in lua
 */
static void set_arg(lua_State *L, int argc, char **argv, int name) {
  lua_createtable(L, argc, name + 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - name);
  }
  lua_setglobal(L, "arg");
}

static int exit_code(lua_State *L, int status) {
  if (status != LUA_OK)
    host_report(L);
  if (host_interrupted())
    return EXIT_SIGNAL + host_interrupted();
  return status == LUA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Runs the chunk on top of the stack (or reports why it did not load) with argv[name + 1...] */
static int run_chunk(lua_State *L, int status, int argc, char **argv, int name) {
  if (status != LUA_OK)
    return exit_code(L, status);
  set_arg(L, argc, argv, name);
  luaL_checkstack(L, argc, "too many arguments");
  for (int i = name + 1; i < argc; i++)
    lua_pushstring(L, argv[i]);
  return exit_code(L, host_call(L, argc - name - 1, 0));
}

static int run_script(lua_State *L, int argc, char **argv, int name) {
  const char *path = strcmp(argv[name], "-") != 0 ? argv[name] : NULL; /* NULL: stdin */
  if (path)
    add_script_folder(L, path);
  return run_chunk(L, luaL_loadfilex(L, path, "t"), argc, argv, name);
}

static int run_code(lua_State *L, int argc, char **argv, int name) {
  if (name == argc)
    return fputs("moonscope: -e: code expected\n", stderr), EXIT_USAGE;
  offer_modules(L);
  const char *code = argv[name];
  return run_chunk(L, luaL_loadbufferx(L, code, strlen(code), "=(command line)", "t"), argc, argv,
                   name);
}

/* All of standard input. */
static const char *push_input(lua_State *L, size_t *size) {
  luaL_Buffer b;
  size_t n;
  luaL_buffinit(L, &b);
  while ((n = fread(luaL_prepbuffer(&b), 1, LUAL_BUFFERSIZE, stdin)) > 0)
    luaL_addsize(&b, n);
  luaL_pushresult(&b);
  return lua_tolstring(L, -1, size);
}

/* "return " and the code compiles */
static bool is_expression(lua_State *L, const char *code) {
  lua_pushfstring(L, "return %s", code);
  bool is = luaL_loadstring(L, lua_tostring(L, -1)) == LUA_OK;
  lua_pop(L, 2);
  return is;
}

/* From a pipe comes a script. What is an expression, or no script but what one would type at the
 * prompt, is answered as there. */
static int run_piped(lua_State *L, char **argv) {
  size_t size;
  const char *text = push_input(L, &size);
  size_t skipped = *text == '#' ? strcspn(text, "\n") : 0; /* as luaL_loadfile does */
  const char *code = text + skipped;
  offer_modules(L);
  int status = luaL_loadbufferx(L, code, size - skipped, "=stdin", "t");
  bool is_script = status == LUA_OK && !is_expression(L, code);
  if (is_script || !host_is_typed(L, code, size - skipped))
    return run_chunk(L, status, 2, (char *[]){argv[0], "-", NULL}, 1);
  lua_pop(L, 1);
  int answered = host_answer(L, code, size - skipped);
  return host_interrupted() ? EXIT_SIGNAL + host_interrupted() : answered;
}

/* require("moonscope.cli").main(...) */
static int call_main(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "moonscope.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_replace(L, -2);
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

/* call_main(argv[first], ...) gives the exit code. It reports its failures itself, but for those
 * that come before it can: Ctrl-C while it is loaded is one line too. */
static int run_command(lua_State *L, int argc, char **argv, int first) {
  lua_pushcfunction(L, call_main);
  luaL_checkstack(L, argc, "too many arguments");
  for (int i = first; i < argc; i++)
    lua_pushstring(L, argv[i]);
  int status = host_call(L, argc - first, 1);
  if (status != LUA_OK && host_interrupted())
    lua_pushliteral(L, "interrupted");
  if (status != LUA_OK || host_interrupted())
    return exit_code(L, status);
  return (int)lua_tointeger(L, -1);
}

static bool is_script_name(const char *name) {
  size_t size = strlen(name);
  return !strcmp(name, "-") || strchr(name, '/') || (size > 4 && !strcmp(name + size - 4, ".lua"));
}

static int run(lua_State *L, int argc, char **argv) {
  if (argc == 1 && isatty(STDIN_FILENO)) {
    offer_modules(L);
    return host_repl(L);
  }
  if (argc == 1)
    return run_piped(L, argv);
  if (!strcmp(argv[1], "--version"))
    return printf("moonscope " MOON_VERSION "\n"), EXIT_SUCCESS;
  if (!strcmp(argv[1], "-e"))
    return run_code(L, argc, argv, 2);
  if (is_script_name(argv[1]))
    return run_script(L, argc, argv, 1);
  return run_command(L, argc, argv, 1);
}

/* In protected mode, so that an error of the set-up (no memory) is reported too. */
static int protected_main(lua_State *L) {
  luaL_openlibs(L);
  host_open_coroutines(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_moonscope_core);
  lua_setfield(L, -2, "moonscope.core");
  lua_pushcfunction(L, open_host);
  lua_setfield(L, -2, "moonscope.host");
  lua_pushcfunction(L, http_open);
  lua_setfield(L, -2, "moonscope.httpd");
#ifdef MOON_HAS_PAGE
  lua_pushcfunction(L, luaopen_moonscope_page);
  lua_setfield(L, -2, "moonscope.page");
#endif
  lua_pop(L, 1);
  drop_relative_modules(L);
  add_own_folder(L);
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  lua_pushinteger(L, run(L, argc, argv));
  return 1;
}

/* A descriptor that the shell closed would become the next file that is opened. What is opened in
 * its place fails when it is used. */
static void open_standard_files(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0)
      open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

/* However the program ends: what could not be printed is a failure. */
static void check_output(void) {
  if (fflush(stdout) == 0 && !ferror(stdout))
    return;
  fprintf(stderr, "moonscope: standard output: %s\n",
          errno ? strerror(errno) : "cannot be written");
  _exit(EXIT_FAILURE);
}

int main(int argc, char **argv) {
  open_standard_files();
  atexit(check_output);
  lua_State *L = luaL_newstate();
  if (!L)
    return fputs("moonscope: not enough memory\n", stderr), EXIT_FAILURE;
  moon_log_set(print_log, getenv("JOURNAL_STREAM"));
  lua_pushcfunction(L, protected_main);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  int status = lua_pcall(L, 2, 1, 0);
  int code = status == LUA_OK ? (int)lua_tointeger(L, -1) : exit_code(L, status);
  lua_close(L); /* cancels what still runs and waits for it */
  return code;
}
