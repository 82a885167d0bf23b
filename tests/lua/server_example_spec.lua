-- SPDX-License-Identifier: MIT
-- examples/test_goodfire_sae.lua against a running server, with the tiny model.
local http = require "http"
local process = require "process"

local SAE = "tiny/Moonscope-Tiny-Llama-SAE-l3.pth"
local TOKEN = ("0123456789abcdef"):rep(4)

---What the script prints, both streams, and its exit code.
local function run(port, token, ...)
  local words = { "MOONSCOPE_TOKEN=" .. token, "timeout 60", process.program, "examples/test_goodfire_sae.lua",
    "http://localhost:" .. port, ... }
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1"))
  local text = pipe:read "a"
  return text, select(3, pipe:close())
end

local function steps_of(text)
  local steps = {}
  for step in text:gmatch "ok ([^\n]+)" do steps[#steps + 1] = step end
  return steps
end

it("the script of the whole way takes its five steps, and ends with 1 at the first that fails", function()
  local server = http.serve({ "--data", "examples" }, { MOONSCOPE_TOKEN = TOKEN })
  local text, code = run(server.port, TOKEN, "tiny", SAE, "3")
  assert.equal(0, code, text)
  assert.same({ "load model", "load SAE", "SAE status", "features", "inference" }, steps_of(text))
  assert.truthy(text:find("  layer_idx: 3\n  layer_name: model.layers.3\n  expansion_factor: 16\n", 1, true), text)
  assert.truthy(text:find("  total: 2048\n  layer_3_feature_", 1, true), text)
  assert.truthy(text:find '  inputText: Once upon a time\n  "[^\n]+": [01]%.%d+\n', text)

  text, code = run(server.port, TOKEN, "tiny", "tiny/none.pth", "3")
  assert.same({ 1, { "load model" } }, { code, steps_of(text) })
  assert.truthy(text:find "FAILED load SAE: 404 ", text)
  text, code = run(server.port, "wrong", "tiny", SAE, "3")
  assert.same({ 1, {} }, { code, steps_of(text) })
  assert.truthy(text:find "FAILED load model: 401 ", text)
  assert.equal(0, server:stop())
  text, code = run(server.port, TOKEN, "tiny", SAE, "3")
  assert.same({ 1, {} }, { code, steps_of(text) })
end)
