-- SPDX-License-Identifier: MIT
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"

local function inspect(...) return process.moonscope { "inspect", ... } end

describe("moonscope inspect", function()
  it("prints a table", function()
    local result = inspect "tests/fixtures/tiny/golden/pth/wrapped.pth"
    assert.same({ 0, "" }, { result.code, result.err })
    assert.truthy(result.out:find "\nstate_dict%.encoder_linear%.weight  f32      %[8, 4%] +128\n")
    assert.truthy(result.out:find("pth: 4 tensors, 304 bytes\n", 1, true))
    assert.truthy(result.out:find("  config.rate = 0.5\n", 1, true))
  end)

  it("--json prints format, tensors and metadata", function()
    local result = inspect("tests/fixtures/pth/tensor.pth", "--json")
    assert.equal('{"format":"pth","tensors":[{"name":"tensor","dtype":"f32","shape":[1,2],"nbytes":8}],'
      .. '"metadata":{}}\n', result.out)
    assert.truthy(inspect("tests/fixtures/pth/strides.pth", "--json").out:find '"scalar","dtype":"f32","shape":%[%]')
  end)

  it("--hash digests the elements in row-major order", function()
    local pipe = assert(io.popen "printf '\\000\\000\\300\\077\\000\\000\\000\\300' | sha256sum") -- 1.5 and -2
    local expected = pipe:read "a":match "^%x+"
    pipe:close()
    local result = inspect("tests/fixtures/pth/tensor.pth", "--hash", "--json")
    assert.equal(expected, json.decode(result.out).tensors[1].sha256)
    assert.truthy(inspect("tests/fixtures/pth/tensor.pth", "--hash").out:find(expected, 1, true))
  end)

  it("reads a folder, and an opaque dtype", function()
    local result = json.decode(inspect("examples/tiny", "--json").out)
    assert.equal("safetensors", result.format)
    assert.equal(56, #result.tensors)
    assert.same({ format = "pt" }, result.metadata)
    local folder = fixtures.folder()
    local header = '{"c":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}'
    fixtures.write(folder .. "/x.safetensors", ("<s8"):pack(header) .. "12345678")
    assert.same({ name = "c", dtype = "c64", shape = { 1 }, nbytes = 8 },
      json.decode(inspect(folder .. "/x.safetensors", "--json").out).tensors[1])
    fixtures.remove(folder)
  end)

  it("shows no control characters from a file", function()
    local folder = fixtures.folder()
    local t <close> = ms.tensor { 1 }
    assert(ms.save(folder .. "/x.safetensors", { ["a\27[2Jb"] = t }, { metadata = { ["k\n"] = "v\27" } }))
    local out = inspect(folder .. "/x.safetensors").out
    assert.truthy(out:find("a?[2Jb", 1, true))
    assert.truthy(out:find("  k? = v?\n", 1, true))
    fixtures.remove(folder)
  end)

  it("prints one line for what it cannot read", function()
    local result = inspect "no/such/file"
    assert.same({ 1, "", "moonscope: no/such/file: No such file or directory\n" },
      { result.code, result.out, result.err })
    assert.equal(2, inspect().code)
  end)
end)
