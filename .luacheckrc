-- SPDX-License-Identifier: MIT
std = "lua54"
max_line_length = 120
max_comment_line_length = false -- an annotation is one line, however long
files["tests/lua"].std = "+busted"
files["lua/moonscope/meta.lua"].ignore = { "212", "241" } -- declarations: nothing in it runs
-- <close> variables are there for their end
ignore = { "211/guard", "211/restore", "211/undo" }
