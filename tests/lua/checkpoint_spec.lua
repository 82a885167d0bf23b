-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local uv = require "luv"

local FIXTURES = "tests/fixtures/pth/"

local function hex(text)
  return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

---f of a tensor's value, after which the tensor is closed.
local function with(tensor, f)
  local guard <close> = tensor
  return f(guard)
end

describe("ms.open", function()
  it("lists what is in a file", function()
    local file <close> = assert(ms.open(FIXTURES .. "nested.pth"))
    assert.equal("pth", file:format())
    assert.equal(FIXTURES .. "nested.pth", file:path())
    assert.same({ "model.a", "model.b.0", "model.b.1.c" }, file:names())
    assert.same({ dtype = "i32", shape = { 2 }, nbytes = 8 }, file:info "model.a")
    assert.is_nil(file:info "model")
    assert.equal("zwölf", file:metadata().text)
    assert.equal("null", file:metadata().none)
    assert.equal("moonscope.Checkpoint (" .. FIXTURES .. "nested.pth, pth, 3 tensors)", tostring(file))
  end)

  it("gives tensors over the file's bytes, strides included", function()
    local expected = assert(json.read(FIXTURES .. "expected.json"))
    for _, name in ipairs { "dtypes", "strides", "empty", "legacy_dtypes", "legacy_strides", "legacy_empty" } do
      local file <close> = assert(ms.open(FIXTURES .. name .. ".pth"))
      for _, key in ipairs(file:names()) do
        local want = expected[name].tensors[key]
        with(file:tensor(key), function(t)
          assert.equal(want.dtype, t:dtype())
          assert.same(want.shape, t:shape())
          assert.equal(want.bytes, hex(t:to_string()))
        end)
      end
    end
  end)

  it("gives the arrays of .npz and .npy, in either order, stored and deflated", function()
    local expected = assert(json.read "tests/fixtures/npz/expected.json")
    for name, arrays in pairs(expected) do
      local file <close> = assert(ms.open("tests/fixtures/npz/" .. name))
      assert.equal(name:match "%a+$", file:format())
      for key, want in pairs(arrays) do
        with(file:tensor(key), function(t)
          assert.equal(want.dtype, t:dtype())
          assert.same(want.shape, t:shape())
          assert.equal(want.bytes, hex(t:to_string()))
        end)
      end
    end
  end)

  it("keeps the bytes mapped as long as a tensor needs them", function()
    local file = assert(ms.open(FIXTURES .. "tensor.pth"))
    local t <close> = file:tensor "tensor"
    file:close()
    assert.same({ { 1.5, -2 } }, t:totable())
  end)

  it("returns nil, message, code for what cannot be opened", function()
    local folder = fixtures.folder()
    fixtures.write(folder .. "/text.pth", "just text")
    local pth = fixtures.read(FIXTURES .. "tensor.pth")
    fixtures.write(folder .. "/cut.pth", pth:sub(1, #pth - 1))
    local model = fixtures.read "examples/tiny/model.safetensors"
    fixtures.write(folder .. "/cut.safetensors", model:sub(1, #model - 1))
    for _, case in ipairs {
      { "no/such/file.pth", "ENOENT", "no/such/file.pth: No such file or directory" },
      { "/dev/zero", "EINVAL", "/dev/zero: not a regular file" },
      { "src", "ENOENT", "src: none of model.safetensors, model.safetensors.index.json, "
        .. "pytorch_model.bin and pytorch_model.bin.index.json in this folder" },
      { folder .. "/text.pth", "EFORMAT", folder
        .. "/text.pth: not a checkpoint of a known format; its 9 bytes start with 6a 75 73 74 20 74 65 78" },
      { folder .. "/cut.pth", "EFORMAT", ("%s/cut.pth: no zip directory at the end of its %d bytes (truncated, or "
        .. "bytes behind it)"):format(folder, #pth - 1) },
      { folder .. "/cut.safetensors", "EFORMAT", "data bytes (truncated?)" },
    } do
      local file, message, code = ms.open(case[1])
      assert.is_nil(file)
      assert.truthy(message:find(case[3], 1, true), message)
      assert.equal(case[2], code)
    end
    fixtures.remove(folder)
  end)

  it("throws for a closed one, twice closed or not, and for a tensor that it has not", function()
    local file = assert(ms.open(FIXTURES .. "tensor.pth"))
    assert.error_matches(function() file:tensor "w" end, "tests/fixtures/pth/tensor.pth: no tensor 'w'")
    file:close()
    file:close()
    for _, method in ipairs { "names", "format", "metadata", "path", "size" } do
      assert.error_matches(function() file[method](file) end, "checkpoint: closed")
    end
    assert.error_matches(function() file:tensor "tensor" end, "checkpoint: closed")
    assert.equal("moonscope.Checkpoint (closed)", tostring(file))
    assert.error_matches(function() ms.open() end, "string expected")
  end)

  it("reads a model in shards as it reads it whole", function()
    local folder = fixtures.folder()
    local whole <close> = assert(ms.open "examples/tiny")
    local map, shards = {}, { {}, {} }
    for i, name in ipairs(whole:names()) do
      local which = i % 2 + 1
      shards[which][name] = whole:tensor(name)
      map[name] = ("model-0000%d-of-00002.safetensors"):format(which)
    end
    for i, tensors in ipairs(shards) do
      assert(ms.save(("%s/model-0000%d-of-00002.safetensors"):format(folder, i), tensors))
      for _, t in pairs(tensors) do t:close() end
    end
    fixtures.write(folder .. "/model.safetensors.index.json", json.encode { weight_map = map })
    local sharded <close> = assert(ms.open(folder))
    assert.same(whole:names(), sharded:names())
    for _, name in ipairs { "model.norm.weight", "model.layers.0.mlp.down_proj.weight" } do
      local a <close> = whole:tensor(name)
      local b <close> = sharded:tensor(name)
      assert.equal(a:to_string(), b:to_string())
    end
    fixtures.remove(folder)
  end)
end)

describe("ms.save", function()
  local folder, path

  before_each(function()
    folder = fixtures.folder()
    path = folder .. "/out.safetensors"
  end)
  after_each(function() fixtures.remove(folder) end)

  it("writes every dtype and stride so that ms.open gives the same back", function()
    for _, name in ipairs { "dtypes", "strides", "empty" } do
      local source <close> = assert(ms.open(FIXTURES .. name .. ".pth"))
      local tensors = {}
      for _, key in ipairs(source:names()) do tensors[key] = source:tensor(key) end
      assert.is_true(ms.save(path, tensors, { metadata = { made = "here" } }))
      local file <close> = assert(ms.open(path))
      assert.equal("safetensors", file:format())
      assert.same({ made = "here" }, file:metadata())
      assert.same(source:names(), file:names())
      for key, t in pairs(tensors) do
        local same <close> = file:tensor(key)
        assert.equal(t:dtype(), same:dtype())
        assert.same(t:shape(), same:shape())
        assert.equal(t:to_string(), same:to_string())
        t:close()
      end
    end
  end)

  it("writes large tensors block by block", function()
    local t <close> = ms.randn({ 3000, 5000 }, { seed = 1 }) -- 60 MB: two blocks
    local turned <close> = t:t()
    assert(ms.save(path, { a = t, b = turned }))
    local file <close> = assert(ms.open(path))
    local a <close> = file:tensor "a"
    local b <close> = file:tensor "b"
    assert.is_true(a:equal(t))
    assert.is_true(b:equal(turned))
  end)

  it("gives the same bytes for the same tensors", function()
    local a <close> = ms.tensor { 1, 2 }
    local b <close> = ms.tensor({ 3 }, { dtype = "i64" })
    assert(ms.save(path, { a = a, b = b }, { metadata = { x = "1", y = "2" } }))
    local first = fixtures.read(path)
    assert(ms.save(path, { b = b, a = a }, { metadata = { y = "2", x = "1" } }))
    assert.equal(first, fixtures.read(path))
  end)

  it("replaces a file only once the new one is complete", function()
    local t <close> = ms.tensor { 1 }
    fixtures.write(path, "old")
    local ok, message, code = ms.save(path, { a = t, ["\xff"] = t })
    assert.is_nil(ok)
    assert.equal("tensor '?': the name is not UTF-8", message)
    assert.equal("EINVAL", code)
    assert.equal("old", fixtures.read(path))
    assert(ms.save(path, { a = t }))
    assert.equal(64 + 4, #fixtures.read(path))
  end)

  it("returns nil, message, code where it cannot write", function()
    local t <close> = ms.tensor { 1 }
    for _, case in ipairs {
      { folder .. "/missing/out", "ENOENT", folder .. "/missing/out: No such file or directory" },
      { "/dev/null", "EINVAL", "/dev/null: there already, and not a regular file" },
      { folder, "EINVAL", folder .. ": there already, and not a regular file" },
    } do
      local ok, message, code = ms.save(case[1], { a = t })
      assert.is_nil(ok)
      assert.equal(case[3], message)
      assert.equal(case[2], code)
    end
  end)

  it("throws for wrong arguments", function()
    local t <close> = ms.tensor { 1 }
    assert.error_matches(function() ms.save(path, { t }) end, "save: a name is a number, expected text")
    assert.error_matches(function() ms.save(path, { a = t }, { meta = {} }) end, "unknown option meta")
    assert.error_matches(function() ms.save(path, { a = t }, { metadata = { k = 1 } }) end,
      "a metadata value is a number, expected text")
    assert.error_matches(function() ms.save(path, { ["a\0b"] = t }) end, "zero byte")
  end)
end)

-- A pickle is data: what would run code elsewhere is refused by name, and nothing runs.

---A zip file with these entries, stored.
local function zip(entries)
  local body, directory, offset = {}, {}, 0
  for _, entry in ipairs(entries) do
    local name, data = table.unpack(entry)
    local sizes = ("<I4I4I4"):pack(0, #data, #data)
    local local_header = "PK\3\4" .. ("<I2I2I2I2I2"):pack(20, 0, 0, 0, 0) .. sizes .. ("<I2I2"):pack(#name, 0) .. name
    body[#body + 1] = local_header .. data
    directory[#directory + 1] = "PK\1\2" .. ("<I2I2I2I2I2I2"):pack(20, 20, 0, 0, 0, 0) .. sizes
      .. ("<I2I2I2I2I2I4I4"):pack(#name, 0, 0, 0, 0, 0, offset) .. name
    offset = offset + #body[#body]
  end
  local text = table.concat(directory)
  return table.concat(body) .. text
    .. "PK\5\6" .. ("<I2I2I2I2I4I4I2"):pack(0, 0, #entries, #entries, #text, offset, 0)
end

describe("a hostile pickle", function()
  it("runs nothing", function()
    local folder = fixtures.folder()
    local canary = folder .. "/canary"
    local command = "touch " .. canary
    local argument = "X" .. ("<s4"):pack(command)
    for _, case in ipairs {
      { "cposix\nsystem\n" .. argument .. "\x85R.", "posix.system" },
      { "cos\nsystem\n(" .. argument .. "tR.", "os.system" },
      { "cbuiltins\neval\nX" .. ("<s4"):pack("__import__('os').system('" .. command .. "')") .. "\x85R.",
        "builtins.eval" },
      { "\x8c\5posix\x8c\6system\x93" .. argument .. "\x85R.", "posix.system" },
      { "(" .. argument .. "iposix\nsystem\n.", "posix.system" },
      { "(cposix\nsystem\n" .. argument .. "o.", "posix.system" },
      { "csubprocess\nPopen\n(" .. argument .. "t\x81.", "subprocess.Popen" },
      { "}U\1wcposix\nsystem\n" .. argument .. "\x85Rs.", "posix.system" },
      { "ccollections\nOrderedDict\n)R}U\10__reduce__cposix\nsystem\nsb.", "posix.system" },
      { "ctorch._utils\n_rebuild_parameter\ncposix\nsystem\n" .. argument .. "\x85R\x85R.", "posix.system" },
      { "ctorch.hub\nload\n" .. argument .. "\x85R.", "torch.hub.load" },
      { "c__main__\nx\n.", "__main__.x" },
    } do
      local path = folder .. "/hostile.pth"
      fixtures.write(path, zip { { "a/data.pkl", "\x80\2" .. case[1] } })
      local file, message, code = ms.open(path)
      assert.is_nil(file)
      local expected = "%s: the pickle asks for %s, which is not one of the names that tensors need"
      assert.equal(expected:format(path, case[2]), message)
      assert.equal("EUNSUPPORTED", code)
      assert.is_nil((uv.fs_stat(canary)))
    end
    fixtures.write(folder .. "/fine.pth", zip { { "a/data.pkl", "\x80\2}U\1kNs." } })
    local file <close> = assert(ms.open(folder .. "/fine.pth")) -- the zip files themselves are good
    assert.same({ k = "null" }, file:metadata())
    fixtures.remove(folder)
  end)
end)
