-- SPDX-License-Identifier: MIT
std = "lua54"
max_line_length = 120
max_comment_line_length = false -- an annotation is one line, however long
files["tests/lua"].std = "+busted"
-- <close> variables are there for their end
ignore = { "211/guard", "211/restore", "211/undo" }
