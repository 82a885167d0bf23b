-- SPDX-License-Identifier: MIT
-- What the README shows is what happens.
local convert = require "moonscope.convert"
local fixtures = require "fixtures"
local http = require "http"
local ms = require "moonscope"
local process = require "process"
local uv = require "luv"

local readme = fixtures.read "README.md"

describe("the README's example", function()
  it("is the script, and prints what the README says", function()
    local code, output = readme:match "```lua\n(local ms = .-)```\n```\n(.-)```"
    assert.truthy(fixtures.read("examples/01_look_and_steer.lua"):find(code, 1, true))
    local result = process.moonscope { "examples/01_look_and_steer.lua" }
    assert.same({ 0, output, "" }, { result.code, result.out, result.err })
  end)
end)

---The code of a block without the remarks behind it, line by line.
local function lines_of(block)
  local lines = {}
  for line in block:gmatch "[^\n]+" do
    local code = line:gsub("%s*%-%- .*$", ""):gsub("^%s+", "")
    if code ~= "" then lines[#lines + 1] = code end
  end
  return lines
end

---Runs a line that is a statement, else the expressions that stand there one behind the other, each as long as can be.
local function run_line(line, env)
  local statement = load(line, "=" .. line, "t", env)
  if statement then return statement() end
  local from = 1
  while line:find("%S", from) do
    local fn, last
    for to = from, #line do
      local longer = line:find("^[%s]", to + 1) or to == #line
      local found = longer and load("return " .. line:sub(from, to), "=" .. line, "t", env)
      if found then fn, last = found, to end
    end
    assert(fn, "no expression: " .. line:sub(from))
    for i, value in ipairs(table.pack(fn())) do assert(value ~= nil, line .. ": " .. i) end
    from = last + 1
  end
end

local checks = {} -- what a block begins with -> how it is shown to be true

checks['local ms = require "moonscope"\nlocal model'] = function() end -- above

---The surface: every line runs, with what it leaves open filled in.
checks['local ms = require "moonscope"\nlocal t'] = function(block)
  local folder = fixtures.folder()
  assert(convert.sae(fixtures.sae_path, { output = folder }))
  assert(os.execute(("mkdir %s/examples; cp %s %s/x.pth; ln -s $PWD/examples/tiny %s/examples/"):format(folder,
    fixtures.sae_path, folder, folder)))
  local home = uv.cwd()
  local env = setmetatable({
    u = ms.ones { 2, 2 }, w = ms.ones { 2 }, dim = 1, start = 1, length = 1, k = 1, i = 1, j = 3, n = 1, index = 458,
    opts = {}, text_or_ids = "The red fox was hungry.", id1 = 5, id2 = 6, id = 5, ids = { 1275, 5 },
    name = "encoder_linear.bias", story = ("Once upon a time there was a small red fox named Mia. "):rep(4),
  }, { __index = _G })
  local opened = {} -- in the order in which they are made
  local whole = block:gsub(",\n +", ", ")
  local ok, message = pcall(function()
    assert(uv.chdir(folder))
    for _, line in ipairs(lines_of(whole)) do
      run_line(line:gsub("^local ", ""):gsub('"%.%.%."', "story"), env)
      if line:find "^local model" then
        env.s1, env.s2 = env.model:session(), env.model:session()
        opened = { env.s1, env.s2, env.model }
      end
      if line:find "^local out" then env.x = env.out.captures["model.layers.3"] end
      if line:find "^local session" then table.insert(opened, 1, env.session) end
      if line:find "^local sae" then table.insert(opened, 1, env.sae) end
    end
  end)
  assert(uv.chdir(home))
  for _, object in ipairs(opened) do object:close() end
  fixtures.remove(folder)
  assert(ok, message)
  assert.equal("ok", env.report.verdict)
end

---An edit, and each further field of one.
checks["{ sae = sae, feature"] = function(block)
  local model, sae = fixtures.load { precision = "exact" }
  local lines = lines_of(block)
  for i = 1, #lines do
    local code = lines[1]:gsub(" }$", i > 1 and ", " .. lines[i] .. " }" or " }")
    local edit = assert(load("return " .. code, "=" .. code, "t", { sae = sae }))()
    local reply = model:generate("The red fox was hungry.", { max_tokens = 4, edits = { edit } })
    assert.equal(1, #reply.edits, code)
  end
  assert.equal(5, #lines)
  sae:close()
  model:close()
end

---A file of routes.
checks['return { { "GET", "/hello'] = function(block)
  local path = os.tmpname()
  fixtures.write(path, block)
  local server = http.serve { "--data", "examples", "--routes", path }
  local status, body = server:request("GET", "/hello/you")
  assert.equal(0, server:stop())
  os.remove(path)
  assert.same({ 200, "you" }, { status, body.hello })
end

---An entry of SAE_CONFIGS.
checks['["My-SAE-l12"]'] = function(block)
  local entries = assert(load("return {" .. block .. "}", "README", "t"))()
  assert.is_true(require("moonscope.sae_configs").check(entries))
end

describe("the README's Lua", function()
  for block in readme:gmatch "```lua\n(.-)```" do
    it("is true: " .. block:match "^[^\n]*", function()
      local found
      for start, check in pairs(checks) do
        if block:sub(1, #start) == start then found = check end
      end
      assert(found, "no check for this block")(block)
    end)
  end
end)

describe("the README's commands", function()
  it("are the program's", function()
    local help = process.moonscope { "--help" }.out
    local listed = {}
    for name in readme:match("## Commands(.-)\n## "):gmatch "\n| `(%l+) " do listed[name] = true end
    for name in help:match("commands:\n(.*)$"):gmatch "  (%l+) " do
      assert.is_true(listed[name] or false, name .. " is not in the README")
      listed[name] = nil
    end
    assert.is_nil(next(listed))
  end)
end)

describe("the README's prompt", function()
  it("answers as it says", function()
    local shown, typed = readme:match "## The prompt.-```\n(> .-)```", {}
    for line in shown:gmatch "> ([^\n]*)\n" do typed[#typed + 1] = line .. "\n" end
    local answers = {}
    for _, line in ipairs(typed) do table.move({ "> ", line }, 1, 2, #answers + 1, answers) end
    table.move({ "> ", "\n" }, 1, 2, #answers + 1, answers)
    local result = process.terminal({}, answers, { XDG_STATE_HOME = "/dev/null" })
    assert.truthy(result.out:gsub("\r", ""):find(shown, 1, true), result.out)
  end)
end)
