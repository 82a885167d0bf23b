-- SPDX-License-Identifier: MIT
---Conversion of a .pth of Goodfire's layout, beside cp of the same file.
local uv = require "luv"
local checkpoint = require "moonscope.checkpoint"
local convert = require "moonscope.convert"
local core = require "moonscope.core"
local measure = require "moonscope.bench.measure"
local process = require "moonscope.bench.process"
local pth = require "moonscope.bench.pth"

local BLOCK = 32 << 20 -- bytes, as convert has them
local MEMORY_MB = 100 -- promised

local function anonymous_mb(pid)
  local file = io.open(("/proc/%d/status"):format(pid))
  local kib = file and file:read("a"):match "RssAnon:%s*(%d+)"
  if file then file:close() end
  return kib and tonumber(kib) / 1024 or 0
end

---Seconds until the last byte is written and hashed, before the sync.
local function unsynced(path, folder)
  local start, seconds = uv.hrtime(), nil
  assert(convert.sae(path, { output = folder, layer = 0, on_progress = function(done, total)
    if done == total then seconds = (uv.hrtime() - start) / 1e9 end
  end }))
  return seconds
end

---Seconds of the same without any digest; nothing is left of it.
local function copied(path, out)
  local start = uv.hrtime()
  local file <close> = assert(checkpoint.open(path))
  local plans = {}
  for i, name in ipairs(file:names()) do
    local info = file:info(name)
    plans[i] = { name = name, dtype = info.dtype, shape = info.shape, nbytes = info.nbytes }
  end
  local writer <close> = assert(core.writer(out, plans, {}))
  writer:_leave_out_digest()
  for _, i in ipairs(writer:order()) do
    for first = 0, plans[i].nbytes - 1, BLOCK do
      assert(writer:copy(file, plans[i].name, first, math.min(BLOCK, plans[i].nbytes - first)))
    end
  end
  return (uv.hrtime() - start) / 1e9
end

return function(bench)
  local s, folder = bench.shape, bench.folder .. "/convert"
  assert(uv.fs_mkdir(folder, tonumber("700", 8)))
  local path, copy, output = folder .. "/sae.pth", folder .. "/copy", folder .. "/sae_layer_0.safetensors"
  pth.sae(path, s.d_model, s.d_sae)
  local cp, sync = assert(process.find "cp"), assert(process.find "sync")
  process.run(sync, { path })
  local size = ("%.2f GB"):format(uv.fs_stat(path).size / 1e9)
  ---Milliseconds of body(), after which a file goes away.
  local function ms(file, body)
    local seconds = body()
    uv.fs_unlink(file)
    process.run(sync, { folder })
    return 1e3 * seconds
  end
  local function warm_cp()
    return ms(copy, function() return process.run(cp, { path, copy }) end), "cp"
  end

  local peaks, limits = {}, {}
  bench:measure {
    work = "convert of " .. size .. ", both digests, synced", unit = "ms",
    figure = function()
      local peak = 0
      local took = ms(output, function()
        return process.run(uv.exepath(), { "convert", path, "-o", folder, "--layer", "0", "--quiet", "--json" },
          function(pid) peak = math.max(peak, anonymous_mb(pid)) end)
      end)
      peaks[#peaks + 1], limits[#limits + 1] = peak, MEMORY_MB
      return took
    end,
    limit = function()
      return ms(copy, function() return process.run(cp, { path, copy }) + process.run(sync, { copy }) end), "cp + sync"
    end,
  }
  table.remove(peaks, 1) -- of the round that does not count
  table.remove(limits, 1)
  bench:report(measure.line({ work = "its memory beyond mapped pages", unit = "MiB", limit_of = "promised" }, peaks,
    limits, {}))
  bench:measure {
    work = "the same until its sync", unit = "ms", limit = warm_cp,
    figure = function() return ms(output, function() return unsynced(path, folder) end) end,
  }
  bench:measure {
    work = "the same without digests", unit = "ms", limit = warm_cp,
    figure = function() return ms(output, function() return copied(path, output) end) end,
  }
end
