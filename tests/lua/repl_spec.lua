-- SPDX-License-Identifier: MIT
local process = require "process"

---All that is seen while the texts are typed, each after the mark before it has been seen.
local function dialog(...)
  local result = process.terminal({}, { ... })
  assert.equal(0, result.code, result.out)
  return (result.out:gsub("\r", ""))
end

---All that is seen when these lines and then Ctrl-D (which `script` types at its end) are typed.
local function answers(...)
  local result = process.terminal({}, table.concat({ ... }, "\n") .. "\n")
  assert.equal(0, result.code)
  return (result.out:gsub("\r", ""))
end

local function assert_has(text, part)
  assert.truthy(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text))
end

describe("the prompt", function()
  it("greets, and prints the values of an expression", function()
    local out = answers("6 * 7, 'text', nil, {} ~= nil")
    assert_has(out, "moonscope " .. require("moonscope").version .. ", Lua 5.4")
    assert_has(out, "\n42\ttext\tnil\ttrue\n")
  end)

  it("prints tensors, with ms there", function()
    assert_has(answers("ms.tensor {{1, 2}, {3, 4}}"), tostring(require("moonscope").tensor { { 1, 2 }, { 3, 4 } }))
  end)

  it("runs statements and keeps globals", function()
    local out = answers("x = 20", "x = x + 1; print('x is ' .. x)", "local gone = 1", "gone == nil")
    assert_has(out, "\nx is 21\n")
    assert_has(out, "\ntrue\n")
  end)

  it("continues an incomplete statement", function()
    local out = answers("for i = 1, 2 do", "print('turn', i)", "end", "(1 +", "2) * 3")
    assert_has(out, "\nturn\t1\nturn\t2\n")
    assert_has(out, ">> ")
    assert_has(out, "\n9\n")
  end)

  it("reports errors and goes on", function()
    local out = answers("error 'broken'", "x = = 1", "nothing.field", "'still here'")
    assert_has(out, "moonscope: stdin:1: broken\nstack traceback:\n")
    assert_has(out, "moonscope: stdin:1: unexpected symbol near '='\n")
    assert_has(out, "attempt to index a nil value (global 'nothing')")
    assert_has(out, "\nstill here\n")
  end)

  it("keeps the decimal point of numbers in every locale", function()
    assert_has(answers("1.5 + 1"), "\n2.5\n")
  end)

  it("drops the line at Ctrl-C, also a statement that is not complete", function()
    local out = dialog("> ", "error 'never run'", "never run'", "\3", "> ", "for i = 1, 2 do\n", ">> ", "error\3",
      "> ", "'alive'\n", "\nalive", "\n")
    assert_has(out, "\nalive\n")
    assert.falsy(out:find("traceback", 1, true))
  end)

  it("stops what runs at Ctrl-C, code and jobs, and goes on", function()
    local work = "a = ms.zeros{1500, 1500}; print 'go'; for i = 1, 1000 do a:matmul(a) end\n"
    local out = dialog("> ", "print 'go'; while true do end\n", "\ngo", "\3", "interrupted", "",
      "> ", work, "\ngo", "\3", "interrupted", "", "> ", "'alive'\n", "\nalive", "\n")
    assert.equal(2, select(2, out:gsub("moonscope: interrupted\n", "")))
    assert_has(out, "\nalive\n")
  end)

  it("edits characters of several bytes", function()
    local out = dialog("> ", "'a€ž\127b', #'ž'\n", "\na€b\t2", "\n")
    assert_has(out, "\na€b\t2\n")
  end)

  it("drops bytes that are no UTF-8, and them alone", function()
    assert_has(dialog("> ", "'a\xc5b\xffc'\n", "\nabc", "\n"), "\nabc\n")
  end)

  it("remembers lines", function()
    local out = dialog("> ", "1 + 41\n", "\n42", "\27[A\n", "\n42", "\n")
    assert.equal(2, select(2, out:gsub("\n42\n", "")))
  end)
end)
