-- SPDX-License-Identifier: MIT
---Speed beside limits that are measured in the same rounds: what `moonscope bench` prints, and what
---tests/bench compares with other programs. Each kind is lua/moonscope/bench/KIND.lua, a function of a
---Bench; models and files are made once, with random weights, in a temporary folder.
local uv = require "luv"
local process = require "moonscope.bench.process"
local random = require "moonscope.bench.random"
local limits = require "moonscope.bench.limits"
local measure = require "moonscope.bench.measure"
local model = require "moonscope.model"
local sae = require "moonscope.sae"
local shapes = require "moonscope.bench.shapes"

local M = {}

---The kinds, in the order of `all`.
M.KINDS = { "decode", "prefill", "growth", "sae", "load", "convert", "http" }

---Programs that a kind needs.
M.NEEDS = { http = "wrk" }

local MEMORY = { tiny = 64 << 20 } -- what is read for the read bandwidth; a tiny model fits into the caches, too
local LARGE = 1 << 30

---@class moonscope.bench.Bench
---@field shape moonscope.bench.Shape
---@field precision "fast"|"exact"
---@field n_rounds integer
---@field limits table  of moonscope.bench.limits
---@field folder string
---@field private peers table<string, fun(): number>?
local Bench = {}
Bench.__index = Bench

---The path of an empty folder.
local function new_folder()
  local variable = os.getenv "TMPDIR"
  local parent = variable and variable ~= "" and variable or "/tmp"
  local folder, message = uv.fs_mkdtemp(parent .. "/moonscope-bench-XXXXXX")
  if not folder then error(("bench: TMPDIR: %s: no folder can be made there: %s"):format(parent, message), 0) end
  return folder
end

---@param opts {shape: string, layers: integer?, precision: string, rounds: integer,
---  on_line: fun(line: moonscope.bench.Line), peers: table<string, fun(): number>?}
---  peers: others that do a work as well, by its name and in its unit; with them, no other work is measured
---@return moonscope.bench.Bench  to be closed
function M.new(opts)
  local self = {
    shape = shapes.shape(opts.shape, opts.layers), precision = opts.precision, n_rounds = opts.rounds,
    limits = limits.new(MEMORY[opts.shape] or LARGE), report_line = opts.on_line, peers = opts.peers,
  }
  self.folder = new_folder() -- last: whoever closes it does not have it yet where something before fails
  return setmetatable(self, Bench)
end

---Runs a kind.
---@param kind string  of KINDS
function Bench:run(kind)
  local needed = M.NEEDS[kind]
  if needed and not process.find(needed) then
    error(("bench: %s needs %s, which is not installed"):format(kind, needed), 0)
  end
  require("moonscope.bench." .. kind)(self)
end

---@param case moonscope.bench.Case
function Bench:measure(case)
  local peer = self.peers and self.peers[case.work]
  if peer or not self.peers then self:report(measure.rounds(case, self.n_rounds, peer)) end
end

---@param line moonscope.bench.Line
function Bench:report(line) self.report_line(line) end

---Bytes of memory that can be had without swapping.
local function available()
  for line in io.lines "/proc/meminfo" do
    local kib = line:match "^MemAvailable:%s*(%d+)"
    if kib then return tonumber(kib) * 1024 end
  end
end

---The folder of the random model.
function Bench:model_folder()
  if self.model_path then return self.model_path end
  local needed, there = shapes.model_bytes(self.shape), available()
  if needed > 0.9 * there then
    error(("the model takes %.1f GB, %.1f GB of memory are free: cut it with --layers"):format(needed / 1e9,
      there / 1e9), 0)
  end
  local path = self.folder .. "/model"
  random.model(path, self.shape)
  self.model_path = path
  return path
end

---The random model, loaded once.
---@return userdata
function Bench:model()
  if not self.loaded then
    local contexts = self.shape.contexts
    local context = math.max(contexts[#contexts] + 1, self.shape.prompts[#self.shape.prompts])
    self.loaded = assert(model.load_model(self:model_folder(), { device = "cpu", precision = self.precision,
      context = context }))
  end
  return self.loaded
end

---Ids of a prompt.
---@param n integer
---@return integer[]
function Bench:prompt(n)
  local ids = {}
  for i = 1, n do ids[i] = (i * 7919) % (self.shape.n_vocab - 256) end
  return ids
end

local function with_file(path, load)
  local loaded = assert(load())
  assert(uv.fs_unlink(path)) -- what is mapped of it stays
  return loaded
end

---A random SAE for a stream whose elements have a deviation of 1; f32 is mapped from its file, bf16 made of it.
---@param dtype string
---@return userdata  to be closed
function Bench:sae(dtype)
  local path = self.folder .. "/sae.safetensors"
  random.sae(path, self.shape.d_model, self.shape.d_sae, "f32", 1)
  return with_file(path, function() return sae.load_sae(path, { dtype = dtype, device = "cpu" }) end)
end

---A random SAE in the model's dtype for the middle layer.
---@return userdata  to be closed
function Bench:sae_beside_model()
  local llama, layer = self:model(), self.shape.n_layers // 2
  local place = ("model.layers.%d"):format(layer)
  local x <close> = llama:forward(self:prompt(64), { capture = { place }, logits = false }).captures[place]
  local deviation = x:norm():item() / math.sqrt(x:numel())
  local path = self.folder .. "/sae.safetensors"
  random.sae(path, self.shape.d_model, self.shape.d_sae, "bf16", deviation)
  return with_file(path, function() return sae.load_sae(path, { model = llama, layer = layer }) end)
end

---Removes a file, or a folder with everything in it.
local function remove(path)
  local stat = uv.fs_lstat(path)
  if not stat then return end
  if stat.type ~= "directory" then return uv.fs_unlink(path) end
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(path)) do remove(path .. "/" .. name) end
  uv.fs_rmdir(path)
end

function Bench:close()
  if self.loaded then self.loaded:close() end
  self.limits:close()
  remove(self.folder)
end

Bench.__close = Bench.close

return M
