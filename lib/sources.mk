# the portable core, room by room
lib_headers = include/qwen/qwen.h
lib_devheaders = include/qwen/backend.h include/qwen/tensor.h include/qwen/ref.h
# tensors and rows, which libqwen-backend.a has too
rows_sources = \
	lib/core/tensor.c lib/core/rows.c lib/core/decode.c lib/core/decode_iq.c lib/core/decode_tables.h
core_sources = \
	lib/core/core.h lib/core/error.c lib/core/path.c lib/core/sized.c lib/core/host_threads.c lib/core/utf8.c \
	lib/core/exact_math.c $(rows_sources) \
	lib/core/op.h lib/core/op.c lib/core/run.h lib/core/run_inside.h lib/core/run_error.c lib/core/scratch.c lib/core/copy.c lib/core/finite.c \
	lib/core/fallback.c lib/core/tap.c lib/core/record.c lib/core/run.c lib/core/plan.c lib/core/host_device.c lib/core/modules.h lib/core/elf.c lib/core/modules.c lib/core/registry.c
files_sources = \
	lib/files/store.h lib/files/json.h lib/files/config.h lib/files/files.h lib/files/json.c lib/files/store.c lib/files/open.c lib/files/safetensors.c lib/files/gguf.c \
	lib/files/kind.c lib/files/names.c lib/files/leftovers.c lib/files/quantised.c lib/files/config.c lib/files/lora.h lib/files/lora.c
host_sources = \
	lib/host/text.h lib/host/noise.h lib/host/pictures.h lib/host/tokenizer.h lib/host/tokenizer.c lib/host/tokenizer_load.c lib/host/unicode.c \
	lib/host/template.c lib/host/rng.c lib/host/schedule.c lib/host/sampler.c lib/host/image.c lib/host/interpolate.c
weights_sources = \
	lib/weights/weights.h lib/weights/residency.h lib/weights/loader.c lib/weights/residency.c lib/weights/overlay.c
nets_sources = \
	lib/nets/net.h lib/nets/control.h lib/nets/linear.c lib/nets/rope.c lib/nets/text.c lib/nets/vision.c lib/nets/dit.h \
	lib/nets/dit.c lib/nets/dit_block.c lib/nets/dit_modulation.c lib/nets/vae.h lib/nets/vae.c lib/nets/vae_bands.c lib/nets/control.c
pipeline_sources = \
	lib/pipeline/pipeline.h lib/pipeline/model.h lib/pipeline/job.h lib/pipeline/stage.h lib/pipeline/log.c \
	lib/pipeline/component.c lib/pipeline/tower.c lib/pipeline/variant.c lib/pipeline/model.c lib/pipeline/load_nets.c lib/pipeline/lora_use.c \
	lib/pipeline/job.c lib/pipeline/request.c lib/pipeline/pictures.c lib/pipeline/comfy.c lib/pipeline/geometry.c lib/pipeline/stage.c \
	lib/pipeline/prompt.c lib/pipeline/latents.c lib/pipeline/denoise.c lib/pipeline/vae_stage.c lib/pipeline/tiles.c lib/pipeline/decode.c \
	lib/pipeline/pipeline.c lib/pipeline/count.c lib/pipeline/generate.c
api_sources = lib/api/api.h lib/api/handle.c lib/api/generate.c lib/api/stages.c lib/api/api_files.c lib/api/inspect.c
lib_sources = $(core_sources) $(files_sources) $(host_sources) $(weights_sources) $(nets_sources) \
	$(pipeline_sources) $(api_sources)
