--- log.lua: words for the person at the terminal, on stderr; stdout belongs to results.
local log = {}

--- One line on stderr: log.info("loaded %s", name)
function log.info(format, ...)
  io.stderr:write(select("#", ...) > 0 and format:format(...) or format, "\n")
end

--- The same, marked as a warning.
function log.warn(format, ...)
  io.stderr:write("warning: ", select("#", ...) > 0 and format:format(...) or format, "\n")
end

local UNITS = { "B", "KiB", "MiB", "GiB", "TiB" }

--- A number of bytes for people: 1536 -> "1.5 KiB".
function log.bytes(n)
  local i = 1
  while n >= 1024 and i < #UNITS do n, i = n / 1024, i + 1 end
  return (i == 1 and "%d %s" or "%.1f %s"):format(n, UNITS[i])
end

--- Seconds for people: 75.2 -> "1 min 15 s".
function log.duration(s)
  if s < 1 then return ("%.0f ms"):format(s * 1000) end
  if s < 60 then return ("%.1f s"):format(s) end
  if s < 3600 then return ("%d min %d s"):format(s / 60, s % 60) end
  return ("%d h %d min"):format(s / 3600, s % 3600 / 60)
end

return log
