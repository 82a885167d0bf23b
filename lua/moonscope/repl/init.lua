-- SPDX-License-Identifier: MIT
---What the prompt (src/host/repl.c) asks of Lua.
local history = require "moonscope.repl.history"

return {
  print = require("moonscope.repl.show").print,
  complete = require("moonscope.repl.completion").complete,
  entries = history.read,
  remember = history.append,
}
