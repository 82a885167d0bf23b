-- SPDX-License-Identifier: MIT
local process = require "process"

local function moonscope(...) return process.moonscope { ... } end

describe("moonscope COMMAND", function()
  it("that there is not is wrong usage", function()
    for _, name in ipairs { "frobnicate", "init", "--frobnicate", "..", "Generate", "" } do
      local result = moonscope(name)
      assert.same({ 2, "", "moonscope: " .. name .. ": no such command or script (see moonscope --help)\n" },
        { result.code, result.out, result.err })
    end
  end)

  it("--help shows its options", function()
    local result = moonscope("generate", "--help")
    assert.same({ 0, "" }, { result.code, result.err })
    assert.truthy(result.out:find("Usage: moonscope generate", 1, true))
    for _, option in ipairs { "--model", "--prompt", "--edit", "--seed", "--json", "--log-level" } do
      assert.truthy(result.out:find(option, 1, true), option)
    end
  end)

  it("with a wrong option or argument is wrong usage", function()
    for _, case in ipairs {
      { { "--frobnicate" }, "unknown option '--frobnicate'" },
      { { "--model" }, "option '--model' requires an argument" },
      { { "--model", "m", "--prompt", "p", "--threads", "0" }, "'0' is not a whole number from 1 to 1024" },
      { { "--model", "m", "--prompt", "p", "--threads", "10000" }, "'10000' is not a whole number from 1 to 1024" },
      { { "--model", "m", "--prompt", "p", "--device", "foo" },
        "'foo' is no device, expected auto, cpu, cuda or cuda:n" },
      { { "--model", "m", "--prompt", "p", "--device", "cuda:x" }, "'cuda:x' is no device" },
      { { "--model", "m", "--prompt", "p", "--sae-dtype", "x" },
        "'--sae-dtype' must be one of 'f32', 'f16', 'bf16', 'file'" },
      { { "--model", "m", "--prompt", "p", "--top-p", "2" }, "'2' is not a number above 0, at most 1" },
      { { "--model", "m", "--prompt", "p", "--top-p", "0" }, "'0' is not a number above 0, at most 1" },
      { { "--model", "m", "--prompt", "p", "--min-p", "1.5" }, "'1.5' is not a number from 0 to 1" },
      { { "--model", "m", "--prompt", "p", "--temperature", "1e999" }, "'1e999' is not a number from 0" },
      { { "--model", "m", "--prompt", "p", "--temperature", "-.5" }, "'-.5' is not a number from 0" },
      { { "--model", "m", "--prompt", "p", "-n", "-1" }, "'-1' is not a whole number from 0" },
      { { "--model", "m", "--prompt", "p", "--layer", "-1" }, "layer: found -1, expected a number from 0" },
      { { "--model", "m", "--prompt", "p", "--edit", "-1:add:3" }, "'-1:add:3' is no edit; expected FEATURE" },
      { { "--model", "m", "--prompt", "p", "--edit", "1:add:3" }, "--edit: needs --sae" },
      { { "--model", "m", "--prompt", "p", "--layer", "3" }, "--layer: needs an SAE" },
      { { "--model", "m", "--prompt", "p", "--sae-dtype", "f32" }, "--sae-dtype: needs an SAE" },
      { { "--model", "m", "--prompt", "p", "--seed", "1.5" }, "'1.5' is not a whole number from 0" },
      { { "--model", "m", "--prompt", "p", "--log-level", "loud" },
        "'--log-level' must be one of 'error', 'warn', 'info', 'debug'" },
      { { "--model", "m", "--prompt", "p", "--precision", "best" }, "'--precision' must be one of 'fast', 'exact'" },
      { { "--model", "m", "--prompt", "p", "--format", "zip" }, "'zip' is no format, expected goodfire, workbench, " },
    } do
      local result = moonscope("generate", table.unpack(case[1]))
      assert.equal(2, result.code)
      assert.equal("", result.out)
      assert.truthy(result.err:find("^moonscope: generate: "), result.err)
      assert.truthy(result.err:find(case[2], 1, true), result.err)
      assert.truthy(result.err:find "%(see moonscope generate %-%-help%)\n$")
      assert.equal(1, select(2, result.err:gsub("\n", "")))
    end
  end)

  it("that fails prints one line and ends with 1", function()
    local result = moonscope("generate", "--model", "no/such/model", "--prompt", "x")
    assert.same({ 1, "" }, { result.code, result.out })
    assert.truthy(result.err:find("^moonscope: [^\n]*no/such/model[^\n]*\n$"), result.err)
  end)
end)
