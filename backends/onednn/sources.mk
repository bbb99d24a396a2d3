# the oneDNN module
onednn_sources = backends/onednn/onednn.h backends/onednn/primitive.c backends/onednn/finish.c backends/onednn/gemm.c backends/onednn/conv2d.c \
	backends/onednn/onednn.c
