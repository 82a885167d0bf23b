-- SPDX-License-Identifier: MIT
---moonscope beside other programs that do the same work, in turns in one run:
---
---  build/release/bin/moonscope tests/bench/peers.lua llama [options]     LLAMA_BENCH=llama.cpp's llama-bench
---  build/release/bin/moonscope tests/bench/peers.lua torch [options]     PYTHON=one with torch (/usr/bin/python3);
---                                                                       Debian's also needs libopenblas0 to be fast
---  build/release/bin/moonscope tests/bench/peers.lua onednn [options]    built where libdnnl-dev is
---
---llama: decode and prefill, fast, of a model of the same shape, bf16. torch: an SAE's encode (dense; here with the
---selection of what fires). onednn: the f32 products of a prefill, w as stored, without attention, norms, logits.
local here = arg[0]:match "^(.*)/"
package.path = here .. "/?.lua;" .. package.path
local argparse = require "argparse"
local uv = require "luv"
local bench = require "moonscope.bench"
local core = require "moonscope.core"
local json = require "moonscope.json"
local ms = require "moonscope"
local numbers = require "moonscope.numbers"
local process = require "moonscope.bench.process"
local shapes = require "moonscope.bench.shapes"

local parser = argparse("moonscope tests/bench/peers.lua", "moonscope beside other programs.")
parser:argument("peer"):choices { "llama", "torch", "onednn" }
parser:option("--shape"):choices { "tiny", "1b", "8b" }:default "1b"
parser:option("--layers"):convert(numbers.whole(1, 128))
parser:option("--rounds"):convert(numbers.positive):default "3"
parser:option("--threads"):convert(numbers.whole(1, 1024))
local opts = parser:parse(arg)
if opts.threads then ms.set_threads(opts.threads) end
local shape, n_threads = shapes.shape(opts.shape, opts.layers), core.threads()

local closing = {} -- what is to be closed at the end
local guard <close> = setmetatable({}, { __close = function()
  for _, close in ipairs(closing) do close() end
end })

---A program that answers each line with a number.
local function ask_of(program, arguments)
  local input, output, text = uv.new_pipe(), uv.new_pipe(), ""
  uv.os_setenv("OMP_NUM_THREADS", tostring(n_threads))
  local options, over = { args = arguments, stdio = { input, output, 2 } }, false
  local child = assert(uv.spawn(program, options, function() over = true end))
  output:read_start(function(_, chunk) text = text .. (chunk or "") end)
  local function answer()
    while not text:find "\n" do
      if over then error(program .. " ended early", 0) end
      uv.run "once"
    end
    local line
    line, text = text:match "^([^\n]*)\n(.*)$"
    return line
  end
  assert(answer() == "ready")
  closing[#closing + 1] = function()
    for _, handle in ipairs { input, output, child } do handle:close() end
    uv.run "nowait"
  end
  return function(line)
    input:write(line .. "\n")
    return assert(tonumber(answer()))
  end
end

local function llama()
  local program = os.getenv "LLAMA_BENCH" or error("llama: LLAMA_BENCH names no llama-bench", 0)
  local path = ("%s/moonscope-peers-%d.gguf"):format(os.getenv "TMPDIR" or "/tmp", uv.os_getpid())
  closing[#closing + 1] = function() os.remove(path) end
  require "random_gguf"(path, shape)
  local function rate(prompt, generated)
    local out = process.output(program, { "-m", path, "-p", tostring(prompt), "-n", tostring(generated), "-r", "1",
      "-t", tostring(n_threads), "-o", "json" })
    return assert(json.decode(out))[1].avg_ts
  end
  local peers = { decode = function() return rate(0, 32) end }
  for _, n in ipairs(shape.prompts) do
    peers[("prefill of %d tokens, fast"):format(n)] = function() return rate(n, 0) end
  end
  return peers, { "decode", "prefill" }, "fast"
end

local function torch()
  local ask = ask_of(os.getenv "PYTHON" or "/usr/bin/python3", { here .. "/torch_sae.py", tostring(shape.d_model),
    tostring(shape.d_sae), tostring(n_threads) })
  local peers = {}
  for _, dtype in ipairs { "f32", "bf16" } do
    for work, n in pairs { ["a step"] = 1, ["16 tokens"] = 16, ["256 tokens"] = 256 } do
      peers[("sae %s, encode of %s"):format(dtype, work)] = function()
        return n / ask(("%s %d"):format(dtype, n))
      end
    end
  end
  return peers, { "sae" }, "fast"
end

local function onednn()
  local ask = ask_of(uv.exepath():match "^(.*)/" .. "/dnnl_products", {})
  local s, peers = shape, {}
  local q, kv = s.n_heads * s.d_head, s.n_kv_heads * s.d_head
  for _, n in ipairs(s.prompts) do
    peers[("prefill of %d tokens, exact"):format(n)] = function()
      local function product(K, N) return ask(("%d %d %d"):format(n, K, N)) end
      local layer = product(s.d_model, q) + 2 * product(s.d_model, kv) + product(q, s.d_model)
        + 2 * product(s.d_model, s.d_ff) + product(s.d_ff, s.d_model)
      return n / (s.n_layers * layer)
    end
  end
  return peers, { "prefill" }, "exact"
end

local FORMAT = "%-36s %10s %-10s %10s %7s  %-14s %10s %7s"

local function amount(x) return (x < 1e4 and "%.4g" or "%.0f"):format(x) end

local function print_line(line)
  print(FORMAT:format(line.work, amount(line.figure), line.unit, amount(line.limit), ("%.3f"):format(line.ratio),
    line.limit_of, amount(line.peer), ("%.2f"):format(line.peer_ratio)))
  io.flush()
end

local peers, kinds, precision = ({ llama = llama, torch = torch, onednn = onednn })[opts.peer]()
print(("%s, %d threads; %s, %d layers; medians of %d rounds"):format(core.instruction_set(), n_threads, opts.shape,
  shape.n_layers, opts.rounds))
print(FORMAT:format("work", "moonscope", "", "limit", "share", "of", opts.peer, "times"))
local run <close> = bench.new {
  shape = opts.shape, layers = opts.layers, precision = precision, rounds = opts.rounds, on_line = print_line,
  peers = peers,
}
for _, kind in ipairs(kinds) do run:run(kind) end
