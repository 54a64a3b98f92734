#!/usr/bin/env bash
# test_errors.sh: bad input ends in one clear line on stderr that names the file or the option, and exit code 1 (2 for wrong
# usage): never in a crash, a stack trace or a wrong answer. And a file that cannot be written leaves the earlier one whole.
set -uo pipefail
cd "$(dirname "$0")/.."
build=${TL_BUILD_DIR:-build}
case $build in /*) ;; *) build=$PWD/$build ;; esac
tlrun=$build/tlrun tiny=$PWD/models/tiny/wordproblems
t=$(mktemp -d /tmp/tl-errors-XXXXXX)
trap 'rm -rf "$t"' EXIT
export TL_TRACE=
failed=0
bad() { echo "not ok $1: $2"; failed=1; }

# refuse NAME CODE PATTERN COMMAND...: the exit code, one line on stderr (beside what a recipe says at its start), and its words
refuse() {
  local name=$1 code=$2 pattern=$3; shift 3
  local status=0 lines
  (cd "$t" && timeout 60 "$@") >"$t/out" 2>"$t/err" </dev/null || status=$?
  lines=$(grep -vE '^[a-z0-9_]+: ([a-z_]+=|tlrun [0-9])' "$t/err")
  if [ $status -ne "$code" ]; then bad "$name" "exit code $status, wanted $code: $(tail -n 1 <<<"$lines")"
  elif [ "$(grep -c '' <<<"$lines")" -ne 1 ] || [ -z "$lines" ]; then bad "$name" "$(grep -c . <<<"$lines") lines on stderr: $(tr '\n' '|' <<<"$lines")"
  elif ! grep -qE -- "$pattern" <<<"$lines"; then bad "$name" "does not say /$pattern/: $lines"
  elif [ -s "$t/out" ]; then bad "$name" "it failed, and wrote to stdout: $(head -n 1 "$t/out")"
  else echo "ok $name"; fi
}

copy() { mkdir "$t/$1" && cp "$tiny"/* "$t/$1/"; }
[ -x "$tlrun" ] || { bad errors "there is no $build/tlrun"; exit 1; }

# ---- weights
copy header && truncate -s 1000 "$t/header/model.safetensors"
refuse "safetensors cut in the header" 1 'header/model\.safetensors: .*truncated' "$tlrun" logprobs --model header --ids 5,6
copy data && truncate -s 100000 "$t/data/model.safetensors"
refuse "safetensors cut in the tensors" 1 'data/model\.safetensors: .*truncated' "$tlrun" logprobs --model data --ids 5,6
copy empty && : >"$t/empty/model.safetensors"
refuse "safetensors of no bytes" 1 'empty/model\.safetensors: ' "$tlrun" logprobs --model empty --ids 5,6
copy noise && head -c 4096 "$tlrun" >"$t/noise/model.safetensors"
refuse "safetensors that is another file" 1 'noise/model\.safetensors: ' "$tlrun" logprobs --model noise --ids 5,6
refuse "a model that is not there" 1 "nowhere" "$tlrun" logprobs --model nowhere --ids 5,6

copy pickled && mv "$t/pickled/model.safetensors" "$t/pickled/pytorch_model.bin"
refuse "a pickled checkpoint" 1 'pickled/pytorch_model\.bin: .*safetensors' "$tlrun" logprobs --model pickled --ids 5,6
mkdir "$t/lora" && echo '{"peft_type": "LORA", "r": 1, "lora_alpha": 1}' >"$t/lora/adapter_config.json" && : >"$t/lora/adapter_model.bin"
refuse "a pickled adapter" 1 'lora/adapter_model\.bin: .*safetensors' "$tlrun" logprobs --model "$tiny" --adapter lora --ids 5,6
copy nan && printf '\377\377' | dd of="$t/nan/model.safetensors" bs=1 seek=$(($(stat -c %s "$t/nan/model.safetensors") - 2)) conv=notrunc 2>/dev/null
refuse "a weight that is no number" 1 'nan/model\.safetensors: tensor .* not finite' "$tlrun" logprobs --model nan --ids 5,6

# ---- config against weights
config() {  # NAME FROM TO: one field of config.json changed; the field must have been there
  copy "$1" && sed -i -E "s/$2/$3/" "$t/$1/config.json"
  cmp -s "$t/$1/config.json" "$tiny/config.json" && bad "$1" "the test changed nothing in config.json"
  return 0
}
config ffn '"intermediate_size":[[:space:]]*[0-9]+' '"intermediate_size": 388'
refuse "config.json with another feed-forward width" 1 '(gate|up|down)_proj.*388' "$tlrun" logprobs --model ffn --ids 5,6
config width '"hidden_size":[[:space:]]*[0-9]+' '"hidden_size": 132'
refuse "config.json with another width" 1 'width.*132' "$tlrun" logprobs --model width --ids 5,6
config deep '"num_hidden_layers":[[:space:]]*[0-9]+' '"num_hidden_layers": 99'
refuse "config.json with more layers than the weights" 1 'deep.*layers\.[0-9]+' "$tlrun" logprobs --model deep --ids 5,6
config zero '"num_attention_heads":[[:space:]]*[0-9]+' '"num_attention_heads": 0'
refuse "config.json with no heads" 1 'zero/config\.json.*num_attention_heads' "$tlrun" logprobs --model zero --ids 5,6
config words '"hidden_size":[[:space:]]*[0-9]+' '"hidden_size": "wide"'
refuse "config.json with text for a number" 1 'words/config\.json.*hidden_size' "$tlrun" logprobs --model words --ids 5,6
config family '"model_type":[[:space:]]*"[a-z]+"' '"model_type": "mamba"'
refuse "config.json of an unknown family" 1 'mamba.*llama' "$tlrun" logprobs --model family --ids 5,6
config rotation '"rope_scaling":[[:space:]]*null' '"rope_scaling": {"rope_type": "dynamic", "factor": 2}'
refuse "config.json with a rotation that is not handled" 1 'rotation/config\.json: rope_type dynamic.*yarn' "$tlrun" logprobs --model rotation --ids 5,6
config chunks '"attention_bias":[[:space:]]*false' '"layer_types": ["chunked_attention", "a", "b", "c", "d", "e"]'
refuse "config.json with a kind of layer that is not handled" 1 'chunks/config\.json: layer_types.0. is chunked_attention' "$tlrun" logprobs --model chunks --ids 5,6
copy json && echo '{"hidden_size": 128,' >"$t/json/config.json"
refuse "config.json that is not JSON" 1 'json/config\.json' "$tlrun" logprobs --model json --ids 5,6
refuse "a token that the vocabulary does not have" 1 '100000' "$tlrun" logprobs --model "$tiny" --ids 5,100000

# ---- tokenizer
copy unigram && sed -i -E 's/"type":[[:space:]]*"BPE"/"type": "Unigram"/' "$t/unigram/tokenizer.json"
refuse "tokenizer.json of the Unigram kind" 1 'unigram.*Unigram.*BPE' "$tlrun" generate --model unigram --prompt x
copy halftok && truncate -s 2000 "$t/halftok/tokenizer.json"
refuse "tokenizer.json cut short" 1 'halftok/tokenizer\.json' "$tlrun" generate --model halftok --prompt x

# ---- GGUF
printf 'GGUF\003\000\000\000\000\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000\024\000\000\000\000\000\000\000general.architecture\010\000\000\000\005\000\000\000\000\000\000\000mamba' >"$t/mamba.gguf"
refuse "GGUF of an unknown architecture" 1 'mamba\.gguf: .*mamba.*llama' "$tlrun" logprobs --model mamba.gguf --ids 5,6
printf 'GGUF\003\000\000\000\377\377\377\377\377\377\377\177\001\000\000\000\000\000\000\000' >"$t/huge.gguf"
refuse "GGUF that claims 2^63 tensors" 1 'huge\.gguf: ' "$tlrun" inspect huge.gguf
printf 'GGUF\011\000\000\000' >"$t/short.gguf"
refuse "GGUF of twelve bytes" 1 'short\.gguf: ' "$tlrun" inspect short.gguf

# ---- recipes and their options
cat >"$t/recipe.lua" <<'LUA'
local tl = require "tl"
local p = tl.recipe { name = "demo", lr = { 0.01, "a rate" }, group = { 4, "a count", integer = true, min = 1 }, quiet = { false, "a switch" } }
local x = p.lr.y.z
LUA
refuse "a recipe with an error in Lua" 1 'recipe\.lua:3: ' "$tlrun" recipe.lua
printf 'local a = 1\nlocal b = = 2\n' >"$t/syntax.lua"
refuse "a recipe that is not Lua" 1 'syntax\.lua:2: ' "$tlrun" syntax.lua
printf 'local tl = require "tl"\n\nlocal m = tl.model.load("nowhere")\n' >"$t/call.lua"
refuse "an error of the library, at the recipe's line" 1 'call\.lua:3: .*nowhere' "$tlrun" call.lua
printf 'local tl = require "tl"\nlocal x = tl.grpoo\n' >"$t/part.lua"
refuse "a part of tl that is not there" 1 "part\.lua:2: .*grpoo.*grpo" "$tlrun" part.lua
refuse "a recipe that is not there" 1 'nothing\.lua' "$tlrun" nothing.lua
refuse "an unknown option" 2 '--gruop.*--group' "$tlrun" recipe.lua --gruop 4
refuse "text for a whole number" 2 'group.*many' "$tlrun" recipe.lua --group many
refuse "a number below its least" 2 'group.*0' "$tlrun" recipe.lua --group 0
refuse "an option without its value" 2 'group' "$tlrun" recipe.lua --group
refuse "an unknown command" 2 'genrate.*generate' "$tlrun" genrate
printf 'lr: 0.5\ngroup: many\n' >"$t/type.yaml"
refuse "YAML with a wrong type" 1 'type\.yaml:2: .*group.*whole number' "$tlrun" recipe.lua --config type.yaml
printf 'lr: 0.5\ngruop: 4\n' >"$t/name.yaml"
refuse "YAML with an unknown name" 1 'name\.yaml:2: .*gruop.*group' "$tlrun" recipe.lua --config name.yaml
printf 'lr: [0.5\n' >"$t/form.yaml"
refuse "YAML that is not YAML" 1 'form\.yaml' "$tlrun" recipe.lua --config form.yaml
refuse "YAML that is not there" 1 'absent\.yaml' "$tlrun" recipe.lua --config absent.yaml

mkdir "$t/folder.jsonl"
refuse "a folder for a prompt's file" 1 '^tlrun: folder\.jsonl: Is a directory' "$tlrun" generate --prompt @folder.jsonl
refuse "a folder for a file of ids" 1 '^tlrun: folder\.jsonl: Is a directory' "$tlrun" logprobs --ids @folder.jsonl
refuse "a folder for a file of items" 1 '^tlrun: folder\.jsonl: Is a directory' "$tlrun" eval --task wordproblems --items folder.jsonl
refuse "a folder for a problem set" 1 '^tlrun: folder\.jsonl: Is a directory' "$tlrun" eval --task folder.jsonl
refuse "a folder for a verifier's tests" 1 '^tlrun: folder\.jsonl: Is a directory' "$tlrun" verify --test folder.jsonl

# ---- verifiers: a failure is an outcome, not a reward of 0
verdict() {  # NAME OUTCOME LUA [TIMEOUT_MS]
  local name=$1 outcome=$2 line
  printf '%s\n' "$3" >"$t/verifier.lua"
  line=$(printf '{"gold":"1","response":"1"}\n' | timeout 60 "$tlrun" verify --verifier "$t/verifier.lua" --timeout-ms "${4:-100}" --memory 32M 2>"$t/err")
  if grep -q '"reward": *null' <<<"$line" && grep -qE "\"outcome\": *\"$outcome\"" <<<"$line"; then echo "ok $name"; else bad "$name" "${line:-nothing on stdout} $(tail -n 1 "$t/err")"; fi
}
verdict "a verifier that loops forever" timeout 'return function() while true do end end'
verdict "a verifier that catches its own end" timeout 'return function() while true do pcall(function() while true do end end) end end'
verdict "a verifier that fails" error 'return function(problem) return problem.nothing.at.all end'
verdict "a verifier that fills the memory" memory 'return function() local t = {} for i = 1, 1e9 do t[i] = ("x"):rep(1000) .. i end end' 20000
verdict "a verifier that returns text" error 'return function() return "good" end'
verdict "a verifier that returns NaN" error 'return function() return 0/0 end'
refuse "a verifier that is not Lua" 1 'syntax\.lua:2' sh -c 'printf "{\"gold\":\"1\",\"response\":\"1\"}\n" | "$0" verify --verifier syntax.lua' "$tlrun"
refuse "a verifier that is not there" 1 'maht.*math' sh -c 'printf "{\"gold\":\"1\",\"response\":\"1\"}\n" | "$0" verify --verifier maht' "$tlrun"
refuse "a line of verify that is not JSON" 1 'line 1' sh -c 'echo "{gold" | "$0" verify' "$tlrun"
refuse "a whole number that 32 bits cannot hold" 2 "--top-k wants a whole number from 0 to 2147483647; got '1e10'" "$tlrun" generate --prompt x --top-k 1e10
if [ "$(uname -m)" = x86_64 ]; then
  TL_ISA=sse "$tlrun" generate --model tiny --prompt x --max-new-tokens 1 >"$t/out" 2>"$t/err"
  if grep -q "TL_ISA is 'sse'; it knows avx512bf16, avx512, avx2 and portable" "$t/err"; then echo "ok an instruction set that is none is told"
  else bad "an instruction set that is none is told" "$(head -n 1 "$t/err")"; fi
fi

# ---- a full disk: a file-size limit (512 KiB; the write fails as on a full disk, since the signal is ignored)
printf 'local tl = require "tl"\nlocal m = tl.model.load(arg[1])\ntl.adapter.full(m):save("saved")\n' >"$t/save.lua"
if (cd "$t" && "$tlrun" save.lua "$tiny") >"$t/out" 2>&1 && [ -s "$t/saved/model.safetensors" ]; then
  before=$(cd "$t/saved" && cksum ./* | sort)
  refuse "a full disk while saving" 1 'saved/model\.safetensors.*([Ff]ile too large|[Nn]o space)' bash -c "trap '' XFSZ; ulimit -f 512; exec \"\$0\" save.lua \"\$1\" 2>&1 >/dev/null | cat >&2; exit \${PIPESTATUS[0]}" "$tlrun" "$tiny"
  after=$(cd "$t/saved" && cksum ./* | sort)
  if [ "$before" = "$after" ]; then echo "ok a full disk leaves the earlier files whole, and no other"; else bad "a full disk leaves the earlier files whole, and no other" "$(diff <(echo "$before") <(echo "$after") | grep '^[<>]' | tr '\n' ' ')"; fi
else
  bad "saving" "$(tail -n 1 "$t/out")"
fi
if (cd "$t" && trap '' XFSZ && ulimit -f 512 && "$tlrun" -e 'tl.fs.write("new.bin", ("x"):rep(2000000))') >"$t/out" 2>&1; then bad "a full disk while writing a new file" "it says it was written"
elif [ -n "$(find "$t" -name 'new.bin*')" ]; then bad "a full disk while writing a new file" "left behind: $(cd "$t" && ls -d new.bin*)"
else echo "ok a full disk while writing a new file leaves none"; fi
exit $failed
