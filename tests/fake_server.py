"""A stand-in for llama-server, over http.server: answers like it, or misbehaves as FAKE_SERVER_MODE says.

Modes: "" (well), old (no --spec-type), no-mod (lacks the options of ngram-mod), slow (loads for a second), never (never
healthy), tells (its log names buffers), dies (ends during a completion), starts-badly (ends at the start), malformed (no
JSON), liar (counts wrongly).
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = os.environ.get("FAKE_SERVER_MODE", "")
HELP = """----- common params -----

-m,    --model FNAME                    model path to load
                                        (env: LLAMA_ARG_MODEL)
-c,    --ctx-size N                     size of the prompt context (default: 0)
-t,    --threads N                      number of CPU threads
-tb,   --threads-batch N                number of threads of the prompt
-b,    --batch-size N                   logical maximum batch size
-ub,   --ubatch-size N                  physical maximum batch size
-ngl,  --gpu-layers, --n-gpu-layers N   layers in VRAM
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
-np,   --parallel N                     number of server slots
--host HOST                             IP address to listen on
--port PORT                             port to listen
--metrics                               enable metrics endpoint
--repack, -nr, --no-repack              whether to enable weight repacking
--spec-type none,ngram-simple,ngram-mod
                                        types of speculative decoding
--spec-ngram-simple-size-n N            length of lookup n-gram
--spec-ngram-simple-size-m N            length of draft m-gram
--spec-ngram-mod-n-min N                minimum number
--spec-ngram-mod-n-max N                maximum number
--spec-ngram-mod-n-match N              lookup length
--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
                                        --spec-ngram-mod-n-max
"""
STARTED = time.monotonic()
DECODES = DRAFTS = 0


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            loading = MODE == "never" or (MODE == "slow" and time.monotonic() < STARTED + 1.0)
            self.reply(503 if loading else 200, b"{}")
        else:
            counters = {"n_decode_total": DECODES, "spec_decode_num_drafts_total": DRAFTS}
            self.reply(200, "".join(f"# HELP x\nllamacpp:{k} {v}\n" for k, v in counters.items()).encode())

    def do_POST(self):
        global DECODES, DRAFTS
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "dies":
            print("GGML_ASSERT(n > 0) failed", flush=True)
            os._exit(3)
        if MODE == "malformed":
            return self.reply(200, b"<html>not what you think</html>")
        if any(t < 0 for t in asked["prompt"]):
            return self.reply(400, b'{"error": {"code": 400, "message": "Prompt contains invalid tokens"}}')
        n, drafting = asked["n_predict"], "--spec-type" in sys.argv
        accepted = 4 if drafting else 0
        DECODES += n - accepted  # one for the prompt, n - 1 - accepted after it
        DRAFTS += 2 if drafting else 0
        timings = {
            "cache_n": 0, "prompt_n": len(asked["prompt"]), "prompt_ms": 12.5, "predicted_n": n + (MODE == "liar"),
            "predicted_ms": 10.0 * n,
        } | ({"draft_n": 6, "draft_n_accepted": accepted} if drafting else {})  # fmt: skip
        answer = {
            "content": "x" * n, "tokens": [7] * n, "tokens_predicted": n, "truncated": False, "stop_type": "limit",
            "timings": timings,
        }  # fmt: skip
        print("asked:", json.dumps({k: v for k, v in asked.items() if k != "prompt"}), flush=True)
        return self.reply(200, json.dumps(answer).encode())


def main():
    if "--version" in sys.argv:
        return print("version: 1234 (abcdef0)", file=sys.stderr)
    if "--help" in sys.argv:
        text = HELP if MODE != "old" else HELP.split("--spec-type")[0]
        return print(text.replace("--spec-ngram-mod-n-match", "--other") if MODE == "no-mod" else text)
    if MODE == "starts-badly":
        print("main: loading\nerror: failed to load model 'x'\nexiting", flush=True)
        return sys.exit(1)
    print("arguments:", json.dumps(sys.argv[1:]), "LLAMA_ARG_CTX_SIZE" in os.environ, flush=True)
    if MODE == "tells":
        print(
            "load_tensors: CUDA0 model buffer size = 17.50 MiB\nllama_kv_cache: CPU KV buffer size = 2.00 MiB",
            flush=True,
        )
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
