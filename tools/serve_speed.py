#!/usr/bin/env python3
"""Times servers under the same clients, one after the other in one run: tokens/s of 1, 4 and 16 clients, the longest wait between two tokens
while a prompt of 2,000 tokens arrives, the first token of the second turn of a long chat, the first token after a restart, and memory.

    python tools/serve_speed.py --rounds 3 \\
        'ours=target/release/mlx-native serve --quiet --threads 2 --model FOLDER --port {port} --prompt-cache-dir {cache}' \\
        'llama.cpp=llama-server -m FILE.gguf -t 2 -np 16 -c 65536 --port {port}' \\
        'mlx-lm=python -m mlx_lm.server --model FOLDER --port {port}'

Standard library only. Servers run one at a time; rounds go over all of them in turn, so that what else the machine does meets each alike. The
best and the median of the rounds are printed.
"""

import argparse
import http.client
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

WORDS = ("the borrow checker proves that references never outlive what they point to and every value has one owner at a time so memory is "
         "given back when it goes out of scope while traits say what types can do and generics let one function serve many of them").split()


def text(seed, words):
    """Words in an order of their own."""
    out = []
    for i in range(words):
        seed = (seed * 1103515245 + 12345) % 2**31
        out.append(WORDS[seed % len(WORDS)])
    return " ".join(out)


class Server:
    def __init__(self, command, cache):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = command.format(port=self.port, cache=cache)
        self.process = subprocess.Popen(shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time() + 120
        while True:
            try:
                self.ask({"prompt": "x", "max_tokens": 1})
                return
            except (OSError, http.client.HTTPException, RuntimeError):
                if time.time() > end or self.process.poll() is not None:
                    raise RuntimeError(f"it does not start: {command}")
                time.sleep(0.2)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["VmRSS"].split()[0]) / 1024

    def post(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read()[:300])
        return connection, response

    def ask(self, body, path="/v1/completions"):
        connection, response = self.post(path, {"temperature": 0, "model": "default_model", **body})
        answer = json.loads(response.read())
        connection.close()
        return answer

    def stream(self, body, path="/v1/completions"):
        """Times of the parts of an answer with text in them, from the moment it was asked for."""
        start = time.perf_counter()
        connection, response = self.post(path, {"temperature": 0, "stream": True, "model": "default_model", **body})
        times, said = [], ""
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:]).get("choices") or [{}]
            part = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
            if part:
                times.append(time.perf_counter() - start)
                said += part
        connection.close()
        return times, said


def together(n, work):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    start = time.perf_counter()
    [t.start() for t in threads]
    [t.join() for t in threads]
    return time.perf_counter() - start


def clients(server, n, seed, tokens):
    """Tokens a second of n clients with prompts of their own, of those that they get."""
    counts = [0] * n

    def work(i):
        answer = server.ask({"prompt": text(seed + i, 60), "max_tokens": tokens, "ignore_eos": True})
        counts[i] = answer["usage"]["completion_tokens"]

    seconds = together(n, work)
    return sum(counts) / seconds


def stalls(server, n, seed, tokens):
    """The longest wait between two parts, and the median one, while a long prompt arrives."""
    waits = []

    def work(i):
        if i == n:
            time.sleep(1.5)
            server.ask({"prompt": text(seed + 999, 1700), "max_tokens": 1})
            return
        times, _ = server.stream({"prompt": text(seed + i, 20), "max_tokens": tokens, "ignore_eos": True})
        # The first waits are those of the prompts of all.
        waits.extend(b - a for a, b in zip(times[8:], times[9:]))

    together(n + 1, work)
    return max(waits), statistics.median(waits)


def turns(server, seed):
    """Seconds to the first token of two turns of a chat that begins with 2,000 tokens; and the messages of the second."""
    path = "/v1/chat/completions"
    messages = [{"role": "system", "content": text(seed, 1700)}, {"role": "user", "content": "Say something of it."}]
    first, said = server.stream({"messages": messages, "max_tokens": 24}, path)
    # What servers do behind an answer.
    time.sleep(1)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And more."}]
    second, _ = server.stream({"messages": messages, "max_tokens": 4}, path)
    return first[0], second[0], messages


def measure(name, command, seed, long):
    with tempfile.TemporaryDirectory() as cache:
        server = Server(command, cache)
        out = {"rss idle MiB": server.rss()}
        try:
            for n in (1, 4, 16):
                out[f"tokens/s of {n}"] = clients(server, n, seed + 100 * n, 64)
            if long:
                most, median = stalls(server, 16, seed + 5000, 60)
                out["longest wait ms"], out["median wait ms"] = 1e3 * most, 1e3 * median
                first, second, messages = turns(server, seed + 7000)
                out["first turn ms"], out["second turn ms"] = 1e3 * first, 1e3 * second
                out["rss loaded MiB"] = server.rss()
                time.sleep(1)
                server.stop()
                server = Server(command, cache)
                again, _ = server.stream({"messages": messages, "max_tokens": 4}, "/v1/chat/completions")
                out["after a restart ms"] = 1e3 * again[0]
        finally:
            server.stop()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--brief", default="", help="names of servers of which throughput alone is measured, by commas")
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    options = parser.parse_args()
    servers = [s.split("=", 1) for s in options.servers]
    found = {name: [] for name, _ in servers}
    for round in range(options.rounds):
        for name, command in servers:
            print(f"round {round + 1}, {name}: load {os.getloadavg()[0]:.1f}", flush=True)
            result = measure(name, command, 10_000 * (round + 1), name not in options.brief.split(","))
            print("   " + ", ".join(f"{key} {value:.1f}" for key, value in result.items()), flush=True)
            found[name].append(result)
    print("\nbest | median")
    for key in found[servers[0][0]][0]:
        best = max if key.startswith("tokens") else min
        row = [f"{name} {best(v):.1f} | {statistics.median(v):.1f}"
               for name, _ in servers if (v := [r[key] for r in found[name] if key in r])]
        print(f"{key}: " + "; ".join(row))


if __name__ == "__main__":
    main()
