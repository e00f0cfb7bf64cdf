"""candor attach: a stock llama-server, as PyPI's xllamacpp carries it, steered as it is.

Text: greedy answers of the server, attached at several strengths with every token steered, beside those
of `candor run` with the same vector; at strength 0, and with the library loaded and nothing to steer by,
beside the server's own. Two slots of one server at two strengths, beside servers at one.

Speed: tokens per second of a long answer, plain and attached, in paired rounds, a fresh server each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

QUESTIONS = [
    "Q: What is the capital of France? A:",
    "Q: What is the capital of Japan? A:",
    "Q: What do people speak in Brazil? A:",
    "Q: What is the capital of Australia? A:",
]

# Runs in a process of its own, so that a library can be loaded before it.
SERVER = """
import json, sys, threading, time
import xllamacpp as host

asked = json.loads(sys.argv[1])
params = host.CommonParams()
params.model.path = asked["model"]
params.n_ctx = 2048
params.n_parallel = asked["slots"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.flash_attn_type = host.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
params.cache_type_k = params.cache_type_v = host.ggml_type.GGML_TYPE_F32
server = host.Server(params)

def ask(prompt, slot, n):
    answer = server.handle_completions({
        "prompt": prompt, "n_predict": n, "temperature": 0, "top_k": 1, "cache_prompt": False,
        "id_slot": slot, "ignore_eos": asked["ignore_eos"]})
    answer = answer[0] if isinstance(answer, list) else answer
    return answer["content"] if "content" in answer else answer["choices"][0]["text"]

answers, begin = {}, time.perf_counter()
def one(slot):
    answers[slot] = [ask(prompt, slot, asked["n"]) for prompt in asked["prompts"]]
threads = [threading.Thread(target=one, args=(slot,)) for slot in range(asked["slots"])]
[t.start() for t in threads]
[t.join() for t in threads]
seconds = time.perf_counter() - begin
print("RESULT " + json.dumps({"answers": [answers[s] for s in range(asked["slots"])], "seconds": seconds}))
"""


def serve(candor, model, options=None, slots=1, n=12, prompts=QUESTIONS, ignore_eos=False):
    """What the server answers; `options`: those of `candor attach`, or None for the server alone."""
    asked = {"model": str(model), "slots": slots, "n": n, "prompts": prompts, "ignore_eos": ignore_eos}
    command = [sys.executable, "-c", SERVER, json.dumps(asked)]
    if options is not None:
        command = [candor, "attach", "-m", str(model), *map(str, options), "--", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"the server gave no answer:\n{done.stderr[-2000:]}")
    return json.loads(lines[0].removeprefix("RESULT ")), done.stderr


def run(candor, model, sidecar, alpha, policy, prompt, n=12):
    words = [candor, "run", "-m", str(model), "--steer", str(sidecar), "--alpha", str(alpha), "--policy", policy]
    words += ["--cache", "f32", "--temp", "0", "-t", "1", "-n", str(n), "-p", prompt, "--json"]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["text"]


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candor", default=str(root / "target/release/candor"))
    parser.add_argument("--model", type=Path, default=root / "models/demo.gguf")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        sidecar = Path(folder) / "s.gguf"
        data = root / "models/demo-questions.csv"
        fit = [args.candor, "fit", "-m", args.model, "--data", data, "-k", "4", "--alpha", "8", "-o", sidecar]
        subprocess.run(list(map(str, fit)), check=True, capture_output=True)
        steer = ["--steer", sidecar]

        plain = serve(args.candor, args.model)[0]["answers"][0]
        off = serve(args.candor, args.model, [*steer, "--alpha", 0])[0]["answers"][0]
        print(f"alpha 0: {'the server’s own text' if off == plain else f'DIFFERS: {off} {plain}'}")
        for policy in ["all", "generated"]:
            for alpha in [4, 8]:
                options = [*steer, "--alpha", alpha, "--policy", policy]
                said = serve(args.candor, args.model, options)[0]["answers"][0]
                expected = [run(args.candor, args.model, sidecar, alpha, policy, q) for q in QUESTIONS]
                same = sum(a.strip() == b.strip() for a, b in zip(said, expected))
                print(f"policy {policy}, alpha {alpha}: {same} of {len(QUESTIONS)} answers as candor's; "
                      f"{sum(a != b for a, b in zip(said, plain))} differ from the unsteered")
                for a, b in zip(said, expected):
                    if a.strip() != b.strip():
                        print(f"    server {a!r}, candor {b!r}")
        options = [*steer, "--alpha", 0, "--slot", "0=8", "--slot", "1=4", "--policy", "all"]
        both = serve(args.candor, args.model, options, slots=2)[0]["answers"]
        for slot, alpha in enumerate([8, 4]):
            alone = serve(args.candor, args.model, [*steer, "--alpha", alpha, "--policy", "all"])[0]["answers"][0]
            print(f"slot {slot} at alpha {alpha}, beside another: {sum(a == b for a, b in zip(both[slot], alone))} of "
                  f"{len(alone)} answers as alone")

        ratios = []
        long = dict(n=400, prompts=["Once upon a time"], ignore_eos=True)
        for i in range(args.rounds):
            def plain_seconds():
                return serve(args.candor, args.model, **long)[0]["seconds"]

            def attached_seconds():
                return serve(args.candor, args.model, [*steer, "--alpha", 8, "--policy", "all"], **long)[0]["seconds"]

            if i % 2:
                a, p = attached_seconds(), plain_seconds()
            else:
                p, a = plain_seconds(), attached_seconds()
            ratios.append(p / a)
        print(f"tokens per second, attached / plain: median {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f} to {max(ratios):.3f}), {args.rounds} paired rounds of 400 tokens")


if __name__ == "__main__":
    main()
