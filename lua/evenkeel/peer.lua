-- Has whoever asked us gone before we began?
--
-- nginx tells Lua of a peer that leaves (lua_check_client_abort) by the event of its leaving. When that event came together with the
-- request, because the worker was busy with others meanwhile, it is over before anybody listens and never comes again: a provider
-- would be asked, and paid, for an answer that nobody reads. So the socket is looked at once, before the provider is asked.
--
-- The socket's number is read from nginx's own structures, whose first members have stood in this order since nginx 0.7; a request says by
-- its signature that it is one.

local ffi = require "ffi"

local C, cast = ffi.C, ffi.cast

pcall(ffi.cdef, [[
  typedef struct { void *data, *read, *write; int fd; } evenkeel_connection;
  typedef struct { uint32_t signature; evenkeel_connection *connection; } evenkeel_request;
  ssize_t recv(int fd, void *buffer, size_t size, int flags);
]])

local M = {}

local SIGNATURE = 0x50545448            -- "HTTP"
local PEEK, DONT_WAIT = 0x02, 0x40      -- MSG_PEEK, MSG_DONTWAIT of Linux
local one_byte = ffi.new("char[1]")
local get_request

--- True when the peer of the current request has closed its side. Nothing is taken from the socket.
function M.has_left()
  get_request = get_request or require("resty.core.base").get_request      -- nginx alone has it
  local request = get_request()
  if request == nil then return false end
  request = cast("evenkeel_request *", request)
  if request.signature ~= SIGNATURE then return false end
  return C.recv(request.connection.fd, one_byte, 1, PEEK + DONT_WAIT) == 0
end

return M
