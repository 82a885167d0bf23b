-- SPDX-License-Identifier: MIT
-- Members of the Llama family on a device against tests/fixtures/family (float64 of the published formulas), from Lua
-- and without busted; on the CPU with every instruction set:
--   moonscope tests/gpu/family.lua [DEVICE]     in the project's folder or a bundle
local ms = require "moonscope"

local FOLDER, PLACE = "tests/fixtures/family/", "model.layers.0"
local DTYPES = { llama2 = "f16", ["llama3.2"] = "bf16", mistral = "f16", qwen2 = "f32", qwen3 = "bf16" }

-- Found at most: 1.8e-5 in exact. In fast 2e-6 from what float64 gives with rounded operands, unless the order of a
-- sum makes one of them round the other way: 2.1e-4 in f16, 0.061 in bf16 (qwen3 with the CUDA kernels). A step in
-- fast reads rounded keys and values only: 0.22 from float64 without any rounding.
local EXACT = 3e-5
local ROUNDED = { f32 = 3e-5, f16 = 5e-4, bf16 = 0.1 }
local STEP = { f32 = 3e-5, f16 = 0.006, bf16 = 0.25 }

local device = arg[1] or "cpu"
local golden <close> = assert(ms.open(FOLDER .. "golden.safetensors"))

local function close_to(what, want, got, limit)
  local off = (got - want:to { device = got:device(), dtype = "f32" }):abs():max():item()
  if off > limit or off ~= off then error(("%s: off by %.3g, expected at most %.3g"):format(what, off, limit), 2) end
end

local function same(what, want, got)
  if not want:equal(got) then error(what .. ": other bits than all at once", 2) end
end

---Logits of the last of the first n ids, and of a step for each id after them.
local function decode(model, ids, n)
  local session <close> = model:session()
  local rows = { session:prefill(table.move(ids, 1, n, 1, {})).logits }
  for i = n + 1, #ids do rows[#rows + 1] = session:step(ids[i]).logits end
  return ms.cat(rows, 1)
end

local function check(member, precision)
  local model <close> = assert(ms.load_model(FOLDER .. member, { precision = precision, device = device }))
  local function numbers(name) return golden:tensor(member .. "." .. name) end
  local ids, exact = numbers "ids":totable(), precision == "exact"
  assert(model:dtype() == DTYPES[member])
  local out = model:forward(ids, { logits = "all", capture = { PLACE } })
  local limit = exact and EXACT or ROUNDED[DTYPES[member]]
  close_to("logits", numbers(exact and "logits" or "logits_fast"), out.logits, limit)
  if exact then close_to(PLACE, numbers "hidden", out.captures[PLACE], EXACT) end
  for _, chunk in ipairs { 1, 3, 7, 23 } do
    local cut = model:forward(ids, { logits = "all", capture = { PLACE }, chunk = chunk })
    same(("chunks of %d"):format(chunk), out.logits, cut.logits)
    same(("%s, chunks of %d"):format(PLACE, chunk), out.captures[PLACE], cut.captures[PLACE])
  end
  local steps = decode(model, ids, 8):narrow(1, 2, 16)
  close_to("steps", numbers "logits":narrow(1, 9, 16), steps, exact and EXACT or STEP[DTYPES[member]])
end

local n_failures = 0
for _, set in ipairs(device == "cpu" and ms.instruction_sets() or { "-" }) do
  if set ~= "-" then ms.instruction_set(set) end
  for member in pairs(DTYPES) do
    for _, precision in ipairs { "exact", "fast" } do
      local ok, message = pcall(check, member, precision)
      print(("%s %s in %s on %s %s"):format(ok and "ok     " or "FAILED ", member, precision, device, set))
      if not ok then print(message) end
      n_failures = n_failures + (ok and 0 or 1)
    end
  end
end
os.exit(n_failures == 0, true)
