# the kit that judges a backend; main.c is the program's alone
conform_sources = conform/conform.h conform/trial.h conform/fill.h conform/cases.c conform/draw.c conform/fill.c \
	conform/bounds.c conform/trial.c conform/judge.c conform/judge_device.c

# a plain device with a fault at a time, for make check-mutants
mutants_sources = conform/mutants/mutant.h conform/mutants/main.c conform/mutants/device.c conform/mutants/plain.c conform/mutants/gemm.c \
	conform/mutants/attention.c conform/mutants/conv2d.c conform/mutants/rows.c

# the benchmark of the same program; the roof's kernels are compiled once for each instruction set
bench_sources = conform/bench.h conform/bench_inside.h conform/bench_row.h conform/bench_report.h conform/roof.h conform/roof.c conform/roof_sets.c \
	conform/bench_work.c conform/bench_machine.c conform/bench_file.c conform/bench_sheets.c conform/bench_place.c conform/bench_time.c \
	conform/bench_row.c conform/bench_against.c conform/bench_report.c conform/bench.c
roof_kernels = conform/roof.h conform/roof_kernels.c
