-- SPDX-License-Identifier: MIT
-- Speed on a device, as shares of what it can do at best:
--   moonscope tests/gpu/bench.lua --device cuda --shape 8b --folder MODEL [--rates FILE] [--torch FILE]
--   moonscope tests/gpu/bench.lua --device cpu --shape tiny
-- MODEL is what moonscope.bench.random wrote. FILE: what `rates DEVICE` or torch_peer.py printed;
-- without rates there are no shares. The random SAE is written into MODEL (for tiny: a folder of its own).
local argparse = require "argparse"
local json = require "moonscope.json"
local ms = require "moonscope"
local uv = require "luv"

local shapes = {
  tiny = { layer = 3, d_sae = 2048, n_prompt = 128, n_steps = 16 },
  ["8b"] = { layer = 19, d_sae = 65536, n_prompt = 2048, n_steps = 64 },
}
local N_ROUNDS = 3

local parser = argparse("moonscope tests/gpu/bench.lua", "Speed of a device.")
parser:option("--device"):default "cpu"
parser:option("--shape"):choices { "tiny", "8b" }:default "tiny"
parser:option("--folder", "The model.", "examples/tiny")
parser:option("--rates", "JSON of the program rates.")
parser:option("--torch", "JSON of torch_peer.py.")
local opts = parser:parse(arg)
local shape = shapes[opts.shape]

local function read_json(path)
  if not path then return {} end
  local file <close> = assert(io.open(path, "rb"))
  return assert(json.decode(file:read "a"))
end

local rates, torch = read_json(opts.rates), read_json(opts.torch)

local function seconds_of(body)
  local start = uv.hrtime()
  body()
  return (uv.hrtime() - start) / 1e9
end

---Seconds of body(), the median of some rounds after one that does not count.
local function median(body)
  local rounds = {}
  body()
  for i = 1, N_ROUNDS do
    rounds[i] = seconds_of(body)
    collectgarbage()
  end
  table.sort(rounds)
  return rounds[(N_ROUNDS + 1) // 2]
end

---Waits until the device has made this tensor.
local function finish(t) return t:reshape(-1):narrow(1, 1, 1):item() end

-- What the work costs

local function model_bytes()
  local sum = { all = 0, embed = 0 }
  local file <close> = assert(ms.open(opts.folder .. (opts.shape == "tiny" and "/model.safetensors" or "")))
  for _, name in ipairs(file:names()) do
    local info = file:info(name)
    sum.all = sum.all + info.nbytes
    if name == "model.embed_tokens.weight" then sum.embed = info.nbytes end
  end
  return sum
end

---Multiply-adds of one token in one layer's products, times two.
local function layer_flops(c)
  local q, kv = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
  return 2 * c.d_model * (2 * q + 2 * kv + 3 * c.d_ff)
end

---Of a causal prompt of n tokens: products and attention.
local function prompt_flops(c, n_layers, n)
  return n_layers * n * (layer_flops(c) + 2 * n * c.n_heads * c.d_head)
end

-- What is measured

local model, sae -- set by load
local ids = {}

---An SAE of random numbers that about one feature in 700 passes: its biases lie three deviations down.
local function make_sae(folder, x)
  local d = model.config.d_model
  local per_row = x:norm(2):mean():item() / math.sqrt(d)
  local n = math.min(shape.d_sae, (1 << 22) // d)
  local drawn = (ms.rand({ n, d }, { seed = 1 }) - 0.5) * math.sqrt(12 / d)
  local blocks = {}
  for i = 1, shape.d_sae // n do blocks[i] = drawn:to { dtype = "bf16" } end
  local path = folder .. "/random_sae.safetensors"
  assert(ms.save(path, {
    ["encoder_linear.weight"] = ms.cat(blocks, 1),
    ["encoder_linear.bias"] = ms.full({ shape.d_sae }, -3 * per_row, { dtype = "bf16" }),
    ["decoder_linear.bias"] = ms.zeros({ d }, { dtype = "bf16" }),
  }))
  return path
end

local function load()
  local seconds = seconds_of(function()
    model = assert(ms.load_model(opts.folder, { device = opts.device, context = opts.shape ~= "tiny" and 4096 or nil }))
  end)
  for i = 1, shape.n_prompt do ids[i] = (i * 7919) % model.config.n_vocab end
  local place = "model.layers." .. shape.layer
  local x = model:forward(table.move(ids, 1, 64, 1, {}), { capture = { place }, logits = false }).captures[place]
  local folder = opts.folder
  if opts.shape == "tiny" then
    folder = os.tmpname()
    os.remove(folder)
    assert(uv.fs_mkdir(folder, 448))
  end
  local path = make_sae(folder, x:to { device = "cpu" })
  sae = assert(ms.load_sae(path, { model = model, layer = shape.layer }))
  os.remove(path)
  if opts.shape == "tiny" then uv.fs_rmdir(folder) end
  return seconds
end

---Seconds of a token that is generated after the first.
local function decode(edits)
  local prompt = table.move(ids, 1, 16, 1, {})
  local function generate(n)
    return model:generate(prompt, { max_tokens = n, ignore_eos = true, edits = edits }).timings.generated_seconds
  end
  generate(4)
  local seconds = {}
  for i = 1, N_ROUNDS do seconds[i] = generate(shape.n_steps) / (shape.n_steps - 1) end
  table.sort(seconds)
  return seconds[(N_ROUNDS + 1) // 2]
end

local function prefill(chunk)
  return median(function()
    local session <close> = model:session()
    finish(session:prefill(ids, { chunk = chunk }).logits)
  end)
end

---The stream of a whole prompt, its features, and how many fire.
local function harvest()
  local place, l0 = "model.layers." .. shape.layer, nil
  local seconds = median(function()
    local out = model:forward(ids, { capture = { place }, logits = false, chunk = #ids })
    local features <close> = sae:encode(out.captures[place])
    l0 = features:l0()
  end)
  return seconds, l0
end

local function encode()
  local place = "model.layers." .. shape.layer
  local x = model:forward(ids, { capture = { place }, logits = false }).captures[place]
  return median(function() sae:encode(x):close() end)
end

-- The table

local function ratio(value, limit) return limit and ("%.1f %%"):format(100 * value / limit) or "-" end

local function row(what, value, unit, share, of)
  print(("%-44s %12s %-9s %8s  %s"):format(what, ("%.4g"):format(value), unit, share or "-", of or ""))
end

local load_seconds = load()
local c, bytes, n = model.config, model_bytes(), #ids
local copy_rate, product_rate = rates.copy_bytes_per_s, rates.product_flops
if torch.product_flops and product_rate then product_rate = math.max(product_rate, torch.product_flops) end
if torch.copy_bytes_per_s and copy_rate then copy_rate = math.max(copy_rate, torch.copy_bytes_per_s) end

local kv_bytes = 2 * c.n_layers * c.n_kv_heads * c.d_head * 2 * (16 + shape.n_steps / 2)
local step_bytes = bytes.all - (c.tied and 0 or bytes.embed) + kv_bytes
local step = decode()
local step_set = decode { { sae = sae, feature = 0, op = "set", value = 0.5, positions = "generated" } }
local step_add = decode { { sae = sae, feature = 0, op = "add", value = 0.5, positions = "generated" } }
local prefill_seconds, prefill_chunked = prefill(n), prefill(256)
local harvest_seconds, l0 = harvest()
local encode_seconds = encode()
local encode_flops = 2 * n * c.d_model * shape.d_sae
local prefill_flops = prompt_flops(c, c.n_layers, n) + 2 * c.d_model * c.n_vocab
local harvest_flops = prompt_flops(c, shape.layer + 1, n) + encode_flops

print(("%s on %s, SAE of %d features at layer %d, %.1f of them firing per token")
  :format(opts.shape, model:device(), shape.d_sae, shape.layer, l0))
print(("%-44s %12s %-9s %8s  %s"):format("what", "value", "unit", "share", "of"))
if rates.copy_bytes_per_s then
  row("copy, read and written", rates.copy_bytes_per_s / 1e9, "GB/s")
  row("bf16 product", rates.product_flops / 1e12, "TFLOP/s")
end
if torch.product_flops then
  row("copy, PyTorch " .. torch.torch, torch.copy_bytes_per_s / 1e9, "GB/s")
  row("bf16 product, PyTorch", torch.product_flops / 1e12, "TFLOP/s")
end
row("load the model from the page cache", bytes.all / load_seconds / 1e9, "GB/s")
row("decode", 1 / step, "tokens/s", ratio(step_bytes / step, copy_rate), "the bandwidth (aim: 70 %)")
row("decode, a feature set at every token", 1 / step_set, "tokens/s", ("%+.1f %%"):format(100 * (step_set / step - 1)),
  "time on top (aim: below 8 %)")
row("decode, a feature added to", 1 / step_add, "tokens/s", ("%+.1f %%"):format(100 * (step_add / step - 1)),
  "time on top (aim: below 8 %)")
row(("prefill of %d tokens at once"):format(n), n / prefill_seconds, "tokens/s",
  ratio(prefill_flops / prefill_seconds, product_rate), "the product rate (aim: 50 %)")
row(("prefill of %d tokens in chunks of 256"):format(n), n / prefill_chunked, "tokens/s",
  ratio(prefill_flops / prefill_chunked, product_rate), "the product rate")
row(("harvest to layer %d, with features"):format(shape.layer), n / harvest_seconds, "tokens/s",
  ratio(harvest_flops / harvest_seconds, product_rate), "the product rate")
row("SAE encode", n / encode_seconds, "tokens/s",
  ratio(encode_flops / encode_seconds, product_rate), "the product rate")
if torch.sae_encode_tokens_per_s then
  row("SAE encode, PyTorch (dense, then nonzero)", torch.sae_encode_tokens_per_s, "tokens/s",
    ratio(n / encode_seconds, torch.sae_encode_tokens_per_s), "moonscope's speed, PyTorch = 100 %")
end
sae:close()
model:close()
