--- serve/http.lua: HTTP for a program that computes in one thread: requests are taken one by one, and answered whole or in parts.
local F = require "tl.ffi"
local ffi = require "ffi"
local json = require "tl.json"
local C, check = F.C, F.check

local http = {}
local Server = {}
Server.__index = Server

--- Listens. o: host ("127.0.0.1"), port (0: one that is free), key (clients give it as a bearer token), origin (whose pages may ask from a
--- browser, "*": all), most_waiting.
function http.listen(o)
  local out, used = ffi.new "tl_http_server *[1]", ffi.new "int[1]"
  local opt = ffi.new("tl_http_server_options", { most_waiting = o.most_waiting or 0 })
  local key, origin = o.key, o.origin
  if key then opt.key = key end
  if origin then opt.origin = origin end
  check(C.tl_http_server_start(o.host or "127.0.0.1", o.port or 0, opt, out, used))
  return setmetatable({ handle = ffi.gc(out[0], C.tl_http_server_stop), port = used[0] }, Server)
end

--- The oldest request that nobody has taken, { id, method, path, body }, waiting so many seconds for one; nil: none came.
function Server:take(seconds)
  local r = ffi.new "tl_http_request"
  if not C.tl_http_server_take(self.handle, seconds or 0, r) then return nil end
  return { id = r.id, method = ffi.string(r.method), path = ffi.string(r.path), body = ffi.string(r.body, r.n_body) }
end

--- The whole answer of a request: text, or a table that becomes JSON. allow: the path's methods, for an answer 405.
function Server:answer(id, status, body, type, allow)
  local text = body
  if type == nil then text, type = json.encode(body), "application/json" end
  C.tl_http_server_answer(self.handle, id, status, type, allow, text, #text)
end

--- A part of an answer as server-sent events; false: the client is gone.
function Server:event(id, data)
  local text = ("data: %s\n\n"):format(data)
  return C.tl_http_server_push(self.handle, id, "text/event-stream; charset=utf-8", text, #text)
end

--- Ends an answer that came in parts.
function Server:finish(id) C.tl_http_server_end(self.handle, id) end

--- Whether a request's client has closed the connection.
function Server:gone(id) return C.tl_http_server_gone(self.handle, id) end

function Server:stop()
  if self.handle then C.tl_http_server_stop(ffi.gc(self.handle, nil)) end
  self.handle = nil
end

return http
