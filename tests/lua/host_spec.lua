-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local process = require "process"

local function script(text)
  local name = os.tmpname() .. ".lua"
  local file = assert(io.open(name, "w"))
  file:write(text)
  file:close()
  return name
end

---Runs the text as a script file.
local function run(text, arguments, options)
  local name = script(text)
  local result = process.moonscope({ name, table.unpack(arguments or {}) }, options)
  os.remove(name)
  return result, name
end

describe("moonscope FILE.lua", function()
  it("gives the arguments in arg and ...", function()
    local result, name = run([[print(arg[0], arg[1], arg[2], #arg, ...)]], { "a b", "-c" })
    assert.same({ code = 0, out = name .. "\ta b\t-c\t2\ta b\t-c\n", err = "" },
      { code = result.code, out = result.out, err = result.err })
  end)

  it("ends with the code that os.exit names", function()
    assert.equal(7, run("os.exit(7)").code)
    assert.equal(7, run("os.exit(7, true)").code)
  end)

  it("prints an error with its traceback and ends with 1", function()
    local result, name = run("local function broken() error 'out of luck' end\nbroken()")
    assert.equal(1, result.code)
    assert.equal("", result.out)
    assert.truthy(result.err:find("^moonscope: " .. name:gsub("%p", "%%%0") .. ":1: out of luck\nstack traceback:\n"))
    assert.truthy(result.err:find("in local 'broken'", 1, true))
  end)

  it("prints an error that is no string", function()
    local result = run("error(setmetatable({}, { __tostring = function() return 'an object' end }))")
    assert.equal(1, result.code)
    assert.truthy(result.err:find "^moonscope: an object\n")
    assert.truthy(run("error()").err:find "^moonscope: nil\n")
  end)

  it("names the file and line of a syntax error, and a file that is missing", function()
    local result, name = run("x = = 1")
    assert.equal(1, result.code)
    assert.equal(("moonscope: %s:1: unexpected symbol near '='\n"):format(name), result.err)
    result = process.moonscope { "no/such.lua" }
    assert.equal(1, result.code)
    assert.equal("moonscope: cannot open no/such.lua: No such file or directory\n", result.err)
  end)

  it("refuses bytecode", function()
    local result = run(string.dump(function() print "ran" end))
    assert.equal(1, result.code)
    assert.equal("", result.out)
    assert.truthy(result.err:find("attempt to load a binary chunk", 1, true))
  end)

  it("finds modules beside the script, not in the working directory", function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute(("mkdir -p %s/beside %s/elsewhere"):format(folder, folder))
    local function write(name, text)
      local file = assert(io.open(folder .. name, "w"))
      file:write(text)
      file:close()
    end
    write("/beside/main.lua", "print(require 'mine', pcall(require, 'planted'))")
    write("/beside/mine.lua", "return 'mine'")
    write("/elsewhere/planted.lua", "return 'planted'")
    write("/elsewhere/luv.lua", "print 'planted luv'")
    local command = ("cd %s/elsewhere && exec %s ../beside/main.lua"):format(folder,
      process.program:find "^/" and process.program or "$OLDPWD/" .. process.program)
    local result = process.run("sh", { "-c", command })
    assert.truthy(result.out:find "^mine\tfalse\tmodule 'planted' not found")
    result = process.run("sh", { "-c", command:gsub("%.%./beside/main.lua", [[-e 'require "luv"']]) })
    assert.same({ 0, "", "" }, { result.code, result.out, result.err })
    os.execute("rm -r " .. folder)
  end)
end)

describe("moonscope -e and -", function()
  it("runs a line of code with arguments, and offers ms", function()
    local result = process.moonscope { "-e", "print(..., ms == require 'moonscope', nothing)", "x" }
    assert.same({ 0, "x\ttrue\tnil\n", "" }, { result.code, result.out, result.err })
  end)

  it("loads nothing that is not asked for", function()
    local result = process.moonscope { "-e", [[
      for name in pairs(package.loaded) do
        if name:find "^moonscope" or name == "luv" then print(name) end
      end]] }
    assert.equal("", result.out)
  end)

  it("starts at once: in less than 200 ms", function()
    local result = process.moonscope { "-e", "print(1)" } -- `moonscope bench load` has the figure; this is ten times wider
    assert.equal("1\n", result.out)
    assert.is_true(result.ms < 200)
  end)

  it("says that -e lacks its code", function()
    local result = process.moonscope { "-e" }
    assert.same({ 2, "moonscope: -e: code expected\n" }, { result.code, result.err })
  end)

  it("runs a script from standard input, named or piped", function()
    local result = process.moonscope({ "-", "x" }, { stdin = "print(arg[0], ...)" })
    assert.same({ 0, "-\tx\n" }, { result.code, result.out })
    result = process.moonscope({}, { stdin = "print(6 * 7)\nerror 'end'" })
    assert.same({ 1, "42\n" }, { result.code, result.out })
    assert.truthy(result.err:find "^moonscope: stdin:2: end\n")
  end)
end)

describe("Ctrl-C", function()
  ---Interrupts the script at its "ready" and expects an end by error within two seconds.
  local function interrupted(text)
    local result = run([[
      local core, job = require "moonscope.core", require "moonscope.job"
      local loop, ms = require "moonscope.loop", require "moonscope"
      local function ready() io.write "ready" io.flush() end
      local function line_of_work()             -- ten seconds and more; the jobs before the last are kept
        local a, jobs = ms.zeros { 1500, 1500 }, {}
        for i = 1, 200 do jobs[i] = core.types.Tensor._matmul(a, a) end
        return jobs[200], jobs
      end
    ]] .. text, {}, { interrupt_at = "ready" })
    assert.equal(130, result.code)
    assert.truthy(result.err:find "^moonscope: interrupted\nstack traceback:\n")
    assert.is_true(result.ms < 10000) -- the line of work takes longer, also without sanitizers
    return result
  end

  it("ends a command while its files are loaded, in one line", function()
    local folder = fixtures.folder()
    fixtures.write(folder .. "/argparse.lua", "io.write 'ready' io.flush() while true do end")
    local result = process.moonscope({ "info", "x" }, {
      interrupt_at = "ready", env = { LUA_PATH = folder .. "/?.lua;;" },
    })
    fixtures.remove(folder)
    assert.same({ 130, "moonscope: interrupted\n" }, { result.code, result.err })
  end)

  it("ends Lua code", function() interrupted "ready() while true do end" end)

  it("ends a wait for a job, and cancels the job", function()
    local result = interrupted [[
      local last, others = line_of_work()
      print(job.watch(ready, pcall, job.await, last), last) -- ready once it waits
      error('interrupted', 0)]]
    assert.truthy(result.out:find("moonscope.Job (closed)", 1, true))
  end)

  it("twice at once is like once: what was interrupted can clean up", function()
    local result = interrupted [[
      local uv = require "luv"
      local cleaning <close> = setmetatable({}, { __close = function()
        uv.kill(uv.os_getpid(), "sigint")
        print " cleaned up"
      end })
      ready()
      while true do end]]
    assert.equal("ready cleaned up\n", result.out)
  end)

  it("reaches into coroutines, which are Lua's own but for that", function()
    interrupted "coroutine.wrap(function() coroutine.wrap(function() ready() while true do end end)() end)()"
    interrupted "ready() while true do coroutine.resume(coroutine.create(function() while true do end end)) end"
    local result = run [[
      local add = coroutine.wrap(function(a) return coroutine.yield(a + 1) * 2 end)
      print(add(1), add(10), pcall(add))
      print(pcall(function() coroutine.wrap(function() error "x" end)() end))
      print(coroutine.resume(coroutine.create(function(...) return ... end), 1, nil, 3))
      print(pcall(coroutine.resume, 1))
      print(pcall(coroutine.wrap, 1))
      local depth = 0
      local function nest() depth = depth + 1 coroutine.wrap(nest)() end
      print(pcall(nest), depth > 50)]]
    assert.equal([[
2	20	false	cannot resume dead coroutine
false	SCRIPT:3: SCRIPT:3: x
true	1	nil	3
false	bad argument #1 to 'coroutine.resume' (thread expected, got number)
false	bad argument #1 to 'coroutine.wrap' (function expected, got number)
false	true
]], (result.out:gsub("[^%s]+:3:", "SCRIPT:3:")), result.err)
  end)

  it("ends what catches the error and goes on", function()
    interrupted "ready() while true do pcall(function() while true do end end) end"
  end)

  it("ends the process when it comes again and again, and only C runs", function()
    local result = run([[
      local uv = require "luv"
      uv.new_thread(function(pid)
        local uv = require "luv"
        for _ = 1, 3 do
          uv.sleep(2100)
          uv.kill(pid, "sigint")
        end
      end, uv.os_getpid())
      string.find(("a"):rep(100), ("a?"):rep(100) .. ("a"):rep(100))]], {}, {})
    assert.equal(2, result.signal)
  end)

  it("ends the loop while it sleeps, while it waits for a job, and while a task runs", function()
    interrupted [[loop.run(function() ready() loop.sleep(600000) end)]]
    interrupted [[loop.run(function() local last, others = line_of_work() ready() job.await(last) end)]]
    interrupted [[loop.run(function() ready() while true do end end)]]
  end)
end)

describe("standard output", function()
  it("that cannot be written is a failure", function()
    for _, command in ipairs { "--version", "-e 'print(1)'", "inspect " .. fixtures.sae_path } do
      local result = process.run("sh", { "-c", process.program .. " " .. command .. " >/dev/full" })
      assert.same({ 1, "moonscope: standard output: No space left on device\n" }, { result.code, result.err })
      result = process.run("sh", { "-c", process.program .. " " .. command .. " >&-" })
      assert.same({ 1, "moonscope: standard output: Bad file descriptor\n" }, { result.code, result.err })
    end
  end)

  it("and the other standard files may be closed", function()
    local result = process.run("sh", { "-c", process.program .. " -e 'print(io.read())' <&- 2>&-" })
    assert.same({ 0, "nil\tBad file descriptor\t9\n" }, { result.code, result.out })
  end)
end)

it("moonscope --version and --help", function()
  assert.equal("moonscope " .. require("moonscope").version .. "\n", process.moonscope({ "--version" }).out)
  local help = process.moonscope { "--help" }
  assert.equal(0, help.code)
  for _, line in ipairs { "usage: moonscope ", "moonscope FILE.lua", "\n  generate ", "\n  features " } do
    assert.truthy(help.out:find(line, 1, true))
  end
end)

it("the module works in a plain Lua, which it does not bring along", function()
  local result = process.run("lua5.4", { "-e", "print(require 'moonscope'.version)" }, { env = {
    LUA_PATH = "lua/?.lua;lua/?/init.lua;;",
    LUA_CPATH = process.module:gsub("moonscope%.so$", "?.so") .. ";;",
    LD_PRELOAD = os.getenv "MOONSCOPE_PRELOAD", -- for a build with sanitizers
  } })
  assert.same({ 0, require("moonscope").version .. "\n", "" }, { result.code, result.out, result.err })
  local libraries = process.run("ldd", { process.module }).out
  assert.truthy(libraries:find "libc.so")
  assert.falsy(libraries:find "liblua")
end)
