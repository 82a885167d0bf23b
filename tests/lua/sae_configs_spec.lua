-- SPDX-License-Identifier: MIT
local sae_configs = require "moonscope.sae_configs"

local function entry(changes)
  local fields = {
    repo_id = "Owner/Name", filename = "x.pth", layer = "model.layers.5", expansion_factor = 8, d_model = 64,
  }
  for key, value in pairs(changes) do fields[key] = value or nil end
  return fields
end

describe("SAE_CONFIGS", function()
  it("is well formed and has the published ones", function()
    assert.is_true(sae_configs.check(sae_configs.SAE_CONFIGS))
    local goodfire = sae_configs.SAE_CONFIGS[sae_configs.DEFAULT]
    assert.equal("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", goodfire.repo_id)
    assert.same({ "Llama-3.1-8B-Instruct-SAE-l19.pth", "model.layers.19", 16, 4096 },
      { goodfire.filename, goodfire.layer, goodfire.expansion_factor, goodfire.d_model })
    assert.equal(8, sae_configs.SAE_CONFIGS["Llama-3.3-70B-Instruct-SAE-l50"].expansion_factor)
  end)

  it("knows the sizes of Goodfire's files", function()
    local small = sae_configs.SAE_CONFIGS["Llama-3.1-8B-Instruct-SAE-l19"]
    assert.equal(2147762176, sae_configs.payload_bytes(small))
    local large = sae_configs.SAE_CONFIGS["Llama-3.3-70B-Instruct-SAE-l50"]
    assert.equal(large.size_bytes - 2196, sae_configs.payload_bytes(large)) -- the rest is the zip file's
    assert.is_nil(sae_configs.payload_bytes(entry {}))
  end)

  it("is found by a file's name, in any folder", function()
    local found, name = sae_configs.of_file "/some/where/Llama-3.3-70B-Instruct-SAE-l50.pt"
    assert.equal("Llama-3.3-70B-Instruct-SAE-l50", name)
    assert.equal("model.layers.50", found.layer)
    assert.is_nil(sae_configs.of_file "Llama-3.3-70B-Instruct-SAE-l50.pth")
  end)
end)

describe("the checker", function()
  it("accepts whole entries, with and without the optional fields", function()
    assert.is_true(sae_configs.check { a = entry {} })
    assert.is_true(sae_configs.check { a = entry { repo_id = false, sha256 = ("0a"):rep(32), expansion_factor = 1.5 } })
  end)

  it("names the first bad field", function()
    for _, case in ipairs {
      { { repo_id = "no-owner" }, "repo_id is no-owner, expected OWNER/NAME" },
      { { filename = false }, "filename is nil, expected a file's name" },
      { { filename = "a/b.pth" }, "filename is a/b.pth, expected a file's name" },
      { { layer = 5 }, "layer is 5, expected model.layers.N" },
      { { layer = "layers.5" }, "layer is layers.5, expected model.layers.N" },
      { { expansion_factor = "16x" }, "expansion_factor is 16x, expected a number above 0" },
      { { expansion_factor = 0 }, "expansion_factor is 0, expected a number above 0" },
      { { d_model = 64.0 }, "d_model is 64.0, expected a whole number above 0" },
      { { d_model = false }, "d_model is nil, expected a whole number above 0" },
      { { sha256 = "AB" }, "sha256 is AB, expected 64 hex digits in lower case" },
      { { keys = "a" }, "keys is a, expected a list of names" },
      { { dtype = "f8" }, "dtype is f8, expected f32, f16 or bf16" },
      { { size_bytes = 1.5 }, "size_bytes is 1.5, expected a whole number above 0" },
      { { l0 = 0 }, "l0 is 0, expected a number above 0" },
      { { layers = 1 }, "unknown field layers" },
      { { d_model = "64", filename = 1 }, "filename is 1, expected a file's name" },
    } do
      local ok, message = sae_configs.check { aa = entry {}, zz = entry(case[1]) }
      assert.is_nil(ok)
      assert.equal("SAE_CONFIGS: zz: " .. case[2], message)
    end
    local _, message = sae_configs.check { "not an entry" }
    assert.equal("SAE_CONFIGS: entry 1 is not a table under a name", message)
  end)
end)

describe("parse_layer", function()
  it("takes a number, its text, or a path", function()
    for _, layer in ipairs { 19, "19", "model.layers.19" } do
      assert.equal("model.layers.19", sae_configs.parse_layer(layer))
    end
    assert.equal("model.layers.0", sae_configs.parse_layer(0))
  end)

  it("refuses everything else", function()
    for _, layer in ipairs { -1, 1.5, 19.0, "", "-1", "x", "model.layers.", "model.layers.1.mlp", "layers.1", "1e3",
      "99999999999999999999" } do
      local path, message, code = sae_configs.parse_layer(layer)
      assert.is_nil(path)
      assert.equal(("layer: found %s, expected a number from 0 or model.layers.N, at most 9999"):format(layer),
        message)
      assert.equal("EINVAL", code)
    end
  end)
end)
