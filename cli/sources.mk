# the command, but for its main
cli_sources = \
	cli/cli.h cli/say.c cli/options.c cli/request.c cli/generate.c cli/plan.c cli/devices.c cli/models.c \
	cli/inspect.c cli/compare.c cli/tokenize.c cli/find/find.c cli/find/catalog.h cli/find/catalog.c cli/find/places.c \
	cli/find/cache.c cli/find/match.c cli/find/pieces.c cli/metadata.c cli/sha256.c cli/progress.c \
	cli/media/picture.c cli/media/png.c cli/media/exif.c cli/media/write.c cli/output.c cli/dump.c cli/media/preview.c cli/media/paste.c cli/media/edges.c
