-- SPDX-License-Identifier: MIT
std = "lua54"
max_line_length = 120
files["tests/lua"].std = "+busted"
-- <close> variables are there for their end
ignore = { "211/guard", "211/restore" }
