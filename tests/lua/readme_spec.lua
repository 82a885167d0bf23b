-- SPDX-License-Identifier: MIT
-- What the README shows is what happens.
local fixtures = require "fixtures"
local process = require "process"

local readme = fixtures.read "README.md"

describe("the README's example", function()
  it("is the script, and prints what the README says", function()
    local code, output = readme:match "```lua\n(local ms = .-)```\n```\n(.-)```"
    assert.truthy(fixtures.read("examples/01_look_and_steer.lua"):find(code, 1, true))
    local result = process.moonscope { "examples/01_look_and_steer.lua" }
    assert.same({ 0, output, "" }, { result.code, result.out, result.err })
  end)
end)

describe("the README's SAE entry", function()
  it("passes the checker", function()
    local text = readme:match "```lua\n(%[\"My%-SAE.-)```"
    local entries = assert(load("return {" .. text .. "}", "README", "t"))()
    assert.is_true(require("moonscope.sae_configs").check(entries))
  end)
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
