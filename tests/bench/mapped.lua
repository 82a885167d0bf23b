-- SPDX-License-Identifier: MIT
-- A large model by mapping, as lua/moonscope/bench/random.lua makes one: what loading and writing on take, and the memory at most.
--   moonscope tests/bench/mapped.lua FOLDER [TOKENS [CONTEXT]]
local ms = require "moonscope"
local memory = require "moonscope.memory"
local uv = require "luv"

local folder, n_tokens, context = arg[1], math.tointeger(tonumber(arg[2])) or 8, math.tointeger(tonumber(arg[3]))
if not folder then error("usage: moonscope mapped.lua FOLDER [TOKENS [CONTEXT]]", 0) end

---A line of /proc/self/status, in bytes.
local function status(key)
  for line in io.lines "/proc/self/status" do
    local kib = line:match("^" .. key .. ":%s*(%d+) kB")
    if kib then return tonumber(kib) * 1024 end
  end
  return 0
end

local start = uv.hrtime()
local model <close> = assert(ms.load_model(folder, { device = "cpu", context = context }))
print(("load       %.2f s, resident %s"):format((uv.hrtime() - start) / 1e9, memory.text(status "VmRSS")))
local reply = model:generate({ 128000, 791, 18266, 16008, 927, 279 }, { max_tokens = n_tokens, ignore_eos = true })
local t = reply.timings
print(("prompt     %d tokens in %.2f s"):format(t.prompt_tokens, t.prompt_seconds))
print(("writing    %d tokens in %.2f s, %.2f tokens/s"):format(t.generated_tokens, t.generated_seconds,
  t.tokens_per_second))
print(("ids        %s"):format(table.concat(reply.ids, " ")))
print(("memory     resident at most %s, of it not mapped from files %s"):format(memory.text(status "VmHWM"),
  memory.text(status "RssAnon")))
