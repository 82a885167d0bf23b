-- SPDX-License-Identifier: MIT
---What a start takes: the program alone, up to a first token, and the tokenizer's part of it.
local uv = require "luv"
local core = require "moonscope.core"
local json = require "moonscope.json"
local measure = require "moonscope.bench.measure"
local process = require "moonscope.bench.process"
local shapes = require "moonscope.bench.shapes"
local tokenizer = require "moonscope.tokenizer"

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

return function(bench)
  local s, folder = bench.shape, bench:model_folder()
  local program, true_program = uv.exepath(), assert(process.find "true")
  bench:measure {
    work = "start, moonscope -e 'print(1)'", unit = "ms",
    figure = function()
      return 1e3 * measure.seconds(function() process.run(program, { "-e", "print(1)" }) end)
    end,
    limit = function()
      return 1e3 * measure.seconds(function() process.run(true_program, {}) end), "start of true"
    end,
  }
  local arguments = {
    "generate", "--model", folder, "--device", "cpu", "--precision", bench.precision, "--prompt", "The", "-n", "1",
    "--quiet", "--threads", tostring(core.threads()),
  }
  bench:measure {
    work = "start to the first token and the end", unit = "ms",
    figure = function() return 1e3 * process.run(program, arguments) end,
    limit = function() return 1e3 * shapes.weight_bytes(s) / bench.limits:read(), "read bandwidth" end,
  }
  local path = folder .. "/tokenizer.json"
  local text = read(path)
  bench:measure {
    work = ("tokenizer.json, %d tokens, %.1f MB"):format(s.n_vocab, #text / 1e6), unit = "ms",
    figure = function()
      return 1e3 * measure.seconds(function() assert(tokenizer.load_tokenizer(path)):close() end)
    end,
    limit = function() return 1e3 * measure.seconds(function() assert(json.decode(text)) end), "its JSON in Lua" end,
  }
end
