# the command
cli_sources = \
	cli/cli.h cli/main.c cli/options.c cli/generate.c cli/plan.c cli/devices.c cli/tokenize.c cli/inspect.c \
	cli/compare.c cli/dump.c cli/picture.c cli/metadata.c cli/progress.c cli/find.c
