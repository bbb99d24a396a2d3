# the cpu device: the same kernels, compiled once for each instruction set
cpu_sources = backends/cpu/cpu.h backends/cpu/cpu.c backends/cpu/threads.c
cpu_kernels = backends/cpu/cpu.h backends/cpu/vec.h backends/cpu/kernel.h $(cpu_gemm) $(cpu_attention) $(cpu_conv2d) backends/cpu/norm.c \
	backends/cpu/set.c
cpu_gemm = backends/cpu/vec_codes.h backends/cpu/gemm.h backends/cpu/gemm_decode.h backends/cpu/gemm.c backends/cpu/gemm_one.c \
	backends/cpu/gemm_unpack.c backends/cpu/gemm_finish.c
cpu_attention = backends/cpu/attention.h backends/cpu/attention.c backends/cpu/attention_lay.c backends/cpu/attention_block.c
cpu_conv2d = backends/cpu/conv2d.h backends/cpu/conv2d.c backends/cpu/conv2d_lay.c backends/cpu/conv2d_tile.c
# of the sets with a product of bytes
cpu_int8_kernels = backends/cpu/int8.h backends/cpu/int8_gemm.c backends/cpu/int8_weights.c backends/cpu/int8_rows.c \
	backends/cpu/tiles.h
cpu_tile_kernels = backends/cpu/tiles.h backends/cpu/tiles_gemm.c
