-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local process = require "process"
local uv = require "luv"

local state -- the folder of what the prompt remembers

setup(function() state = fixtures.folder() end)
teardown(function() fixtures.remove(state) end)

---A terminal whose prompt remembers what it is told in a folder of its own.
local function terminal(typed, env)
  local result = process.terminal({}, typed, env or { XDG_STATE_HOME = state })
  assert.equal(0, result.code, result.out)
  return (result.out:gsub("\r", ""))
end

---All that is seen while the texts are typed, each after the mark before it has been seen.
local function dialog(...) return terminal { ... } end

---All that is seen when these lines and then Ctrl-D (which `script` types at its end) are typed.
local function answers(...) return terminal(table.concat({ ... }, "\n") .. "\n") end

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

  it("says at once that a string has no end", function()
    assert_has(answers("x = 'no end", "'still here'"), "moonscope: stdin:1: unfinished string near ''no end'\n")
    assert_has(answers("#[[two", "lines]]"), "\n9\n")
  end)

  it("prints nothing for a statement, and nil for an expression that is nil", function()
    assert.truthy(answers("x = 1", "print()", "nothing"):find "> x = 1\n> print%(%)\n\n> nothing\nnil\n> ")
  end)

  it("prints tables and several values that do not fit into one line", function()
    assert_has(answers("{1, 2, name = 'x'}, 3"), '\n{ 1, 2, name = "x" }\t3\n')
    assert_has(answers("ms.zeros{1}, 'and'"), "\nf32 [1] cpu\n  0\nand\n")
  end)

  it("explains things", function()
    local out = answers("help", "help(ms.cat)", "help(ms.zeros{1})")
    assert_has(out, "\nms.cat(tensors, dim)\n")
    assert_has(out, "\nmoonscope.Tensor\n")
    assert_has(out, "\n  Session ")
    out = answers("help 'sae.d_sae'", "help 'model.n_layers'", "help(string.format)", "help 'nothing'", "help(7)")
    assert_has(out, "\nSae.d_sae  integer  how many features it has\n")
    assert_has(out, "\n  Config.n_layers  integer\n")
    assert_has(out, "\nstring.format is Lua's own: https://www.lua.org/manual/5.4/\n")
    assert_has(out, "\nnothing is known of this number; help() tells what there is\n")
  end)

  it("stops a generation at Ctrl-C, and the model works on", function()
    local out = dialog("> ", "model = ms.load_model('examples/tiny')\n",
      "> ", "for i = 1, 1e9 do model:generate('The fox', {on_token = function() " ..
      "if not told then told = true print 'go' end end}) end\n",
      "\ngo", "\3", "interrupted", "",
      "> ", "#model:generate('The fox', {max_tokens = 2, ignore_eos = true}).ids\n", "\n2", "\n")
    assert_has(out, "moonscope: interrupted\n")
    assert_has(out, "\n2\n")
  end)

  it("stops what coroutines do at Ctrl-C, and what catches the error to go on", function()
    for _, code in ipairs {
      "coroutine.wrap(function() print 'go' while true do end end)()",
      "coroutine.wrap(function() coroutine.wrap(function() print 'go' while true do end end)() end)()",
      "print 'go' while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
      "print 'go' while true do pcall(function() while true do end end) end",
      "print 'go' while true do pcall(error) end",
      "coroutine.wrap(function() print 'go' while true do pcall(error) end end)()",
      "loop = require 'moonscope.loop' loop.run(function() coroutine.wrap(function() print 'go' while true do end " ..
        "end)() end)",
    } do
      local out = dialog("> ", code .. "\n", "\ngo", "\3", "moonscope: interrupted", "", "> ", "'alive'\n",
        "\nalive", "\n")
      assert.equal(1, select(2, out:gsub("moonscope: interrupted\n", "")), code)
    end
  end)

  it("stops at the second Ctrl-C what catches the error around each job", function()
    local out = dialog("> ", "a, uv = ms.zeros{1000, 1000}, require 'luv'\n", "> ", "print 'go' while true do " ..
      "if not pcall(a.matmul, a, a) then uv.sleep(250) print('cau' .. 'ght') end end\n", "\ngo", "\3", "caught",
      "\3", "moonscope: interrupted", "", "> ", "'alive'\n", "\nalive", "\n")
    assert_has(out, "\nalive\n")
  end)

  it("resumes after Ctrl-C what slept through it", function()
    local out = dialog("> ", "co = coroutine.wrap(function() pcall(function() print 'go' while true do end end) " ..
      "coroutine.yield('cau' .. 'ght') return 'resumed' end)\n", "> ", "co()\n", "\ngo", "\3", "caught", "", "> ",
      "for i = 1, 2e6 do end\n", "> ", "co()\n", "\nresumed", "\n")
    assert_has(out, "\nresumed\n")
  end)

  it("says of an error that is no text what it is", function()
    local out = answers("error {}", "error(setmetatable({}, {__tostring = function() return 'mine' end}))", "error()")
    assert_has(out, "moonscope: (the error is a table)\nstack traceback:\n")
    assert_has(out, "moonscope: mine\nstack traceback:\n")
    assert_has(out, "moonscope: nil\nstack traceback:\n")
  end)

  it("prints no text that would move the cursor", function()
    assert_has(answers("'a\\0b\\27[2Jc\\u{9b}d\\te\\nf é'"), "\na\\x00b\\x1B[2Jc\\u{9B}d\te\nf é\n")
  end)

  it("prints numbers that are none, tensors without elements or of any dtype, tables that hold themselves", function()
    local out = answers("ms.tensor{0/0, 1/0, -1/0}", "ms.zeros{0}", "ms.zeros{3, 0}", "ms.tensor(3)",
      "ms.ones({2}, {dtype = 'bf16'})", "ms.tensor({1.5}, {dtype = 'f16'})", "ms.tensor({1}, {dtype = 'i64'})",
      "ms.tensor({true, false}, {dtype = 'bool'})", "x = {} x.x = x", "x", "ms.zeros{100000, 1000}")
    for _, part in ipairs {
      "f32 [3] cpu\n   nan   inf  -inf\n", "f32 [0] cpu\n", "f32 [3, 0] cpu\n", "f32 [] cpu\n  3\n",
      "bf16 [2] cpu\n  1  1\n", "f16 [1] cpu\n  1.5\n", "i64 [1] cpu\n  1\n", "bool [2] cpu\n   true  false\n",
      "{ x = { x = {...} } }\n", "f32 [100000, 1000] cpu\n  0  0  0  ...  0  0  0\n",
    } do assert_has(out, "\n" .. part) end
  end)

  it("edits lines that are longer than the terminal is wide, and wide characters", function()
    local long = ("1 + "):rep(500)
    assert_has(dialog("> ", long .. "1\n", "\n501", "\n"), "\n501\n")
    assert_has(dialog("> ", "#'日本語\127x', '日'\n", "\n7\t日", "\n"), "\n7\t日\n")
  end)

  it("stops the loop at Ctrl-C, with what its tasks wait for", function()
    local out = dialog("> ", "loop = require 'moonscope.loop'\n",
      "> ", "loop.run(function() loop.spawn(loop.sleep, 1e6) print 'go' loop.sleep(1e6) end)\n", "\ngo", "\3",
      "interrupted", "", "> ", "loop.run(function() return 'alive' end)\n", "\nalive", "\n")
    assert_has(out, "\nalive\n")
  end)
end)

describe("Tab", function()
  it("completes globals, fields, methods and keys", function()
    assert_has(dialog("> ", "t = ms.zer\t{1}\n", "> ", "t:sh\t()[1] + 1\n", "\n2", "\n"), "\n2\n")
    local out = dialog("> ", "long_name = {inner = {['model.layers.3'] = 41}}\n",
      "> ", "long_\t.in\t['mod\t + 1\n", "\n42", "\n")
    assert_has(out, "\n42\n")
  end)

  it("shows what may stand there, and writes the line again", function()
    local out = dialog("> ", "1, ms.load_\t", "load_tokenizer", "", "> 1, ms.load_", "sae == nil\n", "\n1\tfalse", "\n")
    assert_has(out, "\nload_model      load_sae        load_tokenizer\n")
  end)

  it("completes the names of files in a string", function()
    assert_has(dialog("> ", "#'examples/tiny/conf\t\n", "\n25", "\n"), "\n25\n")
  end)
end)

describe("the history", function()
  local file

  before_each(function()
    file = state .. "/moonscope/history"
    fixtures.remove(state .. "/moonscope")
  end)

  it("is there in the next session, whole statements at once", function()
    answers("for i = 1, 2 do", "kept = i * 21", "end", "", "1 + 41", "1 + 41")
    assert.equal("for i = 1, 2 do\\nkept = i * 21\\nend\n1 + 41\n", fixtures.read(file))
    assert.equal(tonumber("600", 8), uv.fs_stat(file).mode & 511)
    assert_has(dialog("> ", "\27[A\n", "\n42", "\n"), "\n42\n")
    assert_has(dialog("> ", "\27[A\27[A", "end", "\n", "> ", "kept + 1\n", "\n43", "\n"), "\n43\n")
  end)

  it("lies below HOME where no state folder is named, and need not be kept", function()
    terminal("'one'\n", { XDG_STATE_HOME = false, HOME = state })
    assert.equal("'one'\n", fixtures.read(state .. "/.local/state/moonscope/history"))
    for _, env in ipairs { { XDG_STATE_HOME = "/dev/null" }, { XDG_STATE_HOME = false, HOME = false } } do
      local out = terminal("'one'\n", env)
      assert.truthy(out:find "Ctrl%-D ends\n> 'one'\none\n> ", out)
    end
  end)

  it("takes only the last lines of a large file, which it makes smaller", function()
    uv.fs_mkdir(state .. "/moonscope", 448)
    local lines = {}
    for i = 1, 70000 do lines[i] = ("%d -- is kept\n"):format(i) end
    fixtures.write(file, table.concat(lines))
    assert_has(dialog("> ", "\27[A\n", "\n70000", "\n"), "\n70000\n")
    local text = fixtures.read(file)
    assert.equal("69001 -- is kept\n69002 -- is kept\n", text:sub(1, 34))
    assert.equal(1001, select(2, text:gsub("\n", ""))) -- with the one that was typed again
    assert.equal(tonumber("600", 8), uv.fs_stat(file).mode & 511)
    assert.same({ "history" }, fixtures.names(state .. "/moonscope"))
  end)

  it("writes into nothing but a file", function()
    uv.fs_mkdir(state .. "/moonscope", 448)
    local mode = uv.fs_stat("/dev/null").mode
    uv.fs_symlink("/dev/null", file)
    assert_has(answers("6 * 7"), "\n42\n")
    assert.equal(mode, uv.fs_stat("/dev/null").mode)
    os.remove(file)
    assert(os.execute("mkfifo " .. file))
    assert_has(answers("6 * 7"), "\n42\n")
  end)
end)

describe("text from a pipe", function()
  local function piped(text)
    local result = process.moonscope({}, { stdin = text })
    return { result.code, result.out, result.err:match "^[^\n]*\n?" }
  end

  it("that one would type at the prompt is answered as there", function()
    assert.same({ 0, "42\n", "" }, piped "6 * 7")
    assert.same({ 0, "f32 [1] cpu\n  0\n", "" }, piped "ms.zeros{1}\n")
    assert.same({ 0, "42\n1\n2\n{ 20 }\tnil\n", "" },
      piped "x = 20\nx + 22\nfor i = 1, 2 do\n print(i)\nend\n\n{x},\ny\n")
    assert.same({ 1, "1\n", "moonscope: stdin:1: broken\n" }, piped "x = 1\nx\nerror 'broken'\nprint 'not run'\nx")
  end)

  it("is a script where it is one, and nothing of it runs where it is neither", function()
    assert.same({ 0, "2\n", "" }, piped "local x = 2\nprint(x)\n")
    assert.same({ 0, "3\n", "" }, piped "t = ms.zeros{3}\nprint(#t)\n")
    assert.same({ 0, "2\n", "" }, piped "#!/usr/bin/moonscope\nlocal x = 2\nprint(x)\n")
    assert.same({ 1, "", "moonscope: stdin:2: unexpected symbol near '='\n" }, piped "print 'not run'\nx = = 1\n")
    assert.same({ 1, "", "moonscope: stdin:2: 'end' expected (to close 'for' at line 1) near <eof>\n" },
      piped "for i = 1, 2 do\nprint 'not run'")
  end)
end)
