-- SPDX-License-Identifier: MIT
---A catalogue of hostile files, made on the spot: M.write(folder) writes them and returns a list of
---{ path, verdict }, where the verdict is "reject", "accept" or "either" (of no meaning, but no harm).
local M = {}

local function u(n, size) return ("<I" .. size):pack(n) end

-- Containers

local function safetensors(header, data) return u(#header, 8) .. header .. (data or "") end

---A stored zip file of { name, data, changes }; changes: fields of the local header (l_) or the central record (c_).
local function zip(entries, tail)
  local body, directory, offset = {}, {}, 0
  for _, entry in ipairs(entries) do
    local name, data, f = entry[1], entry[2], entry[3] or {}
    local function fields(prefix)
      local function get(field, default) return f[prefix .. field] or f[field] or default end
      return u(get("flags", 0), 2) .. u(get("method", 0), 2) .. u(0, 4) .. u(get("crc", 0), 4)
        .. u(get("packed", #data), 4) .. u(get("size", #data), 4) .. u(get("name_size", #name), 2)
        .. u(get("extra_size", 0), 2), get("name", name)
    end
    local common, shown = fields "l_"
    body[#body + 1] = (f.mark or "PK\3\4") .. u(20, 2) .. common .. shown .. data
    common, shown = fields "c_"
    directory[#directory + 1] = (f.c_mark or "PK\1\2") .. u(20, 2) .. u(20, 2) .. common .. u(f.note or 0, 2)
      .. u(0, 2) .. u(0, 2) .. u(0, 4) .. u(f.offset or offset, 4) .. shown
    offset = offset + #body[#body]
  end
  local text = table.concat(directory)
  local t = tail or {}
  return (t.before or "") .. table.concat(body) .. text .. (t.locator or "") .. "PK\5\6" .. u(t.disk or 0, 2) .. u(0,
    2)
    .. u(t.n or #entries, 2) .. u(t.n_total or t.n or #entries, 2) .. u(t.size or #text, 4)
    .. u(t.start or offset, 4) .. u(t.comment or 0, 2) .. (t.after or "")
end

local function pth(pickle, storage)
  return zip { { "a/data.pkl", pickle }, { "a/data/0", storage or ("\0"):rep(24) }, { "a/version", "3\n" } }
end

local function text(s) return "X" .. ("<s4"):pack(s) end

local STORAGE = "(" .. text "storage" .. "ctorch\nFloatStorage\n" .. text "0" .. text "cpu" .. "K\6tQ"

local function tensor(offset, shape, strides)
  return "ctorch._utils\n_rebuild_tensor_v2\n(" .. STORAGE .. offset .. "(" .. shape .. "t(" .. strides .. "t\x89"
    .. "ccollections\nOrderedDict\n)RtR"
end

local GOOD = "\x80\2}" .. text "w" .. tensor("K\0", "K\2K\3", "K\3K\1") .. "s."

local LEGACY = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M\xe9\3.\x80\2}U\13little_endian\x88s."

local function legacy(pickle, keys, storages)
  return LEGACY .. pickle .. (keys or "\x80\2]U\1" .. "0a.") .. (storages or u(6, 8) .. ("\0"):rep(24))
end

local function npy(header, data)
  return "\x93NUMPY\1\0" .. u(#header, 2) .. header .. data
end

local function array(descr, shape, size)
  return npy(("{'descr': %s, 'fortran_order': False, 'shape': %s, }\n"):format(descr, shape), ("\0"):rep(size))
end

---A deflate stream of one stored block.
local function deflate(data)
  return "\1" .. u(#data, 2) .. u(~#data & 0xffff, 2) .. data
end

-- E1: safetensors

local DTYPES = {
  F64 = 64, F32 = 32, F16 = 16, BF16 = 16, F8_E4M3 = 8, F8_E5M2 = 8, I64 = 64, I32 = 32, I16 = 16, I8 = 8, U64 = 64,
  U32 = 32, U16 = 16, U8 = 8, BOOL = 8, C64 = 64, F4 = 4, F6_E2M3 = 6, F6_E3M2 = 6, F8_E8M0 = 8,
}

local function t(dtype, shape, first, last)
  return ('{"dtype":"%s","shape":%s,"data_offsets":[%s,%s]}'):format(dtype, shape, first, last)
end

local function safetensors_files(add)
  local good = ('{"__metadata__":{"k":"v"},"a":%s,"b":%s}'):format(t("F32", "[2,3]", 0, 24), t("BF16", "[]", 24, 26))
  local whole = safetensors(good, ("x"):rep(26))
  add("accept", whole)
  for n = 0, #whole - 1 do add("reject", whole:sub(1, n)) end
  for _, size in ipairs { 0, 1, 7, #good - 1, #good + 1, #good + 27, 2 ^ 31 | 0, 2 ^ 32 | 0, 100000001, 1 << 62,
    math.maxinteger, -1, -2 } do
    add("reject", ("<i8"):pack(size) .. good .. ("x"):rep(26))
  end
  for _, tail in ipairs { "x", "\0", "PK\5\6" .. ("\0"):rep(18), pth(GOOD) } do add("reject", whole .. tail) end
  for dtype, bits in pairs(DTYPES) do
    for count = 0, 16, 8 do
      local size = count * bits // 8
      for _, wrong in ipairs { -1, 0, 1 } do
        if size + wrong >= 0 then
          add(wrong == 0 and "accept" or "reject",
            safetensors(('{"t":%s}'):format(t(dtype, ("[%d]"):format(count), 0, size + wrong)),
              ("x"):rep(size + wrong)))
        end
      end
    end
  end
  for _, header in ipairs {
    "{}", "{}   ", '{"__metadata__":{}}', ('{"t":%s}'):format(t("F32", "[0]", 0, 0)),
    ('{"\\u00e9\\ud83d\\ude00":%s}'):format(t("F32", "[0,9223372036854775807]", 0, 0)),
    ('{ "t" : %s }\n'):format(t("I8", "[0,1,1,1,1,1,1,1]", 0, 0)),
  } do add("accept", safetensors(header)) end
  for _, header in ipairs {
    "", "{", "}", "[]", "null", "{}{}", "{},", "{} x", '{"t":}', '{"t":1}', '{"t":null}', '{"t":[]}', '{"t":{}}',
    "{t:{}}",
    "{'t':{}}", '{"t":{},}', '{"t"}', "//x\n{}", "\xef\xbb\xbf{}", '{"__metadata__":1}', '{"__metadata__":{"k":1}}',
    '{"__metadata__":{"k":null}}', '{"__metadata__":{"k":{}}}', '{"__metadata__":[]}',
    '{"__metadata__":{},"__metadata__":{}}',
    '{"__metadata__":{"k":"1","k":"2"}}', '{"__metadata__":{"k":"\xff"}}', '{"__metadata__":{"k":"\\u0000"}}',
    '{"__metadata__":{"\\ud800":"v"}}', '{"__metadata__":{"k":"\n"}}', '{"t\\u0000":' .. t("F32", "[0]", 0, 0) .. "}",
    '{"\xc0\x80":' .. t("F32", "[0]", 0, 0) .. "}", '{"\xed\xa0\x80":' .. t("F32", "[0]", 0, 0) .. "}",
    '{"t":{"dtype":"F32","shape":[0]}}', '{"t":{"dtype":"F32","data_offsets":[0,0]}}',
    '{"t":{"shape":[0],"data_offsets":[0,0]}}',
    '{"t":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
    '{"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}}',
    '{"t":{"dtype":"F32","shape":[0],"data_offsets":[0]}}',
    '{"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}}', '{"t":{"dtype":32,"shape":[0],"data_offsets":[0,0]}}',
    '{"t":{"dtype":"F32","shape":0,"data_offsets":[0,0]}}', '{"t":{"dtype":"F32","shape":{},"data_offsets":[0,0]}}',
    '{"t":%s,"t":%s}', '{"a":%s}', ("["):rep(200000), ('{"a":'):rep(50000), '{"t":{"dtype":' .. ("["):rep(10000),
    '{"' .. ("a"):rep(300000), '{"t":{"dtype":"' .. ("F"):rep(100000) .. '","shape":[0],"data_offsets":[0,0]}}',
    '{"t":{"dtype":"F32","shape":[' .. ("1,"):rep(100000) .. '1],"data_offsets":[0,4]}}',
  } do add("reject", safetensors((header:gsub("%%s", t("F32", "[1]", 0, 4))))) end
  for _, shape in ipairs { "[-1]", "[1.0]", "[1e0]", "[01]", '["1"]', "[null]", "[true]", "[[1]]", "[1,]", "[,1]",
    "[1 1]",
    "[9223372036854775808]", "[18446744073709551617]", "[4294967296,4294967296]", "[9223372036854775807,2]", "[NaN]",
    "[Infinity]",
    "[0x1]", "[+1]", "[2]", "[]x", "[1,1,1,1,1,1,1,1,1]", "1", "null", '"1"' } do
    add("reject", safetensors(('{"t":%s}'):format(t("F32", shape, 0, 4)), "1234"))
  end
  for _, offsets in ipairs { { 0, 3 }, { 0, 5 }, { 1, 5 }, { 4, 0 }, { -4, 0 }, { "0.0", 4 }, { "null", 4 }, { 0,
    "4e0" },
    { 4, 8 }, { "18446744073709551612", 0 }, { "9223372036854775807", "9223372036854775807" }, { "00", 4 }, { "[0]",
    4 } } do
    add("reject", safetensors(('{"t":%s}'):format(t("F32", "[1]", offsets[1], offsets[2])), "1234"))
  end
  for _, pair in ipairs { { 0, 4, 0, 4 }, { 0, 4, 2, 6 }, { 0, 4, 5, 9 }, { 4, 8, 4, 8 }, { 0, 4, 8, 12 } } do
    add("reject", safetensors(('{"a":%s,"b":%s}'):format(t("F32", "[1]", pair[1], pair[2]), t("F32", "[1]", pair[3],
      pair[4])),
      ("x"):rep(math.max(pair[2], pair[4]))))
  end
  for at = 9, 8 + #good do
    for _, c in ipairs { "\0", '"', "9" } do add("either", whole:sub(1, at - 1) .. c .. whole:sub(at + 1)) end
  end
end

-- E2: PyTorch's zip form

local CALLS = {
  "posix.system", "os.system", "nt.system", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.getattr",
  "builtins.__import__", "__builtin__.eval", "__builtin__.apply", "subprocess.Popen", "subprocess.call", "os.execv",
    "os.popen",
  "os.posix_spawn", "shutil.rmtree", "socket.create_connection", "pty.spawn", "runpy.run_path",
    "importlib.import_module",
  "pickle.loads", "_pickle.loads", "marshal.loads", "types.CodeType", "types.FunctionType", "operator.attrgetter",
  "functools.partial", "webbrowser.open", "urllib.request.urlopen", "ctypes.CDLL", "code.interact", "pdb.run",
    "bdb.Bdb",
  "timeit.timeit", "cProfile.run", "asyncio.run", "sys.exit", "torch.load", "torch.hub.load", "torch.jit.load",
  "torch.utils._config_module.ConfigModule.load_config", "torch.serialization.load",
    "torch._utils._rebuild_wrapper_subclass",
  "torch.storage._load_from_bytes", "numpy.load", "numpy.core.multiarray._reconstruct",
    "numpy.testing._private.utils.runstring",
  "torch._utils._rebuild_parameter.__globals__", "torch.FloatStorage.__init__", "collections.OrderedDict.__reduce__",
  "pathlib.PosixPath", "tempfile.mkstemp", "io.open", "_io.open", "codecs.open", "linecache.getline",
    "logging.config.listen",
}

---Every way in which a pickle says: call this with that argument.
local function payloads(call, argument)
  local module, name = call:match "^(.*)%.([^.]+)$"
  local global, arg = ("c%s\n%s\n"):format(module, name), text(argument)
  return {
    global .. arg .. "\x85R", global .. "(" .. arg .. "tR", ("(%si%s\n%s\n"):format(arg, module, name),
    "(" .. global .. arg .. "o", global .. "(" .. arg .. "t\x81", global .. "(" .. arg .. "t}\x92",
    text(module) .. text(name) .. "\x93" .. arg .. "\x85R",
      "ccollections\nOrderedDict\n)R}" .. text "x" .. global .. "sb",
    "}" .. text "w" .. global .. arg .. "\x85Rs",
  }
end

local function pickle_files(add, canary)
  for _, call in ipairs(CALLS) do
    for i, payload in ipairs(payloads(call, "touch " .. canary)) do
      add("reject", pth("\x80\2" .. payload .. "."))
      if i == 1 or i == 7 then
        add("reject", legacy("\x80\2" .. payload .. "."))
        add("reject", legacy(GOOD, "\x80\2" .. payload .. "."))
        add("reject", LEGACY:sub(1, 15) .. "\x80\2" .. payload .. "." .. GOOD)
        add("reject", zip { { "b/data.pkl", GOOD }, { "a/data.pkl", "\x80\2" .. payload .. "." } })
      end
    end
  end
  add("accept", pth(GOOD))
  for n = 0, #GOOD - 1 do add("reject", pth(GOOD:sub(1, n))) end
  for opcode = 0, 255 do
    add("either", pth("\x80\2" .. string.char(opcode) .. "."))
    add("either", pth("\x80\2(K\1" .. text "a" .. string.char(opcode) .. "\0\0\0\0\0\0\0\0\n\n."))
  end
  for _, extent in ipairs {
    { "K\0", "K\7", "K\1" }, { "K\1", "K\2K\3", "K\3K\1" }, { "K\0", "K\2K\3", "K\xff" }, { "K\7", "K\0", "K\1" },
    { "J\xff\xff\xff\xff", "K\1", "K\1" }, { "K\0", "J\xff\xff\xff\xff", "K\1" }, { "K\0", "K\1",
    "J\xff\xff\xff\xff" },
    { "K\0", "\x8a\8\xff\xff\xff\xff\xff\xff\xff\x7f", "K\1" }, { "K\0", "K\2",
    "\x8a\8\xff\xff\xff\xff\xff\xff\xff\x7f" },
    { "\x8a\8\xff\xff\xff\xff\xff\xff\xff\x7f", "K\1", "K\1" }, { "K\0", "M\0\xffM\0\xffM\0\xffM\0\xff",
    "K\0K\0K\0K\0" },
    { "K\0", "J\0\0\0\x7fJ\0\0\0\x7f", "K\0K\0" }, { "K\0", "K\1K\1K\1K\1K\1K\1K\1K\1K\1",
    "K\1K\1K\1K\1K\1K\1K\1K\1K\1" },
    { "N", "K\1", "K\1" }, { "K\0", "N", "K\1" }, { "K\0", "K\1", "N" }, { "K\0", text "1", "K\1" },
    { "G\0\0\0\0\0\0\0\0", "K\1", "K\1" },
  } do add("reject", pth("\x80\2}" .. text "w" .. tensor(extent[1], extent[2], extent[3]) .. "s.")) end
  for _, pickle in ipairs {
    "", ".", "\x80\1N.", "\x80\6N.", "\x80\2N", "\x80\2N..", "\x80\2\x80\2N.", "\x80\2h\0.",
    "\x80\2j\xff\xff\xff\xff.", "\x80\2Nr\xff\xff\xff\xff.",
    "\x80\2X\xff\xff\xff\xff.", "\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "\x80\2B\xff\xff\xff\x7f.",
    "\x80\2\x8b\xff\xff\xff\x7f.",
    "\x80\2\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", "\x80\2" .. ("("):rep(100000),
    "\x80\2" .. ("]"):rep(100000) .. ("a"):rep(99999) .. ".",
    "\x80\2" .. ("("):rep(100000) .. ("t"):rep(100000) .. ".", "\x80\2]q\0h\0a.", "\x80\2}q\0" .. text "x" .. "h\0s.",
    "\x80\2" .. STORAGE .. ".", "\x80\2ctorch\nSize\n.x", "\x80\2ctorch\nSize\nK\1\x85R.", "\x80\2}(]Nu.",
    "\x80\2}(NNN.u.",
    "\x80\2Pabc\n.", "\x80\2\x82\1.", "\x80\2\x83\1\0.", "\x80\2\x84\1\0\0\0.", "\x80\2\x97.", "\x80\2\x98.",
    "\x80\2I9999999999999999999999\n.",
    "\x80\2L" .. ("9"):rep(10000) .. "L\n.", "\x80\2S'\\x41'\n.", "\x80\2Fnotanumber\n.",
    "\x80\2\x8a\xff" .. ("\xff"):rep(255) .. ".",
  } do add("reject", pth(pickle)) end
  local bomb = "\x80\2K\1q\0"
  for level = 0, 9 do bomb = bomb .. "](" .. ("h" .. string.char(level)):rep(10) .. "eq" .. string.char(level + 1) end
  add("reject", pth(bomb .. "."))
end

local function zip_files(add)
  local good = { { "a/data.pkl", GOOD }, { "a/data/0", ("\0"):rep(24) } }
  local whole = zip(good)
  add("accept", whole)
  for n = 0, #whole - 1 do add("reject", whole:sub(1, n)) end
  for i = 1, 2 do
    for _, changes in ipairs {
      { l_name = "a/data/X", c_name = good[i][1] }, { l_size = 5 }, { l_packed = 5 }, { c_size = 5 },
      { c_packed = 5 }, { l_method = 8 },
      { c_method = 8 }, { method = 8 }, { method = 9 }, { method = 12 }, { method = 14 }, { method = 93 },
      { flags = 1 }, { c_flags = 1 },
      { mark = "PK\7\8" }, { mark = "\0\0\0\0" }, { c_mark = "PK\3\4" }, { offset = 1 }, { offset = 0x7fffffff },
      { offset = 0xffffffff },
      { size = 0xffffffff }, { packed = 0xffffffff }, { size = 0xfffffffe, packed = 0xfffffffe }, { name_size = 0 },
      { name_size = 0xffff },
      { extra_size = 0xffff }, { c_extra_size = 4 }, { l_extra_size = 4 }, { note = 0xffff }, { note = 1 },
      { c_name_size = 3 },
      { l_name_size = 3 }, { name = "a/data\0pkl" }, { name = "../data.pkl" }, { name = "/data.pkl" },
      { name = "b/data.pkl" },
      { name = "a\\data.pkl" }, { name = "" }, { name = "data.pkl" }, { name = ("a"):rep(#good[i][1]) },
    } do
      local entries = { { good[1][1], good[1][2] }, { good[2][1], good[2][2] } }
      if changes.name then
        entries[i][1], changes = changes.name, nil
      end
      entries[i][3] = changes
      add("reject", zip(entries))
    end
  end
  for _, tail in ipairs {
    { before = "x" }, { before = "PK\3\4" }, { after = "x" }, { after = "\0" }, { comment = 1 }, { comment = 1,
    after = "x" }, { n = 0 },
    { n = 1 }, { n = 3 }, { n = 0xffff }, { n_total = 5 }, { size = 0 }, { size = 1 }, { size = 0xffffffff },
    { start = 0 }, { start = 1 },
    { start = 0xffffffff }, { disk = 1 }, { disk = 0xffff }, { locator = "PK\6\7" .. ("\0"):rep(16) },
    { locator = "PK\6\6" .. ("\xff"):rep(52) .. "PK\6\7" .. ("\xff"):rep(16) }, { after = zip(good) },
    { before = zip(good) },
  } do add("reject", zip(good, tail)) end
  for _, entries in ipairs {
    {}, { { "a/version", "3" } }, { good[1], good[1] }, { good[1] }, { good[1], good[2], { "b/data.pkl", GOOD } },
    { good[1], { "a/data/1", ("\0"):rep(24) } }, { good[1], { "a/data/0", ("\0"):rep(23) } }, { good[1], good[2],
    { "a/byteorder", "big" } },
    { good[1], good[2], { "a/byteorder", "" } }, { { "a/b/data.pkl", GOOD }, good[2] }, { { "a/data.pkl", whole },
    good[2] },
    { { "constants.pkl", GOOD }, good[2] }, { { "a/data.pkl/", "" }, good[2] }, { good[1], good[2], { "x.npy",
    "x" } },
  } do add("reject", zip(entries)) end
  for _, entries in ipairs {
    { good[2], good[1] }, { good[1], good[2], { "a/byteorder", "little" } }, { good[1], good[2], { "a/anything",
    "?" } },
  } do add("accept", zip(entries)) end
  for at = 1, #whole, 2 do add("either", whole:sub(1,
    at - 1) .. string.char(whole:byte(at) ~ 0x80) .. whole:sub(at + 1)) end
end

local function legacy_files(add)
  local whole = legacy(GOOD)
  add("accept", whole)
  for n = 0, #whole - 1 do add("reject", whole:sub(1, n)) end
  for _, n in ipairs { 0, 5, 7, 1 << 32, 1 << 62, math.maxinteger, -1 } do
    add("reject", legacy(GOOD, nil, ("<i8"):pack(n) .. ("\0"):rep(24)))
  end
  for _, keys in ipairs { "\x80\2].", "\x80\2}.", "\x80\2N.", "\x80\2]U\1" .. "1a.",
    "\x80\2](U\1" .. "0U\1" .. "0e.", "\x80\2]K\0a.", "\x80\2]q\0h\0a.", "" } do
    add("reject", legacy(GOOD, keys))
  end
  add("reject", whole .. "x")
  add("reject", LEGACY .. LEGACY .. GOOD)
  add("reject", (whole:gsub("\x88s%.", "\x89s.", 1)))
  add("reject", legacy "\x80\2Nr\xff\xff\xff\x05." .. ("\0"):rep(1000))
end

-- E2: NumPy

local function npz_files(add)
  for _, good in ipairs { array("'<f4'", "(2, 3)", 24), array("'|b1'", "()", 1), array("'<i8'", "(0, 5)", 0) } do
    add("accept", good)
    add("accept", zip { { "w.npy", good } })
    add("reject", zip { { "w.npy", good }, { "w.npy", good } })
    add("reject", zip { { "w.npy", good }, { "w.txt", good } })
    add("reject", zip { { "w.npy", deflate(good), { method = 8,
      size = #good } } }) -- a wrong sum shows when it is read
    for _, size in ipairs { 0, 1, #good - 1, #good + 1, 1 << 20, 0xfffffffe } do
      add("reject", zip { { "w.npy", deflate(good), { method = 8, size = size } } })
    end
    for n = 0, #good - 1, 3 do
      add("reject", good:sub(1, n))
      add("reject", zip { { "w.npy", good:sub(1, n) } })
      add("reject", zip { { "w.npy", deflate(good):sub(1, n), { method = 8, size = #good } } })
    end
  end
  for _, descr in ipairs { "'>f4'", "'|O'", "'O'", "'<U4'", "'|S4'", "'<V4'", "'<c8'", "'<f3'", "'<f16'", "'f4'",
    "''", "'<M8[ns]'", "None", "4",
    "[('a', '<f4')]", "'<f4" .. ("x"):rep(1000) .. "'", "b'<f4'", "u'<f4'", "'<f'+'4'", "('<f4', (2,))" } do
    add("reject", array(descr, "(6,)", 24))
  end
  for _, shape in ipairs { "(-1,)", "(6)", "6", "[6]", "(6.0,)", "(0x6,)", "(6,,)", "(6", "6,)", "('6',)", "(None,)",
    "(7,)", "(5,)", "(2,2)",
    "(4294967296, 4294967296)", "(9223372036854775807,)", "(99999999999999999999,)", "(1,1,1,1,1,1,1,1,1)", "(6L,)",
    "(True,)", ("("):rep(50000) } do
    add("reject", array("'<f4'", shape, 24))
  end
  for _, header in ipairs { "", "{", "{}", "[]", "__import__('os').system('true')", "{'descr': '<f4'}",
    "{'descr': __import__('os')}",
    "{'descr': '<f4', 'fortran_order': 0, 'shape': (6,)}", "{'descr': '<f4', 'fortran_order': None, 'shape': (6,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'x': 1}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}x",
    "{'descr': '<f4', 'fortran_order': False, 'fortran_order': False, 'shape': (6,)}", (" "):rep(60000),
    "{" .. ("'"):rep(60000) } do
    add("reject", npy(header, ("\0"):rep(24)))
  end
  for _, start in ipairs { "\x93NUMPY\0\0", "\x93NUMPY\4\0", "\x93NUMPY\1\1", "\x93NUMPY\2\0\xff\xff\xff\xff",
    "\x93NUMPY\1\0\xff\xff", "\x93NUMP" } do
    add("reject", start .. ("\0"):rep(200))
  end
end

-- E3: tokenizer.json and config.json of a model's folder (a path with a suffix, see hostile_open.lua)

local VALUES = { "-1", "0", "1.5", "2147483648", "9007199254740993", "1e400", "NaN", '"19"', "null", "[]", "{}",
  "true",
  "99999999999999999999" }

local function config_files(add, read)
  local good = read "examples/tiny/config.json"
  add("accept", good)
  for _, field in ipairs { "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "num_hidden_layers",
    "vocab_size", "rms_norm_eps", "rope_theta", "max_position_embeddings", "head_dim", "hidden_act", "architectures",
    "model_type",
    "rope_scaling", "tie_word_embeddings", "bos_token_id", "eos_token_id" } do
    for _, value in ipairs(VALUES) do
      local text_, n = good:gsub('("' .. field .. '": *)[^\n]-(,?\n)', "%1" .. value .. "%2", 1)
      if n == 1 then add("either", text_) end
    end
  end
  for n = 0, #good - 3, 23 do add("reject", good:sub(1, n)) end
  for _, text_ in ipairs { "[]", "null", "1", '"x"', ("["):rep(100000), ('{"a":'):rep(100000), "{" .. good,
    good .. good,
    '{"a":1,"a":2}', "\xff\xfe{}", ("\0"):rep(100), '{"hidden_size":' .. ("1"):rep(100000) .. "}" } do
    add("reject", text_)
  end
end

local function tokenizer_files(add, read)
  local good = read "examples/tiny/tokenizer.json"
  add("accept", good)
  for _, change in ipairs {
    { '"type": "BPE"', '"type": "WordPiece"' }, { '"vocab": {', '"vocab": [' }, { '"merges": %[', '"merges": {' },
    { '"model": {', '"model": {{' }, { '"ignore_merges": %a+', '"ignore_merges": {}' }, { '"id": 1275', '"id": -1' },
    { '"id": 1275', '"id": 4294967295' }, { '"id": 1275', '"id": 1e9' }, { '"id": 1275', '"id": "1275"' },
    { '"id": 1275', '"id": 0' },
    { '"Regex": "', '"Regex": "(' }, { '"Regex": "', '"Regex": "(a+)+$|' }, { '"Regex": "', '"Regex": "(?R)|' },
    { '"Regex": "', '"Regex": "(?C1)|' }, { '"Regex": "', '"Regex": "' .. ("("):rep(5000) }, { '"Isolated"',
    '"Removed"' },
    { '"ByteLevel"', '"Whitespace"' }, { '"content": "<|begin_of_text|>"', '"content": ""' },
    { '"content": "<|begin_of_text|>"', '"content": "<|end_of_text|>"' }, { '"content": "<|begin_of_text|>"',
    '"content": "\\u0000"' },
    { '"content": "<|begin_of_text|>"', '"content": "' .. ("a"):rep(1000000) .. '"' }, { '"!": 0', '"!": -1' },
    { '"!": 0', '"!": 1' },
    { '"!": 0', '"!": 2147483647' }, { '"!": 0', '"!": null' }, { '"!": 0', '"": 0' }, { '"normalizer": null',
    '"normalizer": {"type":"NFC"}' },
    { '"dropout": null', '"dropout": 0.5' }, { '"version"', '"version": 1, "version"' },
  } do
    local text_, n = good:gsub(change[1], (change[2]:gsub("%%", "%%%%")), 1)
    if n == 1 then add("either", text_) end
  end
  for n = 0, #good - 2, 1500 do add("reject", good:sub(1, n)) end
  for _, text_ in ipairs { "", "{}", "[]", "null", ("["):rep(200000), ('{"model":'):rep(100000),
    '{"model":' .. good:sub(2),
    '{"model":{"type":"BPE","vocab":{},"merges":[]}}', '{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}',
    ("\xff"):rep(1000) } do
    add("reject", text_)
  end
end

-- E1: the index of shards; each is a folder

local function index_files(add)
  for _, file in ipairs { "/etc/passwd", "../a.safetensors", "..", ".", "", "x/../a.safetensors", "./a.safetensors",
    "/a.safetensors",
    "a.safetensors/", "\\u0000", "a.safetensors\\u0000", ("a"):rep(5000), "missing.safetensors", "\\ud800",
    "..\\\\a.safetensors",
    "/proc/self/mem", "/dev/zero", "pipe", "~/a", "a.safetensors\\n", "model.safetensors.index.json" } do
    add("reject", ('{"weight_map":{"t":"%s"}}'):format(file))
  end
  for _, text_ in ipairs { "", "{}", "[]", '{"weight_map":[]}', '{"weight_map":{}}', '{"weight_map":{"t":1}}',
    '{"weight_map":{"t":null}}',
    '{"weight_map":{"t":"a.safetensors","t":"a.safetensors"}}', '{"weight_map":{"u":"a.safetensors"}}',
    '{"weight_map":{"t":"a.safetensors","u":"a.safetensors"}}', '{"weight_map":' .. ("["):rep(100000),
    '{"weight_map":{"t":"a.safetensors"}',
    '{"weight_map":{"t":"a.safetensors"}}x',
    '{"weight_map":{"t":"a.safetensors"},"weight_map":{"t":"a.safetensors"}}' } do
    add("either", text_)
  end
  add("accept", '{"weight_map":{"t":"a.safetensors"}}')
end

---Writes every file into the folder; `canary` is the file that their payloads would make.
---@return {path: string, verdict: string}[]
function M.write(folder, canary)
  local list = {}
  local function read(path)
    local file <close> = assert(io.open(path, "rb"))
    return file:read "a"
  end
  local function write(path, bytes)
    local file <close> = assert(io.open(path, "wb"))
    assert(file:write(bytes))
  end
  local function adder(suffix)
    return function(verdict, bytes)
      local path = ("%s/%04d%s"):format(folder, #list + 1, suffix)
      write(path, bytes)
      list[#list + 1] = { path = path, verdict = verdict }
    end
  end
  safetensors_files(adder ".safetensors")
  pickle_files(adder ".pth", canary)
  zip_files(adder ".zip.pth")
  legacy_files(adder ".legacy.pth")
  npz_files(adder ".npz")
  config_files(adder ".config.json", read)
  tokenizer_files(adder ".tokenizer.json", read)
  index_files(function(verdict, bytes)
    local path = ("%s/%04d"):format(folder, #list + 1)
    assert(os.execute(("mkdir %s && mkfifo %s/pipe"):format(path, path)))
    write(path .. "/a.safetensors", safetensors(('{"t":%s}'):format(t("F32", "[1]", 0, 4)), "1234"))
    write(path .. "/model.safetensors.index.json", bytes)
    list[#list + 1] = { path = path, verdict = verdict }
  end)
  return list
end

return M
