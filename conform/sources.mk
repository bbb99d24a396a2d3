# the kit that judges a backend; main.c is the program's alone
conform_sources = conform/conform.h conform/trial.h conform/fill.h conform/cases.c conform/draw.c conform/fill.c \
	conform/bounds.c conform/trial.c conform/judge.c conform/judge_device.c
