-- SPDX-License-Identifier: MIT
local uv = require "luv"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local process = require "process"

local folder -- of the temporary files of a test

local function bench(...) return process.moonscope({ "bench", ... }, { env = { TMPDIR = folder } }) end

---The JSON that a kind prints for the tiny shape.
local function measured(...)
  local result = bench("--shape", "tiny", "--rounds", "2", "--json", ...)
  assert.same({ 0, "" }, { result.code, result.err })
  return assert(json.decode(result.out))
end

local function near(a, b) return math.abs(a - b) <= 1e-9 * math.abs(b) end

---Each line has what a line has, and its numbers go together.
local function check_lines(lines)
  for _, line in ipairs(lines) do
    for _, key in ipairs { "work", "unit", "limit_of" } do assert.equal("string", type(line[key]), key) end
    for _, key in ipairs { "figure", "lowest", "highest", "limit", "ratio", "ratio_lowest", "ratio_highest" } do
      assert.is_true(line[key] > 0 and line[key] < math.huge, ("%s: %s: %s"):format(line.work, key, line[key]))
    end
    assert.equal(2, line.rounds)
    assert.is_true(near(line.ratio, line.figure / line.limit), line.work)
    assert.is_true(line.lowest <= line.figure and line.figure <= line.highest, line.work)
    assert.is_true(line.ratio_lowest <= line.ratio_highest, line.work)
  end
end

local function works_of(report)
  local works = {}
  for i, line in ipairs(report.lines) do works[i] = line.work end
  return works
end

describe("moonscope bench", function()
  before_each(function() folder = assert(uv.fs_mkdtemp "/tmp/moonscope-spec-XXXXXX") end)
  after_each(function() assert(uv.fs_rmdir(folder)) end) -- empty: a benchmark leaves nothing behind

  it("measures decode, prefill and their growth beside limits", function()
    local report = measured("decode", "prefill", "growth", "--threads", "1", "--precision", "exact", "--layers", "2")
    check_lines(report.lines)
    assert.same({ 1, "tiny", 2, "exact" }, { report.threads, report.shape, report.layers, report.precision })
    assert.same({
      "decode", "decode, 4 sequences at once", "decode, 16 sequences at once",
      "decode, 2048 features at one layer, one set", "prefill of 16 tokens, exact", "prefill of 64 tokens, exact",
      "prefill up to 32 tokens, exact, threads: 1", "prefill up to 128 tokens, exact, threads: 1",
      "decode after 32 tokens, threads: 1", "decode after 128 tokens, threads: 1",
    }, works_of(report))
  end)

  it("measures an SAE in both dtypes", function()
    local report = measured "sae"
    check_lines(report.lines)
    assert.equal(8, #report.lines)
    assert.equal("sae f32, encode of a step", report.lines[1].work)
    assert.equal("its encode", report.lines[4].limit_of)
  end)

  it("measures loading and conversion", function()
    local report, units = measured("convert", "load"), {}
    check_lines(report.lines)
    for i, line in ipairs(report.lines) do units[i] = line.unit end
    assert.same({ "ms", "ms", "ms", "ms", "ms", "ms", "MiB", "ms", "ms" }, units)
  end)

  it("prints a table of the same", function()
    local result = bench("prefill", "--shape", "tiny", "--layers", "3", "--rounds", "1", "--threads", "1")
    assert.same({ 0, "" }, { result.code, result.err })
    assert.truthy(result.out:find("1 threads; tiny, random weights; medians of 1 rounds", 1, true), result.out)
    assert.truthy(result.out:find("3 of 4 layers: each costs what it costs among all", 1, true), result.out)
    assert.truthy(result.out:find "\nprefill of 64 tokens, fast +%d", result.out)
  end)

  it("leaves nothing behind when it is interrupted while another program runs", function()
    local path = folder .. "/true" -- what the start of moonscope is measured beside
    fixtures.write(path, "#!/bin/sh\necho it runs >&2\nexec sleep 5\n")
    assert(uv.fs_chmod(path, tonumber("700", 8)))
    local result = process.moonscope({ "bench", "load", "--shape", "tiny", "--rounds", "1" },
      { env = { TMPDIR = folder, PATH = folder .. ":" .. os.getenv "PATH" }, interrupt_at = "it runs\n" })
    assert(uv.fs_unlink(path))
    assert.same({ 130, "it runs\nmoonscope: interrupted\n" }, { result.code, result.err })
    assert.is_true(result.ms < 5000) -- it did not wait for that program
  end)

  local function made_by(code, tmpdir)
    return process.moonscope({ "-e", ([[
      %s
      local run <close> = require("moonscope.bench").new { shape = "tiny", precision = "fast", rounds = 1 }
      print(run.folder)]]):format(code) }, { env = { TMPDIR = tmpdir } })
  end

  it("leaves nothing where it ends before it has begun", function()
    local result = made_by([[require("moonscope.bench.limits").new = function() error("too early", 0) end]], folder)
    assert.equal(1, result.code)
    assert.matches("^moonscope: too early\n", result.err)
  end)

  it("takes an empty TMPDIR for none", function()
    assert.matches("^/tmp/moonscope%-bench%-%w+\n$", made_by("", "").out)
    assert.equal(folder .. "/", made_by("", folder).out:match "^.*/")
  end)

  it("says which program a kind needs", function()
    local environment = { PATH = folder, TMPDIR = folder }
    local result = process.moonscope({ "bench", "http", "--shape", "tiny" }, { env = environment })
    assert.same({ 1, "moonscope: bench: http needs wrk, which is not installed\n" }, { result.code, result.err })
  end)

  it("refuses what it does not know", function()
    for _, case in ipairs {
      { {}, "missing argument 'kind'" },
      { { "speed" }, "argument 'kind' must be one of 'decode', 'prefill'" },
      { { "decode", "--shape", "2b" }, "'--shape' must be one of 'tiny', '1b', '8b'" },
      { { "decode", "--layers", "0" }, "'0' is not a whole number from 1 to 128" },
      { { "decode", "--rounds", "0" }, "'0' is not a whole number from 1" },
      { { "decode", "--precision", "best" }, "'--precision' must be one of 'fast', 'exact'" },
    } do
      local result = bench(table.unpack(case[1]))
      assert.same({ 2, "" }, { result.code, result.out })
      assert.truthy(result.err:find(case[2], 1, true), result.err)
    end
  end)
end)
