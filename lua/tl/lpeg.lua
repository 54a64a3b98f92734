--- lpeg.lua: LPeg, Roberto Ierusalimschy's parsing expression grammars (the program is linked with it), for recipes and verifiers.
---
---   local lpeg = tl.lpeg                 -- P, R, S, V, C, Ct, ... as in its manual
---   local p = lpeg.re.compile "{[0-9]+}" -- the re notation, when Debian's lua-lpeg brought re.lua
local lpeg = require "lpeg"

if not lpeg.re then
  local path = package.searchpath("re", package.path .. ";/usr/share/lua/5.1/?.lua;/usr/local/share/lua/5.1/?.lua")
  lpeg.re = path and dofile(path) or nil
end

return lpeg
