-- SPDX-License-Identifier: MIT
-- The Hub's protocol against a mock Hub and CDN: P30 (every rule), P31 (integrity), P32 (the token),
-- P33 (hostile answers).
local uv = require "luv"
local fixtures = require "fixtures"
local json = require "moonscope.json"
local loop = require "moonscope.loop"
local mock = require "mock_hub"
local ms = require "moonscope"
local names = require "moonscope.hub.names"
local process = require "process"
local settings = require "moonscope.hub.settings"

local SIZE = 1500000
local SOON = 0.001 -- seconds: the unit of waits between tries

setup(mock.start)
teardown(mock.stop)
before_each(function() mock.reset {} end)

---A repository a/b with one large file and one small one, and rules.
local function scenario(rules, more)
  mock.scenario {
    repos = {
      ["a/b"] = mock.repo({
        ["big.bin"] = { mock.content(SIZE), lfs = true }, ["small.json"] = { mock.content(500, 1) },
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

---What was asked, without the signed part.
local function asked(filter)
  local list = {}
  for i, request in ipairs(mock.requests(filter)) do list[i] = request.what:gsub("%?.*", "") end
  return list
end

local function assert_got(path, size, seed)
  assert.equal(fixtures.read(mock.content(size, seed)), fixtures.read(path))
end

local function assert_big(path, message)
  assert.truthy(path, message)
  assert_got(path[1], SIZE)
end

---Nothing that looks like a finished blob.
local function blobs()
  local list = {}
  local scan = uv.fs_scandir(mock.cache .. "/models--a--b/blobs")
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if not name:find "incomplete" then list[#list + 1] = name end
  end
  return list
end

describe("names", function()
  it("of repositories", function()
    for _, good in ipairs { "gpt2", "a/b", "A.b_c-d/e.f", "datasets/a/b", ("x"):rep(96) } do
      assert.truthy(names.repo(good), good)
    end
    for _, bad in ipairs {
      "", "/", "a/", "/b", "a/b/c", "a--b/c", "a/b--c", "a..b/c", "../b", "a/..", "-a/b", "a/b-", ".a/b", "a/b.",
      "a/b.git", "a b/c", "a/b\n", "a\\b/c", "ä/b", ("x"):rep(97), "datasets/", "datasets/a/b/c", "a/b?x", "a/b%2e",
    } do
      local repo, message, code = names.repo(bad)
      assert.is_nil(repo, bad)
      assert.truthy(message:find "^repository: found '", bad)
      assert.equal("EINVAL", code)
    end
    assert.same({ name = "datasets/a/b", id = "a/b", api = "datasets", folder = "datasets--a--b" },
      names.repo "datasets/a/b")
    assert.same(names.repo "a/b", names.repo_of_folder "models--a--b")
    assert.is_nil(names.repo_of_folder "spaces--a--b")
  end)

  it("of files and revisions", function()
    for _, good in ipairs { "a", "a/b/c.json", "…/ü.txt", "a b", "..a", "a..", "refs/pr/1" } do
      assert.equal(good, names.file(good))
    end
    for _, bad in ipairs {
      "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", "C:/a", "c:a", "\\\\host\\a", "a\\..\\b",
      "a\0b", "a\nb", "\255", ("x"):rep(256), ("x/"):rep(600) .. "x",
    } do
      assert.is_nil(names.file(bad), bad)
      assert.is_nil(names.revision(bad), bad)
    end
    assert.is_nil(names.revision "-x")
    assert.equal("refs%2Fpr%2F1", names.encode "refs/pr/1")
    assert.equal("a/%C3%BC%20%25%3F", names.encode("a/ü %?", true))
  end)

  it("of hashes", function()
    local sha1, sha256 = ("0a"):rep(20), ("0a"):rep(32)
    for _, etag in ipairs { sha1, '"' .. sha1 .. '"', 'W/"' .. sha1 .. '"' } do
      assert.equal(sha1, names.hash_of_etag(etag))
    end
    assert.equal(sha256, names.hash_of_etag('"' .. sha256 .. '"'))
    for _, bad in ipairs {
      "", '""', "../../x", ("0A"):rep(20), ("0a"):rep(21), ("0g"):rep(20), '"' .. sha1 .. '-4"', "../" .. sha1,
      sha1 .. "/..",
    } do
      assert.is_nil(names.hash_of_etag(bad), bad)
    end
  end)
end)

describe("the environment", function()
  local function read(variables)
    mock.reset(variables)
    return settings.read()
  end

  it("says where", function()
    local home = os.getenv "HOME"
    for _, case in ipairs {
      { {}, "cache", mock.home:gsub("%d+$", "") .. "%d+/hub$" },
      { { HF_HUB_CACHE = "/x/y/" }, "cache", "^/x/y$" },
      { { HF_HUB_CACHE = "", HUGGINGFACE_HUB_CACHE = "/z" }, "cache", "^/z$" },
      { { HF_HUB_CACHE = "~/c" }, "cache", "^" .. home .. "/c$" },
      { { HF_HUB_CACHE = "$HOME/c${HOME}" }, "cache", "^" .. home .. "/c" .. home .. "$" },
      { { HF_HOME = "" }, "cache", "^" .. home .. "/.cache/huggingface/hub$" },
      { { HF_HOME = "", XDG_CACHE_HOME = "/xdg" }, "cache", "^/xdg/huggingface/hub$" },
      { { HF_ENDPOINT = "https://mirror.test//" }, "endpoint", "^https://mirror.test$" },
      { { HF_ENDPOINT = "" }, "endpoint", "^https://huggingface.co$" },
      { { HF_HUB_OFFLINE = "1" }, "offline", "^HF_HUB_OFFLINE$" },
      { { TRANSFORMERS_OFFLINE = "yes" }, "offline", "^TRANSFORMERS_OFFLINE$" },
      { { HF_HUB_ETAG_TIMEOUT = "2.5" }, "head_ms", "^2500$" },
      { { HF_HUB_DOWNLOAD_TIMEOUT = "3" }, "idle_ms", "^3000$" },
      { {}, "idle_ms", "^10000$" },
      { { HF_HUB_DISABLE_SYMLINKS = "True" }, "symlinks", "^false$" },
      { { HF_TOKEN = " hf_a\n" }, "token", "^hf_a$" },
      { { HUGGING_FACE_HUB_TOKEN = "hf_b", HF_TOKEN = "" }, "token_source", "^HUGGING_FACE_HUB_TOKEN$" },
    } do
      assert.truthy(tostring(read(case[1])[case[2]]):find(case[3]), case[2] .. " " .. case[3])
    end
    for _, off in ipairs { "0", "no", "" } do assert.is_nil(read({ HF_HUB_OFFLINE = off }).offline) end
  end)

  it("holds the token, or a file does", function()
    assert.is_nil(read({}).token)
    fixtures.write(mock.home .. "/token", "hf_file\n")
    assert.equal("hf_file", settings.read().token)
    assert.equal(mock.home .. "/token", settings.read().token_source)
    mock.set { HF_TOKEN_PATH = mock.home .. "/other" }
    assert.is_nil(settings.read().token)
    fixtures.write(mock.home .. "/other", "hf_other")
    assert.equal("hf_other", settings.read().token)
    mock.set { HF_TOKEN = "hf_variable" }
    assert.equal("hf_variable", settings.read().token)
    mock.set { HF_HUB_DISABLE_IMPLICIT_TOKEN = "1" }
    assert.is_nil(settings.read().token)
  end)

  it("that makes no sense is refused", function()
    for _, case in ipairs {
      { { HF_TOKEN = "hf_a\r\nX-Evil: 1" }, "^HF_TOKEN: holds a character" },
      { { HF_HUB_ETAG_TIMEOUT = "soon" }, "^HF_HUB_ETAG_TIMEOUT: found 'soon', expected seconds" },
      { { HF_HUB_DOWNLOAD_TIMEOUT = "0" }, "^HF_HUB_DOWNLOAD_TIMEOUT: found '0'" },
      { { HF_ENDPOINT = "ftp://a" }, "^HF_ENDPOINT: " },
      { { HF_ENDPOINT = "file:///etc" }, "^HF_ENDPOINT: " },
    } do
      mock.reset(case[1])
      local paths, message, code = ms.download("a/b", { files = { "x" } })
      assert.is_nil(paths)
      assert.truthy(message:find(case[2]), message)
      assert.falsy(message:find "hf_a")
      assert.equal("EINVAL", code)
    end
  end)
end)

describe("download", function()
  it("asks for metadata, then for the file, and nothing more", function()
    mock.set { HF_TOKEN = mock.token }
    scenario()
    assert_big(download "big.bin")
    assert_got(assert(download "small.json")[1], 500, 1)
    local cache_path = "/api/resolve-cache/models/a/b/" .. mock.commit .. "/small.json"
    local requests = asked()
    requests[2] = requests[2]:match "^GET cdn /%x+$" and "GET cdn"
    assert.same({
      "HEAD hub /a/b/resolve/main/big.bin", "GET cdn",
      "HEAD hub /a/b/resolve/main/small.json", "HEAD hub " .. cache_path, "GET hub " .. cache_path,
    }, requests)
    for _, request in ipairs(mock.requests()) do
      assert.equal("identity", request.headers["accept-encoding"])
      assert.truthy(request.headers["user-agent"]:find "^moonscope/[%d.]+; lua/5.4$")
      assert.is_nil(request.headers.cookie)
      local is_hub = request.what:find "^%u+ hub"
      assert.equal(is_hub and "Bearer " .. mock.token or nil, request.headers.authorization)
    end
    assert.falsy(mock.log_text():find('"server":"cdn"[^\n]*' .. mock.token)) -- P32
  end)

  it("encodes revisions and files", function()
    local repo = mock.repo { ["ordner/ü %.json"] = { mock.content(10, 2) } }
    repo.refs["refs/pr/1"] = mock.commit
    mock.scenario { repos = { ["datasets/a/b"] = repo } }
    local paths = assert(ms.download("datasets/a/b@refs/pr/1", { files = { "ordner/ü %.json" } }))
    assert_got(paths[1], 10, 2)
    assert.equal("HEAD hub /datasets/a/b/resolve/refs%2Fpr%2F1/ordner/%C3%BC%20%25.json", asked()[1])
    assert.equal(mock.commit, fixtures.read(mock.cache .. "/datasets--a--b/refs/refs/pr/1"))
    assert.truthy(uv.fs_readlink(paths[1]):find "^%.%./%.%./%.%./blobs/%x+$")
  end)

  it("needs no request for what a commit has", function()
    scenario()
    local first = assert(download "big.bin")
    mock.scenario {}
    assert.same(first, download("big.bin", { revision = mock.commit }))
    assert.same({}, asked())
  end)

  it("asks once more whether main has moved, and takes what is there", function()
    scenario()
    local first = assert(download "big.bin")
    scenario({}, { commit = mock.older, refs = { main = mock.older } })
    local second = assert(download "big.bin")
    assert.same({ "HEAD hub /a/b/resolve/main/big.bin" }, asked()) -- the same blob
    assert.are_not.equal(first[1], second[1])
    assert_big(second)
    assert.equal(mock.older, fixtures.read(mock.cache .. "/models--a--b/refs/main"))
    assert.equal(1, #blobs())
  end)

  it("takes the last answer's headers, not an interim one's", function()
    scenario { { on = "HEAD hub /api/resolve-cache", hints = true } }
    assert_got(assert(download "small.json")[1], 500, 1)
  end)

  it("refuses what cannot be a name", function()
    for _, case in ipairs {
      { "a/b/c", {}, "^repository: found 'a/b/c'" }, { "a/b@../x", {}, "^revision: found '../x'" },
      { "a/b", { files = { "../x" } }, "^file: found '../x'" }, { "a/b", { revision = "" }, "^revision: found ''" },
    } do
      local paths, message, code = ms.download(case[1], case[2])
      assert.same({ nil, "EINVAL" }, { paths, code })
      assert.truthy(message:find(case[3]), message)
    end
    assert.same({}, asked())
    assert.error_matches(function() ms.download(1) end, "expected a text")
    assert.error_matches(function() ms.download("a/b", { files = "x" }) end, "expected a list")
    assert.error_matches(function() ms.download("a/b", { file = "x" }) end, "unknown option file")
    assert.error_matches(function() ms.download("a/b", { retry_delay = -1 }) end, "expected seconds from 0")
  end)
end)

describe("a redirect of the metadata", function()
  local HEAD = "HEAD hub /a/b/resolve/main/big.bin"

  it("is followed within the hub, with its query", function()
    scenario { { on = "HEAD hub /a/b/resolve/main/small", status = 307,
      headers = { Location = "/new/b/resolve/main/small.json?x=1" } } }
    mock.current.repos["new/b"] = mock.current.repos["a/b"]
    mock.scenario(mock.current)
    mock.set { HF_TOKEN = mock.token }
    assert_got(assert(download "small.json")[1], 500, 1)
    local requests = mock.requests "^HEAD"
    assert.equal("HEAD hub /new/b/resolve/main/small.json?x=1", requests[2].what)
    assert.equal("Bearer " .. mock.token, requests[2].headers.authorization)
  end)

  it("to another port is followed without the token", function() -- P32
    scenario { { on = HEAD, status = 302,
      headers = { Location = "http://127.0.0.1:" .. mock.ports.other .. "/a/b/resolve/main/big.bin" } } }
    mock.set { HF_TOKEN = mock.token }
    assert_big(download "big.bin")
    local requests = mock.requests " other "
    assert.equal(1, #requests)
    assert.is_nil(requests[1].headers.authorization)
  end)

  it("to another port counts itself where it tells all, as of a store on the hub's host", function() -- P30, P32
    local hash = process.run("sha256sum", { mock.content(500, 1) }).out:match "^%x+"
    local place = "/api/resolve-cache/models/a/b/" .. mock.commit .. "/small.json"
    local query = "?file=1&etag=%22x%22"
    scenario {
      { on = "HEAD hub /a/b/resolve/main/small.json", status = 302, headers = {
        Location = ("http://127.0.0.1:%d%s%s"):format(mock.ports.other, place, query), ["X-Repo-Commit"] = mock.commit,
        ["X-Linked-Etag"] = '"' .. hash .. '"', ["X-Linked-Size"] = "500" } },
      { on = "HEAD other", status = 403 },
    }
    mock.set { HF_TOKEN = mock.token }
    local paths, message = download "small.json"
    assert.truthy(paths, message)
    assert_got(paths[1], 500, 1)
    assert.same({ "HEAD hub /a/b/resolve/main/small.json", "GET other " .. place }, asked())
    assert.is_nil(mock.requests()[2].headers.authorization)
  end)

  it("that may not be followed is refused", function() -- P32, P33
    local BAD = "a redirect that cannot be followed"
    local loops = { on = HEAD, status = 302, headers = { Location = "/a/b/resolve/main/big.bin?again" } }
    for _, case in ipairs {
      { loops, "/a/b/resolve/main/big.bin: more than 10 redirects$" },
      { { on = HEAD, status = 302 }, "a redirect without a Location$" },
      { { on = HEAD, status = 302, headers = { Location = "file:///etc/passwd" } }, BAD },
      { { on = HEAD, status = 302, headers = { Location = "gopher://127.0.0.1/x" } }, BAD },
      { { on = HEAD, status = 302, headers = { Location = "http://u:p@127.0.0.1/x" } }, BAD },
      { { on = HEAD, status = 302, headers = { Location = "http://[::" } }, BAD },
    } do
      scenario { case[1] }
      local paths, message, code = download "big.bin"
      assert.same({ nil, "EFORMAT" }, { paths, code })
      assert.truthy(message:find(case[2]), message)
    end
    scenario { loops }
    download "big.bin"
    assert.equal(10, #asked())
  end)
end)

describe("metadata that make no sense", function() -- P33
  it("are refused, and nothing is written", function()
    local etag = ('"' .. ("ab"):rep(32) .. '"')
    local function headers(changes)
      local all = { ["X-Repo-Commit"] = mock.commit, ["X-Linked-Etag"] = etag, ["X-Linked-Size"] = "10",
        Location = "http://127.0.0.2:" .. mock.ports.cdn .. "/x" }
      for name, value in pairs(changes) do all[name] = value or nil end
      return all
    end
    for _, case in ipairs {
      { { ["X-Repo-Commit"] = false },
        "found no X%-Repo%-Commit: not an answer of the hub%? Check HF_ENDPOINT and the proxy" },
      { { ["X-Repo-Commit"] = "../../../x" }, "found X%-Repo%-Commit '../../../x'" },
      { { ["X-Repo-Commit"] = mock.commit:upper() }, "found X%-Repo%-Commit" },
      { { ["X-Linked-Etag"] = false }, "found no ETag" },
      { { ["X-Linked-Etag"] = '"../../../../evil"' }, "found X%-Linked%-Etag '\"../../../../evil\"'" },
      { { ["X-Linked-Etag"] = etag:upper() }, "found X%-Linked%-Etag" },
      { { ["X-Linked-Etag"] = etag .. "\r\nX-Linked-Etag: " .. etag }, "found X%-Linked%-Etag" },
      { { ["X-Linked-Etag"] = '"abc"' }, "found X%-Linked%-Etag" },
      { { ["X-Linked-Size"] = false }, "found no X%-Linked%-Size" },
      { { ["X-Linked-Size"] = "18446744073709551617" }, "found X%-Linked%-Size '18446744073709551617'" },
      { { ["X-Linked-Size"] = "9007199254740993" }, "found X%-Linked%-Size" },
      { { ["X-Linked-Size"] = "-1" }, "found X%-Linked%-Size '%-1'" },
      { { ["X-Linked-Size"] = "1e3" }, "found X%-Linked%-Size" },
      { { ["X-Linked-Etag"] = '"' .. ("a"):rep(70000) .. '"' }, "headers of more than 65536 bytes" },
    } do
      scenario { { on = "HEAD hub", status = 302, headers = headers(case[1]) } }
      local paths, message, code = download "big.bin"
      assert.same({ nil, "EFORMAT" }, { paths, code }, message)
      assert.truthy(message:find(case[2]), message)
      assert.truthy(message:find("http://127.0.0.1:" .. mock.ports.hub .. "/a/b/resolve/main/big.bin", 1, true))
      assert.equal(1, #asked()) -- another try would not help
    end
    assert.is_nil(uv.fs_stat(mock.cache))
    scenario { { on = "HEAD hub", status = 200, headers = { ETag = etag, ["X-Repo-Commit"] = mock.commit,
      ["Content-Length"] = "18446744073709551617" } } }
    assert.is_nil(download "big.bin")
    scenario { { on = "HEAD hub", status = 204, headers = headers {} } }
    local _, message = download "big.bin"
    assert.truthy(message:find "answered 204$", message)
    scenario { { on = "HEAD hub /api/resolve-cache", headers = { ["Content-Length"] = json.null } } }
    _, message = download "small.json"
    assert.truthy(message:find "found no Content%-Length: not an answer of the hub%?", message)
  end)

  it("of another commit than was asked for are refused", function()
    scenario({}, { refs = { [mock.older] = mock.commit } })
    local paths, message = download("big.bin", { revision = mock.older })
    assert.is_nil(paths)
    assert.truthy(message:find(("found commit %s, expected %s"):format(mock.commit, mock.older)), message)
  end)
end)

describe("a refusal", function()
  local BAD = "Invalid credentials in Authorization header"
  local cases = {
    { "no revision", 404, { ["X-Error-Code"] = "RevisionNotFound" }, nil, "ENOENT",
      "a/b: there is no revision 'main'" },
    { "no file", 404, { ["X-Error-Code"] = "EntryNotFound" }, nil, "ENOENT",
      "a/b: revision 'main' has no file 'big.bin'" },
    { "gated, not logged in", 401, { ["X-Error-Code"] = "GatedRepo" }, nil, "EACCES",
      "a/b: the repository is gated, and nobody is logged in: accept its licence at http://HOST/a/b, then set HF_TOKEN "
        .. "to an access token (or put it into HOME/token)" },
    { "gated, no access yet", 403,
      { ["X-Error-Code"] = "GatedRepo", ["X-Error-Message"] = "Your request awaits a review" },
      mock.token, "EACCES", "a/b: the repository is gated, and the token from HF_TOKEN has no access yet: ask for "
        .. "access at http://HOST/a/b: Your request awaits a review" },
    { "no repository", 404, { ["X-Error-Code"] = "RepoNotFound" }, nil, "ENOENT",
      "a/b: there is no such repository at http://HOST, or it is private: to see a private one, set HF_TOKEN to an "
        .. "access token (or put it into HOME/token)" },
    { "401 without a code", 401, {}, mock.token, "ENOENT",
      "a/b: there is no such repository at http://HOST, or it is private and the token from HF_TOKEN may not see "
        .. "it" },
    { "a bad token", 401, { ["X-Error-Message"] = BAD }, mock.token, "EACCES",
      "a/b: the hub does not know the token from HF_TOKEN: make a new one at http://HOST/settings/tokens, or unset "
        .. "it" },
    { "disabled", 403, { ["X-Error-Message"] = "Access to this resource is disabled." }, nil, "EACCES",
      "a/b: Access to this resource is disabled." },
    { "another 403", 403, { ["X-Error-Message"] = "no" }, mock.token, "EACCES",
      "a/b: access refused: no: a fine-grained token needs the scope to read this repository "
        .. "(http://HOST/settings/tokens)" },
    { "a request's id", 404, { ["X-Error-Code"] = "RevisionNotFound", ["X-Request-Id"] = "Root=1-2" }, nil, "ENOENT",
      "a/b: there is no revision 'main' (request Root=1-2)" },
    { "control characters", 410, { ["X-Error-Message"] = "a\27[2Jb" }, nil, "ENET",
      "a/b: http://HOST/a/b/resolve/main/big.bin answered 410: a?[2Jb" },
    { "416", 416, {}, nil, "ENET", "a/b: http://HOST/a/b/resolve/main/big.bin answered 416" },
    { "a long wait", 429, { ["Retry-After"] = "3600" }, nil, "ENET",
      "a/b: http://HOST/a/b/resolve/main/big.bin answered 429; it asks to come back in 3600 seconds" },
    { "a wait without end", 429, { ["Retry-After"] = ("9"):rep(20) }, nil, "ENET",
      "a/b: http://HOST/a/b/resolve/main/big.bin answered 429; it asks to come back in more than a year" },
    { "a wait without end, in the other manner", 503, { RateLimit = '"resolvers";r=0;t=' .. ("9"):rep(400) }, nil,
      "ENET", "a/b: http://HOST/a/b/resolve/main/big.bin answered 503; it asks to come back in more than a year" },
  }
  for _, case in ipairs(cases) do
    it("says what to do: " .. case[1], function()
      scenario { { on = "HEAD hub", status = case[2], headers = case[3] } }
      if case[4] then mock.set { HF_TOKEN = case[4] } end
      local paths, message, code = download "big.bin"
      local expected = case[6]:gsub("HOST", mock.ports.host):gsub("HOME", mock.home)
      assert.same({ nil, expected, case[5] }, { paths, message, code })
      assert.equal(1, #asked()) -- never again
      assert.falsy(message:find(mock.token, 1, true))
    end)
  end

  it("is read from the JSON of an answer with a body too", function()
    for _, body in ipairs {
      '{"error":"Access to this resource is disabled."}',
      '{"error":{"message":"Access to this resource is disabled."}}',
    } do
      scenario { { on = "GET hub /api/models/a/b/revision/main", status = 403, body = body } }
      local paths, message = ms.download "a/b"
      assert.same({ nil, "a/b: Access to this resource is disabled." }, { paths, message })
    end
  end)

  it("of a file that a commit has not is noted", function()
    scenario()
    local paths, _, code = download "no/such.json"
    assert.same({ nil, "ENOENT" }, { paths, code })
    assert.equal("", fixtures.read(("%s/models--a--b/.no_exist/%s/no/such.json"):format(mock.cache, mock.commit)))
    mock.reset {}
    scenario { { on = "HEAD hub", status = 404,
      headers = { ["X-Error-Code"] = "EntryNotFound", ["X-Repo-Commit"] = "../../evil" } } }
    assert.is_nil(download "x.json")
    assert.is_nil(uv.fs_stat(mock.cache))
  end)
end)

describe("another try", function()
  it("is made where it may help, five in all", function()
    for _, status in ipairs { 408, 429, 500, 502, 503, 504 } do
      for _, headers in ipairs { {}, { ["Retry-After"] = "0" }, { RateLimit = '"resolvers";r=0;t=0' } } do
        scenario { { on = "HEAD hub", status = status, headers = headers, times = 4 } }
        assert_big(download "big.bin")
        assert.equal(5, #asked "^HEAD")
        mock.reset {}
      end
      scenario { { on = "HEAD hub", status = status } }
      local paths, message, code = download "big.bin"
      assert.same({ nil, "ENET" }, { paths, code })
      assert.truthy(message:find("answered " .. status), message)
      assert.equal(5, #asked())
    end
  end)

  it("waits as long as it is told, and a unit more", function()
    scenario { { on = "HEAD hub", status = 429, headers = { ["Retry-After"] = "1" }, times = 1 } }
    local start = uv.hrtime()
    assert_big(download("big.bin", { retry_delay = 0.5 }))
    assert.is_true(uv.hrtime() - start >= 1.5e9)
    mock.reset {}
    scenario { { on = "HEAD hub", status = 503, headers = { RateLimit = '"resolvers";r=0;t=1' }, times = 1 } }
    start = uv.hrtime()
    assert_big(download("big.bin", { retry_delay = 0.1 }))
    assert.is_true(uv.hrtime() - start >= 1.1e9)
  end)

  it("is made for connections that break or stay silent", function()
    mock.set { HF_HUB_ETAG_TIMEOUT = "0.3" }
    scenario { { on = "HEAD hub", silent = true, times = 1 } }
    assert_big(download "big.bin")
    assert.equal(2, #asked "^HEAD")
    scenario { { on = "HEAD hub", silent = true } }
    mock.reset { HF_HUB_ETAG_TIMEOUT = "0.2" }
    scenario { { on = "HEAD hub", silent = true } }
    local paths, message, code = download "big.bin"
    assert.same({ nil, "ENET" }, { paths, code })
    assert.truthy(message:find "/a/b/resolve/main/big.bin: no byte for 0.2 seconds$", message)
    mock.set { HF_ENDPOINT = "http://127.0.0.1:1" }
    paths, message, code = download "big.bin"
    assert.same({ nil, "ENET" }, { paths, code })
    assert.truthy(message:find "^http://127.0.0.1:1/a/b/resolve/main/big.bin: .*onnect", message)
  end)
end)

describe("a file's content", function() -- P31
  local CDN = "GET cdn"
  local GET_SMALL = "GET hub /api/resolve-cache"

  ---Each with what the server does, and the requests for content that it takes.
  local healed = {
    { "that ends early is resumed", { { on = CDN, truncate = 400000, times = 2 } }, { "none", "400000", "800000" } },
    { "that stalls is resumed", { { on = CDN, stall = 300000, times = 1 } }, { "none", "300000" } },
    { "with a flipped bit is fetched again", { { on = CDN, flip = 1234567, times = 1 } }, { "none", "none" } },
    { "that is longer is fetched again", { { on = CDN, grow = 1, times = 1 } }, { "none", "none" } },
    { "that is shorter is resumed", { { on = CDN, shrink = 100, times = 1 } }, { "none", "1499900" } },
    { "without ranges begins anew", { { on = CDN, truncate = 400000, times = 1 }, { on = CDN, ignore_range = true } },
      { "none", "400000" } },
    { "with another range begins anew",
      { { on = CDN, truncate = 400000, times = 1 }, { on = CDN, shift_range = 5, times = 1 } },
      { "none", "400000", "none" } },
    { "with a range of another size begins anew",
      { { on = CDN, truncate = 400000, times = 1 }, { on = CDN, grow = 5, times = 1 } },
      { "none", "400000", "none" } },
    { "whose range is refused begins anew",
      { { on = CDN, truncate = 400000, times = 1 }, { on = CDN, status = 416, times = 1 } },
      { "none", "400000", "none" } },
    { "whose URL has expired is asked for again", { { on = CDN, status = 403, body = "expired", times = 1 } },
      { "none", "none" } },
    { "whose URL has expired on the way is resumed",
      { { on = CDN, truncate = 400000, times = 1 }, { on = CDN, status = 400, times = 1 } },
      { "none", "400000", "400000" } },
    { "behind a busy server is waited for",
      { { on = CDN, status = 503, headers = { ["Retry-After"] = "0" }, times = 3 } },
      { "none", "none", "none", "none" } },
  }
  for _, case in ipairs(healed) do
    it(case[1], function()
      mock.set { HF_HUB_DOWNLOAD_TIMEOUT = "0.5" }
      scenario(case[2])
      assert_big(download "big.bin")
      local ranges = {}
      for i, request in ipairs(mock.requests(CDN)) do
        ranges[i] = request.headers.range and request.headers.range:match "^bytes=(%d+)%-$" or "none"
        assert.is_nil(request.headers["if-range"])
      end
      assert.same(case[3], ranges)
      assert.equal(1, #blobs())
    end)
  end

  it("that never is what was announced does not appear", function()
    mock.set { HF_HUB_DOWNLOAD_TIMEOUT = "0.2" }
    for _, case in ipairs {
      { { on = CDN, flip = 7 }, "EHASH", "the hash of its bytes is %x+$" },
      { { on = CDN, grow = 100 }, "EHASH", "more than the 1500000 bytes that were announced$" },
      { { on = CDN, shrink = 100 }, "ENET", "ended after 1499900 of 1500000 bytes$" },
      { { on = CDN, status = 500 }, "ENET", "answered 500$" },
      { { on = CDN, status = 403, body = "no" }, "ENET", "answered 403$" },
      { { on = CDN, status = 404 }, "ENET", "answered 404$" },
      { { on = CDN, status = 204 }, "ENET", "answered 204$" },
      { { on = CDN, silent = true }, "ENET", "no byte for 0.2 seconds$" },
    } do
      scenario { case[1] }
      local paths, message, code = download "big.bin"
      assert.same({ nil, case[2] }, { paths, code }, message)
      assert.truthy(message:find(case[3]), message)
      assert.falsy(message:find "signature")
      assert.same({}, blobs())
      assert.is_nil(uv.fs_stat(mock.cache .. "/models--a--b/refs/main"))
      assert.is_true(#asked(CDN) <= 10)
    end
  end)

  it("of git's kind is checked too", function()
    scenario { { on = GET_SMALL, flip = 3, times = 1 } }
    assert_got(assert(download "small.json")[1], 500, 1)
    assert.equal(2, #asked "^GET")
    mock.reset {}
    scenario { { on = GET_SMALL, flip = 3 } }
    local paths, _, code = download "small.json"
    assert.same({ nil, "EHASH" }, { paths, code })
    assert.same({}, blobs())
  end)

  it("of no bytes needs no request", function()
    mock.scenario { repos = { ["a/b"] = mock.repo { ["none.bin"] = { mock.content(0), lfs = true },
      ["none.txt"] = { mock.content(0) } } } }
    assert.equal("", fixtures.read(assert(download "none.bin")[1]))
    assert.equal("", fixtures.read(assert(download "none.txt")[1]))
    assert.same({}, asked "^GET")
  end)

  it("that changes between two tries is not mixed", function()
    scenario { { on = CDN, status = 403, times = 1 },
      { on = "HEAD hub", status = 302, headers = { ["X-Repo-Commit"] = mock.commit, ["X-Linked-Size"] = tostring(SIZE),
        ["X-Linked-Etag"] = ("cd"):rep(32), Location = "http://127.0.0.2:1/" } } }
    local first = table.remove(mock.current.rules)
    mock.current.rules = { { on = "HEAD hub", status = 302, times = 1, headers = { ["X-Repo-Commit"] = mock.commit,
      ["X-Linked-Size"] = tostring(SIZE), ["X-Linked-Etag"] = ("ab"):rep(32),
      Location = "http://127.0.0.2:" .. mock.ports.cdn .. "/x?signature=no" } }, first }
    mock.scenario(mock.current)
    local paths, message, code = download "big.bin"
    assert.same({ nil, "a/b: big.bin changed on the hub while it was downloaded: start again", "EHASH" },
      { paths, message, code })
  end)

  it("may be redirected five times, never with the token", function() -- P32
    mock.set { HF_TOKEN = mock.token }
    local to_other = "http://127.0.0.1:" .. mock.ports.other .. "/x"
    scenario { { on = "GET cdn", status = 302, headers = { Location = to_other }, times = 1 },
      { on = "GET other", status = 302, headers = { Location = "/y?signature=no" }, times = 4 },
      { on = "GET other", status = 302, headers = { Location = "/z" } } }
    local paths, message, code = download "big.bin"
    assert.same({ nil, "EFORMAT" }, { paths, code })
    assert.truthy(message:find "more than 5 redirects$", message)
    assert.equal(6, #asked "^GET")
    for _, request in ipairs(mock.requests "^GET") do assert.is_nil(request.headers.authorization) end
    for _, place in ipairs { "file:///etc/passwd", "ftp://127.0.0.1/x" } do
      scenario { { on = "GET cdn", status = 302, headers = { Location = place } } }
      paths, message = download "big.bin"
      assert.is_nil(paths)
      assert.truthy(message:find "a redirect that cannot be followed", message)
    end
  end)
end)

describe("a proxy", function()
  it("is used as the environment says", function()
    mock.reset { HF_ENDPOINT = "http://hub.invalid", http_proxy = "http://127.0.0.1:" .. mock.ports.hub }
    scenario()
    assert_got(assert(download "small.json")[1], 500, 1)
    assert.equal("HEAD hub http://hub.invalid/a/b/resolve/main/small.json", asked()[1])
  end)
end)

describe("https", function()
  local function use_tls(more)
    mock.reset { HF_ENDPOINT = "https://127.0.0.1:" .. mock.ports.tls, HF_TOKEN = mock.token }
    mock.set(more or {})
  end

  it("trusts nobody whom it does not know", function()
    use_tls()
    scenario()
    local paths, message, code = download "small.json"
    assert.same({ nil, "EACCES" }, { paths, code })
    assert.truthy(message:find "certificate.*SSL_CERT_FILE$", message)
    assert.same({}, asked())
  end)

  it("works with the certificate that SSL_CERT_FILE names", function()
    use_tls { SSL_CERT_FILE = "tests/hub/certificate.pem" }
    scenario()
    assert_got(assert(download "small.json")[1], 500, 1)
    assert.equal("Bearer " .. mock.token, mock.requests()[1].headers.authorization)
  end)

  it("is not left for http", function() -- P32
    use_tls { SSL_CERT_FILE = "tests/hub/certificate.pem" }
    scenario()
    local paths, message, code = download "big.bin" -- the mock's CDN speaks http
    assert.same({ nil, "EFORMAT" }, { paths, code })
    assert.truthy(message:find "a redirect to plain http at 127.0.0.2, refused$", message)
    scenario { { on = "HEAD tls", status = 302,
      headers = { Location = "http://" .. mock.ports.host .. "/a/b/resolve/main/small.json" } } }
    paths, message = download "small.json"
    assert.is_nil(paths)
    assert.truthy(message:find "a redirect to plain http at 127.0.0.1, refused$", message)
    assert.same({}, asked " hub ")
    assert.same({}, asked " cdn ")
  end)
end)

describe("several files", function()
  local function many(n, rules, more)
    local files, list = {}, {}
    for i = 1, n do
      list[i] = ("part-%02d.bin"):format(i)
      files[list[i]] = { mock.content(200000 + i, i), lfs = true }
    end
    mock.scenario { repos = { ["a/b"] = mock.repo(files, more) }, rules = rules }
    return list
  end

  it("come in the order that was asked for, four at a time", function()
    local list = many(9, { { on = "GET cdn", pace = 2000 } })
    local paths = assert(ms.download("a/b", { files = list }))
    for i, path in ipairs(paths) do
      assert.truthy(path:find(list[i], 1, true))
      assert_got(path, 200000 + i, i)
    end
    local open, most = 0, 0
    for line in mock.log_text():gmatch "[^\n]+" do
      if line:find '"GET"' then open = open + 1 end
      if line:find '"cdn","sent"' then open = open - 1 end
      most = math.max(most, open)
    end
    assert.is_true(most > 1 and most <= 4, "at once: " .. most)
    for i, what in ipairs(asked "^HEAD") do
      assert.truthy(what:find(i == 1 and "/main/" or "/" .. mock.commit .. "/", 1, true)) -- one commit for all
    end
  end)

  it("end with the first that fails", function()
    mock.set { HF_HUB_DOWNLOAD_TIMEOUT = "600" }
    local list = many(8, {
      { on = "HEAD hub .*part-03", status = 404, headers = { ["X-Error-Code"] = "EntryNotFound" }, late = 300 },
      { on = "GET cdn .*content-20000[2-8]", stall = 1000 }, -- would hang if they were not ended
    })
    local start = uv.hrtime()
    local paths, message, code = ms.download("a/b", { files = list })
    assert.same({ nil, "ENOENT" }, { paths, code })
    assert.truthy(message:find("has no file 'part-03.bin'", 1, true), message)
    assert.is_true(uv.hrtime() - start < 20e9) -- by itself the slow speed would end them after 30
  end)

  it("tell how far they are", function()
    local list = many(3, { { on = "GET cdn", pace = 500 } })
    local last, calls = 0, 0
    assert(ms.download("a/b", { files = list, on_progress = function(done, total)
      calls = calls + 1
      assert.is_true(done <= total)
      last = done
    end }))
    assert.is_true(calls >= 3)
    assert.equal(3 * 200000 + 6, last)
  end)

  it("leave the compute thread and the loop free", function()
    mock.set { HF_HUB_DOWNLOAD_TIMEOUT = "60" }
    scenario { { on = "GET cdn", stall = 1000 } }
    local width
    local ok, message = pcall(loop.run, function()
      loop.spawn(download, "big.bin")
      while #mock.requests "GET cdn" == 0 do loop.sleep(10) end
      local a = ms.ones { 300, 300 }
      width = a:matmul(a):shape()[1]
      error("enough", 0) -- cancels the download: the helper sees that it leaves nothing open
    end)
    assert.same({ false, "enough", 300 }, { ok, message, width })
  end)
end)

describe("the token", function() -- P32
  it("is in no log, message, argument or file", function()
    scenario({ { on = "GET cdn", status = 500, times = 1, headers = { ["Retry-After"] = "0" } } })
    local result = process.moonscope({ "download", "a/b", "big.bin", "--log-level", "debug" },
      { env = { HF_TOKEN = mock.token } })
    assert.equal(0, result.code, result.err)
    assert.truthy(result.err:find "GET http://127.0.0.2:%d+/%x+: 200", result.err)
    assert.falsy((result.out .. result.err):find(mock.token, 1, true))
    assert.falsy(result.err:find "signature")
    local found = process.run("grep", { "-rl", mock.token, mock.home })
    assert.same({ 1, "" }, { found.code, found.out })
  end)
end)
