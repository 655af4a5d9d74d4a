#!/usr/bin/env python3
"""A server under load: connections that do nothing, clients that ask, leave in the middle, stop reading, send garbage. Each whole answer is
compared with the one that the server gave alone; memory is read while it lasts.

    python tools/serve_load.py --seconds 120 --idle 1000 --active 64 'target/release/mlx-native serve --quiet --port {port}'

Standard library only. Ends with status 1 when an answer was wrong or lost.
"""

import argparse
import http.client
import json
import random
import resource
import shlex
import socket
import subprocess
import sys
import threading
import time

WORDS = "ownership slices traits lifetimes closures iterators strings vectors threads macros".split()


def body(i, stream=False):
    prompt = " ".join(WORDS[(i * 7 + k * (i + 1)) % 10] for k in range(5 + i % 90))
    return {"prompt": prompt, "max_tokens": 8 + i % 25, "temperature": [0, 0.8][i % 2], "seed": i, "stream": stream}


def ask(port, i):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body(i)), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer.get("choices", [{}])[0].get("text")


def raw(port, i):
    data = json.dumps(body(i, True)).encode()
    s = socket.create_connection(("127.0.0.1", port), timeout=300)
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--active", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=200, help="different requests")
    parser.add_argument("command")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(shlex.split(options.command.format(port=port)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                if ask(port, 0)[0] == 200:
                    break
            except OSError:
                time.sleep(0.2)
        wanted = [ask(port, i)[1] for i in range(options.kinds)]
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(options.idle)]
        counts = {"right": 0, "wrong": 0, "lost": 0, "left": 0, "stalled": 0, "garbage": 0}
        lock, end, stalled = threading.Lock(), time.time() + options.seconds, []

        def note(kind):
            with lock:
                counts[kind] += 1

        def client(n):
            rng = random.Random(n)
            while time.time() < end:
                i, kind = rng.randrange(options.kinds), rng.random()
                try:
                    if kind < 0.7:
                        status, text = ask(port, i)
                        note("right" if (status, text) == (200, wanted[i]) else "wrong")
                    elif kind < 0.85:
                        with raw(port, i) as s:
                            s.recv(rng.choice([1, 200]))
                        note("left")
                    elif kind < 0.9:
                        s = raw(port, i)
                        with lock:
                            stalled.append(s)
                            if len(stalled) > 50:
                                stalled.pop(0).close()
                        note("stalled")
                    else:
                        with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
                            s.sendall(rng.choice([rng.randbytes(300), b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"a\": [[[", b"GET / HT"]))
                            s.shutdown(socket.SHUT_WR)
                            s.recv(100)
                        note("garbage")
                except (OSError, http.client.HTTPException, ValueError) as error:
                    print("lost:", kind, repr(error), file=sys.stderr)
                    note("lost" if kind < 0.7 else "garbage")

        threads = [threading.Thread(target=client, args=(n,)) for n in range(options.active)]
        [t.start() for t in threads]
        memory = []
        while time.time() < end:
            time.sleep(min(5, options.seconds / 12))
            with open(f"/proc/{process.pid}/status") as f:
                memory.append(next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS")))
        [t.join() for t in threads]
        after = [ask(port, i)[1] == wanted[i] for i in range(options.kinds)]
        print(f"{counts}; behind it {sum(after)} of {len(after)} right")
        third = max(1, len(memory) // 3)
        print(f"memory MiB: start {memory[0]:.0f}, first third at most {max(memory[:third]):.0f}, last third at most {max(memory[-third:]):.0f}")
        [s.close() for s in idle]
        return int(counts["wrong"] + counts["lost"] > 0 or not all(after))
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
