# what every operation means
reference_sources = \
	reference/rows.h reference/rows.c reference/ref.c reference/gemm.c reference/attention.c \
	reference/conv2d.c reference/norm.c reference/rope.c reference/swiglu.c reference/convert.c
