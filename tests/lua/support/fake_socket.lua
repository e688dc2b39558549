-- A socket that gives the pieces it was made of: each receiveany(max) gives one of them, or what is left of it. A piece may be
-- {fault = words}. At the end it says `last` ("closed"), or, when last is "open", fails the test: the reader would wait for ever.
local FakeSocket = {}
FakeSocket.__index = FakeSocket

function FakeSocket.new(pieces, last)
  return setmetatable({ pieces = pieces, next = 1, last = last or "closed", receives = 0 }, FakeSocket)
end

function FakeSocket:receiveany(max)
  self.receives = self.receives + 1
  local piece = self.pieces[self.next]
  if not piece then
    if self.last == "open" then error("the reader waits for more than the answer", 0) end
    return nil, self.last
  end
  if type(piece) == "table" then
    self.next = self.next + 1
    return nil, piece.fault
  end
  if #piece > max then
    self.pieces[self.next] = piece:sub(max + 1)
    return piece:sub(1, max)
  end
  self.next = self.next + 1
  return piece
end

return FakeSocket
