# the kit that judges a backend
conform_sources = conform/conform.h conform/conform.c conform/cases.c conform/fill.h conform/fill.c conform/bounds.c
