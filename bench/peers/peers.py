"""peers.py - what PyTorch + diffusers and OpenVINO need for the works of `qwen-conform bench`, on this machine.

    peers.py WORK... [--who DEVICE,...] [--repeat N] [--wait]

WORK is a word of qwen-conform, whose weights do not matter here: gemm:MxNxK, attention:HEADSxROWSxD, block:PICTURE+TEXT,
text:ROWS, vae:SIZE.  DEVICE is torch:f32, torch:bf16, openvino:f32, openvino:bf16 or openvino:int8.  A line of JSON each,
in the manner of qwen-conform: work, device, median, best, worst, repeat, error (relative L2 against PyTorch in f32, null
where that takes long), version.  Threads: OMP_NUM_THREADS, or all processors that this process may use.  One warm-up, then
repetitions until the half in the middle agrees to 2 %, at least 3 and at most N (7) or 20 seconds.  A warm-up of more than
10 seconds is the only repetition.  --wait: before each timing writes "ready" to stdout and reads a line of stdin.

OpenVINO runs with PERFORMANCE_HINT=LATENCY and INFERENCE_PRECISION_HINT=bf16 or f32; "int8" is nncf's INT8_ASYM
compression of weights with OpenVINO's dynamic quantisation of activations (group 128), which is how its users run int8.
"""
import argparse, json, logging, os, statistics, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, torch
import torch.nn.functional as F

DEVICES = "torch:f32", "torch:bf16", "openvino:f32", "openvino:bf16", "openvino:int8"
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("works", nargs="+", metavar="WORK")
parser.add_argument("--who", default=",".join(DEVICES))
parser.add_argument("--repeat", type=int, default=7)
parser.add_argument("--wait", action="store_true")
args = parser.parse_args()
WHO = args.who.split(",")
for w in WHO:
    if w not in DEVICES: parser.error(f"{w}: no device of {', '.join(DEVICES)}")
THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
torch.set_num_threads(THREADS)
torch.manual_seed(0)
HALF = torch.bfloat16
if any(w.startswith("openvino") for w in WHO):
    import openvino as ov
    core = ov.Core()


def settled(out):
    """Three or more, and the half in the middle agrees to 2 %."""
    s = sorted(out); off = len(s) // 4
    return len(s) >= 3 and s[-1 - off] - s[off] < 0.02 * statistics.median(s)


def times(f):
    if args.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    begin = time.perf_counter(); f(); first = time.perf_counter() - begin
    if first > 10: return [first]
    turns = max(1, int(0.02 / first) + 1) if first < 0.02 else 1
    out = []
    while len(out) < args.repeat and not settled(out) and (len(out) < 3 or time.perf_counter() - begin < 20):
        t = time.perf_counter()
        for _ in range(turns): f()
        out.append((time.perf_counter() - t) / turns)
    return out


def error(got, want):
    got, want = got.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def report(work, device, seconds, off, version):
    print(json.dumps(dict(work=work, device=device, median=statistics.median(seconds), best=min(seconds), worst=max(seconds),
                          repeat=len(seconds), error=off, version=version)), flush=True)


def pick(out, i): return out[i] if isinstance(out, (tuple, list)) else out


def with_torch(work, module, inputs, out, dtype, want):
    """A module in f32 or bf16; inputs that are no floats stay as they are."""
    device = "torch:bf16" if dtype == HALF else "torch:f32"
    if device not in WHO: return
    if isinstance(module, torch.nn.Module): module = module.to(dtype)
    cast = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    last = []
    seconds = times(lambda: last.__setitem__(slice(None), [pick(module(*cast), out)]))
    report(work, device, seconds, None if want is None else error(last[0].float().numpy(), want), torch.__version__)


def with_openvino(work, module, inputs, out, mode, want):
    if "openvino:" + mode not in WHO: return
    model = ov.convert_model(module, example_input=tuple(inputs))
    model.reshape({p: list(x.shape) for p, x in zip(model.inputs, inputs)})
    config = {"INFERENCE_PRECISION_HINT": "f32" if mode == "f32" else "bf16", "INFERENCE_NUM_THREADS": THREADS,
              "PERFORMANCE_HINT": "LATENCY"}
    if mode == "int8":
        logging.disable(logging.INFO)
        import nncf
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "128"
    request = core.compile_model(model, "CPU", config).create_infer_request()
    arrays = [x.numpy() for x in inputs]
    seconds = times(lambda: request.infer(arrays))
    off = None if want is None else error(request.get_output_tensor(out).data, want)
    report(work, "openvino:" + mode, seconds, off, ov.__version__.split("-")[0])


def both(work, module, inputs, out=0, modes=("f32", "bf16", "int8"), traced=None, more=(), slow=False):
    """traced: what OpenVINO is given instead, with `more` inputs; slow: no error is computed."""
    want = None if slow else pick(module(*inputs), out).float().numpy()
    for mode in modes: with_openvino(work, traced or module, [*inputs, *more], out, mode, want)
    for dtype in (torch.float32, HALF): with_torch(work, module, inputs, out, dtype, want)


# --- works --------------------------------------------------------------------------------------

class Attention(torch.nn.Module):
    def forward(self, q, k, v): return F.scaled_dot_product_attention(q, k, v)


class Block(torch.nn.Module):
    """diffusers' QwenImageTransformerBlock with its rotation in real numbers, which OpenVINO can trace; equal to it."""
    def __init__(self, block): super().__init__(); self.block = block
    def forward(self, picture, text, t, pc, ps, tc, ts):
        b, a = self.block, self.block.attn
        def modulate(x, p):
            shift, scale, gate = p.chunk(3, -1)
            return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1), gate.unsqueeze(1)
        def rotate(x, c, s):
            x = x.unflatten(-1, (-1, 2)); u, v = x[..., 0], x[..., 1]; c, s = c[None, :, None], s[None, :, None]
            return torch.stack((u * c - v * s, u * s + v * c), -1).flatten(-2)
        heads = lambda x: x.unflatten(-1, (24, -1))
        p1, p2 = b.img_mod(t).chunk(2, -1); t1, t2 = b.txt_mod(t).chunk(2, -1)
        h, gate_p = modulate(b.img_norm1(picture), p1); e, gate_t = modulate(b.txt_norm1(text), t1)
        q = torch.cat([rotate(a.norm_added_q(heads(a.add_q_proj(e))), tc, ts), rotate(a.norm_q(heads(a.to_q(h))), pc, ps)], 1)
        k = torch.cat([rotate(a.norm_added_k(heads(a.add_k_proj(e))), tc, ts), rotate(a.norm_k(heads(a.to_k(h))), pc, ps)], 1)
        v = torch.cat([heads(a.add_v_proj(e)), heads(a.to_v(h))], 1)
        o = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(2)
        n = text.shape[1]
        picture = picture + gate_p * a.to_out[0](o[:, n:]); text = text + gate_t * a.to_add_out(o[:, :n])
        h, gate_p = modulate(b.img_norm2(picture), p2); picture = picture + gate_p * b.img_mlp(h)
        e, gate_t = modulate(b.txt_norm2(text), t2); text = text + gate_t * b.txt_mlp(e)
        return text, picture


class Published(torch.nn.Module):
    """The block as diffusers runs it, with its rotation in complex numbers."""
    def __init__(self, block, rope): super().__init__(); self.block, self.rope = block, rope
    def forward(self, picture, text, t):
        return self.block(hidden_states=picture, encoder_hidden_states=text, encoder_hidden_states_mask=None, temb=t,
                          image_rotary_emb=self.rope)


def gemm(work, m, n, k): both(work, torch.nn.Linear(k, n), [torch.randn(m, k)])


def attention(work, heads, rows, d):
    both(work, Attention(), [torch.randn(1, heads, rows, d) for _ in range(3)], modes=("f32", "bf16"))


def block(work, picture, text):
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock, QwenEmbedRope
    b = QwenImageTransformerBlock(dim=3072, num_attention_heads=24, attention_head_dim=128).eval()
    rows = max(i for i in range(1, int(picture ** 0.5) + 1) if picture % i == 0)
    rope = QwenEmbedRope(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    rp, rt = rope([(1, rows, picture // rows)], max_txt_seq_len=text, device="cpu")
    x = [torch.randn(1, picture, 3072), torch.randn(1, text, 3072), torch.randn(1, 3072)]
    flat = [v.contiguous().float() for v in (rp.real, rp.imag, rt.real, rt.imag)]
    if picture <= 256: assert error(Block(b)(*x, *flat)[1].numpy(), Published(b, (rp, rt))(*x)[1].numpy()) < 1e-5
    both(work, Published(b, (rp, rt)), x, 1, traced=Block(b), more=flat)


def text(work, rows):
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLRotaryEmbedding
    from transformers import Qwen2_5_VLTextConfig
    c = Qwen2_5_VLTextConfig(hidden_size=3584, intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4,
                             rope_parameters=dict(rope_type="default", mrope_section=[16, 24, 24], rope_theta=1e6))
    c._attn_implementation = "sdpa"
    class Layer(torch.nn.Module):
        def __init__(self): super().__init__(); self.layer = Qwen2_5_VLDecoderLayer(c, 0)
        def forward(self, x, cos, sin):
            y = self.layer(x, position_embeddings=(cos, sin)); return y[0] if isinstance(y, tuple) else y
    x = torch.randn(1, rows, c.hidden_size)
    cos, sin = Qwen2_5_VLRotaryEmbedding(config=c)(x, torch.arange(rows).view(1, 1, -1).expand(3, 1, -1))
    both(work, Layer().eval(), [x, cos, sin])


def vae(work, size):
    from diffusers import AutoencoderKLQwenImage
    net = AutoencoderKLQwenImage().eval()
    for m in net.modules():
        if isinstance(m, torch.nn.Upsample): m.mode = "nearest"  # the same for a factor of 2; OpenVINO has no "exact"
    class Decoder(torch.nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, z): return self.net.decoder(self.net.post_quant_conv(z))
    both(work, Decoder(), [torch.randn(1, 16, 1, size // 8, size // 8)], modes=("f32", "bf16"), slow=True)


with torch.no_grad():
    for word in args.works:
        known = dict(gemm=(gemm, 3), attention=(attention, 3), block=(block, 2), text=(text, 1), vae=(vae, 1))
        kind, numbers = (word.split(":") + [""])[:2]
        numbers = numbers.replace("+", "x").split("x")
        if kind not in known or len(numbers) != known[kind][1] or not all(n.isdigit() for n in numbers):
            parser.error(f"{word}: no work that the peers do")
        known[kind][0](":".join(word.split(":")[:2]), *map(int, numbers))
