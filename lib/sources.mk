# the portable core
lib_headers = lib/qwen.h
lib_devheaders = lib/backend.h lib/tensor.h
lib_sources = \
	lib/error.h lib/error.c lib/path.h lib/path.c lib/sized.h lib/sized.c lib/tensor.c lib/quant.c lib/quant_iq.c lib/quant_tables.h \
	lib/run.h lib/op.c lib/run.c lib/plan.c lib/registry.c \
	lib/load.h lib/store.h lib/json.c lib/safetensors.c lib/gguf.c lib/store.c lib/open.c lib/names.c lib/layouts.c lib/config.c \
	lib/loader.c lib/residency.h lib/lora.h lib/lora.c lib/overlay.c lib/residency.c \
	lib/net.h lib/linear.c lib/rope.c lib/text.c lib/vision.c lib/dit.h lib/dit.c lib/vae.c lib/control.c \
	lib/host.h lib/tokenizer.h lib/tokenizer.c lib/tokenizer_load.c lib/unicode.c \
	lib/rng.c lib/math.c lib/schedule.c lib/sampler.c lib/image.c \
	lib/pipeline.h lib/template.c lib/model.c lib/variant.c lib/component.c lib/log.c lib/tower.c lib/need.c lib/lora_use.c lib/edit.c lib/comfy.c lib/geometry.c lib/stages.c lib/words.c lib/latents.c \
	lib/denoise.c lib/decode.c lib/bands.c lib/tiles.c lib/pipeline.c lib/qwen.c lib/file.c lib/inspect.c
