#!/bin/sh
# check_cli.sh - the command from outside: exit codes, messages, files, metadata, names.
#
# Needs QWEN_IMAGE (the binary), QWEN_DATADIR (for the demo) and QW_TESTDATA.  Ends with "N passed, N failed".
set -u
qi=${QWEN_IMAGE:?} data=${QW_TESTDATA:?}
work=$(mktemp -d "${TMPDIR:-/tmp}/check_cli.XXXXXX") || exit 1
trap 'umount "$work/disk" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work" || exit 1
HOME=$work/home; mkdir "$HOME"; export HOME
unset QWEN_MODEL QWEN_MODELS HF_HOME HF_HUB_CACHE XDG_CACHE_HOME
OMP_WAIT_POLICY=passive; export OMP_WAIT_POLICY
tiny=$data/tiny pictures=$data/pipelines
passed=0 failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$*"
    [ -s err ] && sed 's/^/    /' err | head -n 5
    return 0
}
# ok WHAT COMMAND...: the command succeeds.
ok() { what=$1; shift; if "$@"; then pass; else fail "$what"; fi; }
not() { ! "$@"; }
# run CODE WORDS ARGUMENTS...: the command ends with CODE; if that is an error, its last line on stderr is one
# sentence of the command.  WORDS (a basic regular expression) are on stderr.
run() {
    want=$1 words=$2; shift 2
    timeout 120 "$qi" "$@" >out 2>err; got=$?
    last=$(tail -n 1 err)
    if [ $got != "$want" ]; then fail "exit $got, expected $want: $*"; return; fi
    if [ "$want" -gt 1 ]; then
        case $last in "qwen-image: "*) ;; *) fail "no sentence: $*"; return ;; esac
    fi
    if [ -n "$words" ] && ! grep -q -e "$words" err; then fail "nothing about \"$words\": $*"; \
        return; fi
    pass
}
# says WORDS: stdout of the last run has WORDS (a basic regular expression).
says() { ok "stdout lacks \"$1\"" grep -q -e "$1" out; }
no_leftovers() { ok "leftovers: $(ls -A "$1")" test -z "$(ls -A "$1" | grep -v "${2:-^$}")"; }
draw() { "$qi" generate -q -m "$tiny" "$@"; }
small="-q -m $tiny -s 1 -g 1 --size 32x32 --seed 5"

# --- help and usage ---
run 0 '' --help; says generate
run 0 '' --version; says 'qwen-image [0-9]'
run 0 '' help; says inspect
for c in generate plan devices models inspect compare tokenize; do
    run 0 '' $c --help; says --help
    run 0 '' help $c; says --help
done
run 0 '' generate -h; says '--prompt TEXT'
run 2 'subcommand'; run 2 'did you mean generate' generat; run 2 'subcommand' --width 3
run 2 'nonsense' nonsense
run 2 'did you mean --steps' generate --stpes 3 x
run 2 'did you mean --width' generate --widht=3 x
run 2 '--frobnicate' generate --frobnicate x
run 2 '-X' generate -X x
run 2 'expected a value' generate x --steps
run 2 'expected a value' generate x -s
run 2 'takes no value' generate --quiet=1 x
run 2 'prompt is missing' generate
run 2 'second argument' generate a red circle
run 2 'given twice' generate -p a b
run 2 'other prompt' generate --prompt-file /dev/null b
run 2 'found none' generate --prompt-file /dev/null

# --- values ---
for v in 0 -1 x 1.5 '' 99999999999999999999; do run 2 "steps.*found \"$v\"" generate \
    "--steps=$v" x; done
for v in nan inf 0x10 x -1 ''; do run 2 "guidance.*found \"$v\"" generate "--guidance=$v" x; done
for v in -1 18446744073709551616 x 1.0 ''; do run 2 "seed.*found \"$v\"" generate "--seed=$v" x; \
    done
for v in 128 x128 128x 1x2x3 0x16 128,128; do run 2 "size.*found \"$v\"" generate "--size=$v" x; \
    done
for v in 0 1.5 -0.5 x; do run 2 "strength.*found \"$v\"" generate -i "$pictures/photo_wide.png" \
    "--strength=$v" x; done
for v in x 1,x '' ,; do run 2 'sigmas' generate "--sigmas=$v" x; done
for v in x 8Q -1G 0 G; do run 2 "memory.*found \"$v\"" generate "--memory=$v" x; done
for v in left top=x middle=3 left=-16 ''; do run 2 'extend' generate -i \
    "$pictures/photo_wide.png" "--extend=$v" x; done
run 2 'width.*96 or 112.*found 100' generate --width 100 x
run 2 'height.*multiple of 16.*found 15' generate --height 15 x
run 2 'size.*112 or 128.*found 120' generate --size 128x120 x
run 2 'aspect.*found "5:4"' generate --aspect 5:4 x
run 2 'expected alone' generate --size 32x32 --width 32 x
run 2 'expected alone' generate --aspect 1:1 --width 32 x
run 2 'on|off' generate --guidance-norm yes x
run 2 'edit-2509' generate --variant edit2509 x
run 2 'f32' generate --noise-dtype f16 x
run 2 'diffusers|comfyui' generate --like webui x
run 2 'steps.*2.*found 3' generate --sigmas 1,0.5 --steps 3 x
run 2 'input' generate --strength 0.5 x
run 2 'input' generate --mask "$pictures/mask.png" x
run 2 'control' generate --control-strength 0.5 x
run 2 'template' generate --template nonsense x
run 3 'nowhere/t.txt' generate --template nowhere/t.txt x
echo 'no braces' >template.txt; run 4 '{}' generate --template template.txt x
run 2 'schedule' generate $small --schedule nonsense x -o a.png
run 2 'sampler' generate $small --sampler nonsense x -o a.png
run 2 'rng\|noise\|random' generate $small --rng nonsense x -o a.png
run 2 'nonsense' generate $small --device nonsense x -o a.png
run 2 'png' generate $small x -o a.gif
run 2 'one seed' generate $small x --count 2 --dump d.safetensors
run 2 'dump' generate $small x --dump-only '*'
run 2 'offset 2' generate "$(printf 'ab\377c')"
run 2 'offset 0' generate -n "$(printf '\300\200')" x
printf 'good\n\nb\303\n' >prompts; run 2 'line 3.*offset 1' generate --prompt-file prompts

# --- pictures out ---
mkdir one; run 0 '' generate $small 'a cat' -o one/a.png; no_leftovers one '^a.png$'
run 0 '' inspect one/a.png; says 32x32; says 'seed: 5'; says 'prompt: a cat'; says 'steps: 1'
run 0 '' generate $small 'a cat' -o one/b.png; run 0 '' compare one/a.png one/b.png
run 0 '' generate -p '' $small -o one/empty.png
run 1 '' compare one/a.png one/empty.png; says PSNR
run 0 '' compare --tolerance 255 one/a.png one/empty.png
run 0 '' generate $small 'a cat' -o one/c.webp; run 0 '' compare one/a.png one/c.webp
run 0 '' generate $small 'a cat' -o one/d.jpg; run 0 '' inspect one/d.jpg; says JPEG
run 1 '' compare one/a.png one/d.jpg
draw --size 32x32 -s 1 -g 1 --seed 5 'a cat' -o - >stdout.png 2>err
ok 'a picture on stdout' cmp -s stdout.png one/a.png
run 2 'standard output' generate $small x --count 2 -o -
mkdir many; run 0 '' generate $small --count 2 x -o many/x.png; no_leftovers many '^x-[12].png$'
ok 'the second of --count' test -f many/x-2.png
run 0 '' inspect many/x-2.png; says 'seed: 6'
run 0 '' generate $small --count 2 x -o many/y_%03d_%s%d.png; ok '%0Nd' test -f many/y_002_%s2.png
run 0 '' generate $small x -o many/one%d.png; ok '%d of one' test -f many/one1.png
printf 'a\r\n\nb\n  \nc' >prompts
run 0 '' generate $small --prompt-file prompts --json -o many/p%02d.png
ok 'one object for each prompt' test "$(grep -c '"seed":' out)" = 3
ok 'the third has seed 7' grep -q '"seed":7,.*p03.png.*"prompt":"c"' out
"$qi" generate $small --prompt-file - -o many/stdin.png <prompts >out 2>err
ok '--prompt-file -' test -f many/stdin-3.png
run 0 '' generate $small --seed 18446744073709551615 --count 2 --json x -o many/wrap.png
ok 'seeds wrap' grep -q '"seed":18446744073709551615,.*wrap-1' out
ok 'seeds wrap to 0' grep -q '"seed":0,.*wrap-2' out
"$qi" generate -m "$tiny" --size 16x16 -s 1 -g 1 --progress none x -o many/random.png >out 2>err
ok 'a random seed is printed' grep -q 'Seed [0-9]' err
seed=$(sed -n 's/^Seed //p' err); run 0 '' inspect many/random.png; says "seed: $seed\$"
mkdir linked; ln -s ../one/target.png linked/link.png; run 0 '' generate $small x -o one/target.png
run 0 '' generate $small y -o linked/link.png; ok 'a link is followed' test -h linked/link.png
run 1 '' compare one/target.png one/a.png

# --- a recipe read back ---
run 0 '' generate -q -m "$tiny" -s 2 -g 4 --size 32x48 --seed 18446744073709551615 --shift 2 -n \
    'bad' \
    --guidance-norm off --noise-dtype bf16 --system 'Say it.' 'a "quoted" 猫' -o one/r.png
run 0 '' generate -q -m "$tiny" --from one/r.png -o one/r2.png
run 0 '' compare one/r.png one/r2.png
run 0 '' generate -q -m "$tiny" --from one/r.png --seed 1 -o one/r3.png
run 1 '' compare one/r.png one/r3.png
run 0 '' inspect one/r3.png; says 'seed: 1$'; says 'quoted" 猫'
run 0 '' generate -q -m "$tiny" --from one/r.png 'another' --steps 1 --size 16x16 -o one/r4.png
run 0 '' inspect one/r4.png; says 16x16; says 'prompt: another'
run 0 '' generate -q -m "$tiny" --sigmas 1,0.6,0.3 --seed 3 -g 1 --size 32x32 x -o one/s.png
run 0 '' generate -q -m "$tiny" --from one/s.png -o one/s2.png
run 0 '' compare one/s.png one/s2.png
run 4 'recipe' generate --from "$pictures/mask.png"
run 3 'nowhere.png' generate --from nowhere.png
ok 'no directories in the recipe' not grep -a -q "$tiny" one/a.png

# --- output that cannot be written ---
run 7 'nowhere/a.png' generate $small x -o nowhere/a.png
run 7 'is a directory\|Is a directory' generate $small x -o one
run 7 'file' generate $small x -o one/
run 7 'nowhere' generate $small x -o a.png --dump nowhere/d
run 7 'nowhere' generate $small x -o a.png --save-embeds nowhere/d
if [ -c /dev/full ]; then
    run 7 '/dev/full' generate $small x -o /dev/full
    ok '/dev/full is still a device' test -c /dev/full
    run 7 '/dev/full' generate $small x -o a.png --dump /dev/full
    "$qi" --help >/dev/full 2>err; ok 'help to a full disk' test $? = 7
    "$qi" generate $small x -o - >/dev/full 2>err; ok 'a picture to a full disk' test $? = 7
fi
mkdir full
(ulimit -f 1; "$qi" generate $small --size 64x64 x -o full/a.png) >out 2>err; ok \
    'a limit on file size' test $? = 7
no_leftovers full
if [ "$(id -u)" = 0 ] && mkdir disk && mount -t tmpfs -o size=8k tmpfs disk 2>/dev/null; then
    cp one/a.png disk/a.png 2>/dev/null || : >disk/a.png
    cksum <disk/a.png >before
    run 7 'disk/a.png' generate $small --size 128x128 x -o disk/a.png
    cksum <disk/a.png >after; ok 'what was there is whole' cmp -s before after
    no_leftovers disk '^a.png$'
    run 7 'disk/d' generate $small x -s 2000 -o b.png --dump disk/d; no_leftovers disk '^a.png$'
    umount disk
fi
if [ "$(id -u)" != 0 ]; then
    mkdir locked; chmod 500 locked; run 7 'locked/a.png' generate $small x -o locked/a.png
    chmod 700 locked
fi

# --- Ctrl-C ---
# A background job of a shell without job control ignores SIGINT; the command installs its own handler all the same.
mkdir cancel
"$qi" generate -m "$tiny" --progress plain -s 2000 --size 64x64 x -o cancel/a.png --dump \
    cancel/d 2>err >out &
pid=$!
n=0; while ! grep -q denois err && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
kill -INT $pid; wait $pid; ok "Ctrl-C gives 130" test $? = 130
no_leftovers cancel
ok 'it says so' grep -q cancelled err

# --- models that do not exist or are broken ---
run 3 'nowhere' generate -m nowhere/model x
run 3 'no_such_model' generate -m no_such_model x
run 3 'Qwen/Qwen-Image.*models--Qwen--Qwen-Image.*huggingface-cli download Qwen/Qwen-Image' \
    generate -m Qwen/Qwen-Image x
run 3 'nowhere.safetensors' generate --vae nowhere.safetensors -m "$tiny" x
QWEN_MODEL=nowhere/model; export QWEN_MODEL; run 3 'nowhere/model' generate x; unset QWEN_MODEL
(QWEN_DATADIR=$work/nothing "$qi" generate x) >out 2>err; ok 'no demo' test $? = 3
run 4 '' generate -m "$pictures/t2i_64.safetensors" x -o a.png
mkdir hollow; run 3 hollow inspect hollow
for f in "$data"/formats/bad/*; do
    name=${f##*/}
    case $name in
    config_*|expect.json|lora_*|metadata_not_strings*) continue ;;      # parts of other tests
    missing_shard|is_a_directory*) want=3 ;;
    version_*|*type_unknown*|dtype_unknown*|quant_unsupported*|model_index_unknown_class) want=5 ;;
    *) want=4 ;;
    esac
    timeout 30 "$qi" inspect "$f" >out 2>err; got=$?
    case $got in
    $want) ok "no sentence about $name" grep -q '^qwen-image: .' err ;;
    *) fail "inspect $name: exit $got, expected $want" ;;
    esac
done
run 3 '' inspect nowhere; run 2 '' inspect; run 2 '' inspect a b
run 0 '' inspect "$tiny"; says 'variant.*t2i'
run 0 '' inspect "$data/tiny-layered"; says 'variant.*layered'
run 0 '' inspect --json "$tiny"; says '"variant": "t2i"'

# --- pictures in ---
edit="-q -m $data/tiny-edit -s 1 -g 1 --seed 5 --reference-area 4096"
run 3 'nowhere.png' generate $edit -i nowhere.png x
: >empty; run 4 'empty' generate $edit -i empty x
echo text >text.png; run 4 'text.png' generate $edit -i text.png x
head -c 300 "$pictures/photo_wide.png" >cut.png; run 4 'cut.png' generate $edit -i cut.png x
head -c 300 one/d.jpg >cut.jpg; run 4 'cut.jpg' generate $edit -i cut.jpg x
head -c 200 one/c.webp >cut.webp; run 4 'cut.webp' generate $edit -i cut.webp x
printf 'GIF89a' >a.gif; run 5 'GIF' generate $edit -i a.gif x
run 3 'directory' generate $edit -i "$tiny" x
printf '\211PNG\r\n\032\n\0\0\0\015IHDR\177\377\377\377\177\377\377\377\010\002\0\0\0\0\0\0\0' \
    >huge.png
run 4 'huge.png' generate $edit -i huge.png x
kinds=$data/pictures
for f in turned_2 turned_3 turned_4 turned_5 turned_6 turned_7 turned_8 rgb16 palette palette4 \
    interlaced animated; do
    run 0 '' compare "$kinds/rgb.png" "$kinds/$f.png"
done
ok 'a notice of the animation' grep -q 'first frame' err
run 0 '' compare "$kinds/rgba.png" "$kinds/palette_alpha.png"
for f in grey grey2 grey16 grey_alpha; do
    run 0 '' compare "$kinds/grey_rgb.png" "$kinds/$f.png"
done
run 0 '' generate $small --size 32x16 x -o one/wide.jpg
{ head -c 2 one/wide.jpg
  printf '\377\341\0\042Exif\0\0II*\0\010\0\0\0\001\0\022\001\003\0\001\0\0\0\006\0\0\0\0\0\0\0'
  tail -c +3 one/wide.jpg; } >turned.jpg
run 0 '' inspect turned.jpg; says 16x32
run 2 'input' generate $edit x
run 0 '' generate $edit -i "$pictures/photo_wide.png" x -o one/e.png
run 0 '' inspect one/e.png; says 64x64
cp "$pictures/photo_wide.png" one/
(cd one && "$qi" generate $edit -i photo_wide.png x -o e2.png && "$qi" generate -q -m \
    "$data/tiny-edit" --from e2.png -o e3.png) 2>err
ok 'an edit again' cmp -s one/e2.png one/e3.png
cp "$pictures/photo_tall.png" one/photo_wide.png
run 4 'SHA-256' generate -q -m "$data/tiny-edit" --from one/e2.png -o one/e4.png
mkdir two; cp "$pictures/photo_tall.png" photo_wide.png         # another file of that name in the working directory
cp one/e2.png "$pictures/photo_wide.png" two/
run 0 '' generate -q -m "$data/tiny-edit" --from two/e2.png -o two/e4.png
run 0 '' compare two/e2.png two/e4.png
rm photo_wide.png
run 0 '' generate $edit -i - x -o one/stdin.png <"$pictures/photo_wide.png"
run 3 'standard input' generate -q -m "$data/tiny-edit" --from one/stdin.png -o one/e4.png
run 0 "" generate ${edit#-q } -v -i "$pictures/photo_wide.png" --size 32x48 x -o one/v.png
ok 'sizes are told' grep -q '^input [0-9]*x[0-9]*: vision tower .*; VAE [0-9]*x[0-9]*$' err
ok 'the output is told' grep -q '^output 32x48: latent 4x6, 6 tokens$' err
run 0 '' plan $edit -i "$pictures/photo_wide.png" x; says '^input 1: .* for the VAE '
run 0 '' plan $edit -i "$pictures/photo_wide.png" --json x; says '"role": "input"'
run 0 '' generate -q -m "$data/tiny-edit" --from one/e2.png -i "$pictures/photo_wide.png" -o \
    one/e4.png
run 0 '' compare one/e2.png one/e4.png
run 0 '' generate $small -i "$pictures/photo_wide.png" --mask "$pictures/mask.png" -s 4 x -o \
    one/i.png
run 0 '' generate $small -i "$pictures/photo_wide.png" --mask "$pictures/mask.png" -s 4 x \
    --no-paste -o one/i2.png
run 1 '' compare one/i.png one/i2.png
run 0 '' generate $small -i one/a.png --mask "$kinds/black.png" -s 4 x -o one/kept.png
run 0 '' compare one/a.png one/kept.png
run 0 '' generate $small -i one/a.png --mask "$kinds/white.png" -s 4 x -o one/new.png
run 1 '' compare one/a.png one/new.png
run 0 '' generate -q -m "$tiny" -s 4 -g 1 --seed 5 -i one/a.png --extend left=16,bottom=32 x -o one/x.png
run 0 '' inspect one/x.png; says 48x64
run 0 '' generate -q -m "$tiny" --from one/x.png -i one/a.png -o one/x2.png
run 0 '' compare one/x.png one/x2.png
run 2 'multiple of 16' generate -q -m "$tiny" -i one/a.png --extend left=8 x -o one/x.png
run 0 '' generate -q -m "$data/tiny-layered" -s 1 -g 1 --layers 2 --reference-area 1024 -i \
    "$pictures/rgba.png" x -o one/l.png
ok 'layers are numbered' test -f one/l-2.png
run 0 'caption' generate -m "$data/tiny-layered" -s 1 -g 1 --layers 1 --reference-area 1024 -i \
    "$pictures/rgba.png" '' -o one/l1.png
run 2 'caption' generate -q -m "$data/tiny-layered" -i "$pictures/rgba.png"
run 2 'expects one picture' generate -q -m "$data/tiny-layered" x
run 2 'layered' generate $small --layers 2 x
run 1 '' compare "$kinds/rgb.png" "$kinds/rgba.png"
run 2 'transparent' generate -q -m "$data/tiny-layered" -s 1 --layers 2 -i "$pictures/rgba.png" \
    x -o one/l.jpg
control="-q -m $data/tiny-controlnet -s 1 -g 1 --seed 5 --size 32x32"
run 0 '' generate $control --control "$pictures/edges.png" x -o one/k.png
run 0 '' generate $control --control "canny:$pictures/photo_wide.png" x -o one/k2.png
run 1 '' compare one/k.png one/k2.png
run 5 'variant t2i' generate $edit -i "$pictures/photo_wide.png" --control "$pictures/edges.png" x
run 0 'none of 1 steps' generate -m "$data/tiny-controlnet" -s 1 -g 1 --seed 5 --size 32x32 --control \
    "$pictures/edges.png" --control-start 0.5 x -o one/k3.png
run 0 'no control picture' generate -m "$data/tiny" --controlnet "$data/tiny-controlnet/controlnet" -s 1 \
    -g 1 --size 32x32 x -o one/k4.png
run 0 'no mask' generate -m "$tiny" -s 1 -g 1 --size 32x32 --no-paste x -o one/k5.png

# --- files given by mistake ---
run 2 'longer than 200 to 1' generate -q -m "$tiny" --size 16x3216 x
run 2 'longer than 200 to 1' generate -q -m "$tiny" -i one/a.png --extend left=8000 x
run 2 'each once' generate -q -m "$tiny" -i one/a.png --extend left=16,left=16 x
run 4 'is a PNG picture' plan -m "$tiny" --vae one/a.png x
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n' >lfs.safetensors
run 4 'Git LFS pointer' plan -m "$tiny" --vae lfs.safetensors x
run 2 'no sampler bogus (euler, heun' generate -q -m "$tiny" --sampler bogus x
run 2 'strength 1e+99' plan -m "$tiny" --lora "$data/formats/bad/lora_nan.safetensors:1e99" x
run 0 'not read' generate -m "$tiny" -s 1 -g 1 --size 32x32 --embeds "$data/pipelines/t2i_64.safetensors" \
    other -o one/e5.png

# --- the recommended negative prompt, distilled models, large pictures ---
ln -s "$tiny" Qwen-Image-2512
run 0 '' generate -q -m ./Qwen-Image-2512 -s 1 -g 2 --size 32x32 -n default x -o one/n.png
run 0 '' inspect one/n.png; says '低分辨率'
ln -s "$tiny" Qwen-Rapid-AIO-v1
run 0 'distilled.*4 steps' plan -m ./Qwen-Rapid-AIO-v1 --size 32x32 x; says '4 steps, 1 pass'
run 0 '' generate -m ./Qwen-Rapid-AIO-v1 -s 1 -g 1 --size 32x32 x -o one/n2.png
ok 'nothing is said where all is given' not grep -q distilled err
run 0 'decodes in .* bands' generate -m "$tiny" -s 1 -g 1 --seed 5 --size 32x512 --device ref --memory 1500k x -o \
    one/band.png
run 0 '' generate -q -m "$tiny" -s 1 -g 1 --seed 5 --size 32x512 --device ref x -o one/whole.png
run 0 '' compare one/whole.png one/band.png
run 0 '' inspect one/band.png; says 'vae-bands-decode'
run 0 '' plan -m "$tiny" -s 1 --size 32x512 --device ref --memory 1500k x; says 'decodes in .* row bands'

# --- tensors ---
run 0 '' generate $small -s 2 x -o one/f.png --dump f.safetensors --save-embeds e.safetensors
run 0 '' inspect f.safetensors; says '^kind  *dump'; says '^noise  *f32'; says '^latents.2'
says '^image.u8  *u8'
ok 'order: text before noise before image' test \
    "$(sed -n 's/^\(text.ids\|noise\|image.u8\) .*/\1/p' out | tr '\n' ' ')" = \
    'text.ids noise image.u8 '
run 0 '' compare f.safetensors f.safetensors; says '0 different'
run 0 '' generate $small -s 2 x -o one/g.png --dump g.safetensors --seed 9
run 1 '' compare f.safetensors g.safetensors; says 'first difference: noise'
run 0 '' generate $small -s 2 -q x -o one/h.png --dump h.safetensors --seed 9 --latents \
    f.safetensors
run 0 '' compare f.safetensors h.safetensors; run 0 '' compare one/f.png one/h.png
run 0 '' generate $small -s 2 --embeds e.safetensors -o one/m.png
run 0 '' compare one/f.png one/m.png
run 0 '' generate $small -s 2 x -o one/n.png --dump n.safetensors --dump-only 'latents.*' \
    --dump-only noise
run 1 '' compare f.safetensors n.safetensors; says 'missing'
run 0 '' compare n.safetensors f.safetensors; says 'only in B'
"$qi" generate $small -s 1 x -o one/q.png --dump p.safetensors --dump-only 'latents.*' 2>err
run 4 'packed "latents.0"' generate $small --latents p.safetensors x -o one/q.png
run 4 'text.embeds' generate $small --embeds p.safetensors -o one/q.png
run 3 'nowhere' generate $small --embeds nowhere -o one/q.png
run 4 '' compare one/f.png f.safetensors
run 3 'nowhere' compare nowhere f.safetensors
run 2 '' compare f.safetensors

# --- prompts, templates, tokens ---
run 0 '' tokenize 'a red circle'; ids=$(cat out)
printf 'a red circle' | "$qi" tokenize >out 2>err; ok 'text on stdin' test "$(cat out)" = "$ids"
printf '%s\n' '{"text":"a red circle"}' '' '{"text":"\u0000"}' '{"text":"\ud800x"}' \
    '{"text":"\ud83d\ude00"}' |
    "$qi" tokenize --jsonl >out 2>err; ok 'jsonl' test $? = 0
ok 'a line for each' test "$(wc -l <out)" = 4
ok 'the same ids' grep -q "^{\"ids\":\[$(printf %s "$ids" | tr ' ' ,)\]}\$" out
printf 'a\377b' | "$qi" tokenize >out 2>err; one=$(cat out); printf 'a\357\277\275b' | "$qi" \
    tokenize >out 2>err
ok 'invalid UTF-8 is U+FFFD' test "$(cat out)" = "$one"
printf '%s\n' '{"txt":1}' | "$qi" tokenize --jsonl >out 2>err; ok 'no text' test $? = 4
printf '%s\n' '{"text":' | "$qi" tokenize --jsonl >out 2>err; ok 'no JSON' test $? = 4
run 3 'nowhere' tokenize --tokenizer nowhere x
run 0 '' generate $small --show-prompt 'a cat' -o one/t.png; says 'a cat<|im_end|>'
says '<|im_start|>system'
run 0 '' generate $small --show-prompt --system 'Be brief.' 'a cat' -o one/t.png; says 'Be brief.'
printf 'Draw {}!' >template.txt
run 0 '' generate $small --show-prompt --template template.txt 'a cat' -o one/t.png
says '^Draw a cat!'
rm one/t.png
run 0 '' generate -q -m "$tiny" --from one/a.png --template template.txt -o one/t.png
run 0 '' generate -q -m "$tiny" --from one/t.png -o one/t2.png
run 0 '' compare one/t.png one/t2.png
awk 'BEGIN { for (i = 0; i < 100000; i++) printf "a "; print "" }' >prompts
run 0 '' generate -m "$tiny" --progress none -s 1 -g 1 --size 16x16 --prompt-file prompts -o \
    one/long.png
ok 'a warning about the cut' grep -q -i 'cut\|truncat\|token' err

# --- names ---
hub=$HOME/.cache/huggingface/hub/models--Tiny--Model
mkdir -p "$hub/refs" "$hub/snapshots/0123abcd"; printf 0123abcd >"$hub/refs/main"
printf 0123abcd >"$hub/refs/old"
for f in "$tiny"/*; do ln -s "$f" "$hub/snapshots/0123abcd/"; done
for id in Tiny/Model Tiny/Model@main Tiny/Model@old Tiny/Model@0123abcd Model; do
    run 0 '' generate -q -m $id -s 1 -g 1 --size 32x32 --seed 5 'a cat' -o one/hf.png
    run 0 '' compare one/a.png one/hf.png
done
run 3 'refs/new' generate -m Tiny/Model@new x
run 3 'did you mean Tiny/Model' generate -m Tiny/Modle x
rm "$hub/snapshots/0123abcd/model_index.json"
mkdir "$hub/snapshots/cut"; printf cut >"$hub/refs/cut"; mkdir "$hub/snapshots/cut/transformer"
printf '{"_class_name": "QwenImagePipeline"}' >"$hub/snapshots/cut/model_index.json"
printf '{"weight_map": {"a": "one.safetensors"}}' \
    >"$hub/snapshots/cut/transformer/diffusion_pytorch_model.safetensors.index.json"
run 3 'one.safetensors.*huggingface-cli download Tiny/Model' generate -m Tiny/Model@cut x
ln -s "$tiny/model_index.json" "$hub/snapshots/0123abcd/"
mv "$HOME/.cache/huggingface" elsewhere
run 3 'Tiny/Model' generate -m Tiny/Model x
HF_HOME=$work/elsewhere; export HF_HOME; run 0 '' inspect Tiny/Model; unset HF_HOME
mkdir -p comfy/models/diffusion_models/sub comfy/models/vae comfy/models/text_encoders \
    comfy/models/loras other/more
ln -s "$data/formats/comfyui/models/diffusion_models/qwen_image_medium_bf16.safetensors" \
    comfy/models/diffusion_models/sub/m.safetensors
ln -s "$data/formats/comfyui/models/diffusion_models/qwen-image-medium-Q8_0.gguf" \
    comfy/models/diffusion_models/q.gguf
ln -s "$data/formats/comfyui/models/diffusion_models/qwen-image-medium-Q8_0.gguf" \
    comfy/models/diffusion_models/sub/q.gguf
ln -s "$data/formats/comfyui/models/vae/qwen_image_vae_medium.safetensors" \
    comfy/models/vae/v.safetensors
ln -s "$data/formats/comfyui/models/loras/peft_bare.safetensors" other/more/l.safetensors
gzip -dc "$data/formats/comfyui/models/text_encoders/qwen_2.5_vl_medium.safetensors.gz" \
    >comfy/models/text_encoders/t.safetensors
printf 'mine:\n  base_path: ../$OTHER\n  is_default: true\n  loras: |\n    more\n    none\n' \
    >comfy/extra_model_paths.yaml
OTHER=other; export OTHER
run 0 '' models --models comfy; says '^sub/m.safetensors  *transformer.*bf16'
says '^v.safetensors'; says '^l.safetensors  *LoRA\|^l.safetensors  *lora'
run 0 '' models --models comfy/models --names; says '^q.gguf$'; says '^l.safetensors$'
says '^demo$'
QWEN_MODELS=nowhere:comfy; export QWEN_MODELS
run 0 '' models --json; says '"name": "sub/m.safetensors"'
run 0 'text encoder: t.safetensors' plan -m m --size 32x32 -s 1 x
ok 'the VAE is said' grep -q 'VAE: v.safetensors' err
run 0 '' plan -m m --lora l:0.5 --size 32x32 x
for l in nan no_match only_up rank_0 rank_mismatch shape_mismatch; do
    run 4 "lora_$l" plan -m m --lora "$data/formats/bad/lora_$l.safetensors" --size 32x32 x
done
run 3 'did you mean' plan -m sub/n.safetensors x
mkdir comfy/models/diffusion_models/again
ln -s ../sub/m.safetensors comfy/models/diffusion_models/again/m.safetensors
run 2 'ambiguous.*again/m.safetensors.*sub/m.safetensors' plan -m m x
run 0 '' plan -m again/m --size 32x32 x
run 0 '' plan -m q --size 32x32 x
run 3 'nowhere' models --models nowhere
unset QWEN_MODELS

# --- plan and devices ---
run 0 '' plan -m "$tiny" --size 64x64 x; says 'denoising'; says '64x64'
run 0 '' plan --ops -m "$tiny" --size 64x64 x; says 'gemm'
run 0 '' plan --json --ops -m "$tiny" --size 64x64 x; says '"flops"'
run 0 '' devices; says '^ref '; run 0 '' devices --json; says '"name": "ref"'; says '"default": true'
run 2 '' devices x
"$qi" plan -m "$tiny" x >/dev/full 2>err; ok 'plan to a full disk' test $? = 7

# --- the demo ---
run 0 'demo checkpoint.*--model' generate -s 1 -g 1 --seed 1 --size 32x32 --progress none \
    'a red circle' -o one/demo.png
run 0 '' generate -q -m demo -s 1 -g 1 --seed 1 --size 32x32 'a red circle' -o one/demo2.png
run 0 '' compare one/demo.png one/demo2.png

printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
