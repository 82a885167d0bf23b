-- SPDX-License-Identifier: MIT
---What a start takes: the program alone, up to a first token, the tokenizer's part of it, and an autoencoder.
local uv = require "luv"
local core = require "moonscope.core"
local json = require "moonscope.json"
local measure = require "moonscope.bench.measure"
local process = require "moonscope.bench.process"
local pth = require "moonscope.bench.pth"
local sae = require "moonscope.sae"
local shapes = require "moonscope.bench.shapes"
local tokenizer = require "moonscope.tokenizer"

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

---An f32 file as it is, its decoder turned, and made bf16: what is read and written, at the rate of reading.
local function measure_sae(bench)
  local s, path = bench.shape, bench.folder .. "/sae.pth"
  local matrix = 4 * s.d_model * s.d_sae
  pth.sae(path, s.d_model, s.d_sae)
  local size = ("%.2f GB"):format(2 * matrix / 1e9)
  for _, case in ipairs { { "f32", 2 * matrix }, { "bf16", 3 * matrix } } do
    local dtype, n_bytes = table.unpack(case)
    bench:measure {
      work = ("load of an SAE of %s as %s"):format(size, dtype), unit = "ms",
      figure = function()
        return 1e3 * measure.seconds(function()
          assert(sae.load_sae(path, { layer = 0, dtype = dtype, device = "cpu" })):close()
        end)
      end,
      limit = function() return 1e3 * n_bytes / bench.limits:read(), "read bandwidth" end,
    }
  end
  assert(uv.fs_unlink(path))
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
  measure_sae(bench)
end
