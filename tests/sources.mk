# the tests; conform_sources are shared by qwen-conform and check_conform
conform_sources = tests/conform.h tests/conform.c tests/cases.c tests/fill.h tests/fill.c tests/bounds.c
unit_tests = check_core check_ops check_conform check_load check_formats check_weights check_host check_nets check_parts check_api check_golden check_layouts check_bands check_geometry check_oom
script_tests = tests/check_includes.sh tests/check_docs.sh tests/check_symbols.sh tests/check_cli.sh tests/fuzz/replay.sh
