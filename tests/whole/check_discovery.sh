#!/bin/sh
# check_discovery.sh - models and pieces by name: the rules of names, what fits, places, the list, completion.
#
# Needs QWEN_IMAGE (the binary), QWEN_DATADIR (for the tokenizer) and QW_TESTDATA.  Ends with "N passed, N failed".
set -u
qi=${QWEN_IMAGE:?} data=$(cd "${QW_TESTDATA:?}" && pwd -P)     # paths are printed without ".."
source=$(cd "${srcdir:-.}" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/check_discovery.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
HOME=$work/home; export HOME
unset QWEN_MODEL QWEN_MODELS HF_HOME HF_HUB_CACHE XDG_CACHE_HOME
mkdir "$HOME" "$work/here"; cd "$work/here" || exit 1
tiny=$data/tiny layered=$data/tiny-layered comfy=$data/formats/comfyui/models
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$*"
    [ -s err ] && sed 's/^/    /' err | head -n 6
    return 0
}
# run CODE WORDS ARGUMENTS...: the command ends with CODE, and WORDS (a basic regular expression) are on stderr.
run() {
    want=$1 words=$2; shift 2
    timeout 60 "$qi" "$@" >out 2>err; got=$?
    if [ $got != "$want" ]; then fail "exit $got, expected $want: $*"; return; fi
    if [ -n "$words" ] && ! grep -q -e "$words" err; then fail "no \"$words\": $*"; return; fi
    pass
}
says() { if grep -q -e "$1" out; then pass; else fail "stdout lacks \"$1\""; fi; }
silent() { if grep -q -e "$1" out err; then fail "there is \"$1\""; else pass; fi; }
names() { "$qi" models --names "$@" >out 2>err; }
# plan CODE WORDS ARGUMENTS...
plan() { want=$1 words=$2; shift 2; run "$want" "$words" plan --size 32x32 -s 1 -g 1 "$@" x; }
put() { mkdir -p "${2%/*}"; ln -sf "$1" "$2"; }

# Small files in the layout of ComfyUI. 
t2i=$comfy/diffusion_models/qwen_image_medium_bf16.safetensors
q4=$comfy/diffusion_models/qwen-image-medium-Q4_K.gguf
vae=$comfy/vae/qwen_image_vae_medium.safetensors
gzip -dc "$comfy/text_encoders/qwen_2.5_vl_medium_fp8_scaled.safetensors.gz" >"$work/text.safetensors"
gzip -dc "$comfy/checkpoints/qwen_image_medium_aio_fp8.safetensors.gz" >"$work/aio.safetensors"
# renamed FROM TO OLD NEW: the header with one thing replaced by another of the same length
renamed() { LC_ALL=C sed "s/$3/$4/g" "$1" >"$2"; }
full() {                                # a ComfyUI folder with one of each
    put "$t2i" "$1/models/diffusion_models/qwen_image_bf16.safetensors"
    put "$work/text.safetensors" "$1/models/text_encoders/qwen_2.5_vl_7b.safetensors"
    put "$vae" "$1/models/vae/qwen_image_vae.safetensors"
}
full "$work/a"

# --- names ---
for n in edit_fp8_e4m3fn edit_2509_fp8_e4m3fn; do
    put "$t2i" "$work/a/models/diffusion_models/qwen_image_$n.safetensors"
done
put "$q4" "$work/a/models/unet/Qwen-Image-Edit-2511-Q4_K_M.gguf"
put "$q4" "$work/a/models/unet/sub/A b.gguf"
put "$comfy/loras/peft_bare.safetensors" "$work/a/models/loras/Qwen-Image-Lightning-4steps-V1.0.safetensors"
put "$comfy/loras/peft_bare.safetensors" "$work/a/models/loras/other.safetensors"
QWEN_MODELS=$work/a; export QWEN_MODELS
for n in qwen-image Qwen_Image 'qwen image' QwenImage qwen_image_bf16 QWEN-IMAGE-BF16.safetensors; do
    plan 0 "^model: qwen_image_bf16.safetensors ($work/a/models/diffusion_models/qwen_image_bf16" -m "$n"
done
for n in qwen-image-edit edit qwen.image_EDIT qwen-image-edit-fp8; do
    plan 2 'model: qwen_image_edit_fp8_e4m3fn.safetensors (' -m "$n"    # an edit needs a picture
done
plan 2 'model: qwen_image_edit_2509_fp8' -m Qwen-Image-Edit-2509
plan 2 'model: Qwen-Image-Edit-2511-Q4_K_M.gguf' -m qwen_image_edit_2511
for n in 'sub\a_B' 'sub/a b.gguf' 'a-b'; do plan 0 'model: sub/A b.gguf' -m "$n"; done
plan 3 'did you mean qwen_image_edit_2509_fp8_e4m3fn.safetensors or ' -m qwen-image-edit-2590
plan 3 'did you mean.*qwen_image_edit_fp8_e4m3fn.safetensors' -m qwen-image-edti
plan 3 'did you mean qwen_image_bf16.safetensors' -m qwen-image-fp8
plan 3 'did you mean qwen_image_bf16.safetensors' -m qwen-imgae
plan 3 'did you mean qwen_image_edit_fp8_e4m3fn.safetensors' -m qwenimageedti
plan 3 'did you mean qwen_image_bf16.safetensors' -m bf16
plan 3 'did you mean qwen_image_bf16.safetensors' -m qwen_image_bf16.gguf
plan 3 'is no file or directory' -m pigs_and_cows
plan 0 '^LoRA: Qwen-Image-Lightning-4steps-V1.0.safetensors (' -m qwen-image --lora lightning-4steps:0.5
plan 0 '^LoRA: Qwen-Image-Light' -m qwen-image --lora Qwen_Image_Lightning
plan 0 '^VAE: qwen_image_vae.safetensors (' --vae QWEN-image-vae -m qwen-image
rm "$work/a/models/diffusion_models/qwen_image_edit_fp8_e4m3fn.safetensors"
plan 3 'did you mean Qwen-Image-Edit-2511-Q4_K_M.gguf or qwen_image_edit_2509' -m qwen-image-edit
put "$q4" "$work/a/models/unet/qwen-image-Q4_K.gguf"
plan 0 'model: qwen_image_bf16.*the list has 1 more precision' -m QwenImage
plan 0 'model: qwen-image-Q4_K.gguf' -m QwenImage-q4
put "$q4" "$work/a/models/unet/sub/b/qwen_image_one.gguf"; put "$q4" "$work/a/models/unet/qwen_image_onto.gguf"
put "$q4" "$work/a/models/unet/qwen_image_one_two.gguf"
plan 0 'model: sub/b/qwen_image_one.gguf' -m one
put "$q4" "$work/a/models/unet/pig_iron.gguf"; put "$q4" "$work/a/models/unet/pig_fat.gguf"
plan 2 'ambiguous: it is pig_fat.gguf, pig_iron.gguf;' -m pig
plan 4 'qwen_image_vae.safetensors (.*is a VAE, not a model that draws; --vae takes it' -m qwen_image_vae
plan 4 'is a text encoder, not a model that draws; --text-encoder takes it' -m qwen-2.5-vl-7b
plan 4 'is a LoRA, not a model that draws; --lora' -m other
plan 4 'is a transformer, not a VAE; --transformer takes it' -m qwen-image --vae qwen_image_bf16

# --- what fits ---
unset QWEN_MODELS
full "$work/l"; rm "$work/l/models/vae"/* "$work/l/models/text_encoders"/*
l=$work/l/models
put "$layered/vae/diffusion_pytorch_model.safetensors" "$l/vae/qwen_image_layered_vae.safetensors"
put "$work/text.safetensors" "$l/text_encoders/medium.safetensors"
plan 3 '' -m nothing --models "$work/l"
run 0 '' models --models "$work/l"; says '^qwen_image_layered_vae.safetensors  *VAE  *-  '
"$qi" plan -m qwen-image --models "$work/l" x >out 2>err
if grep -q 'VAE: none in the file, and none was found that fits' err; then pass; else fail 'a VAE of Layered'; fi
ln -s "$tiny/text_encoder" "$l/text_encoders/tiny"
ln -s "$layered/transformer" "$l/diffusion_models/layered"
put "$vae" "$l/vae/qwen_image_vae.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
silent 'others fit'
timeout 60 "$qi" plan -m layered --models "$work/l" -i "$data/formats/picture.png" --layers 1 -s 1 -g 1 \
    --reference-area 1024 x >out 2>err
if grep -q '^VAE: qwen_image_layered_vae' err && grep -q '^text encoder: tiny (' err; then pass
else fail 'a Layered transformer'; fi
# foreign pieces with names that come first
renamed "$vae" "$l/vae/a_qwen_flux.safetensors" gamma gammo
renamed "$vae" "$l/vae/a_qwen_latents.safetensors" '\(decoder.conv1.weight":{[^}]*"shape":\[[0-9]*\),16,' '\1,48,'
renamed "$work/text.safetensors" "$l/text_encoders/a_qwen_vl_llama.safetensors" k_proj.bias k_proj.bios
ln -s "$tiny/text_encoder/model-00001-of-00003.safetensors" "$l/text_encoders/a_qwen_vl-00001-of-00003.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
if grep -q '^text encoder: medium.safetensors (' err; then pass; else fail 'a foreign text encoder'; fi
silent 'others fit'
run 0 '' models --models "$work/l"; says '^a_qwen_vl.safetensors .*incomplete'; says '^tiny  *text encoder'
put "$vae" "$l/vae/wan.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
cp "$vae" "$l/vae/a_other.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (.*others fit too, choose with --vae' -m qwen-image --models "$work/l"

# --- places ---
mkdir -p "$work/cwd"
for f in "$t2i" "$work/text.safetensors" "$vae"; do ln -s "$f" "$work/cwd/"; done
cd "$work/cwd" || exit 1
plan 0 'VAE: qwen_image_vae_medium.safetensors (./' -m qwen_image_medium_bf16.safetensors
cd "$work/a" || exit 1
plan 0 'model: qwen_image_bf16.safetensors (./models/diffusion_models/' -m qwen-image; rm -f out err
cd models || exit 1
plan 0 'VAE: qwen_image_vae.safetensors (./vae/' -m qwen_image_bf16; rm -f out err
cd "$work/here" || exit 1
plan 0 "VAE: qwen_image_vae.safetensors ($work/a/models/vae" -m "$work/a/models/diffusion_models/qwen_image_bf16.safetensors"
full "$work/z"; put "$q4" "$work/z/models/unet/only_here.gguf"
plan 0 "VAE: qwen_image_vae.safetensors ($work/z/" --models "$work/a" --models "$work/z" -m only-here
full "$work/k"; rm "$work/k/models/vae"/* "$work/k/models/text_encoders"/*
put "$work/aio.safetensors" "$work/k/models/checkpoints/aio.safetensors"
plan 0 'text encoder: aio.safetensors' --models "$work/k" -m qwen-image
plan 0 '' --transformer aio --models "$work/k"; silent 'none was found'
plan 0 '' --transformer "$work/aio.safetensors"; silent 'none was found'
rm "$work/k/models/checkpoints"/*; mkdir -p "$work/k/models/diffusers"
cp -rs "$data/formats/medium" "$work/k/models/diffusers/med" 2>/dev/null
for f in "$work/k"/models/diffusers/med/*/*.gz; do
    [ -e "$f" ] && gzip -dc <"$f" >"${f%.gz}"
done
plan 0 'VAE: med (.*/med/vae)' --models "$work/k" -m qwen-image
hub=$HOME/.cache/huggingface/hub repo=$hub/models--Comfy-Org--Qwen-Image_ComfyUI
mkdir -p "$repo/refs" "$repo/snapshots/aa"; printf aa >"$repo/refs/main"
put "$t2i" "$repo/snapshots/aa/split_files/diffusion_models/qwen_image_bf16.safetensors"
put "$vae" "$repo/snapshots/aa/split_files/vae/qwen_image_vae.safetensors"
put "$work/text.safetensors" "$repo/snapshots/aa/split_files/text_encoders/qwen_2.5_vl_7b.safetensors"
plan 0 'VAE: Comfy-Org/Qwen-Image_ComfyUI/split_files/vae/qwen_image_vae.safetensors (' -m qwen-image

# --- directories ---
plan 0 '' --transformer "$tiny" --text-encoder "$tiny" --vae "$tiny"; silent 'none was found'
plan 0 "text encoder: tiny ($tiny/text_encoder)" -m "$tiny/transformer"
QWEN_MODEL=$tiny/; export QWEN_MODEL
plan 0 ''; says '^tiny (t2i)'; unset QWEN_MODEL
mkdir "$work/gguf"; ln -s "$comfy/text_encoders/qwen2.5-vl-medium-mmproj-Q8_0.gguf" "$work/gguf/"
gzip -dc "$comfy/text_encoders/qwen2.5-vl-medium-Q8_0.gguf.gz" >"$work/gguf/t.gguf"
plan 0 '' --transformer "$t2i" --text-encoder "$work/gguf" --vae "$vae"
mkdir "$work/one"; ln -s "$q4" "$work/one/"
plan 0 '' -m "$work/one" --text-encoder "$work/gguf" --vae "$vae"

# --- the list ---
n=$work/n/models; mkdir -p "$n/diffusion_models" "$n/vae"
for i in 1 2 3; do put "$q4" "$n/diffusion_models/set-0000$i-of-00003.gguf"; done
for i in 1 3; do put "$q4" "$n/diffusion_models/hole-0000$i-of-00003.gguf"; done
put "$q4" "$n/diffusion_models/BIG.GGUF"
ln -s .. "$n/diffusion_models/loop"; ln -s "$n" "$n/vae/up"; ln -s . "$n/vae/self"
put /nowhere "$n/vae/gone.safetensors"
printf 'a: [\n' >"$work/n/extra_model_paths.yaml"
rm -rf "$HOME/.cache"
names --models "$work/n" --models "$n"
if [ "$(grep -v '^demo$' out | tr '\n' ' ')" = 'BIG.GGUF hole.gguf set.gguf gone.safetensors ' ]; then pass
else fail "the list: $(tr '\n' ' ' <out)"; fi
if [ "$(grep -c 'the file is not used' err)" = 1 ]; then pass; else fail 'the YAML is read once'; fi
run 0 '' models --models "$work/n" --json
says '"name": "hole.gguf"'; says '"incomplete": true'; says '"incomplete": false'
run 0 '' models --models "$work/n"; says '^hole.gguf .*incomplete'; says '^gone.safetensors .*incomplete'
repo=$hub/models--Tiny--Model; mkdir -p "$repo/refs" "$repo/snapshots/aa"; printf aa >"$repo/refs/main"
cp -rs "$tiny/." "$repo/snapshots/aa/"
run 0 '' models; says '^Tiny/Model  *model directory  *t2i'
ln -sf ../../../blobs/x "$repo/snapshots/aa/transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
run 0 '' models; says '^Tiny/Model  *model directory, incomplete'
names --models "$work/a" --kind vae; says '^qwen_image_vae.safetensors$'; silent 'bf16\|demo\|Tiny'
names --models "$work/a" --kind model; says '^qwen_image_bf16.safetensors$'; silent '_vae\|vl_7b\|Lightning'
run 2 'kind' models --kind nonsense

# --- completion ---
if command -v bash >/dev/null; then
    mkdir "$work/bin"; ln -s "$(command -v "$qi")" "$work/bin/qwen-image"
    complete() {
        PATH=$work/bin:$PATH bash -c '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qwen_image
            printf "%s\n" "${COMPREPLY[@]}"' "$source/data/qwen-image.bash" "$@" >out 2>err
    }
    complete qwen-image generate --models "$work/a" --vae q; says '^qwen_image_vae.safetensors$'; silent 'bf16\|vl_7b'
    complete qwen-image generate --models = "$work/a" --lora Qwen; says Lightning; silent 'bf16'
    complete qwen-image generate --models "$work/a" -m QWEN_IMAGE; says '^qwen_image_bf16'; silent '_vae'
    complete qwen-image inspect qwen; silent bf16
    QWEN_MODELS=$work/a; export QWEN_MODELS
    complete qwen-image inspect qwen; says bf16; says '_vae'
    complete qwen-image generate --text-encoder ''; says '^qwen_2.5_vl_7b'; silent 'bf16'
fi

# --- inspect, and a LoRA with a colon in its name ---
QWEN_MODELS=$work/a; export QWEN_MODELS
run 0 'qwen_image_vae.safetensors (' inspect qwen-image-vae; says '^kind  *VAE'
run 3 '' inspect nothing-of-that-name
put "$comfy/loras/peft_bare.safetensors" "$work/a/models/loras/my:lora.safetensors"
plan 0 '^LoRA: my:lora.safetensors' -m qwen-image --lora my:lora
plan 0 '^LoRA: my:lora.safetensors' -m qwen-image --lora my:lora:0.5

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
