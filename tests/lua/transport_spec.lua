-- Connections to providers, with sockets that do as they are told.
local fake_ngx = require "support.fake_ngx"

describe("a TLS handshake", function()
  local transport, inst, handshake, closed

  before_each(function()
    local stand_in = fake_ngx.install()
    stand_in.socket = {
      tcp = function()
        return {
          settimeouts = function() end,
          connect = function() return true end,
          getreusedtimes = function() return 0 end,
          sslhandshake = function(...) return handshake(...) end,
          close = function() closed = true end,
          send = function() error("nothing may be said to it") end,
        }
      end,
    }
    package.loaded["evenkeel.transport"] = nil
    transport = require "evenkeel.transport"
    closed = false
    inst = {
      host = "127.0.0.1", port = 1, secure = true, tls_verify = true, tls_name = "x", connect_s = 1, pool_key = "x", request_headers = "",
    }
  end)

  local function outcome() return { select(3, transport.request(inst, "GET", "/", nil, nil, { first_deadline = ngx.now() + 1 })) } end

  it("that fails is a bad gateway", function()
    handshake = function() return nil, "certificate has expired" end
    assert.same({ "bad_gateway", "TLS: certificate has expired" }, outcome())
    assert.is_true(closed)
  end)

  it("that raises, as resty.core does when it ends without a wait and the certificate fails, is one, too", function()
    handshake = function() assert(false) end
    assert.same({ "bad_gateway", "TLS: the certificate does not hold" }, outcome())
    assert.is_true(closed)
  end)

  it("is not begun without a name to verify by", function()
    inst.tls_name, handshake = nil, function() error("begun") end
    assert.equal("bad_gateway", outcome()[1])
    assert.is_true(closed)
  end)
end)
