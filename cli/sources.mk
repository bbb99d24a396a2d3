# the command, but for its main
cli_sources = \
	cli/cli.h cli/say.c cli/options.c cli/output.c cli/dump.c cli/progress.c cli/sha256.c \
	cli/request.h cli/request.c cli/metadata.c \
	cli/generate.c cli/plan.c cli/devices.c cli/models.c cli/inspect.c cli/compare.c cli/tokenize.c \
	cli/find/find.h cli/find/find.c cli/find/catalog.h cli/find/catalog.c cli/find/places.c cli/find/cache.c \
	cli/find/match.c cli/find/pieces.c \
	cli/media/media.h cli/media/decode.h cli/media/picture.c cli/media/png.c cli/media/exif.c cli/media/write.c \
	cli/media/edges.c cli/media/paste.c cli/media/preview.c
