# the command, but for its main
cli_sources = \
	cli/cli.h cli/say.c cli/options.c cli/request.c cli/generate.c cli/plan.c cli/devices.c cli/models.c \
	cli/inspect.c cli/compare.c cli/tokenize.c cli/find.c cli/catalog.h cli/catalog.c cli/places.c \
	cli/cache.c cli/match.c cli/pieces.c cli/metadata.c cli/sha256.c cli/progress.c \
	cli/picture.c cli/png.c cli/exif.c cli/write.c cli/output.c cli/dump.c cli/preview.c cli/paste.c cli/edges.c
