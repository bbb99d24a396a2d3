# the tests, by the room that each looks into
unit_tests = \
	check_tensor check_rows check_op_table check_run check_contract check_registry check_ops check_reference \
	check_conform check_bench check_cpu check_functions check_tiles check_safetensors check_gguf check_store check_broken check_kinds \
	check_names check_config check_quantised check_loader check_lora check_residency \
	check_streaming check_vae check_layouts check_tokenizer check_rng check_schedule \
	check_sampler check_image check_nets check_parts check_stress check_bands check_recording check_count check_load_nets check_geometry check_inspect \
	check_api check_stages check_generate check_edits check_golden check_oom
script_tests = tests/conform/check_onednn.sh tests/core/check_modules.sh tests/conform/check_kit.sh tests/check_includes.sh tests/check_circles.sh tests/check_docs.sh tests/check_symbols.sh tests/check_archive.sh tests/whole/check_cli.sh \
	tests/whole/check_discovery.sh tests/fuzz/replay.sh

# what the tests share
testing_sources = tests/testing.h tests/values.h tests/values.c tests/files.h tests/files.c \
	tests/devices.h tests/devices.c tests/late.h tests/late.c tests/medium.h tests/medium.c

check_tensor_SOURCES = tests/core/check_tensor.c
check_tensor_CPPFLAGS = $(test_cppflags)
check_tensor_LDADD = $(unit_libs)
check_rows_SOURCES = tests/core/check_rows.c
check_rows_CPPFLAGS = $(test_cppflags)
check_rows_LDADD = $(unit_libs)
check_op_table_SOURCES = tests/core/check_op_table.c
check_op_table_CPPFLAGS = $(test_cppflags)
check_op_table_LDADD = $(unit_libs)
check_run_SOURCES = tests/core/check_run.c
check_run_CPPFLAGS = $(test_cppflags)
check_run_LDADD = $(unit_libs)
check_contract_SOURCES = tests/core/check_contract.c
check_contract_CPPFLAGS = $(test_cppflags)
check_contract_LDADD = $(unit_libs)
check_registry_SOURCES = tests/core/check_registry.c
check_registry_CPPFLAGS = $(test_cppflags)
check_registry_LDADD = $(unit_libs)
# modules for it: the source is one, what is wrong with each is a definition
module_tests = tests/core/module_alpha.la tests/core/module_twin_one.la tests/core/module_twin_two.la \
	tests/core/module_stale.la tests/core/module_small.la tests/core/module_future.la tests/core/module_nameless.la \
	tests/core/module_alien.la tests/core/module_endless.la
module_flags = $(AM_LDFLAGS) -module -shared -avoid-version -rpath /nowhere
tests_core_module_alpha_la_SOURCES = tests/core/module.c
tests_core_module_alpha_la_LDFLAGS = $(module_flags)
tests_core_module_twin_one_la_SOURCES = tests/core/module.c
tests_core_module_twin_one_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"twin"' -DMODULE_WHAT='"of folder one"'
tests_core_module_twin_one_la_LDFLAGS = $(module_flags)
tests_core_module_twin_two_la_SOURCES = tests/core/module.c
tests_core_module_twin_two_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"twin"' -DMODULE_WHAT='"of folder two"'
tests_core_module_twin_two_la_LDFLAGS = $(module_flags)
tests_core_module_stale_la_SOURCES = tests/core/module.c
tests_core_module_stale_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"stale"' -DMODULE_SYMBOL=qw_backend_module
tests_core_module_stale_la_LDFLAGS = $(module_flags)
tests_core_module_small_la_SOURCES = tests/core/module.c
tests_core_module_small_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"small"' -DMODULE_SIZE=8
tests_core_module_small_la_LDFLAGS = $(module_flags)
tests_core_module_future_la_SOURCES = tests/core/module.c
tests_core_module_future_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"future"' -DMODULE_ABI=3
tests_core_module_future_la_LDFLAGS = $(module_flags)
tests_core_module_nameless_la_SOURCES = tests/core/module.c
tests_core_module_nameless_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='""'
tests_core_module_nameless_la_LDFLAGS = $(module_flags)
tests_core_module_alien_la_SOURCES = tests/core/module.c
tests_core_module_alien_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"alien"' -DMODULE_DEVICE='"ref64"'
tests_core_module_alien_la_LDFLAGS = $(module_flags)
tests_core_module_endless_la_SOURCES = tests/core/module.c
tests_core_module_endless_la_CPPFLAGS = $(AM_CPPFLAGS) -DMODULE_NAME='"endless"' -DMODULE_ENDLESS=1
tests_core_module_endless_la_LDFLAGS = $(module_flags)
check_ops_SOURCES = tests/reference/check_ops.c
check_ops_CPPFLAGS = $(test_cppflags)
check_ops_LDADD = $(unit_libs)
check_reference_SOURCES = tests/reference/check_reference.c
check_reference_CPPFLAGS = $(test_cppflags)
check_reference_LDADD = $(unit_libs)
check_cpu_SOURCES = tests/conform/check_cpu.c tests/testing.h $(conform_sources)
check_cpu_CPPFLAGS = $(test_cppflags)
check_cpu_LDADD = $(unit_libs)
check_functions_SOURCES = tests/conform/check_functions.c tests/testing.h $(conform_sources)
check_functions_CPPFLAGS = $(test_cppflags)
check_functions_LDADD = $(unit_libs)
check_tiles_SOURCES = tests/conform/check_tiles.c tests/testing.h $(conform_sources)
check_tiles_CPPFLAGS = $(test_cppflags)
check_tiles_LDADD = libcpu_tiles.la $(unit_libs)
check_conform_SOURCES = tests/conform/check_conform.c tests/testing.h $(conform_sources)
check_conform_CPPFLAGS = $(test_cppflags)
check_conform_LDADD = $(unit_libs)
check_bench_SOURCES = tests/conform/check_bench.c tests/testing.h $(conform_sources)
check_bench_CPPFLAGS = $(test_cppflags)
check_bench_LDADD = libbench.la $(unit_libs)
# a model of the published size, for measurements: `make full_model`
full_model_SOURCES = tests/full/full_model.c $(conform_sources)
full_model_CPPFLAGS = $(test_cppflags)
full_model_LDADD = libbench.la libcore.la $(JANSSON_LIBS) $(UTF8PROC_LIBS)
check_safetensors_SOURCES = tests/files/check_safetensors.c
check_safetensors_CPPFLAGS = $(test_cppflags)
check_safetensors_LDADD = $(unit_libs)
check_gguf_SOURCES = tests/files/check_gguf.c
check_gguf_CPPFLAGS = $(test_cppflags)
check_gguf_LDADD = $(unit_libs)
check_store_SOURCES = tests/files/check_store.c
check_store_CPPFLAGS = $(test_cppflags)
check_store_LDADD = $(unit_libs)
check_broken_SOURCES = tests/files/check_broken.c
check_broken_CPPFLAGS = $(test_cppflags)
check_broken_LDADD = $(unit_libs)
check_kinds_SOURCES = tests/files/check_kinds.c
check_kinds_CPPFLAGS = $(test_cppflags)
check_kinds_LDADD = $(unit_libs)
check_names_SOURCES = tests/files/check_names.c
check_names_CPPFLAGS = $(test_cppflags)
check_names_LDADD = $(unit_libs)
check_config_SOURCES = tests/files/check_config.c
check_config_CPPFLAGS = $(test_cppflags)
check_config_LDADD = $(unit_libs)
check_quantised_SOURCES = tests/files/check_quantised.c
check_quantised_CPPFLAGS = $(test_cppflags)
check_quantised_LDADD = $(unit_libs)
check_loader_SOURCES = tests/weights/check_loader.c
check_loader_CPPFLAGS = $(test_cppflags)
check_loader_LDADD = $(unit_libs)
check_lora_SOURCES = tests/weights/check_lora.c
check_lora_CPPFLAGS = $(test_cppflags)
check_lora_LDADD = $(unit_libs)
check_residency_SOURCES = tests/weights/check_residency.c
check_residency_CPPFLAGS = $(test_cppflags)
check_residency_LDADD = $(unit_libs)
check_streaming_SOURCES = tests/weights/check_streaming.c
check_streaming_CPPFLAGS = $(test_cppflags)
check_streaming_LDADD = $(unit_libs)
check_vae_SOURCES = tests/nets/check_vae.c
check_vae_CPPFLAGS = $(test_cppflags)
check_vae_LDADD = $(unit_libs)
check_layouts_SOURCES = tests/whole/check_layouts.c
check_layouts_CPPFLAGS = $(test_cppflags)
check_layouts_LDADD = $(unit_libs)
check_tokenizer_SOURCES = tests/host/check_tokenizer.c
check_tokenizer_CPPFLAGS = $(test_cppflags)
check_tokenizer_LDADD = $(unit_libs)
check_rng_SOURCES = tests/host/check_rng.c
check_rng_CPPFLAGS = $(test_cppflags)
check_rng_LDADD = $(unit_libs)
check_schedule_SOURCES = tests/host/check_schedule.c
check_schedule_CPPFLAGS = $(test_cppflags)
check_schedule_LDADD = $(unit_libs)
check_sampler_SOURCES = tests/host/check_sampler.c
check_sampler_CPPFLAGS = $(test_cppflags)
check_sampler_LDADD = $(unit_libs)
check_image_SOURCES = tests/host/check_image.c
check_image_CPPFLAGS = $(test_cppflags)
check_image_LDADD = $(unit_libs)
check_nets_SOURCES = tests/nets/check_nets.c
check_nets_CPPFLAGS = $(test_cppflags)
check_nets_LDADD = $(unit_libs)
check_parts_SOURCES = tests/nets/check_parts.c
check_parts_CPPFLAGS = $(test_cppflags)
check_parts_LDADD = $(unit_libs)
check_stress_SOURCES = tests/nets/check_stress.c
check_stress_CPPFLAGS = $(test_cppflags)
check_stress_LDADD = $(unit_libs)
check_bands_SOURCES = tests/pipeline/check_bands.c
check_bands_CPPFLAGS = $(test_cppflags)
check_bands_LDADD = $(unit_libs)
check_count_SOURCES = tests/pipeline/check_count.c tests/api.h
check_count_CPPFLAGS = $(test_cppflags)
check_count_LDADD = $(unit_libs)
check_load_nets_SOURCES = tests/pipeline/check_load_nets.c tests/api.h
check_load_nets_CPPFLAGS = $(test_cppflags)
check_load_nets_LDADD = $(unit_libs)
check_recording_SOURCES = tests/pipeline/check_recording.c tests/api.h
check_recording_CPPFLAGS = $(test_cppflags)
check_recording_LDADD = $(unit_libs)
check_geometry_SOURCES = tests/pipeline/check_geometry.c
check_geometry_CPPFLAGS = $(test_cppflags)
check_geometry_LDADD = $(unit_libs)
check_inspect_SOURCES = tests/api/check_inspect.c
check_inspect_CPPFLAGS = $(test_cppflags)
check_inspect_LDADD = $(unit_libs)
check_api_SOURCES = tests/api/check_api.c tests/api.h
check_api_CPPFLAGS = $(test_cppflags)
check_api_LDADD = $(unit_libs)
check_stages_SOURCES = tests/pipeline/check_stages.c tests/api.h
check_stages_CPPFLAGS = $(test_cppflags)
check_stages_LDADD = $(unit_libs)
check_generate_SOURCES = tests/whole/check_generate.c tests/api.h
check_generate_CPPFLAGS = $(test_cppflags)
check_generate_LDADD = $(unit_libs)
check_edits_SOURCES = tests/whole/check_edits.c tests/api.h
check_edits_CPPFLAGS = $(test_cppflags)
check_edits_LDADD = $(unit_libs)
check_golden_SOURCES = tests/whole/check_golden.c
check_golden_CPPFLAGS = $(test_cppflags)
check_golden_LDADD = $(unit_libs)
check_oom_SOURCES = tests/whole/check_oom.c
check_oom_CPPFLAGS = $(test_cppflags)
check_oom_LDADD = $(unit_libs)
check_oom_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=strdup,--wrap=strndup
