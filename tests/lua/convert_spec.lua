-- SPDX-License-Identifier: MIT
local convert = require "moonscope.convert"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local ms = require "moonscope"
local process = require "process"
local sae_configs = require "moonscope.sae_configs"
local uv = require "luv"

local FIXTURES, GOLDEN = "tests/fixtures/pth/", "tests/fixtures/tiny/golden/pth/"

local function names_in(folder)
  local names = {}
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(folder)) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function hashes_of(path)
  local file <close> = assert(ms.open(path))
  return assert(convert.hashes(file))
end

local function sha256sum(path)
  local pipe = assert(io.popen("sha256sum " .. path))
  local text = pipe:read "a"
  pipe:close()
  return text:match "^%x+"
end

---Saves tensors given as { name = { values, dtype } } and closes them.
local function save(path, contents)
  local tensors = {}
  for name, content in pairs(contents) do tensors[name] = ms.tensor(content[1], { dtype = content[2] or "f32" }) end
  assert(ms.save(path, tensors))
  for _, t in pairs(tensors) do t:close() end
end

local folder

before_each(function() folder = fixtures.folder() end)
after_each(function() fixtures.remove(folder) end)

describe("convert.sae", function()
  it("writes the tensors as they are and measured metadata", function()
    local result = assert(convert.sae(fixtures.sae_path, { output = folder }))
    assert.equal(folder .. "/sae_layer_3.safetensors", result.safetensors)
    assert.equal(folder .. "/sae_layer_3_metadata.json", result.metadata)
    assert.equal(4, result.tensors)
    assert.equal(#fixtures.read(result.safetensors), result.bytes)
    assert.equal(sha256sum(result.safetensors), result.sha256)
    assert.same(hashes_of(fixtures.sae_path), hashes_of(result.safetensors))
    local text = fixtures.read(result.metadata)
    local expected = {
      { "layer_idx", 3 }, { "layer", "model.layers.3" }, { "input_dim", 128 }, { "latent_dim", 2048 },
      { "expansion_factor", 16 }, { "tied_weights", false }, { "activation_fn", "relu" }, { "dtype", "bf16" },
      { "source", json.null }, { "source_revision", json.null }, { "source_file", "Moonscope-Tiny-Llama-SAE-l3.pth" },
      { "source_sha256", sha256sum(fixtures.sae_path) }, { "sha256", result.sha256 }, { "hook", "model.layers.3" },
      { "format_version", 1 }, { "created_by", "moonscope " .. ms.version },
    }
    assert.equal(json.encode(json.ordered(expected), { indent = 2 }) .. "\n", text)
  end)

  it("gives the same bytes each time", function()
    local first = assert(convert.sae(fixtures.sae_path, { output = folder }))
    local text = fixtures.read(first.metadata)
    local second = assert(convert.sae(fixtures.sae_path, { output = folder .. "/" }))
    assert.equal(first.sha256, second.sha256)
    assert.equal(text, fixtures.read(second.metadata))
    assert.same({ "sae_layer_3.safetensors", "sae_layer_3_metadata.json" }, names_in(folder))
  end)

  it("takes the layer from the list, else from the caller", function()
    local path = GOLDEN .. "float32.pth"
    local ok, message, code = convert.sae(path, { output = folder })
    assert.is_nil(ok)
    assert.equal(path .. ": not a file of SAE_CONFIGS, so its layer is unknown: give --layer N", message)
    assert.equal("EINVAL", code)
    for _, layer in ipairs { 7, "7", "model.layers.7" } do
      local result = assert(convert.sae(path, { output = folder, layer = layer }))
      assert.equal(folder .. "/sae_layer_7.safetensors", result.safetensors)
    end
    assert.is_nil(convert.sae(path, { output = folder, layer = "last" }))
    for _, layer in ipairs { "9223372036854775807", 10000, "model.layers.10000" } do
      ok, message = convert.sae(path, { output = folder, layer = layer })
      assert.is_nil(ok)
      assert.equal(("layer: found %s, expected a number from 0 or model.layers.N, at most 9999"):format(layer), message)
    end
    ok, message = convert.sae(fixtures.sae_path, { output = folder, layer = 4 })
    assert.is_nil(ok)
    assert.equal(fixtures.sae_path .. ": reads model.layers.3 by SAE_CONFIGS, but --layer says model.layers.4", message)
    assert(convert.sae(fixtures.sae_path, { output = folder, layer = 3 }))
  end)

  it("converts transposed and shared storages", function()
    local path = GOLDEN .. "shared_storage.pth"
    local result = assert(convert.sae(path, { output = folder, layer = 0 }))
    assert.same(hashes_of(path), hashes_of(result.safetensors))
  end)

  it("writes the workbench's tied form under Goodfire's names", function()
    save(folder .. "/wb.safetensors", {
      ["encoder.weight"] = { { { 1, 2 }, { 3, 4 }, { 5, 6 } } }, ["encoder.bias"] = { { 1, 2, 3 } },
      decoder_bias = { { 7, 8 } },
    })
    local result = assert(convert.sae(folder .. "/wb.safetensors", { output = folder, layer = 2 }))
    local file <close> = assert(ms.open(result.safetensors))
    assert.same({ "decoder_linear.bias", "encoder_linear.bias", "encoder_linear.weight" }, file:names())
    local bias <close> = file:tensor "decoder_linear.bias"
    assert.same({ 7, 8 }, bias:totable())
    local metadata = assert(json.read(result.metadata))
    assert.is_true(metadata.tied_weights)
    assert.equal(1.5, metadata.expansion_factor)
  end)

  it("adds the two decoder biases of the workbench's untied form", function()
    save(folder .. "/wb.safetensors", {
      ["encoder.weight"] = { { { 1, 2 }, { 3, 4 } }, "bf16" }, ["encoder.bias"] = { { 1, 2 }, "bf16" },
      ["decoder.weight"] = { { { 5, 6 }, { 7, 8 } }, "bf16" }, ["decoder.bias"] = { { 10, 20 }, "bf16" },
      decoder_bias = { { 7, 8 }, "bf16" },
    })
    local result = assert(convert.sae(folder .. "/wb.safetensors", { output = folder, layer = 2 }))
    local file <close> = assert(ms.open(result.safetensors))
    assert.equal(4, #file:names())
    local bias <close> = file:tensor "decoder_linear.bias"
    assert.equal("bf16", bias:dtype())
    assert.same({ 17, 28 }, bias:totable())
    local weight <close> = file:tensor "decoder_linear.weight"
    assert.same({ { 5, 6 }, { 7, 8 } }, weight:totable())
    assert.is_false(assert(json.read(result.metadata)).tied_weights)
  end)

  it("converts dtypes where asked to", function()
    local result = assert(convert.sae(GOLDEN .. "float32.pth", { output = folder, layer = 1, dtype = "bf16" }))
    assert.same(hashes_of(GOLDEN .. "bfloat16.pth"), hashes_of(result.safetensors))
    assert.equal("bf16", assert(json.read(result.metadata)).dtype)
    local ok, message, code = convert.sae(GOLDEN .. "float32.pth", { output = folder, layer = 1, dtype = "i8" })
    assert.is_nil(ok)
    assert.equal("dtype: found i8, expected f64, f32, f16, bf16, f8_e4m3 or f8_e5m2", message)
    assert.equal("EDTYPE", code)
  end)

  it("refuses to make a number infinite that is not", function()
    local function saved(name, dtype, value)
      local w = ms.zeros({ 600, 4 }, { dtype = dtype })
      w:narrow(1, 600, 1):fill_(value)
      local others = {}
      for key, size in pairs { ["encoder_linear.bias"] = 600, ["decoder_linear.bias"] = 4 } do
        others[key] = ms.zeros({ size }, { dtype = dtype })
      end
      others["encoder_linear.weight"] = w
      assert(ms.save(folder .. "/" .. name, others))
      return folder .. "/" .. name
    end
    for _, case in ipairs {
      { "f32", 1e6, "f16", "1e+06 is beyond f16" }, { "f32", 1e6, "f8_e4m3", "1e+06 is beyond f8_e4m3" },
      { "f32", -1e6, "f8_e5m2", "-1e+06 is beyond f8_e5m2" }, { "f64", 1e300, "f32", "1e+300 is beyond f32" },
      { "f64", 1e300, "bf16", "1e+300 is beyond bf16" },
    } do
      local path = saved("a.safetensors", case[1], case[2])
      local why = path .. ": encoder_linear.weight: " .. case[4]
      for _, made in ipairs {
        { convert.sae(path, { output = folder, layer = 1, dtype = case[3] }) },
        { convert.checkpoint(path, folder .. "/b.safetensors", { dtype = case[3] }) },
      } do
        assert.is_nil(made[1])
        assert.same({ why, "ERANGE" }, { made[2], made[3] })
      end
      assert.is_nil(io.open(folder .. "/sae_layer_1.safetensors"))
      assert.is_nil(io.open(folder .. "/b.safetensors"))
    end
    local w = ms.full({ 4, 600 }, 1e6)
    assert(ms.save(folder .. "/r1.safetensors", { W = w, b_enc = ms.zeros { 600 }, b_dec = ms.zeros { 4 } }))
    local none, message = convert.sae(folder .. "/r1.safetensors",
      { output = folder, layer = 1, dtype = "f16", activation = "batchtopk:3" })
    assert.is_nil(none) -- stored the other way round, so written from a tensor
    assert.equal(folder .. "/r1.safetensors: encoder_linear.weight: 1e+06 is beyond f16", message)
    for _, value in ipairs { math.huge, 0 / 0, 65504 } do -- what was infinite stays so
      assert(convert.checkpoint(saved("a.safetensors", "f32", value), folder .. "/b.safetensors", { dtype = "f16" }))
    end
  end)

  it("warns about a known file with another sha256, and converts it", function()
    local path, expected = folder .. "/test.pth", ("0"):rep(64)
    local entry = { repo_id = "a/b", filename = "test.pth", layer = "model.layers.1", expansion_factor = 2, d_model = 4,
      sha256 = expected }
    assert(os.execute(("cp %s %s"):format(GOLDEN .. "float32.pth", path)))
    sae_configs.SAE_CONFIGS.test = entry
    local result = assert(convert.sae(path, { output = folder }))
    assert.equal(("%s: sha256 is %s, expected %s: not the file that SAE_CONFIGS knows")
      :format(path, sha256sum(path), expected), result.warning)
    assert.equal("a/b", assert(json.read(result.metadata)).source)

    entry.expansion_factor = 3
    local ok, message, code = convert.sae(path, { output = folder })
    sae_configs.SAE_CONFIGS.test = nil
    assert.same({ nil, path .. ": d_sae: found 8, expected 3 times d_model 4", "ESHAPE" }, { ok, message, code })

    local shown = process.moonscope { "-e", ([[
      require("moonscope.sae_configs").SAE_CONFIGS.test = { repo_id = "a/b", filename = "test.pth",
        layer = "model.layers.1", expansion_factor = 2, d_model = 4, sha256 = ("0"):rep(64) }
      require("moonscope.cli").main("convert", %q, "-o", %q, "--json")]]):format(path, folder) }
    assert.equal("moonscope: warning: " .. result.warning .. "\n", shown.err)
    assert.equal(result.sha256, assert(json.decode(shown.out)).sha256)
  end)

  it("adds the two biases when the program is all that runs", function()
    save(folder .. "/a.safetensors", {
      ["encoder.weight"] = { { { 1, 2 }, { 3, 4 }, { 5, 6 } } }, ["encoder.bias"] = { { 0, 0, 0 } },
      ["decoder.weight"] = { { { 1, 2, 3 }, { 4, 5, 6 } } }, ["decoder.bias"] = { { 0.5, 0.25 } },
      decoder_bias = { { 1, 2 } },
    })
    local shown = process.moonscope { "convert", folder .. "/a.safetensors", "--layer", "2", "-o", folder }
    assert.same({ 0, "" }, { shown.code, shown.err })
    local file <close> = assert(ms.open(folder .. "/sae_layer_2.safetensors"))
    local b_dec <close> = file:tensor "decoder_linear.bias"
    assert.same({ 1.5, 2.25 }, b_dec:totable())
  end)

  it("refuses what does not fit, and leaves nothing", function()
    fixtures.write(folder .. "/Moonscope-Tiny-Llama-SAE-l3.pth", fixtures.read(GOLDEN .. "float32.pth"))
    save(folder .. "/bias.safetensors", {
      ["encoder_linear.weight"] = { { { 1, 2 }, { 3, 4 } } }, ["encoder_linear.bias"] = { { 1, 2, 3 } },
      ["decoder_linear.bias"] = { { 1, 2 } },
    })
    save(folder .. "/other.safetensors", { w = { { 1 } } })
    local before = names_in(folder)
    for _, case in ipairs {
      { "Moonscope-Tiny-Llama-SAE-l3.pth", "ESHAPE", "d_model: found 4, expected 128" },
      { "bias.safetensors", "ESHAPE", "encoder_linear.bias: found shape [3], expected [2]" },
      { "other.safetensors", "EFORMAT", "found tensors w, expected those of a known format: goodfire, workbench, " },
    } do
      local path = folder .. "/" .. case[1]
      local ok, message, code = convert.sae(path, { output = folder })
      assert.is_nil(ok)
      assert.truthy(message:find(path .. ": " .. case[3], 1, true), message)
      assert.equal(case[2], code)
    end
    assert.same(before, names_in(folder))
  end)

  it("says what is missing", function()
    for _, case in ipairs {
      { "Moonscope-Tiny-Llama-SAE-l3", "Moonscope-Tiny-Llama-SAE-l3.pth: No such file or directory" },
      { "no/such/file.pth", "no/such/file.pth: No such file or directory" },
    } do
      local ok, message, code = convert.sae(case[1], { output = folder, layer = 3 })
      assert.same({ nil, case[2], "ENOENT" }, { ok, message, code })
    end
  end)

  it("publishes both files or none", function()
    assert(os.execute("mkdir " .. folder .. "/sae_layer_3_metadata.json"))
    local ok, message, code = convert.sae(fixtures.sae_path, { output = folder })
    assert.is_nil(ok)
    assert.equal(folder .. "/sae_layer_3_metadata.json: there already, and not a regular file", message)
    assert.equal("EINVAL", code)
    assert.same({ "sae_layer_3_metadata.json" }, names_in(folder))
  end)

  it("makes the folder that it is given, but not those above", function()
    assert(convert.sae(fixtures.sae_path, { output = folder .. "/new" }))
    assert.same({ "sae_layer_3.safetensors", "sae_layer_3_metadata.json" }, names_in(folder .. "/new"))
    local ok, message = convert.sae(fixtures.sae_path, { output = folder .. "/missing/new" })
    assert.is_nil(ok)
    assert.equal(folder .. "/missing/new/sae_layer_3.safetensors: No such file or directory", message)
  end)

  it("leaves nothing when it is stopped on the way", function()
    local calls = 0
    assert.error_matches(function()
      convert.sae(fixtures.sae_path, {
        output = folder,
        on_progress = function(done, total)
          calls = calls + 1
          assert.truthy(done <= total)
          if calls == 3 then error("stopped", 0) end
        end,
      })
    end, "stopped")
    assert.equal(3, calls)
    assert.same({}, names_in(folder))
  end)

  it("refuses an option that it does not know", function()
    assert.error_matches(function() convert.sae("x", { out = "y" }) end, "convert: unknown option out")
  end)
end)

describe("convert.checkpoint", function()
  it("keeps every tensor of every form bit by bit", function()
    local output = folder .. "/out.safetensors"
    for _, name in ipairs { "dtypes", "strides", "empty", "nested", "tensor", "parameter", "protocol3", "protocol5",
      "legacy_dtypes", "legacy_strides", "legacy_empty", "legacy_nested", "../npz/orders.npz",
      "../npz/orders_deflated.npz", "../npz/large_deflated.npz", "../npz/dtypes_deflated.npz", "../npz/fortran.npy" } do
      local path = FIXTURES .. name .. (name:find "npz" and "" or ".pth")
      local result = assert(convert.checkpoint(path, output))
      assert.equal(sha256sum(output), result.sha256)
      assert.same(hashes_of(path), hashes_of(output))
      local source <close> = assert(ms.open(path))
      local copy <close> = assert(ms.open(output))
      assert.equal(#source:names(), result.tensors)
      assert.same(source:metadata(), copy:metadata())
      for _, key in ipairs(source:names()) do assert.same(source:info(key), copy:info(key)) end
    end
  end)

  it("copies dtypes that moonscope does not compute with", function()
    local header = '{"c":{"dtype":"C64","shape":[1],"data_offsets":[4,12]},'
      .. '"e":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4]}}'
    fixtures.write(folder .. "/x.safetensors", ("<s8"):pack(header) .. "abcdefghijkl")
    local output = folder .. "/out.safetensors"
    assert(convert.checkpoint(folder .. "/x.safetensors", output, { dtype = "f16" }))
    assert.same(hashes_of(folder .. "/x.safetensors"), hashes_of(output))
    assert.truthy(fixtures.read(output):find('"dtype":"F8_E8M0"', 1, true))
  end)

  it("copies a model in shards into one file, and onto itself", function()
    local output = folder .. "/out.safetensors"
    assert(convert.checkpoint("examples/tiny", output))
    assert.same(hashes_of "examples/tiny", hashes_of(output))
    local before = sha256sum(output)
    assert(convert.checkpoint(output, output))
    assert.equal(before, sha256sum(output))
  end)

  it("converts float tensors alone where a dtype is given", function()
    local output = folder .. "/out.safetensors"
    assert(convert.checkpoint(FIXTURES .. "dtypes.pth", output, { dtype = "f64" }))
    local file <close> = assert(ms.open(output))
    for _, name in ipairs { "f64", "f32", "f16", "bf16" } do
      local t <close> = file:tensor(name)
      assert.equal("f64", t:dtype())
      assert.equal(-5.25, t:totable()[1][1])
    end
    for _, name in ipairs { "i64", "i32", "i16", "i8", "u8", "bool" } do assert.equal(name, file:info(name).dtype) end
  end)
end)

describe("moonscope convert", function()
  it("prints what it wrote", function()
    local result = process.moonscope { "convert", fixtures.sae_path, "-o", folder }
    assert.same({ 0, "" }, { result.code, result.err })
    assert.equal(("%s/sae_layer_3.safetensors  4 tensors, 1053312 bytes, sha256 %s\n%s/sae_layer_3_metadata.json\n")
      :format(folder, sha256sum(folder .. "/sae_layer_3.safetensors"), folder), result.out)
  end)

  it("--json prints one value", function()
    local result = process.moonscope { "convert", fixtures.sae_path, "-o", folder, "--json" }
    local sha256 = sha256sum(folder .. "/sae_layer_3.safetensors")
    assert.equal(('{"safetensors":"%s/sae_layer_3.safetensors","metadata":"%s/sae_layer_3_metadata.json",'
      .. '"tensors":4,"bytes":1053312,"sha256":"%s"}\n'):format(folder, folder, sha256), result.out)
    local output = folder .. "/all.safetensors"
    result = process.moonscope { "convert", fixtures.sae_path, "-o", output, "--json" }
    assert.equal(('{"safetensors":"%s","tensors":4,"bytes":1053312,"sha256":"%s"}\n'):format(output, sha256),
      result.out)
  end)

  it("fails in one line", function()
    for _, case in ipairs {
      { { GOLDEN .. "float32.pth", "-o", folder }, "not a file of SAE_CONFIGS, so its layer is unknown: give --layer" },
      { { GOLDEN .. "float32.pth", "-o", "/proc/x.safetensors" }, "/proc/x.safetensors: No such file or directory" },
      { {}, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19" },
    } do
      local result = process.moonscope({ "convert", table.unpack(case[1]) }, { env = { HF_HUB_OFFLINE = "1" } })
      assert.same({ 1, "" }, { result.code, result.out })
      assert.truthy(result.err:find("^moonscope: [^\n]+\n$"), result.err)
      assert.truthy(result.err:find(case[2], 1, true), result.err)
    end
    assert.same({}, names_in(folder))
  end)

  it("is told what the command line alone shows to be wrong", function()
    for _, case in ipairs {
      { { "-o", folder .. "/x.safetensors", "--layer", "3" },
        "--layer: of no use with -o FILE.safetensors, which interprets nothing" },
      { { "-o", "" }, "-o: an empty name" },
      { { "--dtype", "f99" }, "'--dtype' must be one of 'f64', 'f32', 'f16', 'bf16', 'f8_e4m3', 'f8_e5m2'" },
      { { "--layer", "-1" }, "layer: found -1, expected a number from 0 or model.layers.N" },
      { { "--layer", "third" }, "layer: found third, expected a number from 0 or model.layers.N" },
    } do
      local result = process.moonscope { "convert", fixtures.sae_path, table.unpack(case[1]) }
      assert.same({ 2, "" }, { result.code, result.out })
      assert.truthy(result.err:find("^moonscope: convert: [^\n]+ %(see moonscope convert %-%-help%)\n$"), result.err)
      assert.truthy(result.err:find(case[2], 1, true), result.err)
    end
  end)

  it("tells what it is asked to", function()
    local result = process.moonscope { "convert", fixtures.sae_path, "-o", folder, "--log-level", "debug" }
    assert.equal(0, result.code)
    assert.equal(0, process.moonscope({ "inspect", fixtures.sae_path, "--log-level", "error" }).code)
  end)
end)
