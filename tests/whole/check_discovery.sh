#!/bin/sh
# check_discovery.sh - models and pieces by name: each rule of doc/names.md by its number; the list, completion.
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
passed=0 failed=0 rules='' tested=''

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED%s: %s\n' "${rules:+ ($rules)}" "$*"
    [ -s err ] && sed 's/^/    /' err | head -n 6
    return 0
}
# rule NUMBERS...: the rules of doc/names.md that the next checks test.
rule() { rules=$*; tested="$tested $*"; }
# run CODE WORDS ARGUMENTS...: the command ends with CODE, and WORDS (a basic regular expression) are on stderr.
run() {
    want=$1 words=$2; shift 2
    timeout 60 "$qi" "$@" >out 2>err; got=$?
    if [ $got != "$want" ]; then fail "exit $got, expected $want: $*"; return; fi
    if [ -n "$words" ] && ! grep -q -e "$words" err; then fail "no \"$words\": $*"; return; fi
    pass
}
says() { if grep -q -e "$1" out; then pass; else fail "stdout lacks \"$1\""; fi; }
said() { if grep -q -e "$1" err; then pass; else fail "stderr lacks \"$1\""; fi; }
silent() { if grep -q -e "$1" out err; then fail "there is \"$1\""; else pass; fi; }
names() { "$qi" models --names "$@" >out 2>err; }
# listed NAMES: what names() printed, without the demo, in this order
listed() {
    got=$(grep -v '^demo$' out | tr '\n' ' ')
    if [ "$got" = "$1 " ]; then pass; else fail "the list is $got"; fi
}
# plan CODE WORDS ARGUMENTS...
plan() { want=$1 words=$2; shift 2; run "$want" "$words" plan --size 32x32 -s 1 -g 1 "$@" x; }
put() { mkdir -p "${2%/*}"; ln -sf "$1" "$2"; }
# table: rows RULES | OPTION | NAME TYPED | EXIT CODE | WORDS ON STDERR from standard input
table() {
    sed 's/ *| */|/g' >"$work/table"
    while IFS='|' read -r numbers option typed want words <&3; do
        rule $numbers
        if [ "$option" = model ]; then plan "$want" "$words" -m "$typed"
        else plan "$want" "$words" -m qwen-image "--$option" "$typed"; fi
    done 3<"$work/table"
    rules=''
}

# Small files in the layout of ComfyUI.
t2i=$comfy/diffusion_models/qwen_image_medium_bf16.safetensors
q4=$comfy/diffusion_models/qwen-image-medium-Q4_K.gguf
vae=$comfy/vae/qwen_image_vae_medium.safetensors lora=$comfy/loras/peft_bare.safetensors
gzip -dc "$comfy/text_encoders/qwen_2.5_vl_medium_fp8_scaled.safetensors.gz" >"$work/text.safetensors"
gzip -dc "$comfy/text_encoders/qwen2.5-vl-medium-Q8_0.gguf.gz" >"$work/text.gguf"
gzip -dc "$comfy/checkpoints/qwen_image_medium_aio_fp8.safetensors.gz" >"$work/aio.safetensors"
# renamed FROM TO OLD NEW: the header with one thing replaced by another of the same length
renamed() { LC_ALL=C sed "s/$3/$4/g" "$1" >"$2"; }
full() {                                # a ComfyUI folder with one of each
    put "$t2i" "$1/models/diffusion_models/qwen_image_bf16.safetensors"
    put "$work/text.safetensors" "$1/models/text_encoders/qwen_2.5_vl_7b.safetensors"
    put "$vae" "$1/models/vae/qwen_image_vae.safetensors"
}
full "$work/a"

# --- rules of names ---
a=$work/a/models
for n in edit_fp8_e4m3fn edit_2509_fp8_e4m3fn; do
    put "$t2i" "$a/diffusion_models/qwen_image_$n.safetensors"
done
put "$q4" "$a/unet/Qwen-Image-Edit-2511-Q4_K_M.gguf"
put "$q4" "$a/unet/sub/A b.gguf"
put "$lora" "$a/loras/Qwen-Image-Lightning-4steps-V1.0.safetensors"
put "$lora" "$a/loras/other.safetensors"
put "$lora" "$a/loras/my:lora.safetensors"
put "$work/text.safetensors" "$a/text_encoders/reader/model.safetensors"
QWEN_MODELS=$work/a; export QWEN_MODELS
table <<'END'
R1    | model | qwen_image_bf16.safetensors    | 0 | ^model: qwen_image_bf16.safetensors (.*/a/models/diffusion_models/qwen_image_bf16
R2    | model | qwen_image_bf16                | 0 | ^model: qwen_image_bf16.safetensors (
R3    | model | A b                            | 0 | ^model: sub/A b.gguf (
R3    | model | sub/A b.gguf                   | 0 | ^model: sub/A b.gguf (
R4    | model | QWEN-IMAGE-BF16.safetensors    | 0 | ^model: qwen_image_bf16.safetensors (
R4 N4 | model | sub\a_B                        | 0 | ^model: sub/A b.gguf (
R4    | model | sub/a b.gguf                   | 0 | ^model: sub/A b.gguf (
R4    | model | a-b                            | 0 | ^model: sub/A b.gguf (
R4    | text-encoder | Reader                  | 0 | ^text encoder: reader/model.safetensors (
R4    | model | qwen_image_bf16.gguf           | 3 | did you mean qwen_image_bf16.safetensors
R4    | vae   | QWEN-image-vae                 | 0 | ^VAE: qwen_image_vae.safetensors (
R5    | model | qwen-image                     | 0 | ^model: qwen_image_bf16.safetensors (
R5    | model | Qwen_Image                     | 0 | ^model: qwen_image_bf16.safetensors (
R5    | model | qwen image                     | 0 | ^model: qwen_image_bf16.safetensors (
R5    | model | QwenImage                      | 0 | ^model: qwen_image_bf16.safetensors (
R5    | model | qwen-image-edit                | 2 | model: qwen_image_edit_fp8_e4m3fn.safetensors (
R5    | model | edit                           | 2 | model: qwen_image_edit_fp8_e4m3fn.safetensors (
R5    | model | qwen.image_EDIT                | 2 | model: qwen_image_edit_fp8_e4m3fn.safetensors (
R5    | model | qwen-image-edit-fp8            | 2 | model: qwen_image_edit_fp8_e4m3fn.safetensors (
R5    | model | Qwen-Image-Edit-2509           | 2 | model: qwen_image_edit_2509_fp8
R5    | model | qwen_image_edit_2511           | 2 | model: Qwen-Image-Edit-2511-Q4_K_M.gguf
R5    | model | qwen-image-fp8                 | 3 | did you mean qwen_image_bf16.safetensors
R5    | model | bf16                           | 3 | did you mean qwen_image_bf16.safetensors
R6 R7 | lora  | Qwen_Image_Lightning           | 0 | ^LoRA: Qwen-Image-Light
R6 N5 | lora  | lightning-4steps:0.5           | 0 | ^LoRA: Qwen-Image-Lightning-4steps-V1.0.safetensors (
N5    | lora  | my:lora                        | 0 | ^LoRA: my:lora.safetensors
N5    | lora  | my:lora:0.5                    | 0 | ^LoRA: my:lora.safetensors
E1 T1 | model | qwen_image_vae                 | 4 | qwen_image_vae.safetensors (.*is a VAE, not a model that draws; --vae takes it
E1 T1 | model | qwen-2.5-vl-7b                 | 4 | is a text encoder, not a model that draws; --text-encoder takes it
E1 T1 | model | other                          | 4 | is a LoRA, not a model that draws; --lora
E1 T1 | vae   | qwen_image_bf16                | 4 | is a transformer, not a VAE; --transformer takes it
E2    | model | qwen-image-edit-2590           | 3 | did you mean qwen_image_edit_2509_fp8_e4m3fn.safetensors or 
E2    | model | qwen-image-edti                | 3 | did you mean.*qwen_image_edit_fp8_e4m3fn.safetensors
E2    | model | qwen-imgae                     | 3 | did you mean qwen_image_bf16.safetensors
E2    | model | qwenimageedti                  | 3 | did you mean qwen_image_edit_fp8_e4m3fn.safetensors
E2    | model | image_bf                       | 3 | did you mean qwen_image_bf16.safetensors
E4    | model | pigs_and_cows                  | 3 | "pigs_and_cows" is no file or directory
E4    | model | ./pigs                         | 3 | ./pigs: No such file
END
plan 2 'expected a path or a name' -m ''
rm "$a/diffusion_models/qwen_image_edit_fp8_e4m3fn.safetensors"
put "$q4" "$a/unet/qwen-image-Q4_K.gguf"
for n in sub/b/qwen_image_one onto qwen_image_one_two pig_iron pig_fat stem sub/stem low sub/Low \
    x/dup_me y/dup-me z_control z_2509 z_v2 same; do put "$q4" "$a/unet/$n.gguf"; done
put "$t2i" "$a/unet/same.gguf.safetensors"
table <<'END'
R1 R2 | model | same.gguf                      | 0 | ^model: same.gguf (
R2 R3 | model | stem                           | 0 | ^model: stem.gguf (
R3 R4 | model | Low                            | 0 | ^model: sub/Low.gguf (
R5 R6 | model | one                            | 0 | ^model: sub/b/qwen_image_one.gguf
R7 E2 | model | qwen-image-edit                | 3 | did you mean Qwen-Image-Edit-2511-Q4_K_M.gguf or qwen_image_edit_2509
R7    | model | z                              | 0 | ^model: z_v2.gguf (
R8    | model | dup_me.gguf                    | 0 | ^model: x/dup_me.gguf
R8    | model | dup me                         | 2 | ambiguous: it is x/dup_me.gguf, y/dup-me.gguf;
R8    | model | pig                            | 2 | ambiguous: it is pig_fat.gguf, pig_iron.gguf;
R9    | model | QwenImage                      | 0 | model: qwen_image_bf16.*the list has 1 more precision
R9    | model | QwenImage-q4                   | 0 | model: qwen-image-Q4_K.gguf
END
unset QWEN_MODELS

# --- what a name is ---
rule N1; plan 0 '' -m "$tiny"; silent '^model:'
rule N2; plan 0 '' -m demo; says '^demo (t2i)'
rule ''; QWEN_MODEL=$tiny/; export QWEN_MODEL
plan 0 ''; says '^tiny (t2i)'; unset QWEN_MODEL
hub=$HOME/.cache/huggingface/hub repo=$HOME/.cache/huggingface/hub/models--Tiny--Model
mkdir -p "$repo/refs" "$repo/snapshots/aa" "$repo/snapshots/bb"; printf bb >"$repo/refs/main"; printf bb >"$repo/refs/v1"
cp -rs "$tiny/." "$repo/snapshots/bb/"
rule N3
for n in Tiny/Model Tiny/Model@v1 Tiny/Model@bb; do plan 0 '' -m "$n"; says "^$n (t2i)"; done
rm "$repo/refs/main"; plan 0 '' -m Tiny/Model                # bb has a model_index.json, aa has none
rule E3
plan 3 'did you mean Tiny/Model?' -m Tiny/Model@v2
plan 3 'Tiny/Moodel.*did you mean Tiny/Model' -m Tiny/Moodel
plan 3 'No/Such is not in the Hugging Face cache: .*huggingface-cli download No/Such' -m No/Such
rm -rf "$HOME/.cache"
rule N6
plan 0 '' --transformer "$tiny" --text-encoder "$tiny" --vae "$tiny"; silent 'none was found'
mkdir "$work/gguf" "$work/one"; ln -s "$q4" "$work/one/"
ln -s "$comfy/text_encoders/qwen2.5-vl-medium-mmproj-Q8_0.gguf" "$work/text.gguf" "$work/gguf/"
plan 0 '' --transformer "$t2i" --text-encoder "$work/gguf" --vae "$vae"
plan 0 '' -m "$work/one" --text-encoder "$work/gguf" --vae "$vae"

# --- places ---
rule P1
full "$work/z"; put "$q4" "$work/z/models/unet/only_here.gguf"
plan 0 "model: qwen_image_bf16.safetensors ($work/z/" --models "$work/z" --models "$work/a" -m qwen_image_bf16
QWEN_MODELS=/nowhere:$work/z; export QWEN_MODELS
plan 0 "model: qwen_image_bf16.safetensors ($work/a/" --models "$work/a" -m qwen_image_bf16
plan 0 "model: only_here.gguf ($work/z/" --models "$work/a" -m only-here
unset QWEN_MODELS; plan 3 '/nowhere: No such' --models /nowhere -m qwen-image
ln -s "$work/z" "$HOME/ComfyUI"; plan 0 "model: only_here.gguf ($HOME/ComfyUI/" -m only-here
ln -s "$work/a" ComfyUI; plan 0 'model: qwen_image_bf16.safetensors (ComfyUI/' -m qwen_image_bf16
rm ComfyUI "$HOME/ComfyUI"
mkdir -p "$work/cwd/deeper"; cd "$work/cwd" || exit 1
for f in "$t2i" "$work/text.safetensors" "$vae"; do ln -s "$f" .; done
ln -s "$q4" deeper/unseen.gguf
plan 0 'VAE: qwen_image_vae_medium.safetensors (./' -m qwen_image_medium_bf16.safetensors
plan 3 '' -m unseen
rule T2 P3                                              # a file without a type
plan 0 '^VAE: qwen_image_vae_medium.safetensors (./' -m qwen_image_medium_bf16 --vae qwen_image_vae_medium
plan 4 '' -m qwen_image_vae_medium
printf xxxxxxxxxxxx >unread.safetensors; plan 4 'unread.safetensors' -m unread
rule P2
cd "$work/a" || exit 1
plan 0 'model: qwen_image_bf16.safetensors (./models/diffusion_models/' -m qwen-image; rm -f out err
cd models || exit 1
plan 0 'VAE: qwen_image_vae.safetensors (./vae/' -m qwen_image_bf16; rm -f out err
cd "$work/here" || exit 1
rule P3
p=$work/p/models; put "$q4" "$p/untyped.gguf"
for n in clip/c diffusion_models/d diffusion_models/1/2/3/4/5/6/7/8/deep diffusion_models/1/2/3/4/5/6/7/8/9/deeper \
    loras/l model_patches/m t2i_adapter/t unet/u; do put "$q4" "$p/$n.gguf"; done
names --models "$p"; listed 'u.gguf 1/2/3/4/5/6/7/8/deep.gguf d.gguf c.gguf l.gguf t.gguf m.gguf untyped.gguf'
rule P4
y=$work/y; mkdir -p "$HOME/early" "$y/late"
for f in "$HOME/early/z.gguf" "$y/models/vae/m.gguf" "$y/late/v/a.gguf" "$work/env/e.gguf"; do put "$q4" "$f"; done
cat >"$y/extra_model_paths.yaml" <<'END'
late:
    base_path: late
    vae: v
early:
    is_default: true
    base_path: ~
    vae: |
        early
        ${QW_EXTRA}/env
END
QW_EXTRA=$work; export QW_EXTRA
names --models "$y" --kind vae; listed 'z.gguf e.gguf m.gguf a.gguf'
rule P5
repo=$hub/models--Comfy-Org--Qwen-Image_ComfyUI
mkdir -p "$repo/refs" "$repo/snapshots/aa"; printf aa >"$repo/refs/main"
put "$t2i" "$repo/snapshots/aa/split_files/diffusion_models/qwen_image_bf16.safetensors"
put "$vae" "$repo/snapshots/aa/split_files/vae/qwen_image_vae.safetensors"
put "$work/text.safetensors" "$repo/snapshots/aa/split_files/text_encoders/qwen_2.5_vl_7b.safetensors"
plan 0 'VAE: Comfy-Org/Qwen-Image_ComfyUI/split_files/vae/qwen_image_vae.safetensors (' -m qwen-image
names --kind vae; says '^Comfy-Org/Qwen-Image_ComfyUI/split_files/vae/qwen_image_vae.safetensors$'; silent '_bf16'
for n in xdg/huggingface/hub hf/hub cache; do
    put "$vae" "$work/$n/models--In--$(echo "$n" | tr / _)/snapshots/aa/vae/v.safetensors"
done
XDG_CACHE_HOME=$work/xdg; export XDG_CACHE_HOME; names; listed 'In/xdg_huggingface_hub/vae/v.safetensors'
HF_HOME=$work/hf; export HF_HOME; names; listed 'In/hf_hub/vae/v.safetensors'
HF_HUB_CACHE=$work/cache; export HF_HUB_CACHE; names; listed 'In/cache/vae/v.safetensors'
unset XDG_CACHE_HOME HF_HOME HF_HUB_CACHE; rm -rf "$HOME/.cache"
rule P6 P8
n=$work/n/models; mkdir -p "$n/diffusion_models" "$n/vae" "$n/text_encoders"
for i in 1 2 3; do put "$q4" "$n/diffusion_models/set-0000$i-of-00003.gguf"; done
for i in 1 3; do put "$q4" "$n/diffusion_models/hole-0000$i-of-00003.gguf"; done
for i in BIG.GGUF other.sft .hidden.gguf none.bin; do put "$q4" "$n/diffusion_models/$i"; done
ln -s .. "$n/diffusion_models/loop"; ln -s "$n" "$n/vae/up"; ln -s . "$n/vae/self"
put /nowhere "$n/vae/gone.safetensors"
ln -s "$tiny/text_encoder" "$n/text_encoders/sharded"
mkdir "$n/diffusers"; cp -rs "$tiny" "$n/diffusers/whole"; cp -rs "$tiny" "$n/diffusers/part"; rm -rf "$n/diffusers/part/vae"
printf 'a: [\n' >"$work/n/extra_model_paths.yaml"
names --models "$work/n" --models "$n"
listed 'BIG.GGUF hole.gguf other.sft set.gguf sharded gone.safetensors part whole'
if [ "$(grep -c 'the file is not used' err)" = 1 ]; then pass; else fail 'the YAML is read once'; fi
run 0 '' models --models "$work/n" --json
says '"name": "hole.gguf"'; says '"incomplete": true'; says '"incomplete": false'
run 0 '' models --models "$work/n"; says '^hole.gguf .*incomplete'; says '^gone.safetensors .*incomplete'
says '^part .*incomplete'; says '^whole  *model directory  '; says '^sharded  *text encoder  '
rule R4; plan 4 '^model: set.gguf (' -m set-00002-of-00003.gguf --models "$work/n"
rule P7
names --models "$work/z" --models "$work/a" --kind vae; listed 'qwen_image_vae.safetensors'
plan 0 "VAE: qwen_image_vae.safetensors ($work/z/" --models "$work/z" --models "$work/a" --vae qwen-image-vae -m only_here

# --- pieces ---
full "$work/l"; rm "$work/l/models/vae"/* "$work/l/models/text_encoders"/*
l=$work/l/models
put "$layered/vae/diffusion_pytorch_model.safetensors" "$l/vae/qwen_image_layered_vae.safetensors"
put "$work/text.safetensors" "$l/text_encoders/medium.safetensors"
rule ''
run 0 '' models --models "$work/l"; says '^qwen_image_layered_vae.safetensors  *VAE  *-  '
"$qi" plan -m qwen-image --models "$work/l" x >out 2>err; said 'VAE: none in the file, and none was found that fits'
ln -s "$tiny/text_encoder" "$l/text_encoders/tiny"
ln -s "$layered/transformer" "$l/diffusion_models/layered"
put "$vae" "$l/vae/qwen_image_vae.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
rule F7; silent 'others fit'
rule ''
timeout 60 "$qi" plan -m layered --models "$work/l" -i "$data/formats/picture.png" --layers 1 -s 1 -g 1 \
    --reference-area 1024 x >out 2>err
said '^VAE: qwen_image_layered_vae'; said '^text encoder: tiny ('
# foreign pieces with names that come first
renamed "$vae" "$l/vae/a_qwen_flux.safetensors" gamma gammo
renamed "$vae" "$l/vae/a_qwen_latents.safetensors" '\(decoder.conv1.weight":{[^}]*"shape":\[[0-9]*\),16,' '\1,48,'
renamed "$work/text.safetensors" "$l/text_encoders/a_qwen_vl_llama.safetensors" k_proj.bias k_proj.bios
ln -s "$tiny/text_encoder/model-00001-of-00003.safetensors" "$l/text_encoders/a_qwen_vl-00001-of-00003.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
said '^text encoder: medium.safetensors ('; silent 'others fit'
run 0 '' models --models "$work/l"; says '^a_qwen_vl.safetensors .*incomplete'; says '^tiny  *text encoder'
rule F4
cp "$vae" "$l/vae/a_other.safetensors"
plan 0 '^VAE: qwen_image_vae.safetensors (' -m qwen-image --models "$work/l"
rule F7; said '^VAE: .*others fit too, choose with --vae'
rule F6; cp "$vae" "$l/vae/qwen_a.safetensors"
plan 0 '^VAE: qwen_a.safetensors (' -m qwen-image --models "$work/l"
rule F3; put "$work/text.gguf" "$l/text_encoders/qwen_vl.gguf"
plan 0 '^text encoder: medium.safetensors (' -m qwen-image --models "$work/l"
rule F1
renamed "$work/text.safetensors" "$work/blind.safetensors" 'visual\.' 'visuel.'
full "$work/f"; put "$work/blind.safetensors" "$work/f/models/text_encoders/qwen_2.5_vl_7b.safetensors"
mkdir -p "$work/g/models/text_encoders"; put "$work/text.gguf" "$work/g/models/text_encoders/reader.gguf"
plan 4 '^text encoder: qwen_2.5_vl_7b.safetensors (' -m qwen-image --models "$work/f"
said 'without a vision tower (Qwen2)'; silent 'twice the size'
plan 0 '^text encoder: reader.gguf (' -m qwen-image --models "$work/f" --models "$work/g"
rule F2
plan 0 "VAE: qwen_image_vae.safetensors ($work/a/models/vae" -m "$a/diffusion_models/qwen_image_bf16.safetensors"
plan 0 "VAE: qwen_image_vae.safetensors ($work/z/" --models "$work/a" --models "$work/z" -m only-here
plan 0 "text encoder: tiny ($tiny/text_encoder)" -m "$tiny/transformer"
rule F2 F6
mkdir "$work/flat"; for f in "$t2i" "$work/text.safetensors" "$vae"; do cp "$f" "$work/flat/"; done
plan 0 "VAE: qwen_image_vae_medium.safetensors ($work/flat/" -m "$work/flat/${t2i##*/}"
plan 0 "VAE: qwen_image_vae.safetensors ($work/a/" -m "$work/flat/${t2i##*/}" --models "$work/a"
full "$work/k"; rm "$work/k/models/vae"/* "$work/k/models/text_encoders"/*
put "$work/aio.safetensors" "$work/k/models/checkpoints/aio.safetensors"
plan 0 'text encoder: aio.safetensors' --models "$work/k" -m qwen-image
rule F5; put "$work/text.safetensors" "$work/k/models/text_encoders/z.safetensors"
plan 0 'text encoder: z.safetensors' --models "$work/k" -m qwen-image
rule F8
plan 0 '' --transformer aio --models "$work/k"; silent 'none was found'
plan 0 '' --transformer "$work/aio.safetensors"; silent 'none was found'
rule ''; rm "$work/k/models/checkpoints"/*; mkdir -p "$work/k/models/diffusers"
cp -rs "$data/formats/medium" "$work/k/models/diffusers/med" 2>/dev/null
for f in "$work/k"/models/diffusers/med/*/*.gz; do
    [ -e "$f" ] && gzip -dc <"$f" >"${f%.gz}"
done
plan 0 'VAE: med (.*/med/vae)' --models "$work/k" -m qwen-image
rule F9; said '^tokenizer: the published one'
mkdir "$work/nothing"; QWEN_DATADIR=$work/nothing timeout 60 "$qi" plan --size 32x32 -s 1 -g 1 --models "$work/k" -m qwen-image x >out 2>err
said '^tokenizer: med ('
rule ''

# --- the list ---
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

# --- inspect ---
QWEN_MODELS=$work/a; export QWEN_MODELS
rule T2; run 0 'qwen_image_vae.safetensors (' inspect qwen-image-vae; says '^kind  *VAE'
rule ''; run 3 '' inspect nothing-of-that-name

# Every rule of the page is tested, and every rule that is tested is on the page.
numbers=$(sed -n 's/^\* \*\*\([A-Z][0-9]*\)\*\* .*/\1/p' "$source/doc/names.md")
for n in $numbers; do
    case "$tested " in *" $n "*) pass ;; *) fail "rule $n of doc/names.md has no test" ;; esac
done
for n in $tested; do
    case " $(echo $numbers) " in *" $n "*) ;; *) fail "rule $n is not in doc/names.md" ;; esac
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
