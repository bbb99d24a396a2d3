# qwen-image.bash - completion of the command qwen-image for bash.
# Options come from the command's own --help, names from `qwen-image models --names --kind KIND`, among the folders of
# the --models that stand on the line.

# The listed names that begin with the word $2 and that the option --$1 takes; if there is none, those that do when case
# is ignored and - _ . and space are alike.
_qwen_image_names()
{
    local kind=$1 cur=$2 i w name begin plain folders=() exact=() alike=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        [ "${COMP_WORDS[i]}" = --models ] || continue
        w=${COMP_WORDS[i + 1]}
        [ "$w" = = ] && w=${COMP_WORDS[i + 2]}
        w=${w//[\'\"\\]/}
        [[ $w == '~'* ]] && w=$HOME${w:1}
        [ -d "$w" ] && folders+=(--models "$w")
    done
    cur=${cur//[\'\"\\]/} begin=${cur,,} begin=${begin//[-_. ]/-}
    while IFS= read -r name; do
        plain=${name,,} plain=${plain//[-_. ]/-}
        [[ $name == "$cur"* ]] && exact+=("$name")
        [[ $plain == "$begin"* ]] && alike+=("$name")
    done < <(qwen-image models --names -q ${kind:+--kind "$kind"} "${folders[@]}" 2>/dev/null)
    [ ${#exact[@]} -gt 0 ] && alike=("${exact[@]}")
    COMPREPLY+=("${alike[@]}")
}

_qwen_image()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev= sub=${COMP_WORDS[1]-} words
    local subcommands='generate plan devices models inspect compare tokenize help'
    COMPREPLY=()
    [ "$COMP_CWORD" -gt 0 ] && prev=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$subcommands --help --version" -- "$cur")
        return
    fi
    if [ "$sub" = help ]; then
        mapfile -t COMPREPLY < <(compgen -W "${subcommands% help}" -- "$cur")
        return
    fi
    # --option=value arrives as three words
    if [ "$cur" = = ]; then
        cur=
    elif [ "$prev" = = ] && [ "$COMP_CWORD" -gt 1 ]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $prev in
    -m|--model|--transformer|--text-encoder|--vision|--vae|--controlnet|--tokenizer|--lora)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        [ "$prev" = -m ] && prev=--model
        _qwen_image_names "${prev#--}" "$cur"
        compopt -o filenames 2>/dev/null
        return ;;
    --kind) words='model transformer text-encoder vision vae controlnet lora tokenizer' ;;
    --models)
        mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        compopt -o filenames 2>/dev/null
        return ;;
    --device|--text-device|--vae-device)
        mapfile -t COMPREPLY < <(compgen -W "$(qwen-image devices 2>/dev/null | cut -d' ' -f1)" -- "$cur")
        return ;;
    --variant) words='t2i edit edit-2509 edit-2511 layered' ;;
    --template) words='t2i edit edit-plus' ;;
    --aspect) words='1:1 16:9 9:16 4:3 3:4 3:2 2:3' ;;
    --guidance-norm) words='on off' ;;
    --schedule) words='auto qwen lightning layered raw simple normal beta sgm_uniform karras exponential ddim_uniform
        linear_quadratic kl_optimal' ;;
    --rng) words='torch-cpu torch-cpu-bf16-old torch-cuda' ;;
    --noise-dtype) words='f32 bf16' ;;
    --like) words='diffusers comfyui' ;;
    --tiling) words=reference ;;
    --progress) words='auto bar plain none' ;;
    -i|--input|--mask|--control|--from|--embeds|--save-embeds|--latents|--dump|--prompt-file|-o|--output)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        compopt -o filenames 2>/dev/null
        return ;;
    esac
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    if [[ $cur == -* ]]; then
        words=$(qwen-image "$sub" --help 2>/dev/null | grep -o -e '^ *\(-., \)\?--[a-z-]*' | grep -o -e '-.*' | tr -d ,)
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    [ "$sub" = inspect ] && _qwen_image_names '' "$cur"
    compopt -o filenames 2>/dev/null
}
complete -F _qwen_image qwen-image
