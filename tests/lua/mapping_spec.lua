-- SPDX-License-Identifier: MIT
-- A file that another program cuts off while it is in use fails the work that needs it, and nothing else. P15
local convert = require "moonscope.convert"
local fixtures = require "fixtures"
local ms = require "moonscope"
local process = require "process"
local uv = require "luv"

local folder

local function cut(path, size)
  local fd = assert(uv.fs_open(path, "r+", 0))
  assert(uv.fs_ftruncate(fd, size))
  uv.fs_close(fd)
end

local function copy_of(path)
  local copy = folder .. "/" .. path:match "[^/]+$"
  fixtures.write(copy, fixtures.read(path))
  return copy
end

describe("a file that is cut off", function()
  before_each(function() folder = fixtures.folder() end)
  after_each(function() fixtures.remove(folder) end)

  it("fails every job that needs what is gone, and no other", function()
    local path = copy_of "examples/tiny/model.safetensors"
    local file <close> = assert(ms.open(path))
    local first <close> = file:tensor(file:names()[1])
    local other <close> = ms.tensor { 1, 2 }
    cut(path, 200)
    for _ = 1, 2 do
      assert.error_matches(function() first:sum() end, path .. ": its bytes from %d+ on are gone")
      assert.error_matches(function() first:totable() end, "are gone")
      local sum <close> = other:sum()
      assert.equal(3, sum:item())
    end
  end)

  it("is an error to a model, which works again from a whole file", function()
    for _, name in ipairs { "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors" } do
      copy_of("examples/tiny/" .. name)
    end
    local model <close> = assert(ms.load_model(folder, { precision = "exact" }))
    local text = model:generate("Once upon a time", { max_tokens = 4 }).text
    cut(folder .. "/model.safetensors", 100000)
    assert.error_matches(function() model:generate("Once upon a time", { max_tokens = 4 }) end, "are gone")
    local whole <close> = assert(ms.load_model("examples/tiny", { precision = "exact" }))
    assert.equal(text, whole:generate("Once upon a time", { max_tokens = 4 }).text)
  end)

  it("leaves no output of a conversion", function()
    local path, output = copy_of(fixtures.sae_path), folder .. "/out.safetensors"
    for size = 0, 1000000, 250000 do
      copy_of(fixtures.sae_path)
      local file <close> = assert(ms.open(path))
      cut(path, size)
      local ok, message, code = convert.hashes(file)
      assert.is_nil(ok)
      assert.equal("EIO", code)
      assert.truthy(message:find("are gone", 1, true), message)
    end
    copy_of(fixtures.sae_path)
    local ok, message, code = convert.checkpoint(path, output, {
      on_progress = function() cut(path, 300000) end, -- after the first block there is no more to read
    })
    if ok then -- all was read before
      assert.truthy(uv.fs_stat(output))
    else
      assert.equal("EIO", code)
      assert.truthy(message)
      assert.is_nil((uv.fs_stat(output)))
    end
  end)

  it("is an error in a plain Lua too", function()
    local path = copy_of "examples/tiny/model.safetensors"
    local script = folder .. "/script.lua"
    fixtures.write(script, ([[
      local ms, uv = require "moonscope", require "luv"
      local file = assert(ms.open(%q))
      local t = file:tensor(file:names()[1])
      local fd = assert(uv.fs_open(%q, "r+", 0))
      assert(uv.fs_ftruncate(fd, 100))
      print(pcall(t.sum, t))
      print "alive"]]):format(path, path))
    local result = process.run("lua5.4", { script }, { env = {
      LUA_PATH = "lua/?.lua;lua/?/init.lua;;", LUA_CPATH = process.module:gsub("[^/]+$", "?.so") .. ";;",
      LD_PRELOAD = os.getenv "MOONSCOPE_PRELOAD" or "",
    } })
    assert.same({ 0, "" }, { result.code, result.err })
    assert.truthy(result.out:find("false\t.*are gone.*\nalive\n$"), result.out)
  end)
end)
