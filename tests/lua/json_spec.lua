-- SPDX-License-Identifier: MIT
local json = require "moonscope.json"

describe("json.decode", function()
  it("gives whole numbers as integers", function()
    for text, expected in pairs {
      ["19"] = 19, ["19.0"] = 19, ["1.9e1"] = 19, ["-0"] = 0, ["9007199254740991"] = 9007199254740991,
      ["-9007199254740991"] = -9007199254740991,
    } do
      local value = json.decode(text)
      assert.equal("integer", math.type(value), text)
      assert.equal(expected, value)
    end
    for text, expected in pairs { ["0.5"] = 0.5, ["1e300"] = 1e300, ["9007199254740992"] = 2 ^ 53 } do
      local value = json.decode(text)
      assert.equal("float", math.type(value), text)
      assert.equal(expected, value)
    end
    assert.same({ layer = 19, list = { 1, { 2, 2.5 } } }, json.decode '{"layer": 19.0, "list": [1, [2, 2.5]]}')
  end)

  it("gives strings, booleans and null", function()
    assert.equal('a"\\/\n\t\0é😀', json.decode [["a\"\\\/\n\t\u0000\u00e9\ud83d\ude00"]])
    assert.equal(false, json.decode "false")
    assert.equal(json.null, json.decode "null")
    assert.equal(json.null, json.decode('{"a": null}').a)
    assert.same({}, json.decode "[]")
  end)

  local bad = {
    { "", "Expected value but found T_END at character 1" },
    { "nan", "Expected value but found invalid token at character 1" },
    { "-Infinity", "Expected value but found invalid number at character 1" },
    { "[0x10]", "Expected value but found invalid number at character 2" },
    { "012", "Expected value but found invalid number at character 1" },
    { "[1,]", "Expected value but found T_ARR_END at character 4" },
    { '{"a" 1}', "Expected colon but found T_NUMBER at character 6" },
    { "{'a': 1}", "Expected object key string but found invalid token at character 2" },
    { '"abc', "Expected value but found unexpected end of string at character 5" },
    { [["\ud800"]], "Expected value but found invalid unicode escape code at character 2" },
    { "1 2", "Expected the end but found T_NUMBER at character 3" },
    { "1e400", "a number is too large" },
    { "[1, [1e400]]", "a number is too large" },
    { '{"x": 1, "a": [-1e999]}', "a: a number is too large", "a" },
    { '{"edits": [{"value": 1e999}]}', "edits: a number is too large", "edits" },
    { '"\xff"', "byte 2 is no UTF-8" },
    { '"\xed\xa0\x80"', "byte 2 is no UTF-8" },
    { "[1]\0x", "byte 4 is a control character" },
    { '"a\1b"', "byte 3 is a control character" },
    { ("["):rep(101) .. ("]"):rep(101), "Found too many nested data structures (101) at character 101" },
    { ("["):rep(1000000), "Found too many nested data structures (101) at character 101" },
  }
  for i, case in ipairs(bad) do
    it("refuses bad text " .. i, function()
      local value, message, code, key = json.decode(case[1])
      assert.same({ nil, "json: " .. case[2], "EFORMAT", case[3] }, { value, message, code, key })
    end)
  end

  it("takes a hundred levels", function()
    assert.truthy(json.decode(("["):rep(100) .. ("]"):rep(100)))
  end)
end)

describe("json.read", function()
  it("tells the path of what it cannot read", function()
    local value, message, code = json.read "/nowhere/x.json"
    assert.same({ nil, "/nowhere/x.json: No such file or directory", "ENOENT" }, { value, message, code })
    value, message, code = json.read "/"
    assert.same({ nil, "/: not a regular file", "EINVAL" }, { value, message, code })
    value, message, code = json.read "LICENSE"
    assert.same({ nil, "EFORMAT" }, { value, code })
    assert.matches("^LICENSE: json: ", message)
    assert.equal("<|eot_id|>", json.read("examples/tiny/tokenizer_config.json").eos_token)
  end)
end)

describe("json.encode", function()
  it("writes every kind of value", function()
    assert.equal('[1,-2,0.5,true,false,null,"a"]', json.encode { 1, -2, 0.5, true, false, json.null, "a" })
    assert.equal([["\"\\/\b\f\n\r\t\u0000\u001f]] .. "\127é😀" .. '"', json.encode '"\\/\b\f\n\r\t\0\31\127é😀')
  end)

  it("writes numbers with the fewest digits that give them back", function()
    for text, number in pairs {
      ["0.1"] = 0.1, ["19"] = 19.0, ["3.14"] = 3.14, ["0.30000000000000004"] = 0.1 + 0.2, ["1e+300"] = 1e300,
      ["0.3333333333333333"] = 1 / 3, ["-9223372036854775808"] = math.mininteger,
      ["3.8499999046325684"] = string.unpack("f", string.pack("f", 3.85)),
    } do
      assert.equal(text, json.encode(number))
    end
    math.randomseed(1)
    for _ = 1, 1000 do
      local number = string.unpack("d", string.pack("j", math.random(0)))
      if number - number == 0 then assert.equal(number, json.decode(json.encode(number))) end
    end
  end)

  it("tells arrays from objects", function()
    assert.equal("{}", json.encode {})
    assert.equal("[]", json.encode(json.array()))
    assert.equal("[[],{}]", json.encode { json.array {}, {} })
    assert.equal("[1]", json.encode(json.array { 1 }))
  end)

  it("sorts the keys of plain tables and keeps the order of ordered ones", function()
    assert.equal('{"a":1,"b":{"c":2,"d":3},"e":4}', json.encode { e = 4, b = { d = 3, c = 2 }, a = 1 })
    assert.equal('{"z":1,"a":[{"y":null,"x":false}]}', json.encode(json.ordered {
      { "z", 1 }, { "a", { json.ordered { { "y" }, { "x", false } } } },
    }))
    assert.equal("{}", json.encode(json.ordered {}))
  end)

  it("indents", function()
    assert.equal('{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}',
      json.encode({ a = { 1, {} }, b = json.array() }, { indent = 2 }))
  end)

  local cycle = {}
  cycle.again = cycle
  local bad = {
    { print, "value: found function, which JSON does not have" },
    { { a = { { b = io.stdout } } }, "value.a[1].b: found userdata, which JSON does not have" },
    { { 0 / 0 }, "value[1]: -nan is no JSON number" },
    { 1 / 0, "value: inf is no JSON number" },
    { { "ok", "a\xff" }, "value[2]: byte 2 of a string is no UTF-8" },
    { { ["\xff"] = 1 }, "value.\xff: byte 1 of a string is no UTF-8" },
    { { 1, 2, x = 3 }, "value: a table with the key x is neither an array nor an object" },
    { { a = 1, [true] = 2 }, "value: a table with the key true is neither an array nor an object" },
    { { [3] = 1 }, "value: a table with the key 3 is neither an array nor an object" },
    { json.array { x = 1 }, "value: a table with the key x is neither an array nor an object" },
    { json.ordered { { 1, 2 } }, "value: key 1: found number, expected a string" },
    { cycle, "value.again.again.again.again.again.again.again.again...: nested deeper than 100" },
  }
  for i, case in ipairs(bad) do
    it("refuses what JSON does not have " .. i, function()
      local ok, message = pcall(json.encode, case[1])
      assert.same({ false, "json: " .. case[2] }, { ok, message })
    end)
  end
end)

describe("json.text", function()
  it("replaces each byte that is no UTF-8", function()
    assert.equal("", json.text "")
    assert.equal("aé😀", json.text "aé😀")
    assert.equal("a\u{FFFD}b\u{FFFD}\u{FFFD}", json.text "a\xffb\xe2\x82")
    assert.equal("\u{FFFD}\u{FFFD}\u{FFFD}é", json.text "\xed\xa0\x80é")
    assert.equal('"\u{FFFD}"', json.encode(json.text "\xff"))
  end)
end)
