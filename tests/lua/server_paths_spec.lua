-- SPDX-License-Identifier: MIT
-- Files that requests name: no link leads out of the data folders, and no message shows where they are.
local App = require "moonscope.server.app"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local ms = require "moonscope"
local process = require "process"
local uv = require "luv"

local SAE = "Moonscope-Tiny-Llama-SAE-l3.pth"
local TRIES = 10000

---Runs fn(call, folder, outside) with an app over folder/, in which tiny/ is a copy of the tiny model;
---outside/ is beside it.
local function with_app(fn)
  local root = assert(uv.fs_realpath(fixtures.folder()))
  local folder, outside = root .. "/data", root .. "/outside"
  assert(uv.fs_mkdir(folder, 493))
  assert(uv.fs_mkdir(outside, 493))
  assert(os.execute(("cp -r %s %s/tiny"):format(fixtures.model_path, folder)))
  loop.run(function()
    local app = assert(App.new { data = { folder }, max_answers = 4, precision = "exact", device = "cpu" })
    local function call(...)
      local status, body = app:call(...)
      return status, assert(json.decode(json.encode(body)))
    end
    local ok, message = pcall(fn, call, folder, outside)
    app:close()
    if not ok then error(message, 0) end
  end)
  fixtures.remove(root)
end

---Puts a link to the same file elsewhere in the place of a file.
local function move_out(path, to)
  assert(uv.fs_rename(path, to))
  assert(uv.fs_symlink(to, path))
end

local function move_back(path, from)
  assert(uv.fs_unlink(path))
  assert(uv.fs_rename(from, path))
end

describe("a data folder", function()
  it("is not left by a link in a model or beside an SAE (P26)", function()
    with_app(function(call, folder, outside)
      for _, name in ipairs { "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json" } do
        move_out(folder .. "/tiny/" .. name, outside .. "/" .. name)
        local status, body = call("POST", "/load-model", { model_name = "tiny" })
        assert.same({ 403, "EACCES", "model_name" }, { status, body.code, body.field }, name .. json.encode(body))
        assert.equal(("tiny/%s: leads out of the folders that it must stay in"):format(name), body.detail)
        local _, model = call("GET", "/model/status")
        assert.same({ "error", body.detail }, { model.status, model.error })
        move_back(folder .. "/tiny/" .. name, outside .. "/" .. name)
      end
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      assert.equal(200, (call("POST", "/load-sae", { saePath = "tiny/" .. SAE })))
      assert.equal(200, (call("POST", "/export-sae", { output_path = "pair" })))
      move_out(folder .. "/pair/sae_layer_3_metadata.json", outside .. "/metadata.json")
      local status, body = call("POST", "/load-sae", { saePath = "pair/sae_layer_3.safetensors" })
      assert.same({ 403, "pair/sae_layer_3_metadata.json: leads out of the folders that it must stay in" },
        { status, body.detail })
    end)
  end)

  it("may have links to places in it, and into the Hub's cache (P26)", function()
    with_app(function(call, folder)
      assert(uv.fs_mkdir(folder .. "/blobs", 493))
      for _, name in ipairs { "config.json", "model.safetensors", "tokenizer.json" } do
        assert(uv.fs_rename(("%s/tiny/%s"):format(folder, name), ("%s/blobs/%s"):format(folder, name)))
        assert(uv.fs_symlink("../blobs/" .. name, ("%s/tiny/%s"):format(folder, name)))
      end
      assert(uv.fs_symlink("tiny", folder .. "/link"))
      assert.equal(200, (call("POST", "/load-model", { model_name = "link" })))
    end)
    local cache = assert(uv.fs_realpath(fixtures.folder()))
    local script = fixtures.folder()
    fixtures.write(script .. "/load.lua", ([[
      local App, loop = require "moonscope.server.app", require "moonscope.loop"
      loop.run(function()
        local app = assert(App.new { data = { %q }, max_answers = 1, device = "cpu" })
        print((app:call("POST", "/load-model", { model_name = "tiny" })))
        app:close()
      end)
    ]]):format(script))
    assert(os.execute(("cp -r %s %s/tiny"):format(fixtures.model_path, script)))
    move_out(script .. "/tiny/model.safetensors", cache .. "/blob")
    local into = process.moonscope({ script .. "/load.lua" }, { env = { HF_HUB_CACHE = cache } })
    local elsewhere = process.moonscope({ script .. "/load.lua" }, { env = { HF_HUB_CACHE = script .. "/none" } })
    assert.same({ "200\n", "403\n" }, { into.out, elsewhere.out }, into.err .. elsewhere.err)
    fixtures.remove(script)
    fixtures.remove(cache)
  end)

  it("confines nobody once its server is closed", function()
    with_app(function(_, folder, outside)
      fixtures.write(outside .. "/x.json", "{}")
      assert(uv.fs_symlink(outside .. "/x.json", folder .. "/x.json"))
      assert.same({ nil, folder .. "/x.json: leads out of the folders that it must stay in", "EACCES" },
        { json.read(folder .. "/x.json") })
    end)
    local folder = fixtures.folder()
    fixtures.write(folder .. "/x.json", "{}")
    assert.same({}, json.read(folder .. "/x.json"))
    fixtures.remove(folder)
  end)

  it("is not left while its folders are exchanged for links, in 10,000 tries (P26)", function()
    with_app(function(call, folder, outside)
      assert.equal(200, (call("POST", "/load-model", { model_name = "tiny" })))
      assert.equal(200, (call("POST", "/load-sae", { saePath = "tiny/" .. SAE })))
      assert(uv.fs_mkdir(folder .. "/in", 493))
      assert(uv.fs_symlink(outside, folder .. "/way"))
      fixtures.write(folder .. "/in/x.json", '{"features": {}}')
      fixtures.write(outside .. "/x.json", '{"features": {"layer_3_feature_1": {}}}')
      local child, ended
      local guard <close> = setmetatable({}, { __close = function()
        child:kill "sigkill"
        while not ended do loop.sleep(1) end
        child:close()
      end })
      child = uv.spawn(process.program, { args = { "-e", ([[
        local uv = require "luv"
        uv.chdir(%q)
        while true do
          uv.fs_rename("in", "aside")
          uv.fs_rename("way", "in")
          uv.fs_rename("in", "way")
          uv.fs_rename("aside", "in")
        end
      ]]):format(folder) } }, function() ended = true end)
      local seen = {}
      for i = 1, TRIES do
        local status, body = call("POST", "/import-features", { input_path = "in/x.json" })
        assert.is_true(status == 404 or status == 403 or status == 200 and body.imported_count == 0,
          status .. json.encode(body))
        seen[status] = (seen[status] or 0) + 1
        if i % 10 == 0 then
          status, body = call("POST", "/export-patches", { output_path = ("in/%d.json"):format(i) })
          assert.is_true(status == 404 or status == 403 or status == 200, status .. json.encode(body))
          status, body = call("POST", "/export-sae", { output_path = ("in/%d"):format(i % 50) })
          assert.is_true(status < 500 or body.code == "EIO", status .. json.encode(body)) -- gone under its feet
        end
      end
      assert.is_true(seen[200] and (seen[404] or seen[403]) ~= nil)
      assert.same({ "x.json" }, fixtures.names(outside))
    end)
  end)
end)

describe("a message", function()
  it("names files as the client does, not where they are (P41)", function()
    with_app(function(call, folder)
      fixtures.write(folder .. "/tiny/config.json", "{")
      local status, body = call("POST", "/load-model", { model_name = "tiny" })
      assert.equal(400, status)
      assert.equal("tiny: config.json: ", body.detail:sub(1, 19))
      assert.is_nil(json.encode(body):find(folder, 1, true))
      local _, listed = call("GET", "/jobs")
      assert.is_nil(json.encode(listed):find(folder, 1, true))
      local copied = fixtures.read(fixtures.model_path .. "/config.json")
      fixtures.write(folder .. "/tiny/config.json", copied)
      assert.equal(200, (call("POST", "/load-model", { model_name = folder .. "/tiny" })))
      assert.equal(200, (call("POST", "/load-sae", { saePath = "tiny/" .. SAE })))
      for _, case in ipairs {
        { "/load-sae", { saePath = "tiny/config.json" } }, { "/load-sae", { saePath = "tiny/../tiny/tokenizer.json" } },
        { "/import-features", { input_path = "tiny/model.safetensors" } },
        { "/export-sae", { output_path = "missing/folder" } }, { "/export-sae", { output_path = "tiny/config.json" } },
        { "/export-patches", { output_path = "tiny/config.json" } },
      } do
        status, body = call("POST", case[1], case[2])
        assert.is_true(status >= 400 and status < 500, status .. json.encode(body))
        assert.is_nil(json.encode(body):find(folder, 1, true), json.encode(body))
      end
    end)
  end)

  it("is made by the library with the whole path", function()
    local _, message = ms.load_model "/nowhere/at/all"
    assert.equal("/nowhere/at/all/config.json: No such file or directory", message)
  end)
end)
