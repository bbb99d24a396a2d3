"""demo.py - the time that diffusers and qwen-image need for a picture of the demo checkpoint, without start and load.

    demo.py MODEL QWEN_IMAGE DEVICE [--steps N] [--guidance X] [--repeat N] [--wait]

MODEL is the folder of the checkpoint, DEVICE qwen-image's device, which ends in :f32 or :bf16.  One prompt is drawn by
turns: by diffusers of the same arithmetic in this process, after a warm-up, and by qwen-image, whose seconds are the sum of
the stages that it reports.  A line of JSON each, as bench/run's.  --wait: before each timing writes "ready" to stdout and reads a line of stdin.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time, warnings
warnings.filterwarnings("ignore")
import torch, diffusers

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
for name in ("model", "program", "device"): parser.add_argument(name)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--guidance", type=float, default=3.0)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--wait", action="store_true")
args = parser.parse_args()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
PROMPT, SIZE = "a red circle on the left on a blue background", 128


def with_diffusers(dtype):
    pipe = diffusers.QwenImagePipeline.from_pretrained(args.model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    def draw(steps=args.steps):
        begin = time.perf_counter()
        pipe(PROMPT, negative_prompt=" ", true_cfg_scale=args.guidance, width=SIZE, height=SIZE, num_inference_steps=steps,
             generator=torch.Generator().manual_seed(0))
        return time.perf_counter() - begin
    return draw


def ours():
    with tempfile.TemporaryDirectory() as folder: return drawn(folder)


def drawn(folder):
    line = subprocess.run([args.program, "generate", "--model", args.model, "--device", args.device, "--quiet", "--json",
                           "--seed", "0", "--size", f"{SIZE}x{SIZE}", "--steps", str(args.steps), "--guidance", str(args.guidance),
                           "--output", os.path.join(folder, "demo.png"), PROMPT],
                          stdout=subprocess.PIPE, check=True, text=True).stdout
    seconds = json.loads(line)["seconds"]
    return sum(v for k, v in seconds.items() if k != "total")


kind = "f32" if args.device.endswith(":f32") else "bf16"
draws = {"torch:" + kind: with_diffusers(torch.float32 if kind == "f32" else torch.bfloat16), args.device: ours}
draws["torch:" + kind](2)
taken = {name: [] for name in draws}
if args.wait:
    print("ready", flush=True)
    sys.stdin.readline()
for _ in range(args.repeat):
    for name, draw in draws.items(): taken[name].append(draw())
for name, s in taken.items():
    print(json.dumps(dict(work=f"demo:{args.steps}", device=name, median=statistics.median(s), best=min(s), worst=max(s),
                          repeat=len(s), version=diffusers.__version__ if name != args.device else None)), flush=True)
