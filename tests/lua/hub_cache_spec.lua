-- SPDX-License-Identifier: MIT
-- The cache that is huggingface_hub's too, what uses it (models, autoencoders, commands), and offline
-- mode: P30, P31, P34, P35.
local uv = require "luv"
local core = require "moonscope.core"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local mock = require "mock_hub"
local ms = require "moonscope"
local process = require "process"
local resolve = require "moonscope.hub.resolve"

local SIZE = 300000
local SOON = 0.001

setup(mock.start)
teardown(mock.stop)
before_each(function() mock.reset {} end)

local function scenario(rules, more)
  mock.scenario {
    repos = {
      ["a/b"] = mock.repo({
        ["big.bin"] = { mock.content(SIZE), lfs = true }, ["d/e/small.json"] = { mock.content(500, 1) },
      }, more),
    },
    rules = rules,
  }
end

local function download(file, opts)
  opts = opts or {}
  opts.files, opts.retry_delay = { file }, opts.retry_delay or SOON
  return ms.download("a/b", opts)
end

local function storage() return mock.cache .. "/models--a--b" end

local function sha256(path) return process.run("sha256sum", { path }).out:match "^%x+" end

local function git_sha1(path)
  local text = fixtures.read(path)
  return process.run("sha1sum", {}, { stdin = ("blob %d\0"):format(#text) .. text }).out:match "^%x+"
end

local names_in = fixtures.names

local function make_folders(path) assert.equal(0, process.run("mkdir", { "-p", path }).code) end

local function gets() return #mock.requests "^GET cdn" end

---A cache as huggingface_hub leaves it: a file of the repository at a commit.
local function python_cache(file, from, commit)
  local blob, depth = sha256(from), select(2, file:gsub("/", ""))
  local snapshot = ("%s/snapshots/%s"):format(storage(), commit or mock.commit)
  make_folders(storage() .. "/blobs")
  make_folders(storage() .. "/refs")
  make_folders((snapshot .. "/" .. file):match "^(.*)/")
  fixtures.write(storage() .. "/blobs/" .. blob, fixtures.read(from))
  assert(uv.fs_symlink(("../"):rep(depth) .. "../../blobs/" .. blob, snapshot .. "/" .. file))
  fixtures.write(storage() .. "/refs/main", commit or mock.commit)
  return snapshot .. "/" .. file
end

describe("the cache", function()
  it("has huggingface_hub's layout", function()
    scenario()
    local big = assert(download "big.bin")[1]
    local small = assert(download "d/e/small.json")[1]
    local hash, git = sha256(mock.content(SIZE)), git_sha1(mock.content(500, 1))
    assert.equal(("%s/snapshots/%s/big.bin"):format(storage(), mock.commit), big)
    assert.equal("../../blobs/" .. hash, uv.fs_readlink(big))
    assert.equal("../../../../blobs/" .. git, uv.fs_readlink(small))
    local blobs = { hash, git }
    table.sort(blobs)
    assert.same(blobs, names_in(storage() .. "/blobs"))
    assert.equal(mock.commit, fixtures.read(storage() .. "/refs/main"))
    assert.same({ "blobs", "refs", "snapshots" }, names_in(storage()))
    assert.truthy(fixtures.read(mock.cache .. "/CACHEDIR.TAG"):find "^Signature: 8a477f597d28d172789f06886806bc55\n")
    local locks = mock.cache .. "/.locks/models--a--b/"
    assert.equal(2, #names_in(locks))
    assert.equal(tonumber("664", 8) & ~tonumber("022", 8), uv.fs_stat(locks .. hash .. ".lock").mode & 511)
    assert.equal(tonumber("644", 8), uv.fs_stat(big).mode & 511)
  end)

  it("that Python filled is used", function() -- P35
    scenario()
    local path = python_cache("big.bin", mock.content(SIZE))
    assert.same({ path }, download "big.bin")
    assert.same({ path }, download("big.bin", { revision = mock.commit }))
    assert.equal(0, gets())
    mock.set { HF_HUB_OFFLINE = "1" }
    assert.same({ path }, download "big.bin")
  end)

  it("links a blob that another commit brought", function()
    scenario({}, { refs = { main = mock.older }, commit = mock.older })
    python_cache("renamed.bin", mock.content(SIZE))
    local path = assert(download "big.bin")[1]
    assert.truthy(path:find(mock.older, 1, true))
    assert.equal(0, gets())
    assert.equal(mock.older, fixtures.read(storage() .. "/refs/main"))
  end)

  it("is mended where a file is not what the hub says", function() -- P31
    scenario()
    local path = python_cache("big.bin", mock.content(SIZE))
    local blob = storage() .. "/blobs/" .. sha256(mock.content(SIZE))
    fixtures.write(blob, "torn") -- another size
    assert.same({ path }, download "big.bin")
    assert.equal(1, gets())
    assert.equal(fixtures.read(mock.content(SIZE)), fixtures.read(path))
    assert(uv.fs_unlink(path)) -- a link to another blob
    fixtures.write(storage() .. "/blobs/" .. ("0"):rep(64), fixtures.read(mock.content(SIZE, 9)))
    assert(uv.fs_symlink("../../blobs/" .. ("0"):rep(64), path))
    assert.same({ path }, download "big.bin")
    assert.equal(fixtures.read(mock.content(SIZE)), fixtures.read(path))
    assert(uv.fs_unlink(blob)) -- a link to nothing
    assert.same({ path }, download "big.bin")
    assert.equal(2, gets())
  end)

  it("resumes what a killed process left", function()
    scenario()
    local hash = sha256(mock.content(SIZE))
    local partial = storage() .. "/blobs/" .. hash .. ".moonscope.incomplete"
    for _, case in ipairs {
      { fixtures.read(mock.content(SIZE)):sub(1, 123456), { "bytes=123456-" } },
      { fixtures.read(mock.content(SIZE)), {} }, -- only the name is missing
      { fixtures.read(mock.content(SIZE)) .. "more", { "none" } },
      { ("x"):rep(1000), { "bytes=1000-", "none" } }, -- other bytes: seen at the end
    } do
      fixtures.remove(mock.cache)
      make_folders(storage() .. "/blobs")
      fixtures.write(partial, case[1])
      scenario()
      local path = assert(download "big.bin")[1]
      assert.equal(fixtures.read(mock.content(SIZE)), fixtures.read(path))
      local ranges = {}
      for i, request in ipairs(mock.requests "^GET cdn") do ranges[i] = request.headers.range or "none" end
      assert.same(case[2], ranges)
      assert.same({ hash }, names_in(storage() .. "/blobs"))
    end
  end)

  it("without symlinks has the file itself in the snapshot", function()
    mock.set { HF_HUB_DISABLE_SYMLINKS = "1" }
    scenario()
    local path = assert(download "big.bin")[1]
    assert.equal("file", uv.fs_lstat(path).type)
    assert.same({}, names_in(storage() .. "/blobs"))
    assert.same({ path }, download "big.bin")
    assert.equal(1, gets())
    fixtures.remove(mock.cache) -- a blob that is there for others stays there
    local other = python_cache("other.bin", mock.content(SIZE))
    path = assert(download "big.bin")[1]
    assert.equal("file", uv.fs_lstat(path).type)
    assert.equal(fixtures.read(other), fixtures.read(path))
    assert.equal(1, gets())
  end)

  it("that cannot be written serves what it has", function()
    scenario()
    python_cache("big.bin", mock.content(SIZE))
    fixtures.write(storage() .. "/refs/main", mock.older) -- main has moved since
    assert(os.execute("cp -r " .. mock.home .. " " .. mock.home .. "-ro"))
    local result = process.run("unshare", { "-m", "sh", "-c", ([[
      mount --bind "$0-ro" "$0-ro" && mount -o remount,ro,bind "$0-ro" && HF_HOME="$0-ro" %q download a/b "$@"]])
      :format(process.program), mock.home, "big.bin" })
    if result.err:find "^unshare: " or result.err:find "permission denied" then return pending "no mount here" end
    assert.same({ 0, "" }, { result.code, result.err })
    assert.equal(("%s-ro/hub/models--a--b/snapshots/%s/big.bin\n"):format(mock.home, mock.commit), result.out)
    result = process.run("unshare", { "-m", "sh", "-c", ([[
      mount --bind "$0-ro" "$0-ro" && mount -o remount,ro,bind "$0-ro" && HF_HOME="$0-ro" %q download a/b "$@"]])
      :format(process.program), mock.home, "d/e/small.json" })
    assert.equal(1, result.code)
    assert.truthy(result.err:find "^moonscope: [^\n]*Read%-only file system %(HF_HUB_CACHE can name another[^\n]*\n$",
      result.err)
  end)

  it("waits for whoever downloads the same file", function()
    scenario()
    local hash = sha256(mock.content(SIZE))
    local path = ("%s/.locks/models--a--b/%s.lock"):format(mock.cache, hash)
    make_folders(path:match "^(.*)/")
    local held = assert(core.lock(path))
    assert.is_false(core.lock(path))
    local timer = uv.new_timer()
    timer:start(400, 0, function()
      held:close()
      timer:close()
    end)
    assert(download "big.bin")
    assert.is_true(uv.fs_stat(path) ~= nil) -- not removed
    local again <close> = assert(core.lock(path))
    assert.truthy(again)
  end)

  it("is read with caution", function()
    scenario()
    python_cache("big.bin", mock.content(SIZE))
    mock.set { HF_HUB_OFFLINE = "1" }
    for _, ref in ipairs { "", "../../x", mock.commit:upper(), mock.commit .. "0" } do
      fixtures.write(storage() .. "/refs/main", ref)
      assert.is_nil(download "big.bin")
    end
    fixtures.write(storage() .. "/refs/main", mock.commit .. "\n")
    assert(download "big.bin")
  end)
end)

describe("where the hub does not answer", function()
  it("the cache does, with a warning", function()
    scenario()
    local path = python_cache("big.bin", mock.content(SIZE))
    for _, rule in ipairs {
      { on = "HEAD", status = 503 }, { on = "HEAD", status = 500 }, { on = "HEAD", status = 401 },
      { on = "HEAD", status = 403 }, { on = "HEAD", drop = true },
    } do
      scenario { rule }
      local result = process.moonscope { "download", "a/b", "big.bin" }
      assert.same({ 0, path .. "\n" }, { result.code, result.out })
      assert.truthy(result.err:find "^moonscope: warn: [^\n]*; using big.bin of commit 0123456789ab from the cache\n$")
      assert.equal(1, #mock.requests()) -- no five tries where the answer is at hand
    end
    scenario { { on = "HEAD", status = 404, headers = { ["X-Error-Code"] = "EntryNotFound" } } }
    assert.is_nil(download "big.bin")
  end)
end)

describe("offline", function() -- P34
  ---Runs the program under strace: its result, and the calls that would reach the network.
  local function traced(arguments, variable)
    local trace = mock.home .. "/trace"
    local words = { "-f", "-qq", "-o", trace, "-e", "trace=connect,socket", process.program }
    table.move(arguments, 1, #arguments, #words + 1, words)
    local result = process.run("strace", words, { env = { [variable] = "1", ASAN_OPTIONS = "detect_leaks=0" } })
    return result, fixtures.read(trace)
  end

  it("no socket is opened, and what is cached is found", function()
    scenario()
    local path = python_cache("big.bin", mock.content(SIZE))
    for _, variable in ipairs { "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" } do
      local result, trace = traced({ "download", "a/b", "big.bin" }, variable)
      assert.same({ 0, path .. "\n", "" }, { result.code, result.out, result.err })
      assert.falsy(trace:find "AF_INET" or trace:find "connect%(")
    end
    assert.same({}, mock.requests())
  end)

  it("what is missing is named, with the variable", function()
    local FORBIDDEN = ("is not in the cache (%s), and HF_HUB_OFFLINE forbids to download it"):format(storage())
    scenario()
    python_cache("big.bin", mock.content(SIZE))
    for _, case in ipairs {
      { { "download", "a/b", "none.bin" }, "a/b: none.bin of revision 'main' " .. FORBIDDEN },
      { { "download", "a/b@dev", "big.bin" }, "a/b: big.bin of revision 'dev' " .. FORBIDDEN },
      { { "download", "a/b@dev" }, "a/b: revision 'dev' " .. FORBIDDEN },
      { { "convert", "a/b@dev" },
        "a/b@dev: no such file or folder here, and from the hub: a/b: revision 'dev' " .. FORBIDDEN },
    } do
      local result, trace = traced(case[1], "HF_HUB_OFFLINE")
      assert.same({ 1, "" }, { result.code, result.out })
      assert.equal("moonscope: " .. case[2] .. "\n", result.err)
      assert.falsy(trace:find "AF_INET" or trace:find "connect%(")
    end
  end)
end)

describe("a model", function()
  local TINY = { "config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json" }

  ---examples/tiny as a repository, and files that nobody needs.
  local function tiny(more, options)
    local files = { ["model.safetensors"] = { "examples/tiny/model.safetensors", lfs = true } }
    for _, name in ipairs(TINY) do files[name] = { "examples/tiny/" .. name } end
    local unneeded = { "README.md", "pytorch_model.bin", "modeling.py", "original/params.json", "onnx/model.onnx" }
    for _, name in ipairs(unneeded) do
      files[name] = { mock.content(100, 3) }
    end
    for name, file in pairs(more or {}) do files[name] = file or nil end
    return mock.repo(files, options)
  end

  local function files_of(folder)
    local list = names_in(folder)
    return table.concat(list, " ")
  end

  it("is loaded by its name, from its needed files", function()
    mock.scenario { repos = { ["moonscope/tiny"] = tiny({}, { page = 3 }) } } -- a list of several pages
    local model = assert(ms.load_model "moonscope/tiny")
    local folder = ("%s/models--moonscope--tiny/snapshots/%s"):format(mock.cache, mock.commit)
    assert.equal(folder, model.path)
    assert.equal(6, model.config.n_layers)
    assert.truthy(model.tokenizer)
    model:close()
    assert.equal("config.json generation_config.json model.safetensors special_tokens_map.json tokenizer.json "
      .. "tokenizer_config.json", files_of(folder))
    assert.equal(4, #mock.requests "^GET hub /api/models/moonscope/tiny/tree/")
    local before = #mock.requests()
    assert(ms.load_model "moonscope/tiny@main"):close() -- revision and list, nothing else
    assert.equal(before + 5, #mock.requests())
    assert(ms.load_model("moonscope/tiny@" .. mock.commit)):close()
    assert.equal(before + 5, #mock.requests())
    mock.set { HF_HUB_OFFLINE = "1" }
    assert(ms.load_model "moonscope/tiny"):close()
    assert.equal(before + 5, #mock.requests())
  end)

  it("has PyTorch's weights where it has no others", function()
    local FAMILY = "tests/fixtures/family/"
    local function repo(member)
      local files = {}
      for _, name in ipairs(fixtures.names(FAMILY .. member)) do
        files[name] = { uv.cwd() .. "/" .. FAMILY .. member .. "/" .. name, lfs = name:find "%.bin$" ~= nil }
      end
      return mock.repo(files)
    end
    mock.scenario { repos = { ["a/whole"] = repo "qwen2", ["a/shards"] = repo "llama2" } }
    assert.is_nil(require("moonscope.hub.resolve").local_model "a/whole")
    assert(ms.load_model "a/whole"):close()
    assert.matches("/snapshots/", require("moonscope.hub.resolve").local_model "a/whole")
    assert.equal(4, #assert(ms.download "a/shards"))
    assert(ms.load_model "a/shards"):close()
  end)

  local INDEX = "model.safetensors.index.json"

  ---The same in two shards.
  local function sharded(index)
    local folder = mock.home .. "/shards"
    make_folders(folder)
    local file <close> = assert(ms.open "examples/tiny/model.safetensors")
    local parts, map = { {}, {} }, {}
    for i, name in ipairs(file:names()) do
      parts[i % 2 + 1][name] = file:tensor(name)
      map[name] = ("model-%05d-of-00002.safetensors"):format(i % 2 + 1)
    end
    for i, part in ipairs(parts) do
      assert(ms.save(("%s/model-%05d-of-00002.safetensors"):format(folder, i), part))
      for _, tensor in pairs(part) do tensor:close() end
    end
    fixtures.write(folder .. "/" .. INDEX, index or json.encode { weight_map = map })
    return tiny {
      ["model.safetensors"] = false, [INDEX] = { folder .. "/" .. INDEX },
      ["model-00001-of-00002.safetensors"] = { folder .. "/model-00001-of-00002.safetensors", lfs = true },
      ["model-00002-of-00002.safetensors"] = { folder .. "/model-00002-of-00002.safetensors", lfs = true },
      ["consolidated.safetensors"] = { mock.content(100, 4), lfs = true },
    }
  end

  it("of several shards is whole or not there", function()
    mock.scenario { repos = { ["a/b"] = sharded() } }
    local paths = assert(ms.download "a/b")
    assert.equal(8, #paths)
    local folder = paths[1]:match "^(.*)/"
    assert.is_nil(uv.fs_stat(folder .. "/consolidated.safetensors"))
    assert(ms.load_model "a/b"):close()
    assert(uv.fs_unlink(folder .. "/model-00002-of-00002.safetensors"))
    mock.set { HF_HUB_OFFLINE = "1" }
    local model, message, code = ms.load_model "a/b"
    assert.same({ nil, "ENOENT" }, { model, code })
    assert.truthy(message:find("model-00002-of-00002.safetensors of revision", 1, true), message)
    assert.is_nil(ms.download "a/b")
  end)

  it("whose index leads out of its folder is refused", function() -- P33
    for _, name in ipairs { "../x.safetensors", "/etc/passwd", "a/b.safetensors", "" } do
      mock.reset {}
      mock.scenario { repos = { ["a/b"] = sharded(json.encode { weight_map = { w = name } }) } }
      local model, message, code = ms.load_model "a/b"
      assert.same({ nil, "EFORMAT" }, { model, code })
      assert.truthy(message:find("weight_map: found '" .. name .. "', expected the name of a file", 1, true), message)
    end
  end)

  it("that the hub lists with impossible paths is refused", function() -- P33
    local function tree(entries) return json.encode(json.array(entries)) end
    local link = { Link = '<http://127.0.0.2:1/x>; rel="next"' }
    for _, case in ipairs {
      { { body = tree { { type = "file", path = "../../../evil.json", size = 1 } } },
        "file: found '../../../evil.json'" },
      { { body = tree { { type = "file", path = "/etc/cron.d/x", size = 1 } } }, "file: found '/etc/cron.d/x'" },
      { { body = tree { { type = "file", path = "a", size = -1 } } }, "a: no size" },
      { { body = '[{"type":"file","path":"a","size":18446744073709551617}]' }, "a: no size" },
      { { body = tree { { type = "file" } } }, "an entry without a path" },
      { { body = "<html>" }, "not an answer of the hub? Check HF_ENDPOINT and the proxy" },
      { { body = tree { { type = "file", path = "a", size = 1 } }, headers = link },
        "the next page is at another place" },
    } do
      local rule = case[1]
      rule.on, rule.status = "GET hub /api/models/a/b/tree", 200
      mock.scenario { repos = { ["a/b"] = tiny() }, rules = { rule } }
      local paths, message, code = ms.download "a/b"
      assert.same({ nil, "EFORMAT" }, { paths, code }, message)
      assert.truthy(message:find(case[2], 1, true), message)
    end
    local REVISION = "GET hub .*/revision/"
    local page = { on = "GET hub /api/models/a/b/tree", status = 200, body = "[]",
      headers = { Link = '</api/models/a/b/tree/x>; rel="next"' } }
    mock.scenario { rules = { { on = REVISION, status = 200, body = ('{"sha":"%s"}'):format(mock.commit) }, page } }
    local _, message = ms.download "a/b"
    assert.truthy(message:find "a list of more than 100 pages", message)
    mock.scenario { rules = { { on = REVISION, status = 200, body = '{"sha":"../../x"}' } } }
    _, message = ms.download "a/b"
    assert.truthy(message:find("sha: found '../../x', expected 40 hex digits", 1, true), message)
    mock.scenario { rules = { { on = REVISION, status = 302, headers = { Location = "http://127.0.0.2:1/" } } } }
    _, message = ms.download "a/b"
    assert.truthy(message:find("a redirect to 127.0.0.2, away from the hub", 1, true), message)
  end)

  it("that is none says so; a folder of that name comes first", function()
    mock.scenario { repos = { ["a/b"] = mock.repo { ["weights.pt"] = { mock.content(10) } } } }
    local model, message, code = ms.load_model "a/b"
    assert.same({ nil, "EUNSUPPORTED" }, { model, code })
    assert.equal("a/b: no such file or folder here, and from the hub: a/b: expected config.json and model.safetensors, "
      .. "pytorch_model.bin or an index, found: weights.pt", message)
    local paths
    paths, message = ms.download "a/b"
    assert.is_nil(paths)
    assert.equal("a/b: no safetensors here; name the files that you want, of: weights.pt", message)
    local requests = #mock.requests()
    assert(ms.load_model "examples/tiny"):close()
    for _, path in ipairs { "./a/b", "/a/b", "no/such/model", "nowhere" } do assert.is_nil(ms.load_model(path)) end
    assert.equal(requests, #mock.requests())
    assert.is_nil(ms.load_model "a/b@../x")
  end)

  it("gives its tokenizer without its weights", function()
    mock.scenario { repos = { ["moonscope/tiny"] = tiny() } }
    local command = { "tokenize", "--model", "moonscope/tiny", "The red", "--json" }
    local result = process.moonscope(command)
    assert.same({ 0, '{"ids":[446,466],"tokens":["The"," red"]}\n', "" }, { result.code, result.out, result.err })
    local folder = ("%s/models--moonscope--tiny/snapshots/%s"):format(mock.cache, mock.commit)
    assert.equal("tokenizer.json tokenizer_config.json", files_of(folder))
    mock.set { HF_HUB_OFFLINE = "1" }
    assert.equal(0, process.moonscope(command).code)
    command[3] = "moonscope/tiny@dev"
    result = process.moonscope(command)
    assert.equal(1, result.code)
    assert.truthy(result.err:find("moonscope/tiny: revision 'dev' is not in the cache", 1, true), result.err)
    mock.reset {}
    mock.scenario { repos = { ["moonscope/tiny"] = tiny { ["tokenizer.json"] = false } } }
    local tokenizer, message, code = ms.load_tokenizer "moonscope/tiny"
    assert.same({ nil, "EUNSUPPORTED" }, { tokenizer, code })
    assert.truthy(message:find("moonscope/tiny: expected tokenizer.json, found: README.md, ", 1, true), message)
    assert.is_nil(ms.load_tokenizer "moonscope/tiny@../x")
    tokenizer, message, code = ms.load_tokenizer "moonscope/tokenizer.json"
    assert.same({ nil, "ENOENT" }, { tokenizer, code }, message)
  end)

  it("falls back on the cache as a whole", function()
    mock.scenario { repos = { ["a/b"] = tiny() } }
    assert(ms.load_model "a/b"):close()
    mock.scenario { rules = { { on = "", status = 503 } } }
    assert(ms.load_model "a/b"):close()
    assert.equal(1, #mock.requests())
  end)
end)

describe("an autoencoder", function()
  local NAME = "Moonscope-Tiny-Llama-SAE-l3.pth"

  it("is found by its repository, and brings what describes it", function()
    mock.scenario { repos = { ["a/sae"] = mock.repo {
      ["layer3/" .. NAME] = { fixtures.sae_path, lfs = true }, ["layer3/config.json"] = { mock.content(50, 1) },
      ["layer3/huge.json"] = { mock.content((1 << 20) + 1, 1) }, ["README.md"] = { mock.content(50, 2) },
    } } }
    local sae = assert(ms.load_sae "a/sae")
    assert.equal(2048, sae.d_sae)
    assert.same({ NAME, "config.json" }, names_in(sae.path:match "^(.*)/"))
    sae:close()
  end)

  it("of SAE_CONFIGS is found by its name or its repository", function()
    local configs = require "moonscope.sae_configs"
    configs.SAE_CONFIGS.test = { repo_id = "a/sae", filename = "test.pth", layer = "model.layers.3",
      expansion_factor = 16, d_model = 128 }
    mock.scenario { repos = { ["a/sae"] = mock.repo {
      ["test.pth"] = { fixtures.sae_path, lfs = true }, ["other.pth"] = { mock.content(50), lfs = true } } } }
    local sae, message = ms.load_sae "test"
    local by_repo, by_name = resolve.sae "a/sae", resolve.sae "test"
    local converted, why = require("moonscope.convert").sae("test", { output = mock.home .. "/out" })
    local again = require("moonscope.convert").sae(by_name, { output = mock.home .. "/again" })
    configs.SAE_CONFIGS.test = nil
    assert.equal(3, assert(sae, message).layer)
    sae:close()
    assert.equal(by_name, by_repo)
    assert.truthy(by_name:find("/models--a--sae/snapshots/" .. mock.commit .. "/test.pth", 1, true))
    local metadata = assert(json.read(assert(converted, why).metadata))
    assert.same({ "a/sae", mock.commit, "test.pth" },
      { metadata.source, metadata.source_revision, metadata.source_file })
    assert.equal(mock.commit, assert(json.read(again.metadata)).source_revision) -- by its path in the cache
  end)

  it("among several is not guessed", function()
    local five = { mock.content(5) }
    mock.scenario { repos = { ["a/sae"] = mock.repo { ["x.pth"] = five, ["y.npz"] = five },
      ["a/none"] = mock.repo { ["README.md"] = five } } }
    local sae, message, code = ms.load_sae "a/sae"
    assert.same({ nil, "a/sae: no such file or folder here, and from the hub: a/sae: several checkpoints: x.pth, "
      .. "y.npz; download the one that you want (moonscope download a/sae FILE) and give its path", "EINVAL" },
      { sae, message, code })
    sae, message = ms.load_sae "a/none"
    assert.is_nil(sae)
    assert.truthy(message:find("no checkpoint among README.md", 1, true), message)
  end)
end)

describe("moonscope download", function()
  it("prints the paths, in order", function()
    scenario()
    local result = process.moonscope { "download", "a/b", "d/e/small.json", "big.bin" }
    local snapshot = storage() .. "/snapshots/" .. mock.commit
    assert.same({ 0, ("%s/d/e/small.json\n%s/big.bin\n"):format(snapshot, snapshot), "" },
      { result.code, result.out, result.err })
    result = process.moonscope { "download", "a/b@" .. mock.commit, "big.bin", "--json" }
    assert.same({ files = { snapshot .. "/big.bin" } }, json.decode(result.out))
  end)

  it("prints what is named twice once", function()
    scenario()
    local result = process.moonscope { "download", "a/b", "big.bin", "big.bin" }
    assert.same({ 0, ("%s/snapshots/%s/big.bin\n"):format(storage(), mock.commit) }, { result.code, result.out })
  end)

  it("asks for names where a repository has no safetensors", function()
    scenario()
    local result = process.moonscope { "download", "a/b" }
    assert.same({ 1, "", "moonscope: a/b: no safetensors here; name the files that you want, of: big.bin, "
      .. "d/e/small.json\n" }, { result.code, result.out, result.err })
  end)

  it("tells why it waits: for a server that asks it to, and after wrong bytes", function()
    scenario { { on = "HEAD hub", status = 503, headers = { ["Retry-After"] = "0" }, times = 1 } }
    local result = process.moonscope { "download", "a/b", "big.bin" }
    assert.equal(0, result.code)
    assert.truthy(result.err:find "^moonscope: warn: a/b: [^\n]* answered 503; trying again in 1.0 seconds\n$",
      result.err)
    fixtures.remove(mock.cache)
    scenario { { on = "GET cdn", flip = 1234, times = 1 } }
    result = process.moonscope { "download", "a/b", "big.bin" }
    assert.equal(0, result.code)
    assert.truthy(result.err:find "^moonscope: warn: [^\n]*: the hash of its bytes is %x+; trying again in [%d.]+ s",
      result.err)
  end)

  it("fails in one line", function()
    scenario()
    local result = process.moonscope { "download", "a/b", "none" }
    assert.same({ 1, "", "moonscope: a/b: revision 'main' has no file 'none'\n" },
      { result.code, result.out, result.err })
    assert.equal(2, process.moonscope({ "download" }).code)
  end)

  it("shows a bar on a terminal", function()
    scenario { { on = "GET cdn", pace = 500 } }
    local result = process.terminal { "download", "a/b", "big.bin" }
    assert.truthy(result.out:find "downloading  %[[#.]+%] +%d+%%", result.out)
  end)

  it("ends on Ctrl-C, and leaves what it has to be resumed", function()
    scenario { { on = "GET cdn", stall = 200000 } }
    local result = process.moonscope({ "download", "a/b", "big.bin", "--log-level", "debug" },
      { interrupt_at = "HEAD http" })
    assert.equal(130, result.code, result.err)
    assert.is_true(result.ms < 10000)
  end)
end)

describe("moonscope cache", function()
  local function cache(...) return process.moonscope { "cache", ... } end

  before_each(function()
    scenario()
    assert(download "big.bin")
    assert(download "d/e/small.json")
    mock.scenario { repos = { ["datasets/x/y"] = mock.repo { ["z.txt"] = { mock.content(77) } } } }
    assert(ms.download("datasets/x/y", { files = { "z.txt" } }))
  end)

  it("ls lists", function()
    local result = cache "ls"
    assert.equal(("datasets/x/y  77 bytes, 1 blobs\n  %s  1 files  main\n"
      .. "a/b  300500 bytes, 2 blobs\n  %s  2 files  main\n"):format(mock.commit, mock.commit), result.out)
    fixtures.write(storage() .. "/blobs/" .. ("0"):rep(64) .. ".moonscope.incomplete", "abc")
    local data = assert(json.decode(cache("ls", "a/b", "--json").out))
    assert.same({ path = mock.cache, repos = { {
      repo = "a/b", path = storage(), bytes = 300503, blobs = 2, incomplete = 1, revisions = { {
        commit = mock.commit, refs = { "main" },
        files = { { file = "big.bin", bytes = 300000 }, { file = "d/e/small.json", bytes = 500 } } } } } } }, data)
    result = cache("ls", "no/such")
    assert.same({ 1, ("moonscope: no/such: not in the cache (%s)\n"):format(mock.cache) }, { result.code, result.err })
    mock.reset {}
    assert.same({ 0, "" }, { cache("ls").code, cache("ls").out })
    assert.equal('{"path":"' .. mock.cache .. '","repos":[]}\n', cache("ls", "--json").out)
  end)

  it("verify hashes all again", function() -- P31
    local result = cache "verify"
    assert.same({ 0, "3 blobs are what their names say\n", "" }, { result.code, result.out, result.err })
    local blob = storage() .. "/blobs/" .. sha256(mock.content(SIZE))
    local text = fixtures.read(blob)
    fixtures.write(blob, text:sub(1, 999) .. string.char(text:byte(1000) ~ 1) .. text:sub(1001))
    fixtures.write(storage() .. "/blobs/stranger", "")
    assert(uv.fs_unlink(storage() .. "/blobs/" .. git_sha1(mock.content(500, 1))))
    result = cache "verify"
    assert.equal(1, result.code)
    assert.truthy(result.out:find(blob .. ": the hash of its bytes is " .. sha256(blob) .. "\n", 1, true), result.out)
    assert.truthy(result.out:find("small.json: its blob is not there\n", 1, true), result.out)
    assert.truthy(result.out:find("stranger: not the name of a blob", 1, true), result.out)
    assert.truthy(result.out:find "\n1 blobs are what their names say\n$", result.out)
    assert.equal("moonscope: 3 faults in the cache: remove those files, then download them again\n", result.err)
    local data = assert(json.decode(cache("verify", "a/b", "--json").out))
    assert.same({ 0, 3 }, { data.right, #data.faults })
  end)

  it("rm removes a repository, or what only one revision has", function()
    scenario({}, { commit = mock.older, refs = { dev = mock.older } })
    mock.current.repos["a/b"].files["new.bin"] = { from = mock.content(1000, 5), lfs = true }
    mock.scenario(mock.current)
    assert(ms.download("a/b@dev", { files = { "big.bin", "new.bin" } }))
    local result = cache("rm", "a/b@dev")
    assert.same({ 0, "1040 bytes freed\n" }, { result.code, result.out }) -- new.bin, and what dev meant
    assert.same({ mock.commit }, names_in(storage() .. "/snapshots"))
    assert.same({ "main" }, names_in(storage() .. "/refs"))
    assert.equal(0, cache("verify").code)
    result = cache("rm", "a/b@dev")
    assert.same({ 1, "moonscope: a/b: revision 'dev' is not in the cache\n" }, { result.code, result.err })
    assert.same({ freed = 300540 }, json.decode(cache("rm", "a/b", "--json").out))
    assert.is_nil(uv.fs_stat(storage()))
    assert.truthy(uv.fs_stat(mock.cache .. "/datasets--x--y"))
    assert.equal(1, cache("rm", "a/b").code)
    assert.same({ 2, "moonscope: cache: rm: which repository? (see moonscope cache --help)\n" },
      { cache("rm").code, cache("rm").err })
    assert.equal(1, cache("rm", "../..").code)
    assert.equal(2, cache("frobnicate").code)
  end)

  it("rm follows no link and leaves what is in use", function()
    local outside = mock.home .. "/outside"
    make_folders(outside)
    fixtures.write(outside .. "/precious", "x")
    assert(uv.fs_symlink(outside, storage() .. "/snapshots/" .. mock.older))
    local lock = assert(core.lock(("%s/.locks/models--a--b/%s.lock"):format(mock.cache, sha256(mock.content(SIZE)))))
    local result = cache("rm", "a/b")
    assert.same({ 1, "moonscope: a/b: another process is downloading it\n" }, { result.code, result.err })
    lock:close()
    assert.equal(0, cache("rm", "a/b").code)
    assert.equal("x", fixtures.read(outside .. "/precious"))
  end)

  it("rm removes nothing where one of several is not there", function()
    for _, other in ipairs { "x/none", "a/b@none", "../.." } do
      local result = cache("rm", "a/b", other)
      assert.same({ 1, "" }, { result.code, result.out })
      assert.truthy(uv.fs_stat(storage()), other)
    end
    local result = cache("rm", "a/b", "datasets/x/y", "a/b")
    assert.same({ 0, "300657 bytes freed\n" }, { result.code, result.out })
  end)

  it("rm of a folder that is a link removes the link, and says so", function()
    local elsewhere = mock.home .. "/elsewhere"
    assert(uv.fs_rename(storage(), elsewhere))
    assert(uv.fs_symlink(elsewhere, storage()))
    local result = cache("rm", "a/b")
    assert.same({ 0, ("a/b: was a link, which is gone; what it led to stays: %s\n0 bytes freed\n"):format(elsewhere) },
      { result.code, result.out })
    assert.is_nil(uv.fs_lstat(storage()))
    assert.truthy(uv.fs_stat(elsewhere .. "/blobs"))
  end)

  it("knows files that lie in snapshots without a blob, and that nothing tells their hash", function()
    mock.reset { HF_HUB_DISABLE_SYMLINKS = "1" }
    scenario()
    local big = assert(download "big.bin")[1]
    assert(download "d/e/small.json")
    assert.equal(("a/b  300500 bytes, 0 blobs\n  %s  2 files  main\n"):format(mock.commit), cache("ls").out)
    fixtures.write(big, "other bytes")
    local result = cache "verify"
    assert.same({ 1, "0 blobs are what their names say\n", "moonscope: 2 files cannot be checked: they lie in "
      .. "snapshots under their own names, which tell no hash (HF_HUB_DISABLE_SYMLINKS)\n" },
      { result.code, result.out, result.err })
    assert.same({ right = 0, faults = {}, unnamed = 2 }, json.decode(cache("verify", "--json").out))
    assert.equal(0, cache("rm", "a/b").code)
    python_cache("big.bin", mock.content(SIZE)) -- a hard link to a blob is that blob
    assert(uv.fs_link(storage() .. "/blobs/" .. sha256(mock.content(SIZE)),
      storage() .. "/snapshots/" .. mock.commit .. "/copy.bin"))
    assert.equal(0, cache("verify").code)
    assert.equal(("a/b  300000 bytes, 1 blobs\n  %s  2 files  main\n"):format(mock.commit), cache("ls").out)
    assert.equal("300040 bytes freed\n", cache("rm", "a/b").out)
  end)
end)
