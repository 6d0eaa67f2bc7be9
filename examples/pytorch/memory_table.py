#!/usr/bin/env python3
"""What a training step takes in memory and time: mestc's plan and process against a dense PyTorch step. Prints the tables of docs/memory.md.

    python memory_table.py --mestc ../../target/release/mestc [--batch 64] [--threads 2] [--steps 10] [--rounds 3]

Each figure comes from a process of its own; rounds alternate, so that a noisy machine hits all alike, and medians are taken over them. Peak RSS is
the largest resident memory of the process. The profile is what PyTorch's own profiler says its CPU allocator held at most in a step.
"""

import argparse
import json
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def basic_block(nn, inputs, outputs, stride):
    """Two convolutions 3x3 and a shortcut, as `mestc zoo` has them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            return nn.functional.relu(self.second(self.first(x)) + self.shortcut(x))

    return Block()


def resnet(nn, depth, width):
    """A ResNet for 3x32x32 and ten classes."""
    channels = 16 * width
    layers = [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage, outputs in enumerate((channels, 2 * channels, 4 * channels)):
        for block in range((depth - 2) // 6):
            layers.append(basic_block(nn, channels, outputs, 2 if stage and not block else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def torch_step(args):
    """Time and memory of PyTorch's dense step, in this process."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = resnet(torch.nn, args.depth, args.width)
    x, y = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 10, (args.batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    times = []
    for number in range(args.steps + 2):
        start = time.perf_counter()
        step()
        if number >= 2:
            times.append(time.perf_counter() - start)
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Weights, statistics, momentum and the batch live before a step begins; gradients of the last step are freed as it does.
    held = [*net.parameters(), *net.buffers(), *(p.grad for p in net.parameters()), x, y]
    held += [state["momentum_buffer"] for state in optimizer.state.values()]
    live = sum(tensor.numel() * tensor.element_size() for tensor in held)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = live
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    print(json.dumps({"version": torch.__version__, "step_ms": statistics.median(times) * 1e3, "peak_rss_bytes": peak_rss, "profile_bytes": peak}))


def output(command):
    """What a command prints; its errors end this program."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stderr[-2000:]}")
    return result.stdout


def plan(args, model, flags):
    """The plan as JSON; None where it does not fit."""
    command = [args.mestc, "plan", model, "--threads", args.threads, "--json", *flags]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if result.returncode not in (0, 1):
        sys.exit(result.stderr)
    return json.loads(result.stdout) if result.returncode == 0 else None


def smallest(args, model, flags, step):
    """The smallest budget that can be met, in multiples of `step` bytes, and its plan. A budget that can't says what is needed."""
    command = [args.mestc, "plan", model, "--threads", args.threads, *flags, "--memory", "1B"]
    refusal = subprocess.run([str(word) for word in command], capture_output=True, text=True).stderr
    needed = re.search(r"the training state takes ([\d.]+) (KiB|MiB)", refusal)
    if not needed:
        sys.exit(refusal)
    budget = int(float(needed[1]) * (MIB if needed[2] == "MiB" else 1024)) // step * step
    while not (found := plan(args, model, [*flags, "--memory", f"{budget}B"])):
        budget += step
    return budget, found


def size(count):
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count / 1024:.0f} KiB"


def steps(args, model):
    """The table of whole steps."""
    common = ["--sparsity", "0.9", "--batch", args.batch]
    tight, _ = smallest(args, model, common, MIB)
    tighter, _ = smallest(args, model, [*common, "--allow", "bf16"], MIB)
    budget = ["--memory", args.budget]
    variants = [
        ("as it comes", []),
        (" ".join(budget), budget),
        (f"{' '.join(budget)} --allow bf16", [*budget, "--allow", "bf16"]),
        (f"the smallest: --memory {tight // MIB}MiB", ["--memory", f"{tight // MIB}MiB"]),
        (f"the smallest with --allow bf16: --memory {tighter // MIB}MiB", ["--memory", f"{tighter // MIB}MiB", "--allow", "bf16"]),
    ]
    command = [sys.executable, __file__, "--torch", "--batch", args.batch, "--threads", args.threads, "--steps", args.steps]
    command += ["--depth", args.depth, "--width", args.width]
    torch, ours = [], [[] for _ in variants]
    for _ in range(args.rounds):
        torch.append(json.loads(output(command)))
        for (_, flags), runs in zip(variants, ours):
            bench = [args.mestc, "bench", model, "--step-only", "--variant", "sparse", "--json", "--threads", args.threads, "--steps", args.steps]
            runs.append(json.loads(output([*bench, *common, *flags])))
    median = lambda runs, key: statistics.median(run[key] for run in runs)
    print(f"ResNet-{args.depth}, width {args.width}, batch {args.batch}, 90 % unstructured, {args.threads} threads; PyTorch {torch[0]['version']}.\n")
    print("| step | planned | peak RSS | of PyTorch's | ms | of the first |\n|---|---|---|---|---|---|")
    first, peer = median(ours[0], "step_ms"), median(torch, "peak_rss_bytes")
    for (name, flags), runs in zip(variants, ours):
        total = plan(args, model, [*common, *flags])["total_bytes"]
        rss, ms = median(runs, "peak_rss_bytes"), median(runs, "step_ms")
        print(f"| mestc, {name} | {size(total)} | {size(rss)} | {rss / peer:.2f} | {ms:.0f} | {ms / first:.2f} |")
    ms, profile = median(torch, "step_ms"), median(torch, "profile_bytes")
    print(f"| PyTorch, dense | {size(profile)} (its profile) | {size(peer)} | 1.00 | {ms:.0f} | {ms / first:.2f} |")
    published = plan(args, model, common)["published_bytes"]
    print(f"\nWhat papers count of it (live weights, their gradients and indices): {size(published)}.\n")


def states(args, folder):
    """The table of planned states."""
    allowances = ["bf16", "bf16-momentum", "bf16,bf16-momentum"]
    names = ["network", "batch", "as it comes", "the smallest", *(f"with --allow {names}" for names in allowances)]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    networks = [("resnet20", [], 32, MIB // 16), ("dscnn", [], 16, MIB // 16), ("mlp", ["--input", "1x28x28"], 16, 4096)]
    for name, flags, batch, step in networks:
        model = folder / f"{name}.onnx"
        output([args.mestc, "zoo", name, *flags, "-o", model])
        common = ["--sparsity", "0.9", "--policy", "mest-em", "--batch", batch]
        total = plan(args, model, common)["total_bytes"]
        flags = [[], *(["--allow", names] for names in allowances)]
        least = [size(smallest(args, model, [*common, *more], step)[1]["total_bytes"]) for more in flags]
        print(f"| {name} | {batch} | {size(total)} | {' | '.join(least)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mestc", default="mestc", help="the program to measure")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", default="96MiB")
    parser.add_argument("--torch", action="store_true", help="measure PyTorch in this process and print JSON: what the script runs itself with")
    args = parser.parse_args()
    if args.torch:
        return torch_step(args)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = folder / "model.onnx"
        output([args.mestc, "zoo", f"resnet{args.depth}", "--width", args.width, "-o", model])
        steps(args, model)
        states(args, folder)


if __name__ == "__main__":
    main()
