-- SPDX-License-Identifier: MIT
local process = require "process"
local progress = require "moonscope.progress"

describe("progress.line", function()
  for _, case in ipairs {
    { { "convert", 0, 2160000000, "bytes", 0 }, "convert  [........................]   0%  0 B of 2.2 GB" },
    { { "convert", 500000000, 2000000000, "bytes", 2.5 },
      "convert  [######..................]  25%  500.0 MB of 2.0 GB  200.0 MB/s  0:07 left" },
    { { "generate", 30, 40, "tokens", 2 },
      "generate  [##################......]  75%  30 of 40 tokens  15/s  0:00 left" },
    { { "hash", 40, 40, nil, 4 }, "hash  [########################] 100%  40 of 40  10/s" },
    { { "read", 1500, 0, "bytes", 1 }, "read  1.5 kB  1.5 kB/s" },
    { { "read", 999, 0, "bytes", 100 }, "read  999 B  9 B/s" },
    { { "long", 1, 10000, "tokens", 1 },
      "long  [........................]   0%  1 of 10000 tokens  1/s  166:39 left" },
    { { "more", 12, 10, "tokens", 1 }, "more  [########################] 100%  12 of 10 tokens  12/s" },
  } do
    it(case[2], function() assert.equal(case[2], progress.line(table.unpack(case[1], 1, 5))) end)
  end
end)

describe("a bar", function()
  local code = [[
    local progress = require "moonscope.progress"
    local result = progress.run("working", function()
      local bar <close> = progress.bar("counting")
      for i = 1, 3 do
        bar:update(i, 3, "tokens")
      end
      return "done"
    end)
    print(result)]]

  it("is drawn on a terminal, at most ten times a second, and taken away", function()
    local result = process.terminal({ "-e", code }, "")
    assert.equal(0, result.code)
    local _, drawn = result.out:gsub("counting  %[", "")
    assert.equal(1, drawn)
    assert.truthy(result.out:find "\r\27%[K[^\n]*done")
  end)

  it("is silent when piped, and when told to be quiet", function()
    local result = process.moonscope { "-e", code }
    assert.same({ 0, "done\n", "" }, { result.code, result.out, result.err })
    result = process.terminal({ "-e", "require('moonscope.progress').quiet = true " .. code }, "")
    assert.truthy(result.out:find "^done")
  end)
end)
