# SPDX-License-Identifier: MIT
# What README.md shows, in its order, one thing a line: where, a tab, and the command of a shell block (without the
# remark behind it), the command in a sentence or in the table of commands, or the first line of another block.

function is_command(text) {
  return text ~ /^moonscope( |$)/ || text ~ /^(cmake|cpack|luarocks|apt-get|echo|lua5\.4|curl) / ||
    text ~ /^(build|tests|examples)\/[^ ]*(\.sh|\.lua|bin\/moonscope)( |$)/
}

function sentence(text, is_row,   n, parts, i) {
  n = split(text, parts, "`")
  for (i = 2; i < n || (i == n && n % 2 == 0); i += 2) {
    if (is_row && parts[i] !~ /^moonscope/) parts[i] = "moonscope " parts[i]
    if (is_command(parts[i])) print (is_row ? "row" : "sentence") "\t" parts[i]
  }
}

function end_of_paragraph() {
  sentence(paragraph)
  paragraph = ""
}

/^```/ {
  end_of_paragraph()
  inside = !inside
  language = substr($0, 4)
  first = 1
  next
}
inside && language == "sh" {
  sub(/ +# .*$/, "")
  command = command $0
  if (sub(/ *\\$/, "", command)) next
  gsub(/  +/, " ", command)
  print "sh\t" command
  command = ""
  next
}
inside && first { print (language == "" ? "text" : language) "\t" $0 }
inside {
  first = 0
  next
}
/^## / { is_commands = $0 == "## Commands" }
/^\|/ {
  n = split($0, cells, "|")
  if (is_commands) sentence(cells[2], 1)
  for (i = is_commands ? 3 : 2; i <= n; i++) sentence(cells[i])
  next
}
/^$/ { end_of_paragraph() }
{ paragraph = paragraph " " $0 }
END { end_of_paragraph() }
