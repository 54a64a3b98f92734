--- tlrun from Lua: `local tl = require "tl"`. The parts are loaded when they are first used:
---   tl.recipe   typed, documented parameters of a script      tl.model    load a model; its modules, weights, logprobs
---   tl.adapter  TinyLoRA, LoRA-XS, LoRA, full finetuning      tl.tie      which modules share their numbers
---   tl.sample   completions of prompts                        tl.grpo     GRPO, step by step
---   tl.sft      supervised finetuning on the same adapters    tl.data     problem sets
---   tl.comm     the ranks of a run on several processes       tl.checkpoint  a run's state, and going on from it
---   tl.plan     memory and time of a step, predicted
---   tl.verify   rewards in worker threads                     tl.eval     accuracy with its interval
---   tl.report   run directories, metrics, progress            tl.tensor   small dense tensors
---   tl.puzzles  problems drawn from a seed                    tl.attack   what a verifier pays for junk
---   tl.experiment  many runs, one store                      tl.budget   what so many numbers or bytes buy
---   tl.paper    the studies of the paper                      tl.information  bits received, held, saved
---   tl.rounding numbers as few bytes hold them                tl.plot, tl.page  charts and pages
---   tl.sandbox  programs that nobody trusts                   tl.lpeg     grammars
---   tl.population  many adapters trained at once on one base   tl.landscape, tl.fisher, tl.es  v as an object of study
---   tl.probe    what an adapter changed                       tl.serve    OpenAI's API, any adapter per request
---   tl.tokenizer, tl.json, tl.yaml, tl.fetch, tl.log
--- At the prompt `? tl.grpo` prints what a part or function is for.
local tl = {}
local F = require "tl.ffi"
local ffi = require "ffi"

tl.version = ffi.string(F.C.tl_version())
tl.root = F.root
tl.exe = F.exe

return setmetatable(tl, {
  __index = function(t, name)
    if type(name) ~= "string" or not name:match "^[%a_][%w_]*$" then return nil end
    local path = package.searchpath("tl." .. name, package.path)
    if not path then
      local parts = {}
      for _, file in ipairs(require("tl.fs").list(F.lua_dir .. "/tl") or {}) do parts[#parts + 1] = file:match "^([%w_]+)%.lua$" end
      error(("tl has no part '%s'%s"):format(name, require("tl.names").hint(name, parts, "tl.")), 2)
    end
    local part = require("tl." .. name)
    rawset(t, name, part)
    return part
  end,
})
