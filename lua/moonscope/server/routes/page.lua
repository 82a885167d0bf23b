-- SPDX-License-Identifier: MIT
---GET /: the web page, which uses the other routes and nothing else.
local errors = require "moonscope.server.errors"
local reply = require "moonscope.server.reply"

local has_page, page = pcall(require, "moonscope.page")

-- Nothing from elsewhere, no script and no style but the page's own files; it cannot be framed.
local POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
  .. "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

local HEADERS = {
  "Cache-Control", "no-cache", "Content-Security-Policy", POLICY, "X-Content-Type-Options", "nosniff",
  "Referrer-Policy", "no-referrer",
}

local function part(name, content_type)
  return function()
    if not has_page then
      errors.refuse(404, "ENOENT", "This moonscope was built without the web page, which needs node and npm")
    end
    return 200, reply.bytes(page[name], content_type), HEADERS
  end
end

return {
  { "GET", "/", part("html", "text/html; charset=utf-8"), at_once = true },
  { "GET", "/page.js", part("js", "text/javascript; charset=utf-8"), at_once = true },
  { "GET", "/page.css", part("css", "text/css; charset=utf-8"), at_once = true },
}
