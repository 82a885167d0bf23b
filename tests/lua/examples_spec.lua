-- SPDX-License-Identifier: MIT
-- The numbered examples print what stands at their end (the first one: in the README), on every instruction set.
local fixtures = require "fixtures"
local ms = require "moonscope"
local process = require "process"

local RUN = [[ms.instruction_set(arg[1]); local script = arg[2]; arg = { [0] = script, arg[3] }; dofile(script)]]

local function expected(name, text)
  if name == "01_look_and_steer.lua" then
    return fixtures.read "README.md":match "```lua\nlocal ms = .-```\n```\n(.-)```"
  end
  return text:match "\n%-%-%[%[ prints:\n(.*)%]%]\n$"
end

describe("the example", function()
  local folder
  setup(function() folder = fixtures.folder() end)
  teardown(function() fixtures.remove(folder) end)

  for _, name in ipairs(fixtures.names "examples") do
    if name:find "^%d%d_.*%.lua$" then
      it(name .. " prints what it says", function()
        local path = "examples/" .. name
        local want = assert(expected(name, fixtures.read(path)), "it does not say what it prints")
        local page = name == "09_experiment.lua" and folder .. "/experiment.html" or nil
        if page then want = want:gsub("experiment%.html", page) end
        for _, set in ipairs(ms.instruction_sets()) do
          local result = process.moonscope { "-e", RUN, set, path, page }
          assert.same({ 0, want, "" }, { result.code, result.out, result.err }, set)
        end
      end)
    end
  end

  it("09_experiment.lua draws what it measured", function()
    local path = folder .. "/plot.html"
    local out = process.moonscope({ "examples/09_experiment.lua", path }).out
    local page, points = fixtures.read(path), 0
    for value, probability in out:gmatch "add ([%d.]+)  p = ([%d.]+)" do
      points = points + 1
      assert.truthy(page:find(("<title>add %s: %s</title>"):format(value, probability), 1, true))
    end
    assert.equal(13, points)
    assert.equal(points, select(2, page:match 'points="(.-)"':gsub("%S+", "")))
    assert.falsy(page:find "https?:")
  end)

  it("is listed in the README", function()
    local readme = fixtures.read "README.md"
    for _, name in ipairs(fixtures.names "examples") do
      local listed = readme:find("[`/]" .. name:gsub("%p", "%%%0"))
      if name:find "%.lua$" then assert.truthy(listed, name) end
    end
  end)
end)
